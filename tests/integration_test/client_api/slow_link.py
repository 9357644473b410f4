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

"""A slow network between a server and all cells that reach it by the link's URL: a TCP relay with a limited rate."""

import socket
import threading

# Bytes that the link itself may hold, per connection and direction.
BUFFER = 64 * 1024
CHUNK = 16 * 1024


class SlowLink:
    def __init__(self, port: int, rate: float):
        """Opens a link.

        Args:
            port: of the server, on this host.
            rate: bytes per second that a connection lets through, each way.
        """
        self._server = ("localhost", port)
        self._rate = rate
        self._is_closed = threading.Event()
        self._sockets, self._threads = set(), []
        self._listener = socket.create_server(("localhost", 0))
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        self.url = f"tcp://localhost:{self._listener.getsockname()[1]}"
        self._start(self._accept)

    def _start(self, function, *args) -> None:
        self._threads.append(threading.Thread(target=function, args=args, daemon=True))
        self._threads[-1].start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return  # closed
            self._start(self._serve, near, socket.create_connection(self._server))

    def _serve(self, near: socket.socket, far: socket.socket) -> None:
        with near, far:
            self._sockets |= {near, far}
            for end in (near, far):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            back = threading.Thread(target=self._relay, args=(far, near), daemon=True)
            back.start()
            self._relay(near, far)
            back.join()
            self._sockets -= {near, far}

    def _relay(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(CHUNK):
                sink.sendall(data)
                self._is_closed.wait(len(data) / self._rate)  # what makes the link slow
        except OSError:
            pass  # one end is gone
        for end in (source, sink):
            _shut_down(end)

    def close(self) -> None:
        self._is_closed.set()
        for end in (self._listener, *self._sockets):
            _shut_down(end)
        for thread in self._threads:
            thread.join()
        self._listener.close()


def _shut_down(end: socket.socket) -> None:
    """Wakes whoever reads from the socket."""
    try:
        end.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # it is already, or its peer is gone
