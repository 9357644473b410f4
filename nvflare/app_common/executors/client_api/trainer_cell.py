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

"""The cell of a trainer: quick to start, prompt, with few threads, and no obstacle to what the script does."""

import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Callable

from nvflare.fuel.f3 import communicator
from nvflare.fuel.f3.cellnet.cell import Cell
from nvflare.fuel.f3.comm_config import CommConfigurator
from nvflare.fuel.f3.connection import BytesAlike, Connection
from nvflare.fuel.f3.drivers.tcp_driver import TcpDriver
from nvflare.fuel.f3.endpoint import Endpoint, EndpointMonitor, EndpointState
from nvflare.fuel.f3.streaming.stream_types import StreamFuture

# Threads that take in what arrives.
FRAME_THREADS = 3


def load_only_tcp_driver(url: str) -> None:
    """Spares `flare.init()` the import of all of f3's drivers, which takes longer than the rest of it.

    For another kind of URL, or with drivers of the user's, f3 loads all that it has, as ever.
    """
    is_tcp = url.partition(":")[0] in TcpDriver.supported_transports()
    if is_tcp and not communicator.driver_mgr.drivers and not CommConfigurator().get_comm_driver_path(None):
        communicator.driver_mgr.register(_PromptTcpDriver)
        communicator.driver_loaded = True


class _PromptTcpDriver(TcpDriver):
    """Has neither end of the trainer's connection wait for acknowledgements.

    nvflare leaves Nagle's algorithm on, which with delayed acknowledgements costs up to 40 ms wherever a small frame
    follows another, as at the end of each chunk of a model. This end does without it; at the other end, which is not
    ours, it is harmless when each frame is acknowledged at once. Linux forgets TCP_QUICKACK, so it is set again.
    """

    def add_connection(self, conn: Connection) -> None:
        conn.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_QUICKACK"):
            conn.read_frame = partial(self._read_frame, conn.sock, conn.read_frame)
        super().add_connection(conn)

    @staticmethod
    def _read_frame(sock: socket.socket, read_frame: Callable[[], BytesAlike]) -> BytesAlike:
        frame = read_frame()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        return frame


def use_few_threads(cell: Cell) -> None:
    """Bounds the threads that take in what arrives: f3 starts one for each frame that finds none idle, up to 100.

    None of them ever waits in a trainer: a message is put in line for the script, a piece of a stream with the others.
    """
    cell.core_cell.communicator.conn_manager.frame_mgr_executor = ThreadPoolExecutor(FRAME_THREADS, "frame_mgr")


def forget_what_was_sent(cell: Cell) -> None:
    """Frees each chunk of a model as soon as it is sent.

    nvflare's future of a stream and its task refer to each other, and so keep the chunk until Python looks for such
    circles, which may be rounds later.
    """
    send = cell.byte_streamer.send

    def send_and_forget(*args, **kwargs) -> StreamFuture:
        future = send(*args, **kwargs)
        future.add_done_callback(setattr, future, "task_handle", None)
        return future

    cell.byte_streamer.send = send_and_forget


def occupy_standard_streams() -> None:
    """Has no socket of ours get the number of an output that the script has closed, and then what it prints."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(fd)


class ConnectionMonitor(EndpointMonitor):
    """Tells when a cell is connected to the cellnet."""

    def __init__(self):
        self.connected = threading.Event()

    def state_change(self, endpoint: Endpoint) -> None:
        if endpoint.state == EndpointState.READY:
            self.connected.set()
