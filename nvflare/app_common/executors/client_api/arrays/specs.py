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

"""What an array is, apart from its bytes.

NumPy arrays and PyTorch tensors (of any dtype, on any device) are both described by an `ArraySpec`. torch is imported
by none of this: who has a tensor has imported it, and who carries its bytes needs no more than their description.
"""

import math
import sys
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

NUMPY, TORCH = "numpy", "torch"

# Names of torch's dtypes: as safetensors names them, and bytes of an element.
_TORCH_DTYPES = {
    "float64": ("F64", 8),
    "float32": ("F32", 4),
    "float16": ("F16", 2),
    "bfloat16": ("BF16", 2),
    "float8_e4m3fn": ("F8_E4M3", 1),
    "float8_e4m3fnuz": ("F8_E4M3FNUZ", 1),
    "float8_e5m2": ("F8_E5M2", 1),
    "float8_e5m2fnuz": ("F8_E5M2FNUZ", 1),
    "complex64": ("C64", 8),
    "int64": ("I64", 8),
    "int32": ("I32", 4),
    "int16": ("I16", 2),
    "int8": ("I8", 1),
    "uint64": ("U64", 8),
    "uint32": ("U32", 4),
    "uint16": ("U16", 2),
    "uint8": ("U8", 1),
    "bool": ("BOOL", 1),
}
_TORCH_NAMES = {carried: (name, size) for name, (carried, size) in _TORCH_DTYPES.items()}


class ArrayRefused(ValueError):
    """An array, or all of them together, cannot be handed over; the text says which and why."""

    def __init__(self, why: str, name: str = ""):
        """Initializes the error; `name` is the array's in what carries it, where the text cannot say which it is."""
        super().__init__(why)
        self.name = name


class ArraySpec(NamedTuple):
    """The description of an array: its kind, type, shape and order."""

    kind: str  # NUMPY or TORCH
    dtype: str  # NumPy's string (byte order, kind, size), or torch's name
    shape: tuple
    by_columns: bool = False  # in Fortran's order

    @property
    def size(self) -> int:
        """Bytes of the content."""
        return math.prod(self.shape) * _item_size(self.kind, self.dtype)

    @property
    def safetensors_dtype(self) -> str:
        return _TORCH_DTYPES[self.dtype][0]

    @classmethod
    def checked(cls, kind: str, dtype: str, shape, by_columns: bool) -> "ArraySpec":
        """Returns the spec of fields that come from elsewhere.

        Raises:
            ArrayRefused: they are no spec.
        """
        is_shape = isinstance(shape, (list, tuple)) and all(type(n) is int and n >= 0 for n in shape)
        if kind not in (NUMPY, TORCH) or not isinstance(dtype, str) or not is_shape:
            raise ArrayRefused(f"malformed description of an array: {(kind, dtype, shape)}")
        _item_size(kind, dtype)
        return cls(kind, dtype, tuple(shape), bool(by_columns))

    @classmethod
    def of_safetensors(cls, dtype: str, shape: list) -> "ArraySpec":
        if dtype not in _TORCH_NAMES:
            raise ArrayRefused(f"a tensor of dtype {dtype} cannot be handed over")
        return cls.checked(TORCH, _TORCH_NAMES[dtype][0], shape, False)


@lru_cache(maxsize=None)
def _item_size(kind: str, dtype: str) -> int:
    if kind == TORCH:
        if dtype not in _TORCH_DTYPES:
            raise ArrayRefused(f"a tensor of dtype {dtype} cannot be handed over")
        return _TORCH_DTYPES[dtype][1]
    try:
        parsed = np.dtype(dtype)
    except TypeError as e:
        raise ArrayRefused(f"an array of dtype {dtype!r} cannot be handed over: {e}") from e
    if parsed.hasobject or parsed.kind == "V":  # with fields, subarrays, or of another package's making
        raise ArrayRefused(f"an array of dtype {parsed} cannot be handed over")
    return parsed.itemsize


def is_array(value: Any) -> bool:
    """Whether a value is an array that nvflare carries as one: subclasses, and sparse tensors, are objects to it."""
    if type(value) is np.ndarray:
        return True
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor) and value.layout is torch.strided


def spec_of(array: Any) -> ArraySpec:
    """Describes an array.

    Raises:
        ArrayRefused: it has objects or fields, or a dtype that has no name in safetensors.
    """
    if type(array) is np.ndarray:
        dtype = array.dtype
        # The string of a structured dtype, or of another package's bfloat16, is that of mere bytes.
        name = dtype.str if dtype.kind != "V" else str(dtype)
        spec = ArraySpec(NUMPY, name, array.shape, array.flags.f_contiguous and not array.flags.c_contiguous)
    else:
        spec = ArraySpec(TORCH, str(array.dtype).removeprefix("torch."), tuple(array.shape))
    _item_size(spec.kind, spec.dtype)
    return spec


def bytes_of(array: Any) -> memoryview:
    """Returns the content as bytes, in the array's own memory where that is contiguous and the CPU's."""
    if type(array) is np.ndarray:
        # By columns is what the transposed array is by rows.
        by_columns = array.flags.f_contiguous and not array.flags.c_contiguous
        array = array.T if by_columns else np.ascontiguousarray(array)
        return _flat(array.reshape(-1))
    torch = sys.modules["torch"]
    tensor = array.detach().cpu().resolve_conj().resolve_neg().contiguous()
    return _flat(tensor.reshape(-1).view(torch.uint8).numpy())


def _flat(array: np.ndarray) -> memoryview:
    return memoryview(array.view(np.uint8) if array.nbytes else bytearray())  # whoever has it may write to it


def is_on_device(array: Any) -> bool:
    """Whether it is in the memory of a device, such as a GPU."""
    return type(array) is not np.ndarray and array.device.type != "cpu"


def copy_from_device(tensor: Any, target: memoryview) -> None:
    """Copies a tensor from a device straight to memory of this process."""
    torch = sys.modules["torch"]
    if not tensor.numel():
        return  # torch takes no empty buffer
    flat = tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8)
    torch.frombuffer(target, dtype=torch.uint8).copy_(flat)


def array_in(buffer: Any, spec: ArraySpec, offset: int) -> Any:
    """Returns the array in a buffer, which stays as long as the array does."""
    if spec.kind == NUMPY:
        if not spec.size:
            return np.empty(spec.shape, spec.dtype, "F" if spec.by_columns else "C")
        flat = np.frombuffer(buffer, spec.dtype, math.prod(spec.shape), offset)
        return flat.reshape(spec.shape, order="F" if spec.by_columns else "C")
    import torch

    dtype = getattr(torch, spec.dtype)
    if not spec.size:
        return torch.empty(spec.shape, dtype=dtype)
    return torch.frombuffer(buffer, dtype=torch.uint8, count=spec.size, offset=offset).view(dtype).reshape(spec.shape)
