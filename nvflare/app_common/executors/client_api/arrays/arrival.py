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

"""Takes apart what nvflare sends of a model while it arrives, so that each large array is written where it stays.

nvflare puts the frames of a chunk together, copies all of it twice to take it apart, and has NumPy read the arrays from
the last copy. Fresh memory costs more than the copying: here there is none but the arrays' own. A `Landing` is where
they go: memory to be handed over, or the heap.
"""

import threading
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Union

import numpy as np

from nvflare.app_common.executors.client_api.arrays import limits
from nvflare.app_common.executors.client_api.arrays.forms import MAX_HEAD, read_start
from nvflare.app_common.executors.client_api.arrays.memory import PREFACE, SharedMemory, check_available
from nvflare.app_common.executors.client_api.arrays.parcels import Parcel, Place, Placed, fill_in
from nvflare.app_common.executors.client_api.arrays.specs import NUMPY, ArraySpec, bytes_of
from nvflare.fuel.f3.streaming.stream_types import Stream
from nvflare.fuel.utils.fobs import deserialize
from nvflare.fuel.utils.fobs.datum import DatumManager


class Landed(NamedTuple):
    """An array that has been written where it stays; as long as what nvflare would have in its place."""

    name: str
    size: int

    def __len__(self) -> int:
        return self.size


class SharedLanding:
    """Memory that will be handed over."""

    def __init__(self):
        self._memory: Optional[SharedMemory] = None  # once there is an array
        self._places: Dict[str, Place] = {}
        self._end = PREFACE
        self._lock = threading.Lock()  # two chunks may come at a time

    def begin(self, name: str, spec: ArraySpec) -> "_Writer":
        with self._lock:
            place = self._places[name] = Place.behind(self._end, spec)
            self._end = place.end
            self._memory = self._memory or SharedMemory()
            if self._end > self._memory.size:
                step = min(max(self._memory.size, limits.LEAST_GROWTH), limits.MOST_GROWTH)
                self._memory.grow(max(self._end, self._memory.size + step))
        return _Writer(self._memory.write, place.offset)

    def finish(self, content: Any, mark: bytes, names: List[str]) -> Placed:
        """Returns the message.

        Args:
            content: with placeholders.
            mark: of the placeholders.
            names: of the arrays, by number.
        """
        self._memory.seal(self._end)
        return Placed(Parcel(content, mark, [self._places[name] for name in names], self._end), self._memory)

    def close(self) -> None:
        """Lets go of the memory here."""
        if self._memory:
            self._memory.close()


class HeapLanding:
    """Arrays of this process."""

    def __init__(self):
        self._arrays: Dict[str, Any] = {}

    def begin(self, name: str, spec: ArraySpec) -> "_Writer":
        check_available(spec.size)
        array = self._arrays[name] = _empty(spec)
        target = np.frombuffer(bytes_of(array), np.uint8)

        def write(offset: int, content: memoryview) -> None:
            # By NumPy, which lets other threads run meanwhile.
            np.copyto(target[offset : offset + len(content)], np.frombuffer(content, np.uint8))

        return _Writer(write, 0)

    def finish(self, content: Any, mark: bytes, names: List[str]) -> Any:
        """See SharedLanding: the message itself."""
        arrays, self._arrays = self._arrays, {}  # from here on they are whoever's the message is
        return fill_in(content, mark, [arrays[name] for name in names])

    def close(self) -> None:
        self._arrays.clear()


class _Writer:
    """Writes the content of one array, in pieces."""

    def __init__(self, write, offset: int):
        self._write = write
        self._offset = offset

    def write(self, content: memoryview) -> None:
        self._write(self._offset, content)
        self._offset += len(content)


Landing = Union[SharedLanding, HeapLanding]


def _empty(spec: ArraySpec) -> Any:
    if spec.kind == NUMPY:
        return np.empty(spec.shape, spec.dtype, "F" if spec.by_columns else "C")
    import torch

    return torch.empty(spec.shape, dtype=getattr(torch, spec.dtype))


def land(item: Union[bytes, Landed], prefix: str, landing: Landing) -> Landed:
    """Writes an array, in the form in which nvflare carries it, where it stays, if it has not been so far."""
    if isinstance(item, Landed):
        return item
    view = memoryview(item)
    name, spec, offset = read_start(view)
    landing.begin(prefix + name, spec).write(view[offset : offset + spec.size])
    return Landed(prefix + name, len(view))


class Frames:
    """Reads a stream that comes in frames as a file; of a large array it returns what has become of it."""

    def __init__(self, stream: Stream, frame_size: int, prefix: str, landing: Landing, on_head: Callable[[Any], None]):
        """Initializes the file.

        Args:
            stream: what comes.
            frame_size: bytes.
            prefix: of the names of arrays.
            landing: where large ones go.
            on_head: told what is sent, without its large arrays, if these are still to come.
        """
        self._stream = stream
        self._frame_size = frame_size
        self._prefix = prefix
        self._landing = landing
        self._on_head = on_head
        self._rest = memoryview(b"")
        self._reads = 0

    def read(self, size: int) -> Union[bytes, Landed]:
        """Returns so many bytes, or the array in them; fewer only at the end of the stream."""
        self._reads += 1
        if self._reads > 2 and size >= limits.LARGE_SECTION:
            return self._read_array(size)
        content = self._read_bytes(size)
        # The message; sections with its arrays follow.
        if self._reads == 2 and self._stream.get_size() - size >= limits.LARGE_SECTION:
            self._on_head(deserialize(content, DatumManager()))
        return content

    def _read_bytes(self, size: int) -> bytes:
        taken = bytearray()
        while len(taken) < size and self._has_frame():
            part = self._take(size - len(taken))
            taken += part
        return bytes(taken)

    def _read_array(self, size: int) -> Union[bytes, Landed]:
        head = memoryview(self._read_bytes(min(size, MAX_HEAD)))
        name, spec, offset = read_start(head)
        writer = self._landing.begin(self._prefix + name, spec)
        first = head[offset : offset + spec.size]
        writer.write(first)
        read, left = len(head), spec.size - len(first)
        while left and self._has_frame():
            part = self._take(left)
            writer.write(part)
            left -= len(part)
            read += len(part)
        while read < size and self._has_frame():  # the directory of an archive
            read += len(self._take(size - read))
        return Landed(self._prefix + name, read)

    def _take(self, limit: int) -> memoryview:
        part, self._rest = self._rest[:limit], self._rest[limit:]
        return part

    def _has_frame(self) -> bool:
        self._rest = self._rest or memoryview(self._stream.read(self._frame_size))
        return bool(self._rest)
