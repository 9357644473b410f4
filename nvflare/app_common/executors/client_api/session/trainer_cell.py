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

"""The cell of a trainer: quick to start, with few threads, and no obstacle to what the script does."""

import os
from concurrent.futures import ThreadPoolExecutor

from nvflare.app_common.executors.client_api.session.limits import FRAME_THREADS
from nvflare.fuel.f3 import communicator
from nvflare.fuel.f3.cellnet.cell import Cell
from nvflare.fuel.f3.comm_config import CommConfigurator
from nvflare.fuel.f3.drivers.tcp_driver import TcpDriver


def load_only_tcp_driver(url: str) -> None:
    """Spares `flare.init()` the import of all of f3's drivers, which takes longer than the rest of it.

    For another kind of URL, or with drivers of the user's, f3 loads all that it has, as ever.
    """
    is_tcp = url.partition(":")[0] in TcpDriver.supported_transports()
    if is_tcp and not communicator.driver_mgr.drivers and not CommConfigurator().get_comm_driver_path(None):
        communicator.driver_mgr.register(TcpDriver)
        communicator.driver_loaded = True


def use_few_threads(cell: Cell) -> None:
    """Bounds the threads that take in what arrives: f3 starts one for each frame that finds none idle, up to 100.

    None of them ever waits in a trainer: a message is put in line for the script, a piece of a stream with the others.
    """
    cell.core_cell.communicator.conn_manager.frame_mgr_executor = ThreadPoolExecutor(FRAME_THREADS, "frame_mgr")


def occupy_standard_streams() -> None:
    """Has no socket of ours get the number of an output that the script has closed, and then what it prints."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(fd)
