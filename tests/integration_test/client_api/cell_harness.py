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

"""A server in a process of its own and the cell of a site's job in this one: where a trainer finds its way to the job.

nvflare's cells of one process take short cuts, so the server must be another process, as in the simulator. It runs
cell_server.py and offers what a client job asks a server for: a task, and to take its result.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import List

from nvflare.apis.shareable import ReservedHeaderKey, Shareable
from nvflare.app_common.executors.client_api.arrays.cells import connect
from nvflare.fuel.f3.cellnet.cell import Cell
from nvflare.fuel.f3.cellnet.defs import CellChannel, MessageHeaderKey, ReturnCode
from nvflare.fuel.f3.message import Message
from nvflare.fuel.f3.streaming.stream_utils import callback_thread_pool, stream_thread_pool
from nvflare.private.fed.utils.fed_utils import nvflare_fobs_initialize
from tests.integration_test.client_api.cell_server import GET_TASK, SERVER, SUBMIT_RESULT
from tests.unit_test.app_common.executors.job_harness import LIMIT, await_listener, free_port, stop_cell, warm_up_pools

SERVER_SCRIPT = Path(__file__).with_name("cell_server.py")
# A site's setting (seconds): how long one request of a pull waits for an answer; by default for ten minutes.
PULL_REQUEST_TIMEOUT = "NVFLARE_NP_STREAMING_PER_REQUEST_TIMEOUT"


class NoAnswer(Exception):
    """The server has not done what it was asked for."""


class Federation:
    """A server process, and the cells of this process that have joined it."""

    def __init__(self, late: float = 0.0):
        """Starts the server; `late` is how many seconds it takes until it knows whose a new connection is."""
        nvflare_fobs_initialize()
        self.url = f"tcp://localhost:{free_port()}"
        self._cells: List[Cell] = []
        self._server = subprocess.Popen(
            [sys.executable, str(SERVER_SCRIPT), self.url, str(late)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, PULL_REQUEST_TIMEOUT: "2.0"},
        )
        assert self._server.stdout.readline() == "ready\n"
        await_listener(self.url)

    def join(self, fqcn: str) -> Cell:
        """Returns a new cell of this process that is connected to the server."""
        self._cells.append(connected_cell(fqcn, self.url))
        return self._cells[-1]

    def leave(self, cell: Cell) -> None:
        self._cells.remove(cell)
        stop_cell(cell)

    def stop(self) -> None:
        for cell in list(self._cells):
            self.leave(cell)
        self._server.communicate(timeout=LIMIT)


def connected_cell(fqcn: str, url: str) -> Cell:
    cell = Cell(fqcn, url, secure=False, credentials={}, create_internal_listener=False)
    connect(cell, cell.start)
    return cell


def warm_up(cell: Cell) -> None:
    """Has nvflare start the threads that large transfers use and that stay: before anybody counts threads."""
    submit_result(cell, fetch_task(cell, 1024 * 1024, 1.0))
    warm_up_pools(stream_thread_pool, callback_thread_pool, cell.core_cell.communicator.conn_manager.frame_mgr_executor)


def fetch_task(cell: Cell, size: int, value: float, dtype: str = "float32") -> Shareable:
    """Gets a task from the server with the model {"w": array of so many values}, as a client job does."""
    return _ask_server(cell, GET_TASK, Shareable({"size": size, "value": value, "dtype": dtype}))


def submit_result(cell: Cell, result: Shareable, timeout: float = LIMIT) -> dict:
    """Sends a result to the server, as a client job does; returns what the server found in it.

    Raises:
        NoAnswer: the server has not taken it in `timeout` seconds.
    """
    found = _ask_server(cell, SUBMIT_RESULT, result, timeout)
    return {name: value for name, value in found.items() if name != ReservedHeaderKey.HEADERS}


def _ask_server(cell: Cell, topic: str, content: Shareable, timeout: float = LIMIT) -> Shareable:
    # Keywords: by the one for the channel, a Cell tells how to send.
    reply = cell.send_request(
        channel=CellChannel.SERVER_COMMAND,
        topic=topic,
        target=SERVER,
        request=Message(payload=content),
        timeout=timeout,
    )
    code = reply.get_header(MessageHeaderKey.RETURN_CODE)
    if code != ReturnCode.OK:
        raise NoAnswer(code)
    return reply.payload
