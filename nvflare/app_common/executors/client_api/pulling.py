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

"""Pulls the arrays of a large message over a pipe's cell, with as little waiting and copying as nvflare 2.8 allows.

nvflare's download asks for a chunk, takes it apart when it is complete (arriving_arrays.py does so earlier), makes the
arrays, and asks for the next chunk. Here the next one is on its way while the arrays are made.
"""

from nvflare.fuel.f3.cellnet.cell import Cell
from nvflare.fuel.f3.message import Message as CellMessage
from nvflare.fuel.f3.streaming.download_service import ProduceRC, _PropKey
from nvflare.fuel.f3.streaming.stream_utils import stream_thread_pool


class PullingCell:
    """Stands for a pipe's cell where arrays are pulled, and asks ahead for what nvflare will ask next.

    That is known with an answer: it is the state in it. An answer that nobody comes for is dropped with the pipe.
    """

    def __init__(self, cell: Cell):
        self._cell = cell
        self._next = {}  # id of what is pulled -> what will be asked for, and a future of the answer

    def __getattr__(self, name: str):
        return getattr(self._cell, name)

    def send_request(self, request: CellMessage, **options) -> CellMessage:
        asked = dict(request.payload)
        ref_id = asked[_PropKey.REF_ID]
        expected, future = self._next.pop(ref_id, (None, None))
        reply = future.result() if asked == expected else self._cell.send_request(request=request, **options)
        answer = reply.payload
        if isinstance(answer, dict) and answer.get(_PropKey.STATUS) == ProduceRC.OK:
            upcoming = {_PropKey.REF_ID: ref_id, _PropKey.STATE: answer[_PropKey.STATE]}
            request = CellMessage(payload=dict(upcoming))
            future = stream_thread_pool.submit(self._cell.send_request, request=request, **options)
            if future:  # else nvflare is shutting down
                self._next[ref_id] = upcoming, future
        return reply
