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

from nvflare.app_common.executors.client_api.pulling import PullingCell
from nvflare.app_common.np.np_downloader import ArrayDownloadable, download_arrays
from nvflare.fuel.f3.cellnet.defs import ReturnCode
from nvflare.fuel.f3.cellnet.utils import make_reply
from nvflare.fuel.f3.streaming.stream_utils import stream_thread_pool
from tests.unit_test.app_common.executors.job_harness import warm_up_pools


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
