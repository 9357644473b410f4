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

"""How the arrays of a message are pulled."""

import numpy as np
import pytest
from client_api.cell_harness import warm_up_pools

from nvflare.app_common.executors.client_api.pulling import PullingCell, decode_on_arrival
from nvflare.app_common.np.np_downloader import ArrayDownloadable, download_arrays
from nvflare.fuel.f3.cellnet.defs import ReturnCode
from nvflare.fuel.f3.cellnet.utils import encode_payload, make_reply
from nvflare.fuel.f3.streaming.blob_streamer import BlobStream
from nvflare.fuel.f3.streaming.download_service import ProduceRC
from nvflare.fuel.f3.streaming.stream_const import StreamHeaderKey
from nvflare.fuel.f3.streaming.stream_types import StreamError, StreamFuture
from nvflare.fuel.f3.streaming.stream_utils import stream_thread_pool


@pytest.fixture(scope="module", autouse=True)
def threads_of_nvflare():
    warm_up_pools(stream_thread_pool)


class Owner:
    """A cell at whose other end arrays are, without a network in between."""

    def __init__(self, arrays: dict):
        self.arrays = ArrayDownloadable(arrays, max_chunk_size=1)
        self.asked = []

    def send_request(self, request, **options):
        self.asked.append(request.payload.get("state"))
        status, data, state = self.arrays.produce(self.asked[-1], "receiver")
        return make_reply(ReturnCode.OK, body={"status": status, "data": data, "state": state})


def test_pull_asks_ahead_for_what_it_would_have_asked():
    arrays = {str(i): np.full(100, i) for i in range(4)}
    ahead, plain = Owner(arrays), Owner(arrays)
    for cell in (PullingCell(ahead), plain):
        error, received = download_arrays("owner", "ref", 10.0, cell)
        assert error is None and received.keys() == arrays.keys()
        assert all((received[name] == array).all() for name, array in arrays.items())
    assert ahead.asked == plain.asked


class Receiver:
    """What decode_on_arrival needs of a cell."""

    def __init__(self, frame_size: int):
        self.frame_size = frame_size
        self.answered = []
        decode_on_arrival(self)

    def register_stream_cb(self, channel: str, topic: str, stream_cb):
        self.receive = stream_cb

    def get_chunk_size(self) -> int:
        return self.frame_size

    def get_fobs_context(self) -> dict:
        return {}

    def _process_reply(self, future: StreamFuture):
        self.answered.append(future)

    def arrive(self, message, stream=None) -> StreamFuture:
        encode_payload(message, StreamHeaderKey.PAYLOAD_ENCODING, fobs_ctx={})
        future = StreamFuture(1, message.headers)
        self.receive(future, stream or BlobStream(message.payload or b"", message.headers), False)
        return future


class TestDecodeOnArrival:
    # The second is more than what nvflare sends within the body of a message.
    @pytest.mark.parametrize("size", [100, 11_000_000])
    @pytest.mark.parametrize("frame_size", [1024 * 1024, 999_983])
    def test_same_as_put_together_and_then_decoded(self, size, frame_size):
        body = {"status": ProduceRC.OK, "state": {"start": 1, "count": 2}, "data": [b"ab" * (size // 2), b"c"]}
        receiver = Receiver(frame_size)
        future = receiver.arrive(make_reply(ReturnCode.OK, body=body))
        assert future.result() == body
        assert {type(chunk) for chunk in future.result()["data"]} == {bytes}
        assert receiver.answered == [future]

    def test_refusal_has_no_content(self):
        future = Receiver(100).arrive(make_reply(ReturnCode.INVALID_REQUEST, "no such arrays"))
        assert future.result() is None

    def test_broken_connection_is_told_to_whoever_has_asked(self):
        class Broken(BlobStream):
            def read(self, size: int):
                raise StreamError("cut")

        future = Receiver(100).arrive(make_reply(ReturnCode.OK, body={"data": [b"1"]}), Broken(b"1", {}))
        with pytest.raises(StreamError, match="cut"):
            future.result()

    def test_end_in_the_middle(self):
        message = make_reply(ReturnCode.OK, body={"data": [b"1" * 1000]})
        encode_payload(message, StreamHeaderKey.PAYLOAD_ENCODING, fobs_ctx={})
        future = Receiver(100).arrive(message, BlobStream(b"".join(message.payload)[:500], message.headers))
        with pytest.raises(StreamError, match="expect 1010 bytes but got 490"):
            future.result()
