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

"""How arrays are made of the frames in which they arrive."""

import io

import numpy as np
import pytest

from nvflare.app_common.executors.client_api.arriving_arrays import _download, decode_on_arrival, take_made_arrays
from nvflare.app_common.np.np_downloader import ArrayDownloadable
from nvflare.fuel.f3.cellnet.defs import ReturnCode
from nvflare.fuel.f3.cellnet.utils import encode_payload, make_reply
from nvflare.fuel.f3.message import Message
from nvflare.fuel.f3.streaming.blob_streamer import BlobStream
from nvflare.fuel.f3.streaming.download_service import ProduceRC
from nvflare.fuel.f3.streaming.stream_const import StreamHeaderKey
from nvflare.fuel.f3.streaming.stream_types import StreamError, StreamFuture
from nvflare.fuel.utils.fobs import dots, get_dot_handler

# Bytes of a frame: nvflare's, and one that divides nothing evenly.
FRAME_SIZES = [1024 * 1024, 999_983]
# Elements; more bytes of them than what nvflare sends within the body of a message.
MANY = 3_000_001

frame_sizes = pytest.mark.parametrize("frame_size", FRAME_SIZES)


class Receiver:
    """What decode_on_arrival needs of a cell."""

    def __init__(self, frame_size: int = FRAME_SIZES[0], makes_arrays: bool = True):
        self.frame_size = frame_size
        self.answered = []
        decode_on_arrival(self, makes_arrays)

    def register_stream_cb(self, channel: str, topic: str, stream_cb):
        self.receive = stream_cb

    def get_chunk_size(self) -> int:
        return self.frame_size

    def get_fobs_context(self) -> dict:
        return {}

    def _process_reply(self, future: StreamFuture):
        self.answered.append(future)

    def arrive(self, message: Message, length=None, stream_class=BlobStream) -> StreamFuture:
        """Has a message arrive, or the first `length` bytes of it."""
        encode_payload(message, StreamHeaderKey.PAYLOAD_ENCODING, fobs_ctx={})
        future = StreamFuture(1, message.headers)
        self.receive(future, stream_class(b"".join(message.payload or [])[:length], message.headers), False)
        return future


class Owner(Receiver):
    """A cell at whose other end arrays are, without a network in between."""

    def __init__(self, arrays: dict, **options):
        super().__init__(**options)
        self.arrays = ArrayDownloadable(arrays, max_chunk_size=1)
        self.kinds = []  # of what has come of each array

    def send_request(self, request: Message, **options) -> Message:
        answer = answer_of(self.arrays, request.payload.get("state"))
        future = self.arrive(answer)
        reply = make_reply(ReturnCode.OK, body=future.result())
        self.kinds += [type(item) for item in reply.payload["data"] or []]
        return reply


def answer_of(arrays: ArrayDownloadable, state=None) -> Message:
    status, data, state = arrays.produce(state, "receiver")
    return make_reply(ReturnCode.OK, body={"status": status, "data": data, "state": state})


ARRAYS = {
    "small": np.arange(10.0),
    "matrix": np.arange(MANY * 3, dtype=np.float32).reshape(3, MANY),
    "by columns": np.asfortranarray(np.arange(MANY, dtype=np.int32).reshape(1, -1).repeat(2, axis=0)),
    "half": np.linspace(-1, 1, 2 * MANY, dtype=np.float16),
    "other byte order": np.arange(MANY, dtype=">i4"),
    "flags": np.arange(4 * MANY) % 3 == 0,
    "no name.npy": np.arange(MANY, dtype=np.complex64),
    "größe/1": np.arange(MANY, dtype=np.int32),
    "records": np.zeros(MANY, dtype=[("a", np.int16), ("b", np.float32)]),
}


@frame_sizes
def test_arrays_are_what_they_were(frame_size):
    owner = Owner(ARRAYS, frame_size=frame_size)
    error, received = _download("owner", "ref", 10.0, owner)
    assert error is None
    # np.savez appends ".npy" to each name, and nvflare's own reading takes one away, as ours does.
    assert received.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert received[name].dtype == array.dtype
        assert received[name].flags.f_contiguous == array.flags.f_contiguous
        np.testing.assert_array_equal(received[name], array)
    assert owner.kinds.count(bytes) == 1, "only the small one is within the body of its message"


def test_many_arrays_of_one_archive():
    content = {str(i): np.full(MANY, i, dtype=np.int32) for i in range(3)}
    arrays = made_of(archive(np.savez, **content)).arrays
    assert arrays.keys() == content.keys()
    assert all((arrays[name] == array).all() for name, array in content.items())


def archive(save, **arrays) -> bytes:
    file = io.BytesIO()
    save(file, **arrays)
    return file.getvalue()


def answer_with(item: bytes) -> Message:
    return make_reply(ReturnCode.OK, body={"status": ProduceRC.OK, "state": {}, "data": [item]})


def made_of(item: bytes, **options):
    (made,) = Receiver(**options).arrive(answer_with(item)).result()["data"]
    assert len(made) == len(item), "nvflare counts the bytes"
    return made


class TestLeftAsItIs:
    """What another decoder takes, as bytes."""

    RANDOM = np.random.default_rng(1).random(MANY)

    def test_where_nobody_takes_arrays(self):
        item = archive(np.savez, a=self.RANDOM)
        assert made_of(item, makes_arrays=False) == item

    def test_compressed_archive(self):
        item = archive(np.savez_compressed, a=self.RANDOM)
        assert made_of(item) == item

    def test_other_content(self):
        item = self.RANDOM.tobytes()
        assert made_of(item) == item

    def test_archive_whose_header_is_on_two_frames(self):
        item = archive(np.savez, a=self.RANDOM)
        message = answer_with(item)
        encode_payload(message, StreamHeaderKey.PAYLOAD_ENCODING, fobs_ctx={})
        before = len(b"".join(message.payload)) - len(item)
        assert made_of(item, frame_size=before + 10) == item
        assert made_of(item, frame_size=before + 100) != item


@frame_sizes
@pytest.mark.parametrize("makes_arrays", [True, False])
@pytest.mark.parametrize("size", [100, 11_000_000])
def test_same_as_put_together_and_then_decoded(size, makes_arrays, frame_size):
    body = {"status": ProduceRC.OK, "state": {"start": 1, "count": 2}, "data": [b"ab" * (size // 2), b"c"]}
    receiver = Receiver(frame_size, makes_arrays)
    future = receiver.arrive(make_reply(ReturnCode.OK, body=body))
    assert future.result() == body
    assert {type(chunk) for chunk in future.result()["data"]} == {bytes}
    assert receiver.answered == [future]


def test_refusal_has_no_content():
    future = Receiver().arrive(make_reply(ReturnCode.INVALID_REQUEST, "no such arrays"))
    assert future.result() is None


def test_broken_connection_is_told_to_whoever_has_asked():
    class Broken(BlobStream):
        def read(self, size: int):
            raise StreamError("cut")

    future = Receiver().arrive(make_reply(ReturnCode.OK, body={"data": [b"1"]}), stream_class=Broken)
    with pytest.raises(StreamError, match="cut"):
        future.result()


class TestEndInTheMiddle:
    def test_of_the_body(self):
        future = Receiver(100).arrive(make_reply(ReturnCode.OK, body={"data": [b"1" * 1000]}), 500)
        with pytest.raises(StreamError, match="expect 1010 bytes but got 490"):
            future.result()

    @pytest.mark.parametrize(
        "length, fault",
        [
            (5, "cannot get 10 header bytes"),
            (300, "expect 24000264 bytes but got 27"),
            (400, "EOF: reading array header"),
            (5_000_000, "EOF: reading array data"),
            (-5, "expect 24000264 bytes but got 24000259"),
        ],
        ids=["length", "archive", "header", "array", "directory"],
    )
    def test_of_an_array(self, length, fault):
        future = Receiver().arrive(answer_of(ArrayDownloadable({"a": np.zeros(MANY)}, 1)), length)
        with pytest.raises(StreamError, match=fault):
            future.result()


class TestTakeMadeArrays:
    @pytest.fixture
    def decomposer(self):
        assert take_made_arrays()
        yield get_dot_handler(dots.NUMPY_DOWNLOAD)

    def test_decomposer_takes_arrays_and_bytes(self, decomposer):
        for makes_arrays in (True, False):
            owner = Owner({"a": np.arange(MANY)}, makes_arrays=makes_arrays)
            error, received = decomposer.download("owner", "ref", 10.0, owner)
            assert error is None and (received["a"] == np.arange(MANY)).all()
            assert (owner.kinds == [bytes]) is not makes_arrays

    def test_decomposer_of_the_script_is_left_alone(self, monkeypatch):
        own = object()
        monkeypatch.setattr("nvflare.fuel.utils.fobs.get_dot_handler", lambda dot: own)
        assert not take_made_arrays()
