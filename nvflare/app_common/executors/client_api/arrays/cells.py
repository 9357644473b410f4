# Copyright (c) 2026, NVIDIA CORPORATION.  All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""A cell of our own in the client job process (CJ), beside the CJ's, and what makes such a cell prompt."""

import secrets
import socket
import threading
import time
from contextlib import ExitStack
from functools import partial
from typing import Callable, Dict

from nvflare.apis.fl_constant import ConnPropKey
from nvflare.apis.fl_context import FLContext
from nvflare.app_common.executors.client_api.arrays import limits
from nvflare.fuel.data_event.utils import get_scope_property
from nvflare.fuel.f3.cellnet.cell import Cell
from nvflare.fuel.f3.cellnet.core_cell import _SM_CHANNEL, _SM_TOPIC, CoreCell
from nvflare.fuel.f3.cellnet.defs import MessageHeaderKey, ReturnCode
from nvflare.fuel.f3.cellnet.utils import new_cell_message
from nvflare.fuel.f3.connection import BytesAlike, Connection
from nvflare.fuel.f3.endpoint import Endpoint, EndpointMonitor, EndpointState
from nvflare.fuel.f3.streaming.download_service import DownloadService
from nvflare.fuel.f3.streaming.stream_types import StreamFuture
from nvflare.fuel.utils.constants import Mode
from nvflare.fuel.utils.pipe.cell_pipe import CellPipe


class NotConnected(Exception):
    """A cell could not be connected; the text says which."""


def cellnet_args(fl_ctx: FLContext) -> dict:
    """Returns the arguments with which nvflare's CellPipe joins the job's cellnet, at the CJ or beside it."""
    core_cell = fl_ctx.get_engine().get_cell().core_cell
    site_name = fl_ctx.get_identity_name()
    # The simulator has no connection properties; elsewhere an empty URL means "through the client parent".
    is_simulated = not get_scope_property(site_name, ConnPropKey.ROOT_CONN_PROPS)
    return {
        "site_name": site_name,
        "root_url": core_cell.root_url if is_simulated else "",
        "secure_mode": core_cell.secure,
        "workspace_dir": fl_ctx.get_workspace().get_root_dir(),
    }


class OwnCell:
    """A cell that joins the cellnet as nvflare's pipes do, without anybody at another end: one for a job's process.

    It exists from its first use to its last, whoever uses it.
    """

    _lock = threading.Lock()
    _cells: Dict[str, "OwnCell"] = {}  # by the name of the CJ's cell

    def __init__(self, fl_ctx: FLContext):
        token = f"arrays-{secrets.token_hex(8)}"
        self._pipe = CellPipe(mode=Mode.PASSIVE.value, token=token, **cellnet_args(fl_ctx))
        self._users = 0
        self._beside = fl_ctx.get_engine().get_cell().get_fqcn()
        self.cell: Cell = self._pipe.cell
        _forget_what_was_sent(self.cell)

    @classmethod
    def use(cls, fl_ctx: FLContext) -> "OwnCell":
        """Returns the cell, connected; whoever calls this has to call `leave`.

        Raises:
            NotConnected: it is not, after CONNECT_TIMEOUT seconds.
        """
        with cls._lock:
            name = fl_ctx.get_engine().get_cell().get_fqcn()
            own = cls._cells.get(name)
            if own is None:
                own = cls(fl_ctx)
                with ExitStack() as undo:
                    undo.callback(own._close)
                    connect(own.cell, partial(own._pipe.open, "client_api_arrays"))
                    undo.pop_all()
                cls._cells[name] = own
            own._users += 1
            return own

    def leave(self) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                self._cells.pop(self._beside)
                self._close()

    def _close(self) -> None:
        self._pipe.close()
        forget_cell(self.cell)


def _forget_what_was_sent(cell: Cell) -> None:
    """Frees each chunk as soon as it is sent, and with the last one the memory that all of a result is in.

    nvflare's future of a stream and its task refer to each other, and so keep the chunk until Python looks for such
    circles, which may be rounds later.
    """
    send = cell.byte_streamer.send

    def send_and_forget(*args, **kwargs) -> StreamFuture:
        future = send(*args, **kwargs)
        future.add_done_callback(setattr, future, "task_handle", None)
        return future

    cell.byte_streamer.send = send_and_forget


def connect(cell: Cell, start: Callable[[], None]) -> None:
    """Starts a cell and waits until it is connected, at both ends: a message that is sent earlier would be lost.

    Raises:
        NotConnected: not within CONNECT_TIMEOUT seconds.
    """
    connections = PromptConnections(cell)
    cell.core_cell.communicator.register_monitor(connections)
    deadline = time.monotonic() + limits.CONNECT_TIMEOUT
    start()
    if not connections.connected.wait(limits.CONNECT_TIMEOUT) or not _is_known(cell, connections.peer, deadline):
        raise NotConnected(f"cell {cell.get_fqcn()} was not connected in {limits.CONNECT_TIMEOUT} s")


def _is_known(cell: Cell, peer: str, deadline: float) -> bool:
    """Waits until a peer that is connected answers.

    nvflare's end of a connection says that it is ready before it notes, on another thread, whose connection that is. It
    drops what comes in between, and who has asked waits for as long as an answer may take: minutes, for arrays.
    """
    timeout = limits.FIRST_ANSWER_TIMEOUT
    while (remaining := deadline - time.monotonic()) > 0:
        # Every cell answers this, whether it has certificates or not; this tells it none.
        request = new_cell_message({}, {})
        reply = cell.core_cell.send_request(
            _SM_CHANNEL, _SM_TOPIC, peer, request, timeout=min(timeout, remaining), optional=True
        )
        if reply.get_header(MessageHeaderKey.RETURN_CODE) != ReturnCode.TIMEOUT:
            return True
        timeout *= 2  # the link may be slow
    return False


def forget_cell(cell: Cell) -> None:
    """Has nvflare forget a cell that is closed: it keeps them for ever, and a job may have one per task."""
    with CellPipe._lock:
        CellPipe._cells_info.pop(cell.get_fqcn(), None)
        CoreCell.ALL_CELLS.pop(cell.get_fqcn(), None)
    # Also their ids, and a later cell that has the id of a freed one would not serve downloads.
    DownloadService._initialized_cells.pop(id(cell), None)


class PromptConnections(EndpointMonitor):
    """Tells when a cell is connected, and has neither end of its connections wait for acknowledgements.

    Nor do they end when nothing comes for a while, whatever socket.setdefaulttimeout() the script has called.

    nvflare leaves Nagle's algorithm on, which with delayed acknowledgements costs up to 40 ms wherever a small frame
    follows another before that is acknowledged. This end does without it; at the other end, which is not ours, it is
    harmless when each frame is acknowledged at once. Linux forgets TCP_QUICKACK, so it is set again with each frame.
    """

    def __init__(self, cell: Cell):
        self.connected = threading.Event()
        self.peer = ""  # once it is
        manager = cell.core_cell.communicator.conn_manager
        # Before anything is read: a read that waits already would keep the timeout that it has begun with.
        manager.handle_new_connection = partial(_handle_promptly, manager.handle_new_connection)

    def state_change(self, endpoint: Endpoint) -> None:
        if endpoint.state == EndpointState.READY:
            self.peer = endpoint.name
            self.connected.set()


def _handle_promptly(handle: Callable[[Connection], None], connection: Connection) -> None:
    _make_prompt(connection)
    handle(connection)


def _make_prompt(connection: Connection) -> None:
    sock = getattr(connection, "sock", None)
    if not isinstance(sock, socket.socket):
        return  # of another kind of driver
    sock.settimeout(None)
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_QUICKACK"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        connection.read_frame = partial(_read_promptly, sock, connection.read_frame)


def _read_promptly(sock: socket.socket, read_frame: Callable[[], BytesAlike]) -> BytesAlike:
    frame = read_frame()
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
    return frame
