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

"""Transfers that take longer than the heartbeat timeout, because the network is slow, are no sign of death."""

import sys
import uuid

import numpy as np
import pytest

from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.app_common.utils.fl_model_utils import FLModelUtils
from tests.integration_test.client_api.cell_harness import connected_cell
from tests.integration_test.client_api.external_jobs import (
    assert_works,
    round_trip,
    runner_with,
    start,
    start_fated,
    stats,
)
from tests.integration_test.client_api.slow_link import SlowLink
from tests.unit_test.app_common.executors.job_harness import LIMIT, SITE_NAME, model_of, stop_cell

pytestmark = [
    pytest.mark.watchdog(300),
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
]

BEATS = {"heartbeat_interval": 0.2, "heartbeat_timeout": 1.0}
RATE = 4_000_000  # bytes per second
SIZE = 2 * 1024 * 1024  # float32
# Seconds that a model takes at least, from one process to the next.
assert SIZE * 4 / RATE > 2 * BEATS["heartbeat_timeout"]


@pytest.fixture(scope="module")
def slow_cell(federation, job_cell):  # that one has warmed up what all cells share
    """The cell of a job: it, and thus its trainers, reach the server and each other by a slow link."""
    link = SlowLink(int(federation.url.rpartition(":")[2]), RATE)
    cell = connected_cell(f"{SITE_NAME}.{uuid.uuid4().hex}", link.url)
    yield cell
    stop_cell(cell)
    link.close()


@pytest.fixture
def site_cell(slow_cell, no_process_left):
    return slow_cell


def assert_undisturbed(job, site_log) -> None:
    assert stats(job)["launches"] == 1
    assert site_log.find("-> lost") == []


def test_task_and_result_through_the_job(job, site_log):
    start_fated(job, **BEATS)
    assert_works(job, SIZE)
    assert_undisturbed(job, site_log)


def test_task_and_result_past_the_job(job, slow_cell, site_log):
    start_fated(job, runner=runner_with(), **BEATS)
    round_trip(job, slow_cell, SIZE)
    assert_undisturbed(job, site_log)


def test_what_is_no_array(job, site_log):
    """A message that takes longer than its acknowledgement is waited for at first arrives all the same, both ways."""
    script = """
        import nvflare.client as flare

        flare.init()
        while flare.is_running():
            model = flare.receive()
            flare.send(flare.FLModel(params={"w": model.params["w"] + 1}, meta={"text": model.meta["text"]}))
    """
    start(job, script, task_wait_timeout=LIMIT, result_wait_timeout=2 * LIMIT)
    text = "x" * 3_000_000
    task = FLModelUtils.to_shareable(FLModel(params={"w": np.zeros(4, np.float32)}, meta={"text": text}))
    assert model_of(job.execute("train", task)).meta["text"] == text
    assert_undisturbed(job, site_log)
