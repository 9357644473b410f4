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

"""The two forms in which nvflare carries an array: a NumPy array as the only member of a ZIP archive that is not
compressed (`numpy.savez`), a tensor as a safetensors file.

Both are the array's bytes with something before them and, in an archive, something behind. Here these two are made and
read without the bytes ever being copied for it.
"""

import ast
import json
import struct
import zlib
from contextlib import contextmanager
from functools import lru_cache
from typing import Iterator, NamedTuple, Tuple

import numpy as np

from nvflare.app_common.executors.client_api.arrays.specs import NUMPY, ArrayRefused, ArraySpec

# Local file header, central directory and its end, with the sizes in the ZIP64 extra field, whether they need it or not
# (APPNOTE.TXT of PKWARE, 4.3.7, 4.3.12, 4.3.14 to 4.3.16, 4.5.3).
_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR64 = struct.Struct("<4sLQL")
_END = struct.Struct("<4s4H2LH")
_SIZES64 = struct.Struct("<2H2Q")
_LOCAL_SIGNATURE = b"PK\x03\x04"
_VERSION, _DATE = 45, 0x21  # 4.5: the first with ZIP64; the first of January 1980
_IN_EXTRA = 0xFFFFFFFF  # in the place of a size
_IN_DIRECTORY = 0x8  # flag: the sizes follow the content
_NPY_MAGIC = b"\x93NUMPY"
_NPY_ALIGNMENT = 64
_LENGTH = struct.Struct("<Q")  # of the header of a safetensors file

# Bytes that are enough to read what precedes any array's content.
MAX_HEAD = 4096


class Start(NamedTuple):
    """What precedes the bytes of an array: how it is called, what it is, and where the bytes begin."""

    name: str
    spec: ArraySpec
    offset: int


@lru_cache(maxsize=1024)
def _npy_header(spec: ArraySpec) -> bytes:
    described = f"{{'descr': {spec.dtype!r}, 'fortran_order': {spec.by_columns}, 'shape': {spec.shape!r}, }}".encode()
    padding = -(len(_NPY_MAGIC) + 4 + len(described) + 1) % _NPY_ALIGNMENT
    text = described + b" " * padding + b"\n"
    return _NPY_MAGIC + b"\x01\x00" + struct.pack("<H", len(text)) + text


def _archive_frame(name: bytes, header: bytes, content: memoryview) -> Tuple[bytes, bytes]:
    crc = zlib.crc32(content, zlib.crc32(header))
    size = len(header) + len(content)
    extra = _SIZES64.pack(1, 16, size, size)
    common = (_VERSION, 0, 0, 0, _DATE, crc, _IN_EXTRA, _IN_EXTRA, len(name), len(extra))
    local = _LOCAL.pack(_LOCAL_SIGNATURE, *common) + name + extra
    central = _CENTRAL.pack(b"PK\x01\x02", _VERSION, *common, 0, 0, 0, 0, 0) + name + extra
    start = len(local) + size  # of the directory
    end = _END64.pack(b"PK\x06\x06", _END64.size - 12, _VERSION, _VERSION, 0, 0, 1, 1, len(central), start)
    end += _LOCATOR64.pack(b"PK\x06\x07", 0, start + len(central), 1)
    end += _END.pack(b"PK\x05\x06", 0, 0, 1, 1, len(central), min(start, _IN_EXTRA), 0)
    return local + header, central + end


def _safetensors_header(name: str, spec: ArraySpec) -> bytes:
    described = {"dtype": spec.safetensors_dtype, "shape": list(spec.shape), "data_offsets": [0, spec.size]}
    text = json.dumps({name: described}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return _LENGTH.pack(len(text)) + text


def read_start(data: memoryview) -> Start:
    """Reads what precedes the content of an array, of its first MAX_HEAD bytes or all that it has.

    Raises:
        ArrayRefused: it is carried in another form, or cannot be handed over; has its name if that could be read.
    """
    try:
        is_archive = bytes(data[:4]) == _LOCAL_SIGNATURE
        return _read_archive_start(data) if is_archive else _read_safetensors_start(data)
    except (struct.error, ValueError, KeyError, SyntaxError, IndexError, TypeError, AttributeError) as e:
        if isinstance(e, ArrayRefused):
            raise
        raise ArrayRefused(f"an array is carried in a form that is not known here: {e}") from e


def _read_archive_start(data: memoryview) -> Start:
    _, _, flags, compression, _, _, _, _, _, name_size, extra_size = _LOCAL.unpack_from(data)
    if compression or flags & _IN_DIRECTORY:
        raise ArrayRefused("an array is in a compressed archive")
    offset = _LOCAL.size + name_size
    name = bytes(data[_LOCAL.size : offset]).decode().removesuffix(".npy")
    offset += extra_size
    magic_size = len(_NPY_MAGIC)
    if bytes(data[offset : offset + magic_size]) != _NPY_MAGIC:
        raise ArrayRefused("there is no array in an archive")
    length = struct.Struct("<H" if data[offset + magic_size] == 1 else "<I")
    offset += magic_size + 2
    (size,) = length.unpack_from(data, offset)
    offset += length.size
    with _refused_as(name):
        return Start(name, _parse_npy(bytes(data[offset : offset + size])), offset + size)


@lru_cache(maxsize=1024)
def _parse_npy(text: bytes) -> ArraySpec:
    fields = ast.literal_eval(text.decode("latin1"))
    if isinstance(fields["descr"], list):
        raise ArrayRefused(f"an array with fields (dtype {fields['descr']}) cannot be handed over")
    return ArraySpec.checked(NUMPY, fields["descr"], fields["shape"], fields["fortran_order"])


def _read_safetensors_start(data: memoryview) -> Start:
    (size,) = _LENGTH.unpack_from(data)
    offset = _LENGTH.size + size
    header = json.loads(bytes(data[_LENGTH.size : offset]))
    ((name, field),) = [(name, field) for name, field in header.items() if name != "__metadata__"]
    with _refused_as(name):
        return Start(name, ArraySpec.of_safetensors(field["dtype"], field["shape"]), offset + field["data_offsets"][0])


@contextmanager
def _refused_as(name: str) -> Iterator[None]:
    try:
        yield
    except ArrayRefused as e:
        raise ArrayRefused(str(e), name) from e


def encode_alone(spec: ArraySpec, content: memoryview) -> bytes:
    """Returns the form in which nvflare has an array inside of a message: a file of NumPy's, or of safetensors."""
    header = _npy_header(spec) if spec.kind == NUMPY else _safetensors_header("t", spec)
    return b"".join((header, content))


def frame(name: str, spec: ArraySpec, content: memoryview) -> Tuple[bytes, bytes]:
    """Returns what nvflare's receiver expects before and behind the bytes of an array of this name."""
    if spec.kind == NUMPY:
        return _archive_frame(f"{name}.npy".encode(), _npy_header(spec), content)
    return _safetensors_header(name, spec), b""


def copy_with_room(content: memoryview, before: int, behind: int) -> memoryview:
    """Returns a copy of an array's bytes with so many others before and behind them, which are to be filled in."""
    # By NumPy, which fills no memory before, and lets other threads run meanwhile.
    copied = np.empty(before + len(content) + behind, np.uint8)
    np.copyto(copied[before : before + len(content)], np.frombuffer(content, np.uint8))
    return memoryview(copied)
