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

"""Large models between server and trainer, past the job where no filter is in the way, and faults while one is pulled.

What the server has got it tells itself: the type and the bits of what it has pulled.
"""

import numpy as np
import pytest

from nvflare.apis.fl_constant import FilterKey, ReturnCode
from nvflare.apis.signal import Signal
from nvflare.fuel.utils.fobs.decomposers.via_downloader import LazyDownloadRef
from tests.integration_test.client_api.cell_harness import NoAnswer, fetch_task, submit_result
from tests.integration_test.client_api.external_jobs import round_trip, runner_with, start_fated, whole_model
from tests.unit_test.app_common.executors.client_api.process_watch import WITH_PROCESSES
from tests.unit_test.app_common.executors.job_harness import LARGE, LIMIT, MEDIUM, assert_failed, model_of

pytestmark = WITH_PROCESSES

# Seconds in which the server is asked to take a result that it cannot get.
VAIN_LIMIT = 3.0
# How a trainer dies: what the cause must say.
DEATHS = {"exit_3": "exit code 3", "sigkill": "killed by SIGKILL", "sigkill_guard": "its process guard ended first"}


class TestFilters:
    @pytest.mark.parametrize(
        "filters, task_type, result_type",
        [
            ({}, LazyDownloadRef, LazyDownloadRef),
            ({"task_data_filters": FilterKey.IN}, np.ndarray, LazyDownloadRef),
            ({"task_result_filters": FilterKey.OUT}, LazyDownloadRef, np.ndarray),
        ],
        ids=["none", "of_tasks", "of_results"],
    )
    @pytest.mark.parametrize("size", [MEDIUM, LARGE])
    def test_only_a_filter_has_the_job_hold_arrays(self, job, job_cell, filters, task_type, result_type, size):
        start_fated(job, runner=runner_with(**filters))
        task_array, result_array = round_trip(job, job_cell, size)
        assert isinstance(task_array, task_type) and isinstance(result_array, result_type)


def start(job, site_log, phase: str, fault: str) -> None:
    start_fated(job, phase, fault, runner=runner_with(), shutdown_timeout=0.1)
    site_log.wait_for("waits for tasks")  # for, once it does, the fault is set


class TestWhileTheTrainerPullsATask:
    @pytest.mark.parametrize("fault", DEATHS)
    def test_death_of_the_trainer(self, job, job_cell, site_log, fault):
        start(job, site_log, "receiving", fault)
        assert_failed(job.execute("train", fetch_task(job_cell, LARGE, 3.0)), DEATHS[fault])
        round_trip(job, job_cell)

    def test_abort(self, job, job_cell, site_log):
        start(job, site_log, "receiving", "hang")
        abort_signal = Signal()
        running = job.submit("train", fetch_task(job_cell, LARGE, 3.0), abort_signal)
        site_log.wait_for("now: hang")
        abort_signal.trigger(True)
        assert running.result(LIMIT).get_return_code() == ReturnCode.TASK_ABORTED
        job.end()

    def test_end_of_the_job(self, job, job_cell, site_log):
        start(job, site_log, "receiving", "hang")
        running = job.submit("train", fetch_task(job_cell, LARGE, 3.0))
        site_log.wait_for("now: hang")
        job.end()
        assert_failed(running.result(LIMIT), "the job ends")


class TestWhileTheServerPullsAResult:
    """The task has been answered by then; what remains is that the server takes all of a model or nothing."""

    def submit(self, job, cell):
        result = job.execute("train", fetch_task(cell, LARGE, 3.0))
        assert isinstance(model_of(result).params["w"], LazyDownloadRef)
        return job.in_background(submit_result, cell, result, VAIN_LIMIT)

    @pytest.mark.parametrize("fault", DEATHS)
    def test_death_of_the_trainer(self, job, job_cell, site_log, fault):
        start(job, site_log, "sending", fault)
        submission = self.submit(job, job_cell)
        site_log.wait_for("-> lost")
        with pytest.raises(NoAnswer):
            submission.result(LIMIT)
        round_trip(job, job_cell)

    def test_end_of_the_job(self, job, job_cell, site_log):
        start(job, site_log, "sending", "hang")
        submission = self.submit(job, job_cell)
        site_log.wait_for("now: hang")
        job.end()
        try:
            assert submission.result(LIMIT) == whole_model()  # it was faster than the end
        except NoAnswer:
            pass
