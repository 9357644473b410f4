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

"""How traffic is counted, and how a delivery is followed."""

import threading

import numpy as np
import pytest

from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from nvflare.app_common.executors.client_api.transfer import Delivery, Traffic, array_bytes
from nvflare.app_common.np.np_downloader import ArrayDownloadable
from nvflare.fuel.f3.streaming.download_service import ProduceRC
from nvflare.fuel.f3.streaming.stream_utils import stream_thread_pool
from nvflare.fuel.utils.fobs.decomposers.via_downloader import LazyDownloadRef
from tests.unit_test.app_common.executors.job_harness import warm_up_pools

WEIGHTS = {"a": np.zeros(1000, dtype=np.float32), "b": [np.ones(10), {"c": np.ones(5)}], "name": "x"}
WEIGHTS_BYTES = 4000 + 80 + 40


@pytest.fixture(scope="module", autouse=True)
def threads_of_nvflare():
    warm_up_pools(stream_thread_pool)


def message(content) -> Shareable:
    return Shareable({"params": content})


def past_the_job() -> Shareable:
    return message({"a": LazyDownloadRef("server", "ref", "0")})


def test_arrays_are_measured_wherever_they_are():
    assert array_bytes(message(WEIGHTS)) == WEIGHTS_BYTES
    assert array_bytes(message({"loss": 1.0})) == 0


def test_traffic_through_the_job():
    traffic = Traffic()
    traffic.count_task(message(WEIGHTS), 0.5)
    assert traffic.count_result(message(WEIGHTS))
    traffic.count_delivery(WEIGHTS_BYTES, 0.25)
    assert traffic.stats() == {
        "sent_bytes": WEIGHTS_BYTES,
        "sent_seconds": 0.5,
        "received_bytes": WEIGHTS_BYTES,
        "received_seconds": 0.25,
        "tasks_past_the_job": 0,
    }


def test_traffic_past_the_job():
    traffic = Traffic()
    traffic.count_task(past_the_job(), 0.5)
    assert not traffic.count_result(past_the_job())
    assert traffic.stats()["received_bytes"] == 0
    traffic.count_delivery(5_000_000, 2.0)
    assert traffic.stats() == {
        "sent_bytes": 0,
        "sent_seconds": 0.5,
        "received_bytes": 5_000_000,
        "received_seconds": 2.0,
        "tasks_past_the_job": 1,
    }


class TestDelivery:
    @pytest.fixture
    def arrays(self):
        return ArrayDownloadable({"a": np.ones(100)}, max_chunk_size=10_000)

    def test_ends_with_the_last_byte_and_lets_go_of_the_arrays(self, arrays):
        delivery = Delivery([arrays], 800)
        rc, _, state = arrays.produce({}, "server")
        assert rc == ProduceRC.OK
        assert arrays.produce(state, "server")[0] == ProduceRC.EOF
        arrays.downloaded_to_all()
        assert delivery.wait(Signal())
        assert arrays.base_obj is None

    def test_first_chunk_is_made_before_it_is_asked_for(self, arrays, monkeypatch):
        made = threading.Event()
        monkeypatch.setattr(arrays, "produce_item", lambda index: made.set() or b"chunk")
        Delivery([arrays], 800)
        assert made.wait(10)

    def test_chunks_are_those_of_nvflare_in_any_order_of_requests(self):
        """The next one is made ahead, but a lost answer is asked for again."""

        def new():
            return ArrayDownloadable({str(i): np.full(100, i) for i in range(4)}, max_chunk_size=1)

        followed, plain = new(), new()
        Delivery([followed], 3200)
        states = [None]
        while states[-1] != {}:
            states.append(plain.produce(states[-1], "server")[2])
        for state in [states[0], states[0], states[1], states[2], states[1], states[2], *states[2:-1]]:
            assert followed.produce(state, "server") == plain.produce(state, "server")

    def test_ends_when_nobody_pulls_any_more(self, arrays):
        delivery = Delivery([arrays], 800)
        waited = []
        waiter = threading.Thread(target=lambda: waited.append(delivery.wait(Signal())))
        waiter.start()
        delivery.end()
        waiter.join(10)
        assert waited == [False]
        assert arrays.base_obj is not None

    def test_ends_when_the_job_is_gone(self, arrays):
        gone = Signal()
        gone.trigger("gone")
        assert not Delivery([arrays], 800).wait(gone)
