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

"""What a script sends arrives as it was sent, or an error in the script names what would not.

One walk over a result, its metrics and meta data, and over each log record, before anything is encoded: an encoder that
fails later does so on a thread that nobody waits for, and what a decoder cannot take may end the process that decodes.
nvflare's serialisation (FOBS) also loses without a word what it does not know, such as a torch.nn.Parameter.

The walk makes new containers with the same content, so that nothing that the script does to its own afterwards gets in
the way of sending them. Arrays are not copied.
"""

import reprlib
import sys
from collections import OrderedDict, deque
from enum import Enum
from functools import lru_cache
from io import BytesIO
from typing import Any, Callable, Optional, Sequence

from nvflare.apis.analytix import AnalyticsDataType
from nvflare.apis.utils.decomposers import flare_decomposers
from nvflare.app_common.decomposers import common_decomposers
from nvflare.fuel.utils import fobs
from nvflare.fuel.utils.class_loader import get_class_name
from nvflare.fuel.utils.fobs import fobs as registry
from nvflare.fuel.utils.fobs.builtin_decomposers import BUILTIN_TYPES
from nvflare.fuel.utils.fobs.datum import DatumManager
from nvflare.fuel.utils.fobs.decomposer import DataClassDecomposer, EnumTypeDecomposer

# Levels that encoders, filters and aggregators can all take; what is nested deeper usually contains itself.
MAX_DEPTH = 100
# The integers that the encoding has.
MIN_INT, MAX_INT = -(2**63), 2**64 - 1

# The kinds of NumPy's scalars that are a number or a text of Python.
_PLAIN_KINDS = "biufSU"
# Of these data types, trackers keep the values as texts.
_TRACKED_AS_TEXT = (
    AnalyticsDataType.PARAMETER,
    AnalyticsDataType.PARAMETERS,
    AnalyticsDataType.TAG,
    AnalyticsDataType.TAGS,
)
# FOBS makes these up for any class, but the other side does not put together what it was never told of.
_GENERIC_DECOMPOSERS = {get_class_name(DataClassDecomposer), get_class_name(EnumTypeDecomposer)}

_brief = reprlib.Repr()
_brief.maxstring = _brief.maxother = 120


class Unsendable(Exception):
    """Something would not arrive as it was sent; says why, beginning with a verb."""

    def __init__(self, why: str):
        super().__init__(why)
        self.path = []  # the names that lead to it


def sendable(
    value: Any, kind: str, on_tensor: Callable, numbers: bool = False, passes_objects: bool = False, path: tuple = ()
) -> Any:
    """Returns a nested value as it can be sent; it, or a copy of the same content.

    Args:
        value: what to send.
        kind: what it is, for an error.
        on_tensor: (torch tensor) -> what to send in its place; may raise Unsendable.
        numbers: whether NumPy's scalars become the numbers of Python that they stand for.
        passes_objects: whether objects are left as they are, since somebody converts them before they are sent.
        path: names that precede those in `value`, for an error.

    Raises:
        ValueError: something in it would not arrive as it was sent; names it and says why.
    """
    try:
        return _Walk(on_tensor, numbers, passes_objects).visit(value, 0)
    except Unsendable as e:
        names = ".".join(map(str, (*path, *e.path)))
        raise ValueError(f"{kind} {_brief.repr(names) if names else 'data'} {e}") from e.__cause__


def record_fields(tag: str, **fields) -> dict:
    """Returns the fields of a log record as they can be sent; they are those of nvflare's create_analytic_dxo.

    Parameters and tags that cannot be sent as they are become texts, which trackers make of all of them.

    Raises:
        ValueError: one of them cannot be sent; names record and field, and says why.
    """
    value = fields.get("value")
    if fields.get("data_type") in _TRACKED_AS_TEXT:
        fields["value"] = {k: _or_text(v) for k, v in value.items()} if isinstance(value, dict) else _or_text(value)
    return sendable({"tag": tag, **fields}, "log record", number_of, numbers=True, path=(tag,))


def _or_text(value: Any) -> Any:
    try:
        return sendable(value, "", number_of, numbers=True)
    except ValueError:
        return str(value)


def number_of(tensor) -> Any:
    """Returns the number that a torch tensor of one element is; no other process needs torch to read it.

    Raises:
        Unsendable: it is none.
    """
    if tensor.numel() != 1 or tensor.is_meta:
        raise Unsendable("is a torch tensor, and not of one number: send an array or a list")
    return tensor.item()


class _Walk:
    def __init__(self, on_tensor: Callable, numbers: bool, passes_objects: bool = False):
        self._on_tensor = on_tensor
        self._numbers = numbers
        self._passes_objects = passes_objects

    def visit(self, value: Any, depth: int) -> Any:
        """Returns what to send for a value; `depth` is the number of containers around it."""
        visit = _visit_of(type(value))
        return value if visit is None else visit(self, value, depth)

    def _visit_dict(self, value: dict, depth: int) -> dict:
        _check_depth(depth)
        made = type(value)()
        for key, item in value.items():
            try:
                is_plain = type(key) is str and key.isascii() and key != registry.FOBS_TYPE
                made[key if is_plain else _checked_key(key, depth)] = self.visit(item, depth + 1)
            except Unsendable as e:
                e.path.insert(0, key)
                raise
        return made

    def _visit_sequence(self, value: Sequence, depth: int) -> Sequence:
        _check_depth(depth)
        made = []
        for item in value:
            try:
                made.append(self.visit(item, depth + 1))
            except Unsendable as e:
                e.path.insert(0, len(made))
                raise
        return type(value)(made)

    def _visit_set(self, value: set, depth: int) -> set:
        return set(_HASHABLES._visit_sequence(tuple(value), depth))

    def _visit_int(self, value: int, depth: int) -> int:
        if not MIN_INT <= value <= MAX_INT:
            raise Unsendable(f"is an integer of {value.bit_length()} bits, which cannot be sent: at most 64 can")
        return value

    def _visit_str(self, value: str, depth: int) -> str:
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError as e:
                raise Unsendable(f"is no text that can be sent: it has a lone surrogate at {e.start}") from e
        return value

    def _visit_tensor(self, value: Any, depth: int) -> Any:
        made = self._on_tensor(value)
        return self.visit(made, depth) if isinstance(made, (int, float, complex)) else made

    def _visit_array(self, value: Any, depth: int) -> Any:
        if self._numbers and value.ndim == 0 and value.dtype.kind in _PLAIN_KINDS:
            return self.visit(value[()], depth)
        if not _is_dtype_kept(value.dtype):
            raise Unsendable(f"is a NumPy array of {value.dtype}, which cannot be sent: send its tolist()")
        return value

    def _visit_numpy_scalar(self, value: Any, depth: int) -> Any:
        number = value.item() if self._numbers and value.dtype.kind in _PLAIN_KINDS else value
        # Python has no number for a longdouble.
        return self._visit_object(value, depth) if type(number) is type(value) else self.visit(number, depth)

    def _visit_enum(self, value: Enum, depth: int) -> Enum:
        return value if get_class_name(type(value)) in _shared_types() else self._visit_object(value, depth)

    def _visit_object(self, value: Any, depth: int) -> Any:
        if not self._passes_objects:
            _CONTENTS.visit(_taken_apart(value), depth + 1)
        return value


@lru_cache(maxsize=1024)
def _visit_of(known: type) -> Optional[Callable]:
    """Returns the method for values of a type; None if they arrive as they are. FOBS, too, looks at the exact type."""
    if known in (type(None), bool, float, bytes):
        return None
    # Who has not imported one of them has nothing of it.
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
    if torch and issubclass(known, torch.Tensor):
        return _Walk._visit_tensor
    if numpy and known is numpy.ndarray:
        return _Walk._visit_array
    if numpy and issubclass(known, numpy.generic):
        return _Walk._visit_numpy_scalar
    return _VISITS.get(known) or (_Walk._visit_enum if issubclass(known, Enum) else _Walk._visit_object)


_VISITS = {
    str: _Walk._visit_str,
    int: _Walk._visit_int,
    dict: _Walk._visit_dict,
    OrderedDict: _Walk._visit_dict,
    list: _Walk._visit_sequence,
    tuple: _Walk._visit_sequence,
    set: _Walk._visit_set,
}


def _check_depth(depth: int) -> None:
    if depth >= MAX_DEPTH:
        raise Unsendable(f"is nested more than {MAX_DEPTH} levels deep, or contains itself")


def _refuse_tensor(tensor) -> Any:
    raise Unsendable("is a torch tensor, which cannot be sent there")


# For what must be equal to what it was, and not become it.
_HASHABLES = _Walk(_refuse_tensor, numbers=True)
_CONTENTS = _Walk(_refuse_tensor, numbers=False)


def _checked_key(key: Any, depth: int) -> Any:
    if key == registry.FOBS_TYPE:
        raise Unsendable("has a name that FOBS keeps for itself")
    try:
        return _HASHABLES.visit(key, depth + 1)
    except Unsendable as e:
        raise Unsendable(f"has a name that {e}") from e.__cause__


@lru_cache(maxsize=None)
def _is_dtype_kept(dtype) -> bool:
    """Whether an array of this type comes out of a file as it went in; nvflare sends arrays as files."""
    if dtype.kind == "V":  # fields, or another package's type: no other process is given such memory
        return False
    numpy, file = sys.modules["numpy"], BytesIO()
    try:
        numpy.save(file, numpy.empty(0, dtype), allow_pickle=False)
    except ValueError:  # objects, text of variable length
        return False
    file.seek(0)
    return numpy.load(file, allow_pickle=False).dtype == dtype


def _taken_apart(value: Any) -> Any:
    """Returns what FOBS sends of an object."""
    _register_decomposers()
    what = f"is of type {get_class_name(type(value))}, which cannot be sent"
    try:
        packed = registry.Packer(DatumManager(sys.maxsize)).pack(value)
    except Exception as e:  # whatever a decomposer may raise
        raise Unsendable(what + (_remedy(value) or f": {e}")) from e
    if packed is value:
        raise Unsendable(what + _remedy(value))
    if packed[registry.FOBS_DECOMPOSER] in _GENERIC_DECOMPOSERS and packed[registry.FOBS_TYPE] not in _shared_types():
        raise Unsendable(what + (_remedy(value) or ": FOBS has no decomposer for it"))
    return packed[registry.FOBS_DATA]


@lru_cache(maxsize=None)
def _register_decomposers() -> None:
    flare_decomposers.register()
    common_decomposers.register()
    fobs.dumps(None)  # FOBS registers its own with the first object


def _shared_types() -> set:
    # What the script adds to FOBS's own, by register_data_classes() and register_enum_types(), is found only there.
    return getattr(registry, "_type_name_whitelist", BUILTIN_TYPES)


def _remedy(value: Any) -> str:
    for types, instead in _REMEDIES:
        if isinstance(value, types):
            return f": send {instead}"
    return ": send numpy.asarray(...) of it" if hasattr(value, "__array__") else ""


_REMEDIES = (
    ((bytearray, memoryview), "bytes(...) of it"),
    (Enum, "its value"),
    (dict, "dict(...) of it"),
    ((list, tuple, set, frozenset, deque), "list(...) of it"),
)
