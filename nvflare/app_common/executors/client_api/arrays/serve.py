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

"""Serves the arrays of results to the server, from the client job process (CJ) and ahead of its requests.

Small ones travel inside their result, in the form in which nvflare has arrays inside of a message. In the place of each
other goes what nvflare itself puts there where arrays are pulled later: a reference to the cell that has it, here one
beside the CJ's. What was handed over is served from where it is; of other arrays a chunk is copied while the one before
is on its way.

The server may ask for all of a result again (it has lost an answer, or the CJ has sent the result twice), so nothing is
freed piece by piece: all of it goes when the server has dealt with the result, or has asked for nothing in a long time.
"""

import threading
from concurrent.futures import Future
from typing import Any, Dict, List, Optional, Tuple
from uuid import uuid4

from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.app_common.decomposers.numpy_decomposers import NumpyArrayDecomposer
from nvflare.app_common.executors.client_api.arrays import limits, specs
from nvflare.app_common.executors.client_api.arrays.cells import NotConnected, OwnCell
from nvflare.app_common.executors.client_api.arrays.forms import copy_with_room, encode_alone, frame
from nvflare.app_common.executors.client_api.arrays.parcels import CarriedTensor, replace_leaves, take_room
from nvflare.app_common.executors.client_api.arrays.progress import Progress
from nvflare.app_common.executors.client_api.arrays.specs import NUMPY, TORCH, ArrayRefused, ArraySpec
from nvflare.fuel.f3.cellnet.cell import Cell
from nvflare.fuel.f3.streaming.download_service import Downloadable, DownloadService, ProduceRC
from nvflare.fuel.f3.streaming.stream_utils import stream_thread_pool
from nvflare.fuel.utils import fobs
from nvflare.fuel.utils.fobs import dots
from nvflare.fuel.utils.fobs.decomposers.via_downloader import EncKey, EncType, LazyDownloadRef
from nvflare.fuel.utils.fobs.fobs import FOBS_DATA, FOBS_DECOMPOSER, FOBS_TYPE
from nvflare.fuel.utils.log_utils import get_obj_logger

_START, _COUNT = "start", "count"
# By the kind of array: nvflare's number for it, and the names of its type and of what decodes it.
_DOTS = {NUMPY: dots.NUMPY_DOWNLOAD, TORCH: dots.TENSOR_DOWNLOAD}
_NAMES = {
    NUMPY: ("numpy.ndarray", "nvflare.app_common.decomposers.numpy_decomposers.NumpyArrayDecomposer"),
    TORCH: ("torch.Tensor", "nvflare.app_opt.pt.decomposers.TensorDecomposer"),
}


def carry(name: str, spec: ArraySpec, content: memoryview) -> memoryview:
    """Returns the bytes of an array in the form in which nvflare's receiver expects it under this name.

    They are where the array is if there is room around it, which is so if it was handed over, else they are copied. So
    nobody may change it until the receiver has all of it.
    """
    before, behind = frame(name, spec, content)
    room = len(before), len(behind)
    carried = take_room(content, *room) or copy_with_room(content, *room)
    carried[: len(before)], carried[len(before) + len(content) :] = before, behind
    return carried


class ResultServer:
    """Has the results of one job served, one after the other."""

    def __init__(self):
        self.logger = get_obj_logger(self)
        self._cell: Optional[OwnCell] = None  # once it is needed
        self._current: Optional[_Served] = None

    def refer(self, result: Shareable, fl_ctx: FLContext) -> None:
        """Puts references in the places of the large arrays of a result, which are served from now on.

        Only the result itself is changed, not what is in it: who holds a part of that keeps the arrays. Where the cell
        for it cannot be connected the result stays as it is, and nvflare serves it.
        """
        fobs.register(NumpyArrayDecomposer)  # which else comes with the first array
        served = _Served()
        changed = {key: replace_leaves(value, served.put) for key, value in result.items()}
        if not served.arrays:
            result.update(changed)
            return
        try:
            self._cell = self._cell or OwnCell.use(fl_ctx)
        except NotConnected as e:
            self.logger.warning(f"results are served by nvflare: {e}")
            return
        served.open(self._cell.cell)
        result.update(changed)
        self._current = served

    def settle(self) -> Optional[Progress]:
        """Notes that the server has dealt with the last result; returns how it was served, if it was."""
        served, self._current = self._current, None
        return served.settle() if served else None

    def close(self) -> None:
        """Serves no more. Idempotent."""
        self.settle()
        cell, self._cell = self._cell, None
        if cell:
            cell.leave()


class _Served:
    """The arrays of one result."""

    def __init__(self):
        self.arrays: Dict[int, _ServedArrays] = {}  # by nvflare's number of the kind
        self._transaction = ""
        self._references: List[LazyDownloadRef] = []
        self._inside = 0  # bytes of arrays that travel inside the result

    def put(self, leaf: Any, path: tuple) -> Any:
        """Returns what to put in the place of an array, or what is no array."""
        spec = _spec_of(leaf)
        if spec is None:
            return leaf
        if spec.size <= limits.INLINE_LIMIT and self._inside + spec.size <= limits.INSIDE_LIMIT:
            self._inside += spec.size
            return _encoded(leaf, spec)
        return self._refer(leaf, spec)

    def _refer(self, leaf: Any, spec: ArraySpec) -> LazyDownloadRef:
        dot = _DOTS[spec.kind]
        if dot not in self.arrays:
            self.arrays[dot] = _ServedArrays()
        arrays = self.arrays[dot]
        reference = LazyDownloadRef("", arrays.ref_id, arrays.add(leaf, spec), dot)
        self._references.append(reference)
        return reference

    def open(self, cell: Cell) -> None:
        for reference in self._references:
            reference.fqcn = cell.get_fqcn()
        # Of no number of receivers: else all is gone with the first time that all was sent.
        self._transaction = DownloadService.new_transaction(cell, limits.SERVE_TIMEOUT, num_receivers=0)
        for arrays in self.arrays.values():
            DownloadService.add_object(self._transaction, arrays, arrays.ref_id)
            arrays.begin()

    def settle(self) -> Progress:
        if all(arrays.is_idle for arrays in self.arrays.values()):
            DownloadService.delete_transaction(self._transaction)
        # Else the server, which gave the task up, is still at it, and would end itself if it could not go on.
        return max((arrays.progress for arrays in self.arrays.values()), key=lambda progress: progress.done)


def _spec_of(leaf: Any) -> Optional[ArraySpec]:
    """Describes an array that nvflare knows in this process; None if it is not, or no array."""
    try:
        spec = leaf.spec if isinstance(leaf, CarriedTensor) else specs.spec_of(leaf) if specs.is_array(leaf) else None
    except ArrayRefused:
        return None  # nvflare may know what to do with it
    return spec if spec and fobs.get_dot_handler(_DOTS[spec.kind]) else None


def _bytes_of(array: Any) -> memoryview:
    return array.content if isinstance(array, CarriedTensor) else specs.bytes_of(array)


def _encoded(array: Any, spec: ArraySpec) -> dict:
    """Returns what nvflare's serialisation makes of an array that travels inside its message."""
    type_name, decomposer = _NAMES[spec.kind]
    data = {EncKey.TYPE: EncType.NATIVE, EncKey.DATA: encode_alone(spec, _bytes_of(array))}
    return {FOBS_TYPE: type_name, FOBS_DATA: data, FOBS_DECOMPOSER: decomposer}


class _ServedArrays(Downloadable):
    """All arrays of a kind, in chunks; each is made before it is asked for.

    A chunk depends on the state that it is asked for with, and not on who asks.
    """

    def __init__(self):
        super().__init__(None)
        self.ref_id = str(uuid4())
        self._arrays: List[Tuple[ArraySpec, Any]] = []
        self._numbers: Dict[int, int] = {}  # by id, of an array that is in the result more than once
        self._lock = threading.Lock()
        self._ahead: Tuple[int, Optional[Future]] = (-1, None)
        self._asked = 0  # index of the array after the last that was asked for
        self._has_ended = False  # the receiver was told that there is no more
        self.progress = Progress("served")

    def add(self, array: Any, spec: ArraySpec) -> str:
        """Returns the name of an array that will be served."""
        if id(array) not in self._numbers:
            self._numbers[id(array)] = len(self._arrays)
            self._arrays.append((spec, array))
        return f"T{self._numbers[id(array)]}"

    def begin(self) -> None:
        self.progress.total = sum(spec.size for spec, _ in self._arrays)
        self._make_ahead(0)

    @property
    def is_idle(self) -> bool:
        """Whether nothing was asked for, or all of it was given."""
        return self._has_ended or not self._asked

    def produce(self, state: Optional[dict], requester: str) -> Tuple[str, Any, dict]:
        start = state[_START] + state[_COUNT] if state else 0
        self._asked, self._has_ended = start + 1, start >= len(self._arrays)
        if self._has_ended:
            self.progress.add(0)  # this is when the receiver had the last chunk
            return ProduceRC.EOF, None, {}
        items = self._take(start)
        self._make_ahead(start + len(items))
        self.progress.add(sum(len(item) for item in items))
        return ProduceRC.OK, items, {_START: start, _COUNT: len(items)}

    def _take(self, start: int) -> list:
        with self._lock:
            made_for, future = self._ahead
            if made_for == start:
                self._ahead = -1, None
        return future.result() if made_for == start and future else self._make(start)  # none once all ends

    def _make_ahead(self, start: int) -> None:
        with self._lock:
            if start < len(self._arrays) and self._ahead[0] != start:  # there if one before it was asked for again
                self._ahead = start, stream_thread_pool.submit(self._make, start)

    def _make(self, start: int) -> list:
        items, size = [], 0
        for number, (spec, array) in enumerate(self._arrays[start:], start):
            if items and size + spec.size > limits.CHUNK_SIZE:
                break
            items.append(carry(f"T{number}", spec, _bytes_of(array)))
            size += len(items[-1])
        return items

    def release(self) -> None:
        with self._lock:
            self._arrays, self._ahead = [], (-1, None)
