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

"""A message with its arrays apart: its content with a placeholder for each array, and where in one memory they are.

The memory is a piece of the message itself for a small one, else memory that both ends share or that arrives in pieces
(see memory.py). Whatever it is, who receives the message makes the arrays in place: none is copied, and the memory goes
with the last of them.
"""

import copy
import json
import mmap
import secrets
from typing import Any, Callable, List, NamedTuple, Optional, Tuple, Union
from weakref import WeakValueDictionary

import numpy as np

from nvflare.app_common.executors.client_api.arrays import limits, specs
from nvflare.app_common.executors.client_api.arrays.memory import PREFACE, PrivateMemory, SharedMemory
from nvflare.app_common.executors.client_api.arrays.specs import TORCH, ArrayRefused, ArraySpec

ALIGNMENT = 64
# Bytes that stay free before and behind each array that is larger, for what nvflare's forms have there (see forms.py).
ROOM = 512
# Memory with such arrays, by (address, bytes) of each, until its room is taken.
_with_room = WeakValueDictionary()

_MARK_SIZE, _INDEX_SIZE = 16, 4


class Place(NamedTuple):
    """Where in a memory an array is, with the free bytes behind it that are its own."""

    spec: ArraySpec
    offset: int

    @classmethod
    def behind(cls, end: int, spec: ArraySpec) -> "Place":
        """Returns the next place in a memory that is taken up to `end`."""
        return cls(spec, -(-(end + _room(spec)) // ALIGNMENT) * ALIGNMENT)

    @property
    def end(self) -> int:
        return self.offset + self.spec.size + _room(self.spec)


def _room(spec: ArraySpec) -> int:
    return ROOM if spec.size > limits.INLINE_LIMIT else 0


class CarriedTensor:
    """A tensor in a process that has no need of torch: its description and its bytes."""

    def __init__(self, spec: ArraySpec, buffer: Any, offset: int):
        self.spec = spec
        self.buffer = buffer
        self.offset = offset

    @property
    def nbytes(self) -> int:
        return self.spec.size

    @property
    def content(self) -> memoryview:
        return memoryview(self.buffer)[self.offset : self.offset + self.spec.size]


class Parcel(NamedTuple):
    """A message without its arrays, and where in one memory these are."""

    content: Any  # the message, with `mark` and the array's number in the place of each array
    mark: bytes  # random
    places: List[Place]  # of the arrays, by number
    size: int  # bytes of the memory

    @classmethod
    def take_apart(cls, data: Any) -> Tuple["Parcel", list]:
        """Takes the arrays out of a message (nested dicts, lists and tuples), which stays as it is.

        Returns:
            The parcel, and its arrays by number; an array that is in the message twice is there once.

        Raises:
            ArrayRefused: an array cannot be handed over; names it.
        """
        mark, arrays, numbers, places = new_mark(), [], {}, []
        end = PREFACE

        def take(array: Any, path: tuple) -> Any:
            nonlocal end
            if not specs.is_array(array):
                return array
            if id(array) not in numbers:
                numbers[id(array)] = len(arrays)
                arrays.append(array)
                places.append(Place.behind(end, _spec_of(array, path)))
                end = places[-1].end
            return placeholder(mark, numbers[id(array)])

        content = replace_leaves(data, take)
        return cls(content, mark, places, end), arrays

    def describe(self) -> dict:
        """What the receiver needs; the places as a text, for nvflare takes any other value apart, slowly."""
        places = [[*place.spec, place.offset] for place in self.places]
        return {**self._asdict(), "places": json.dumps(places)}

    @classmethod
    def read(cls, description: dict) -> "Parcel":
        """Returns what was described.

        Raises:
            ArrayRefused: it is malformed.
        """
        size, places = description["size"], []
        for kind, dtype, shape, by_columns, offset in json.loads(description["places"]):
            spec = ArraySpec.checked(kind, dtype, shape, by_columns)
            if type(offset) is not int or not 0 <= offset <= size - spec.size:
                raise ArrayRefused(f"an array is outside of its memory: {(offset, spec.size, size)}")
            places.append(Place(spec, offset))
        return cls(description["content"], description["mark"], places, size)

    def put_together(self, buffer: Any, makes_tensors: bool = True) -> Any:
        """Returns the message with its arrays, which are in the buffer.

        Args:
            buffer: memory of at least `size` bytes.
            makes_tensors: False: what was a tensor becomes a CarriedTensor.
        """
        if isinstance(buffer, mmap.mmap):
            start = _address(buffer)
            _with_room.update({(start + place.offset, place.spec.size): buffer for place in self._places_with_room()})
        return fill_in(self.content, self.mark, [_array_in(buffer, place, makes_tensors) for place in self.places])

    def _places_with_room(self) -> List[Place]:
        """Returns the places around which nothing is: looked up, for another version may have placed them."""
        end = PREFACE
        for place in sorted(self.places, key=lambda place: place.offset):
            if place.offset - _room(place.spec) < end or place.end > self.size:
                return []
            end = place.end
        return [place for place in self.places if _room(place.spec)]

    @property
    def array_bytes(self) -> int:
        return sum(place.spec.size for place in self.places)


class Placed(NamedTuple):
    """A parcel whose arrays are in memory."""

    parcel: Parcel
    memory: Union[SharedMemory, PrivateMemory]


def array_bytes(data: Any) -> int:
    """Returns how many bytes the arrays in a message take."""
    if isinstance(data, Placed):
        return data.parcel.array_bytes
    if isinstance(data, dict):
        return sum(array_bytes(value) for value in data.values())
    if isinstance(data, (list, tuple)):
        return sum(array_bytes(value) for value in data)
    return getattr(data, "nbytes", 0) or 0


def take_room(content: memoryview, before: int, behind: int) -> Optional[memoryview]:
    """Returns the bytes of an array with the room around them, from now on the caller's; None if there is none.

    Args:
        content: all bytes of an array, see `bytes_of`.
        before: bytes of room that are needed before it.
        behind: bytes behind it.
    """
    if max(before, behind) > ROOM:
        return None
    # All bytes of an array, and not a part or a copy: the address and the length are the same. Whoever comes first, on
    # whichever thread, has the room for good: what was made there may be on its way as long as the memory is there.
    memory = _with_room.pop((_address(content), len(content)), None) if len(content) > limits.INLINE_LIMIT else None
    if memory is None:
        return None
    offset = _address(content) - _address(memory)
    return memoryview(memory)[offset - before : offset + len(content) + behind]


def _address(buffer: Any) -> int:
    return np.frombuffer(buffer, np.uint8).ctypes.data


def _spec_of(array: Any, path: tuple) -> ArraySpec:
    try:
        return specs.spec_of(array)
    except ArrayRefused as e:
        raise ArrayRefused(f"{path_text(path)}: {e}") from e


def path_text(path: tuple) -> str:
    return ".".join(map(str, path))


def _array_in(buffer: Any, place: Place, makes_tensors: bool) -> Any:
    if place.spec.kind == TORCH and not makes_tensors:
        return CarriedTensor(place.spec, buffer, place.offset)
    return specs.array_in(buffer, place.spec, place.offset)


def new_mark() -> bytes:
    """Returns what nothing else in a message can begin with."""
    return secrets.token_bytes(_MARK_SIZE)


def placeholder(mark: bytes, number: int) -> bytes:
    return mark + number.to_bytes(_INDEX_SIZE, "big")


def fill_in(content: Any, mark: bytes, arrays: list) -> Any:
    """Returns a message with its arrays, by number, in the places of their placeholders."""

    def put(value: Any, path: tuple) -> Any:
        is_one = type(value) is bytes and len(value) == _MARK_SIZE + _INDEX_SIZE and value.startswith(mark)
        return arrays[int.from_bytes(value[_MARK_SIZE:], "big")] if is_one else value

    return replace_leaves(content, put)


def replace_leaves(data: Any, replace: Callable[[Any, tuple], Any], path: tuple = ()) -> Any:
    """Returns a nested value with its leaves replaced: what is changed is a copy, and the value stays as it is.

    Args:
        data: nested dicts, lists and tuples.
        replace: (leaf, path of keys) -> what to put in its place, or the leaf itself.
        path: where the value is.
    """
    if isinstance(data, dict):
        items = {key: replace_leaves(old, replace, (*path, key)) for key, old in data.items()}
        changed = {key: new for key, new in items.items() if new is not data[key]}
        if not changed:
            return data
        copied = copy.copy(data)
        copied.update(changed)
        return copied
    if type(data) in (list, tuple) or isinstance(data, list):
        items = [replace_leaves(old, replace, (*path, i)) for i, old in enumerate(data)]
        if all(new is old for new, old in zip(items, data)):
            return data
        return tuple(items) if type(data) is tuple else _with_items(data, items)
    return replace(data, path)


def _with_items(data: list, items: list) -> list:
    copied = copy.copy(data)
    copied[:] = items
    return copied


def write_arrays(arrays: list, parcel: Parcel, memory: Union[SharedMemory, PrivateMemory]) -> None:
    """Copies arrays to their places, and lets go of each as it is copied: the list is empty afterwards."""
    buffer = None
    for number, place in enumerate(parcel.places):
        array, arrays[number] = arrays[number], None
        if specs.is_on_device(array):
            buffer = buffer or memory.map(is_private=False)
            specs.copy_from_device(array, memoryview(buffer)[place.offset : place.offset + place.spec.size])
        else:
            memory.write(place.offset, specs.bytes_of(array))
    arrays.clear()
