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

nvflare's download asks for a chunk, puts its frames together, then copies all of it twice to take it apart, makes the
arrays, and asks for the next chunk. Here a chunk is taken apart while it arrives, and the next one is on its way while
the arrays are made.
"""

from io import BytesIO

from nvflare.fuel.f3.cellnet.cell import Cell
from nvflare.fuel.f3.cellnet.defs import CellChannel, Encoding
from nvflare.fuel.f3.message import Message as CellMessage
from nvflare.fuel.f3.streaming.download_service import (
    OBJ_DOWNLOADER_CHANNEL,
    OBJ_DOWNLOADER_TOPIC,
    ProduceRC,
    _PropKey,
)
from nvflare.fuel.f3.streaming.stream_const import StreamHeaderKey
from nvflare.fuel.f3.streaming.stream_types import Stream, StreamFuture
from nvflare.fuel.f3.streaming.stream_utils import stream_thread_pool
from nvflare.fuel.utils.fobs.lobs import load_from_stream


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


def decode_on_arrival(cell: Cell) -> None:
    """Has the chunks that are pulled over a cell taken apart while they arrive."""

    def receive(future: StreamFuture, stream: Stream, resume: bool) -> int:
        cell._process_reply(future)  # whoever has asked follows the progress from here on
        try:
            frames = _Frames(stream, cell.get_chunk_size())
            if future.headers.pop(StreamHeaderKey.PAYLOAD_ENCODING, None) == Encoding.FOBS:
                future.set_result(load_from_stream(frames, fobs_ctx=cell.get_fobs_context()))
            else:
                future.set_result(None)  # a refusal, which its return code tells
        except Exception as e:
            future.set_exception(e)
        return 0

    topic = f"{OBJ_DOWNLOADER_CHANNEL}:{OBJ_DOWNLOADER_TOPIC}"
    cell.register_stream_cb(CellChannel.RETURN_ONLY, topic, receive)


class _Frames:
    """Reads a stream that comes in frames as a file. It returns bytes of their own: no frame is kept for them."""

    def __init__(self, stream: Stream, frame_size: int):
        self._stream = stream
        self._frame_size = frame_size
        self._rest = memoryview(b"")

    def read(self, size: int) -> bytes:
        """Returns so many bytes; fewer only at the end of the stream."""
        taken = BytesIO()
        while taken.tell() < size:
            self._rest = self._rest or memoryview(self._stream.read(self._frame_size))
            if not self._rest:
                break
            count = taken.write(self._rest[: size - taken.tell()])
            self._rest = self._rest[count:]
        return taken.getvalue()
