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

"""Converts a script's results to the format of the server: in the trainer, in every execution mode alike.

nvflare's own converters do it. ResultConverter stands around them: what they would leave out or break is an error that
names it, and so is what would not arrive as it was sent (see sendable.py).
"""

import reprlib
import sys
from functools import lru_cache, partial
from typing import Any, Optional

from nvflare.apis.dxo import DataKind, from_shareable
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import ReservedHeaderKey, Shareable
from nvflare.app_common.abstract.fl_model import MetaKey
from nvflare.app_common.abstract.params_converter import ParamsConverter
from nvflare.app_common.executors.client_api.formats.sendable import Unsendable, number_of, sendable
from nvflare.fuel.utils import fobs
from nvflare.fuel.utils.fobs import dots

# What PyTorch calls the entry of a module's state that is no tensor, and of any type.
_EXTRA_STATE = "_extra_state"
_CONTAINERS = (dict, list, tuple, set)


class ResultConverter(ParamsConverter):
    """Converts a result to what the server expects, and sees to it that it arrives as it was sent."""

    def __init__(self, converter: Optional[ParamsConverter], passes_objects: bool = False):
        """Initializes the converter.

        Args:
            converter: nvflare's, to the server's format; None: the script uses that format itself.
            passes_objects: whether a filter of the job's own in this process may yet convert what cannot be sent.
        """
        super().__init__()
        self._converter = converter
        self._passes_objects = passes_objects

    def process(self, task_name: str, shareable: Shareable, fl_ctx: FLContext) -> Shareable:
        """Converts one result, and makes it ready to be sent.

        Raises:
            ValueError: something in it cannot be converted or sent; names it and says why.
        """
        numbers = partial(sendable, on_tensor=self._number_of, numbers=True)
        dxo = from_shareable(shareable)
        if dxo.data_kind == DataKind.METRICS:
            # No parameters: a converter would drop what is not a tensor.
            dxo.data = numbers(dxo.data, "metric")
        else:
            dxo.data = self._convertible(task_name, dxo.data)
            if self._converter:
                dxo = from_shareable(self._converter.process(task_name, dxo.update_shareable(shareable), fl_ctx))
            dxo.data = sendable(dxo.data, "parameter", self._tensor_of, passes_objects=self._passes_objects)
        meta, metrics = dict(dxo.meta), {}
        if MetaKey.INITIAL_METRICS in meta:
            metrics[MetaKey.INITIAL_METRICS] = numbers(meta.pop(MetaKey.INITIAL_METRICS), "metric")
        dxo.meta = {**numbers(meta, "meta property"), **metrics}
        # Rounds, and what nvflare copies of the meta data.
        shareable[ReservedHeaderKey.HEADERS] = numbers(shareable[ReservedHeaderKey.HEADERS], "header")
        return dxo.update_shareable(shareable)

    def convert(self, params: Any, fl_ctx: FLContext) -> Any:
        return params

    def _convertible(self, task_name: str, params: Any) -> Any:
        """Returns parameters of which the converter loses nothing, or nothing but what only the script needs."""
        look = _LOOKS.get(type(self._converter).__name__)
        if not look or task_name not in (self._converter.supported_tasks or [task_name]):
            return params
        made = {}
        for name, value in params.items():
            try:
                made[name] = look(name, value)
            except Unsendable as e:
                raise ValueError(f"parameter {name!r} {e}") from e.__cause__
        if look is _look_at_tensor and made and not any(map(_is_tensor, made.values())):
            raise ValueError(
                f"no parameter is a torch tensor, so that all would be left out, {reprlib.repr(list(made))}: such need "
                "FrameworkType.RAW, params_exchange_format raw in the job's client config"
            )
        return made

    def _number_of(self, tensor) -> Any:
        return number_of(tensor) if tensor.numel() == 1 else self._tensor_of(tensor)

    def _tensor_of(self, tensor) -> Any:
        """Returns the tensor as safetensors takes it, and FOBS: a dense torch.Tensor, and no subclass."""
        if self._converter:
            raise Unsendable(
                "is a torch tensor, and this job's server expects NumPy: send a NumPy array, or set both "
                "params_exchange_format and server_expected_format to pytorch in the job's client config"
            )
        if not fobs.get_dot_handler(dots.TENSOR_DOWNLOAD):
            raise Unsendable(
                "is a torch tensor, and this job sends none: set params_exchange_format to pytorch in the job's client "
                "config, or send NumPy arrays"
            )
        plain = _plain_tensor(tensor).contiguous()
        if type(plain) is not sys.modules["torch"].Tensor:
            raise Unsendable(f"is a {type(tensor)}, which cannot be sent: send a torch.Tensor")
        if not _is_known_to_safetensors(plain.dtype):
            raise Unsendable(f"is a tensor of {plain.dtype}, which cannot be sent: cast it")
        return plain


def _look_at_tensor(name: str, value: Any) -> Any:
    if _is_tensor(value):
        value = _plain_tensor(value)
        if not _is_known_to_numpy(value.dtype):
            raise Unsendable(
                f"is a tensor of {value.dtype}, which NumPy does not have: set server_expected_format to pytorch in "
                "the job's client config, or cast it, for example by .float()"
            )
    elif (value if isinstance(value, _CONTAINERS) else getattr(value, "shape", ())) and not str(name).endswith(
        _EXTRA_STATE
    ):
        raise Unsendable(
            f"is a {type(value)}, which would be left out: send torch tensors, or use FrameworkType.RAW, "
            "params_exchange_format raw in the job's client config"
        )
    return value  # one number, a text or the like: it is left out with a warning, and the script gets it back


def _look_at_layer(name: str, value: Any) -> Any:
    if not isinstance(value, (list, tuple)):
        raise Unsendable(f"is a {type(value)}, and not the list of arrays that Keras has for a layer")
    return value


# By the name of nvflare's converter, which is there only with its framework.
_LOOKS = {"PTToNumpyParamsConverter": _look_at_tensor, "KerasModelToNumpyParamsConverter": _look_at_layer}


def _is_tensor(value: Any) -> bool:
    return isinstance(value, sys.modules["torch"].Tensor)


def _plain_tensor(tensor) -> Any:
    """Returns the values of a dense tensor, without its graph and not as a view that has yet to be computed."""
    torch = sys.modules["torch"]
    if tensor.layout != torch.strided or tensor.is_nested or tensor.is_meta:
        how = "nested" if tensor.is_nested else "on the meta device" if tensor.is_meta else tensor.layout
        raise Unsendable(f"is a tensor that is not dense ({how}), which cannot be sent")
    if type(tensor) is not torch.Tensor or tensor.requires_grad:
        tensor = tensor.detach()
    return tensor.resolve_conj().resolve_neg()


@lru_cache(maxsize=None)
def _is_known_to_numpy(dtype) -> bool:
    try:
        sys.modules["torch"].empty(0, dtype=dtype).numpy()
    except Exception:  # of one type or another, from one version to the next
        return False
    return True


@lru_cache(maxsize=None)
def _is_known_to_safetensors(dtype) -> bool:
    from safetensors.torch import save

    try:
        save({"": sys.modules["torch"].empty(0, dtype=dtype)})
    except Exception:  # as above
        return False
    return True
