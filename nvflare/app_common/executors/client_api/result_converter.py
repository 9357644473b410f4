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

"""What a script sends, as it can travel: everything arrives as it was sent, or an error names what would not.

nvflare's serialisation (FOBS) loses what it does not know without a word: a torch.nn.Parameter, or any tensor in a
process that has not registered nvflare's TensorDecomposer, arrives empty. ResultConverter stands at the trainer's end,
in every execution mode: it has nvflare's converter do its work and then looks at the result.
"""

import sys
from collections import OrderedDict
from functools import lru_cache
from typing import Any, Callable, Optional

from nvflare.apis.dxo import DXO, DataKind, from_shareable
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.utils.decomposers import flare_decomposers
from nvflare.app_common.abstract.params_converter import ParamsConverter
from nvflare.app_common.decomposers import common_decomposers
from nvflare.fuel.utils import fobs
from nvflare.fuel.utils.fobs import dots

# What travels as it is.
_PLAIN_TYPES = (type(None), bool, int, float, str, bytes)
# FOBS takes any object apart on this side, but the other side does not put together what it was never told of.
_unknown_types = set()


class ResultConverter(ParamsConverter):
    """Converts a result to what the server expects, and sees to it that it arrives as it was sent."""

    def __init__(self, converter: Optional[ParamsConverter]):
        """Initializes the converter.

        Args:
            converter: nvflare's, to the server's format; None: the script uses that format itself.
        """
        super().__init__()
        self._converter = converter

    def process(self, task_name: str, shareable: Shareable, fl_ctx: FLContext) -> Shareable:
        """Converts one result, and makes it ready to be sent.

        Raises:
            ValueError: something in it cannot be converted or sent; names it and says why.
        """
        dxo = from_shareable(shareable)
        # A number is often a tensor of one element; the server, and the CJ, need no torch to read it.
        if dxo.data_kind == DataKind.METRICS:
            # No parameters: a converter would drop what is not a tensor.
            dxo.data = _sendable(dxo.data, "metric", (), self._number_of)
        else:
            dxo = self._convert(task_name, shareable, fl_ctx)
            dxo.data = _sendable(dxo.data, "parameter", (), self._tensor_of)
        dxo.meta = _sendable(dxo.meta, "meta property", (), self._number_of)
        return dxo.update_shareable(shareable)

    def convert(self, params: Any, fl_ctx: FLContext) -> Any:
        return params

    def _convert(self, task_name: str, shareable: Shareable, fl_ctx: FLContext) -> DXO:
        try:
            converted = self._converter.process(task_name, shareable, fl_ctx) if self._converter else shareable
        except Exception as e:
            culprit, fault = self._find_culprit(from_shareable(shareable).data, e)
            raise ValueError(f"{culprit} cannot be converted: {fault}") from e
        return from_shareable(converted)

    def _find_culprit(self, params: Any, error: Exception) -> tuple:
        for name, value in params.items() if isinstance(params, dict) else ():
            try:
                self._converter.convert({name: value}, FLContext())
            except Exception as e:
                return f"parameter {name!r}", e
        return "the model", error

    def _number_of(self, tensor, name: str) -> Any:
        return tensor.item() if tensor.numel() == 1 else self._tensor_of(tensor, name)

    def _tensor_of(self, tensor, name: str) -> Any:
        """Returns the tensor as safetensors takes it, and FOBS: a dense torch.Tensor, and no subclass."""
        if self._converter or not fobs.get_dot_handler(dots.TENSOR_DOWNLOAD):
            raise ValueError(
                f"{name} is a torch tensor, and this job sends none: set params_exchange_format to pytorch in the "
                "job's client config, or send NumPy arrays"
            )
        torch = sys.modules["torch"]
        if tensor.layout != torch.strided or not _is_known_to_safetensors(tensor.dtype):
            raise ValueError(f"{name} is a tensor of {tensor.dtype}, {tensor.layout}, which cannot be sent")
        plain = tensor.detach().contiguous()
        if type(plain) is not torch.Tensor:
            raise ValueError(f"{name} is a {type(tensor)}, which cannot be sent: send a torch.Tensor")
        return plain


@lru_cache(maxsize=None)
def _is_known_to_safetensors(dtype) -> bool:
    from safetensors.torch import save

    try:
        save({"": sys.modules["torch"].empty(0, dtype=dtype)})
    except Exception:  # of one type or another, from one version to the next
        return False
    return True


def _sendable(value: Any, kind: str, path: tuple, on_tensor: Callable) -> Any:
    """Returns a nested value with all in it as it can be sent; the value itself if it was.

    Args:
        value: what to send.
        kind: what it is, for an error.
        path: where it is, for an error.
        on_tensor: (tensor, name) -> what to send in its place.
    """
    if isinstance(value, dict):
        items = {key: _sendable(item, kind, (*path, key), on_tensor) for key, item in value.items()}
        is_same = all(items[key] is item for key, item in value.items())
        known = type(value) if type(value) is OrderedDict else dict
        return value if is_same and type(value) is known else known(items)
    if type(value) in (list, tuple):
        items = [_sendable(item, kind, (*path, index), on_tensor) for index, item in enumerate(value)]
        return value if all(new is old for new, old in zip(items, value)) else type(value)(items)
    # Who has not imported one of them has nothing of it.
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
    if torch and isinstance(value, torch.Tensor):
        return on_tensor(value, _name(kind, path))
    is_array = numpy and type(value) is numpy.ndarray and not value.dtype.hasobject
    if not is_array and type(value) not in _PLAIN_TYPES:
        _check_serialisable(value, _name(kind, path))
    return value


def _name(kind: str, path: tuple) -> str:
    return f"{kind} {'.'.join(map(str, path))!r}"


def _check_serialisable(value: Any, name: str) -> None:
    # What nvflare itself brings; FOBS registers its own with the first object.
    flare_decomposers.register()
    common_decomposers.register()
    fobs.dumps(None)
    known = fobs.num_decomposers()
    try:
        fobs.dumps(value)
    except Exception as e:  # whatever a decomposer may raise
        raise ValueError(f"{name} is a {type(value)}, which cannot be sent: {e}") from e
    if fobs.num_decomposers() > known:  # it has just made one up
        _unknown_types.add(type(value))
    if type(value) in _unknown_types:
        raise ValueError(f"{name} is a {type(value)}, which cannot be sent: FOBS has no decomposer for it")
