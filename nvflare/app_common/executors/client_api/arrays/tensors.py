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

"""Has a process that carries tensors, and never looks into one, do so without torch.

nvflare refers to the tensors of a message through their decomposer, whose module imports torch (seconds, and some
200 MB). `TensorCarrier` refers to them in its place, and is that decomposer for all else: whatever another part of the
process does with a tensor goes on as it would.
"""

from functools import lru_cache
from typing import Any, Tuple

from nvflare.app_common.executors.client_api.arrays import limits
from nvflare.fuel.f3.cellnet.cell import Cell
from nvflare.fuel.f3.streaming.download_service import Downloadable
from nvflare.fuel.utils import fobs
from nvflare.fuel.utils.fobs import dots
from nvflare.fuel.utils.fobs.datum import DatumManager
from nvflare.fuel.utils.fobs.decomposers.via_downloader import ViaDownloaderDecomposer

# FOBS knows a type by its name alone.
_Tensor = type("Tensor", (), {"__module__": "torch"})


def carry_tensors() -> None:
    """Has this process refer to tensors, if it does not so far."""
    fobs.register(TensorCarrier)


@lru_cache(maxsize=1)
def _decomposer() -> ViaDownloaderDecomposer:
    from nvflare.app_opt.pt.decomposers import TensorDecomposer

    return TensorDecomposer()


class TensorCarrier(ViaDownloaderDecomposer):
    """Stands in for nvflare's decomposer of tensors, which is imported, with torch, only for a tensor itself."""

    def __init__(self):
        super().__init__(limits.CHUNK_SIZE, "tensor_")

    def supported_type(self) -> type:
        return _Tensor

    def get_download_dot(self) -> int:
        return dots.TENSOR_DOWNLOAD

    # nvflare's decomposer does what needs a tensor.

    def to_downloadable(self, items: dict, max_chunk_size: int, fobs_ctx: dict) -> Downloadable:
        return _decomposer().to_downloadable(items, max_chunk_size, fobs_ctx)

    def download(
        self, from_fqcn: str, ref_id: str, per_request_timeout: float, cell: Cell, **options
    ) -> Tuple[str, dict]:
        return _decomposer().download(from_fqcn, ref_id, per_request_timeout, cell, **options)

    def native_decompose(self, target: Any, manager: DatumManager = None) -> bytes:
        return _decomposer().native_decompose(target, manager)

    def native_recompose(self, data: bytes, manager: DatumManager = None) -> Any:
        return _decomposer().native_recompose(data, manager)
