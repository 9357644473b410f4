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

"""Makes the arrays of a model while they arrive, each where it will stay.

nvflare puts the frames of a chunk together, copies all of it twice to take it apart, and has NumPy read the arrays from
the last copy. Fresh memory costs more than the copying: here there is none but the arrays' own.
"""

import struct
from io import BytesIO
from typing import NamedTuple, Optional, Tuple, Union

import numpy as np

from nvflare.app_common.decomposers.numpy_decomposers import NumpyArrayDecomposer
from nvflare.app_common.np.np_downloader import ArrayConsumer
from nvflare.fuel.f3.cellnet.cell import Cell
from nvflare.fuel.f3.cellnet.defs import CellChannel, Encoding
from nvflare.fuel.f3.streaming.download_service import OBJ_DOWNLOADER_CHANNEL, OBJ_DOWNLOADER_TOPIC, download_object
from nvflare.fuel.f3.streaming.stream_const import StreamHeaderKey
from nvflare.fuel.f3.streaming.stream_types import Stream, StreamFuture
from nvflare.fuel.utils import fobs
from nvflare.fuel.utils.fobs import dots
from nvflare.fuel.utils.fobs.lobs import load_from_stream

# What precedes a file in a ZIP archive (APPNOTE.TXT 4.3.7 of PKWARE); the fields of _FileHeader.
_FILE_HEADER = struct.Struct("<4s2xHH16xHH")
_FILE_SIGNATURE = b"PK\x03\x04"
_NOT_COMPRESSED = 0
_SIZE_COMES_LATER = 0x8


def decode_on_arrival(cell: Cell, makes_arrays: bool) -> None:
    """Has the chunks that are pulled over a cell taken apart while they arrive.

    Args:
        cell: the cell.
        makes_arrays: whether NumPy's arrays are made of them at once; see `take_made_arrays`.
    """

    def receive(future: StreamFuture, stream: Stream, resume: bool) -> int:
        cell._process_reply(future)  # whoever has asked follows the progress from here on
        try:
            frames = _Frames(stream, cell.get_chunk_size(), makes_arrays)
            if future.headers.pop(StreamHeaderKey.PAYLOAD_ENCODING, None) == Encoding.FOBS:
                future.set_result(load_from_stream(frames, fobs_ctx=cell.get_fobs_context()))
            else:
                future.set_result(None)  # a refusal, which its return code tells
        except Exception as e:
            future.set_exception(e)
        return 0

    topic = f"{OBJ_DOWNLOADER_CHANNEL}:{OBJ_DOWNLOADER_TOPIC}"
    cell.register_stream_cb(CellChannel.RETURN_ONLY, topic, receive)


def take_made_arrays() -> bool:
    """Has this process's decomposer of NumPy's arrays take those that were made on arrival.

    Returns:
        Whether it does: not if it is one of the script's own.
    """
    fobs.register(NumpyArrayDecomposer)  # which else comes with the first array
    decomposer = fobs.get_dot_handler(dots.NUMPY_DOWNLOAD)
    if type(decomposer) is not NumpyArrayDecomposer:
        return False
    decomposer.download = _download
    return True


def _download(
    from_fqcn: str, ref_id: str, per_request_timeout: float, cell: Cell, **options
) -> Tuple[Optional[str], Optional[dict]]:
    consumer = _Consumer(arrays_received_cb=None, cb_kwargs={})
    download_object(from_fqcn, ref_id, per_request_timeout, cell, consumer, **options)
    return consumer.error, consumer.result


class _Consumer(ArrayConsumer):
    @staticmethod
    def _to_dict(item: Union[bytes, "_Arrays"]) -> dict:
        return item.arrays if isinstance(item, _Arrays) else ArrayConsumer._to_dict(item)


class _Arrays:
    """Arrays where nvflare has the bytes of an archive of them."""

    def __init__(self, arrays: dict, size: int):
        self.arrays = arrays
        self._size = size

    def __len__(self) -> int:
        return self._size


class _Frames:
    """Reads a stream that comes in frames as a file, which returns bytes of their own: no frame is kept for them."""

    def __init__(self, stream: Stream, frame_size: int, makes_arrays: bool):
        self._stream = stream
        self._frame_size = frame_size
        self._makes_arrays = makes_arrays
        self._rest = memoryview(b"")

    def read(self, size: int) -> Union[bytes, _Arrays]:
        """Returns so many bytes, or the arrays in them; fewer only at the end of the stream."""
        if not self._makes_arrays or size < _FILE_HEADER.size or not self._has_array_next():
            return self.read_bytes(size)
        section = _Section(self, size)
        arrays = _read_arrays(section)
        return _Arrays(arrays, size - section.left)

    def read_bytes(self, size: int) -> bytes:
        taken = BytesIO()
        while taken.tell() < size and self._has_frame():
            count = taken.write(self._rest[: size - taken.tell()])
            self._rest = self._rest[count:]
        return taken.getvalue()

    def _has_frame(self) -> bool:
        self._rest = self._rest or memoryview(self._stream.read(self._frame_size))
        return bool(self._rest)

    def _has_array_next(self) -> bool:
        # One whose header is not within a frame is made in nvflare's way, as are those that are archived differently.
        is_whole = self._has_frame() and len(self._rest) >= _FILE_HEADER.size
        return is_whole and _FileHeader.of(self._rest).is_of_plain_file()


class _Section:
    """The part of a stream that one archive takes, as a file."""

    def __init__(self, frames: _Frames, size: int):
        self._frames = frames
        self.left = size

    def read(self, size: int) -> bytes:
        data = self._frames.read_bytes(min(size, self.left))
        self.left -= len(data)
        return data


def _read_arrays(section: _Section) -> dict:
    """Reads what `numpy.savez` has written: a ZIP archive of files that are not compressed.

    The archive's checksums are not compared: what has come over a connection was checked on its way.
    """
    arrays = {}
    while (header := _FileHeader.of(section.read(_FILE_HEADER.size))).is_of_plain_file():
        name = section.read(header.name_size).decode()
        section.read(header.extra_size)
        arrays[name.removesuffix(".npy")] = np.lib.format.read_array(section, allow_pickle=False)
    section.read(section.left)  # the archive's directory
    return arrays


class _FileHeader(NamedTuple):
    signature: bytes
    flags: int
    compression: int
    name_size: int
    extra_size: int

    @classmethod
    def of(cls, data: bytes) -> "_FileHeader":
        return cls(*_FILE_HEADER.unpack_from(data))

    def is_of_plain_file(self) -> bool:
        """Whether the file's content follows as it is, in the size that it has itself."""
        is_plain = self.compression == _NOT_COMPRESSED and not self.flags & _SIZE_COMES_LATER
        return self.signature == _FILE_SIGNATURE and is_plain
