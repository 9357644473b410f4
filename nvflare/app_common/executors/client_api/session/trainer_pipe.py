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

"""The channel between the client job process (CJ) and a trainer over the cellnet.

A session has one TrainerPipe at the CJ (passive) and one in the trainer (active), each on a cell of its own. The name
of the trainer's cell is unique per process, so a second claimant cannot disturb the first. A letter is one request on
the core cell, to which it is mere bytes, and its answer; where the arrays of a message are meanwhile is the business of
arrays/exchange.py.
"""

import os
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Callable, Optional

from nvflare.apis.signal import Signal
from nvflare.app_common.executors.client_api.arrays.cells import NotConnected, connect, forget_cell
from nvflare.app_common.executors.client_api.arrays.exchange import Exchange, Packed
from nvflare.app_common.executors.client_api.session import limits
from nvflare.app_common.executors.client_api.session.channel import Channel
from nvflare.app_common.executors.client_api.session.handshake import HandshakeError
from nvflare.app_common.executors.client_api.session.letters import (
    CHANNEL,
    NO_ANSWER,
    NOT_ON_THIS_HOST,
    PIECE,
    Answer,
    Letter,
    MessageRefused,
)
from nvflare.app_common.executors.client_api.session.seals import Payload
from nvflare.app_common.executors.client_api.waiting import WaitLimit, join_all
from nvflare.fuel.f3 import communicator
from nvflare.fuel.f3.cellnet.cell import Cell
from nvflare.fuel.f3.cellnet.defs import Encoding, MessageHeaderKey, ReturnCode
from nvflare.fuel.f3.cellnet.utils import buffer_len, make_reply
from nvflare.fuel.f3.comm_config import CommConfigurator
from nvflare.fuel.f3.drivers.tcp_driver import TcpDriver
from nvflare.fuel.f3.message import Message as CellMessage
from nvflare.fuel.f3.streaming.stream_const import STREAM_CHANNEL
from nvflare.fuel.utils import fobs
from nvflare.fuel.utils.constants import Mode
from nvflare.fuel.utils.pipe.cell_pipe import CellPipe
from nvflare.fuel.utils.pipe.pipe import Message

# Headers of a letter; an answer has the latter.
HEAD, SEAL = "client_api.head", "client_api.seal"


class TrainerPipe(Channel, CellPipe):
    ack_timeout = limits.ACK_TIMEOUT

    def __init__(
        self, mode: str, site_name: str, token: str, root_url: str, secure_mode: bool, workspace: str, **of_session
    ):
        """Initializes one end; nothing is connected before `open()`.

        Args:
            mode: "PASSIVE" at the CJ, "ACTIVE" in the trainer.
            site_name: the site.
            token: the session's random token, part of the names of both cells.
            root_url: the cellnet to join; empty: through the client parent, as the scope properties say.
            secure_mode: whether connections are TLS.
            workspace: the site's workspace, where the certificates are; not named `workspace_dir`, because nvflare
                would have the trainer log to the site's files by that name, besides to its output.
            of_session: see Channel.
        """
        is_trainer = mode == Mode.ACTIVE.value
        if is_trainer:
            _occupy_standard_streams()
        unique = f"{token}-{secrets.token_hex(4)}" if is_trainer else token
        # Mode is a string enum whose f-string differs between Python versions, so its value is passed on.
        of_pipe = {"mode": mode, "site_name": site_name, "token": unique, "root_url": root_url}
        super().__init__(**of_pipe, secure_mode=secure_mode, workspace_dir=workspace, **of_session)
        self.name = self.cell.get_fqcn()
        if is_trainer:
            self.peer = self.peer_fqcn.replace(unique, token)
            _use_few_threads(self.cell)
        self.exchange = Exchange()

    @property
    def way(self) -> str:
        return self.exchange.way

    def open(self, name: str = CHANNEL) -> None:
        """Connects the cell and waits until it is connected: a message that is sent earlier would be lost.

        Raises:
            HandshakeError: it cannot be connected.
        """
        if self._is_trainer:
            _load_only_tcp_driver(self.root_url)
        try:
            connect(self.cell, partial(super().open, name))
        except NotConnected as e:
            raise HandshakeError(str(e)) from e

    def close(self) -> None:
        self.gone.trigger("the pipe is closed")
        super().close()
        # nvflare has told its own thread for heartbeats to end, and does not wait for that.
        own = self.cell.core_cell.communicator.conn_manager.heartbeat_monitor
        join_all((self._pulse, own), limits.CLOSE_TIMEOUT)
        forget_cell(self.cell)

    def _send(self, msg: Message, timeout: Optional[float], stop: Signal) -> bool:
        left = partial(WaitLimit(timeout, "timeout").remaining, time.monotonic())
        with self.exchange.pack(msg) as packed:
            while True:
                if packed.is_in_pieces and not self._send_pieces(packed, left, stop):
                    return False
                try:
                    return self._send_letter(self._sealed(msg, packed.payload), left(), stop, limits.ACK_TIMEOUT)
                except MessageRefused as e:
                    if not str(e).startswith(NOT_ON_THIS_HOST):
                        raise
                    packed = self.exchange.stop_sharing(packed, str(e).removeprefix(NOT_ON_THIS_HOST))

    def _send_pieces(self, packed: Packed, left: Callable[[], Optional[float]], stop: Signal) -> bool:
        def send(piece: dict) -> bool:
            letter = self._sealed(Message.new_request(PIECE, None), piece)
            return self._send_letter(letter, left(), stop, limits.PIECE_ACK_TIMEOUT)

        return self.exchange.send_pieces(packed, send)

    def _pack(self, data: Any) -> Payload:
        payload = fobs.dumps(data, buffer_list=True, fobs_ctx=self.cell.get_fobs_context({"native": True}))
        size, most = buffer_len(payload), self.cell.core_cell.max_msg_size
        if size > most:  # nvflare, which counts the buffers of a list, would send what no peer takes
            raise MessageRefused(f"beside large arrays it has {size} bytes, and one message takes at most {most}")
        return payload

    def _unpack(self, topic: str, payload: Payload) -> Any:
        content = fobs.loads(payload, fobs_ctx=self.cell.get_fobs_context())
        return self.exchange.take_piece(content) if topic == PIECE else self.exchange.unpack(content)

    # Letters as requests on the core cell

    def _ask(self, letter: Letter, timeout: float, stop: Signal) -> Answer:
        to_peer = {"channel": self.channel, "target": self.peer, "topic": letter.topic}
        request = _request(letter)
        try:
            reply = self.cell.core_cell.send_request(**to_peer, request=request, timeout=timeout, optional=True)
        except RuntimeError:
            if stop.triggered:
                return NO_ANSWER  # the cell has been closed on another thread
            raise
        is_bytes = isinstance(reply.payload, (bytes, bytearray, memoryview))
        return Answer(bytes(reply.payload) if is_bytes else b"", reply.get_header(SEAL))

    def _tell(self, letter: Letter) -> None:
        self.cell.core_cell.fire_and_forget(self.channel, letter.topic, self.peer, _request(letter), optional=True)

    def set_cell_cb(self, channel_name: str) -> None:
        super().set_cell_cb(channel_name)
        self.cell.core_cell.add_incoming_filter("*", "*", self._leave_packed)
        # Nothing of a session is streamed, and a cell makes room for as many bytes as anybody announces.
        self.cell.core_cell.add_incoming_request_filter(STREAM_CHANNEL, "*", self._refuse_stream)

    def _leave_packed(self, message: CellMessage) -> None:
        """Has the cell unpack nothing on its own: by a header it would unpack whatever anybody sends."""
        if message.get_header(MessageHeaderKey.PAYLOAD_ENCODING) == Encoding.FOBS:
            message.set_header(MessageHeaderKey.PAYLOAD_ENCODING, Encoding.BYTES)

    def _refuse_stream(self, message: CellMessage) -> CellMessage:
        self.strangers.refuse(f"a stream of {message.get_header(MessageHeaderKey.ORIGIN)}")
        return make_reply(ReturnCode.INVALID_REQUEST)

    def _receive_message(self, request: CellMessage) -> CellMessage:
        topic, head, seal = (request.get_header(name) for name in (MessageHeaderKey.TOPIC, HEAD, SEAL))
        answer = self._answer_to(
            Letter(topic, head, request.payload, seal), request.get_header(MessageHeaderKey.ORIGIN)
        )
        if answer is None:
            return make_reply(ReturnCode.INVALID_REQUEST)
        reply = make_reply(ReturnCode.OK, body=answer.content)
        reply.set_header(SEAL, answer.seal)
        return reply

    def _update_peer_active_time(self, msg: CellMessage, ch_name: str, msg_type: str) -> None:
        """Takes nothing that the cell gets for a sign of life: only what has a good seal is one."""


def _request(letter: Letter) -> CellMessage:
    # What a cell cannot decode it drops, and the sender would wait for nothing: so it gets mere bytes.
    headers = {HEAD: letter.head, SEAL: letter.seal, MessageHeaderKey.PAYLOAD_ENCODING: Encoding.BYTES}
    return CellMessage(headers, letter.payload)


# The cell of a trainer is quick to start, with few threads, and no obstacle to what the script does.


def _load_only_tcp_driver(url: str) -> None:
    """Spares `flare.init()` the import of all of f3's drivers, which takes longer than the rest of it.

    For another kind of URL, or with drivers of the user's, f3 loads all that it has, as ever.
    """
    is_tcp = url.partition(":")[0] in TcpDriver.supported_transports()
    if is_tcp and not communicator.driver_mgr.drivers and not CommConfigurator().get_comm_driver_path(None):
        communicator.driver_mgr.register(TcpDriver)
        communicator.driver_loaded = True


def _use_few_threads(cell: Cell) -> None:
    """Bounds the threads that take in what arrives: f3 starts one for each frame that finds none idle, up to 100.

    None of them ever waits in a trainer: a message is put in line for the script, a piece of a stream with the others.
    """
    cell.core_cell.communicator.conn_manager.frame_mgr_executor = ThreadPoolExecutor(limits.FRAME_THREADS, "frame_mgr")


def _occupy_standard_streams() -> None:
    """Has no socket of ours get the number of an output that the script has closed, and then what it prints."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(fd)
