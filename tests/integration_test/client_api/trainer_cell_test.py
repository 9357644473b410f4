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

"""What a trainer's cell does otherwise than nvflare's."""

import gc
import time

import numpy as np
import pytest

from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.app_common.executors.client_api.trainer_cell import forget_what_was_sent
from nvflare.app_common.utils.fl_model_utils import FLModelUtils
from nvflare.fuel.f3.streaming.byte_streamer import TxTask
from tests.integration_test.client_api.cell_harness import submit_result
from tests.integration_test.client_api.external_jobs import whole_model
from tests.unit_test.app_common.executors.job_harness import LARGE, LIMIT


class TestForgetWhatWasSent:
    @pytest.fixture
    def no_search_for_circles(self):
        gc.collect()
        gc.disable()
        yield
        gc.enable()

    def test_chunk_is_freed_when_it_is_sent(self, job_cell, no_search_for_circles):
        forget_what_was_sent(job_cell)
        model = FLModel(params={"w": np.full(LARGE, 4.0, dtype=np.float32)})
        assert submit_result(job_cell, FLModelUtils.to_shareable(model)) == whole_model(LARGE)
        deadline = time.monotonic() + LIMIT
        while sent_streams() and time.monotonic() < deadline:
            time.sleep(0.01)  # its thread has yet to come to its end
        assert not sent_streams()


def sent_streams() -> list:
    return [thing for thing in gc.get_objects() if type(thing) is TxTask]
