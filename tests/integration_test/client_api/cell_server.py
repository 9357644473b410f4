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

"""The server of a federation: `cell_server.py URL [SECONDS]`; it prints "ready" and serves until its input ends.

It takes so many seconds until it knows whose a new connection is, as a loaded machine may: nvflare has told the other
end before that it is ready.
"""

import sys
import threading

import numpy as np

from nvflare.apis.shareable import Shareable
from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.app_common.utils.fl_model_utils import FLModelUtils
from nvflare.fuel.f3.cellnet.cell import Cell
from nvflare.fuel.f3.cellnet.defs import CellChannel, ReturnCode
from nvflare.fuel.f3.cellnet.utils import make_reply
from nvflare.fuel.f3.message import Message
from nvflare.private.fed.utils.fed_utils import nvflare_fobs_initialize

SERVER = "server"
GET_TASK, SUBMIT_RESULT = "harness_get_task", "harness_submit_result"


def _make_task(request: Message) -> Message:
    size, value, dtype = (request.payload[name] for name in ("size", "value", "dtype"))
    model = FLModel(params={"w": np.full(size, value, dtype)}, current_round=0, total_rounds=9)
    return make_reply(ReturnCode.OK, body=FLModelUtils.to_shareable(model))


def _take_result(request: Message) -> Message:
    params = FLModelUtils.from_shareable(request.payload).params
    array = params.pop("w")
    found = {"type": type(array).__name__, "size": array.size, "low": float(array.min()), "high": float(array.max())}
    others = {name: [str(other.dtype), other.tolist()] for name, other in params.items()}
    return make_reply(ReturnCode.OK, body=Shareable({**found, **others}))


def _know_late(cell: Cell, seconds: float) -> None:
    manager = cell.core_cell.communicator.conn_manager
    update = manager.update_endpoint

    def update_late(*args) -> None:
        threading.Event().wait(seconds)
        update(*args)

    manager.update_endpoint = update_late


def serve(url: str, late: str = "0") -> None:
    nvflare_fobs_initialize()
    cell = Cell(SERVER, url, secure=False, credentials={}, create_internal_listener=False)
    cell.register_request_cb(channel=CellChannel.SERVER_COMMAND, topic=GET_TASK, cb=_make_task)
    cell.register_request_cb(channel=CellChannel.SERVER_COMMAND, topic=SUBMIT_RESULT, cb=_take_result)
    _know_late(cell, float(late))
    cell.start()
    print("ready", flush=True)
    sys.stdin.read()
    cell.stop()


if __name__ == "__main__":
    serve(*sys.argv[1:])
