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

"""external_process: each phase of a task with each fault of a trainer, its guard or the job's process."""

import os
import signal

import pytest

from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.signal import Signal
from tests.integration_test.client_api.external_jobs import (
    STOP_GRACE_PERIOD,
    assert_works,
    renew_fate,
    start,
    start_fated,
    stats,
    task_of,
)
from tests.unit_test.app_common.executors.client_api.process_watch import WITH_PROCESSES, wait_gone
from tests.unit_test.app_common.executors.job_harness import LARGE, LIMIT, SMALL, assert_failed, make_task, model_of

pytestmark = WITH_PROCESSES

# A task in whose midst something is to happen: (phase, elements of its array).
TASK_PHASES = {"launching": SMALL, "receiving": LARGE, "training": SMALL, "sending": LARGE}
# fault: what the cause must say
FAULTS = {
    "exit_0": "exit code 0",
    "exit_3": "exit code 3",
    "exception": "exit code 1",
    "sigkill": "killed by SIGKILL",
    "sigkill_guard": "its process guard ended first: killed by SIGKILL",
    "sigstop": "SIGSTOP",
}


# Those that may follow each other in one job; the other needs short heartbeats, for which some exits are too slow.
IN_TURN = [fault for fault in FAULTS if fault != "sigstop"]
each_fault = pytest.mark.parametrize("faults", [IN_TURN, ["sigstop"]], ids=["in turn", "sigstop"])

# Seconds from the SIGKILL of a trainer to the failure of its task: no heartbeat timeout is awaited.
KILL_LIMIT = 15.0


class TestFaults:
    """Each phase with each fault: the task fails with the cause, and the next one gets a fresh trainer."""

    def start(self, job, phase, fault, **arguments):
        if fault == "sigstop":
            arguments.update(heartbeat_interval=0.2, heartbeat_timeout=1.0)
        start_fated(job, phase, fault, **arguments)
        if phase in ("receiving", "sending"):
            assert_works(job)

    @staticmethod
    def fail_in_a_task(job, site_log, phase, fault):
        if phase in ("receiving", "sending"):
            site_log.wait_for("waits for the next task")  # in flare.send() nvflare would catch what is raised
        running = job.submit("train", task_of(TASK_PHASES[phase]))
        site_log.wait_for(f"now: {fault}")
        limit = KILL_LIMIT if "kill" in fault else LIMIT
        if (phase, fault) == ("receiving", "exit_0"):
            model_of(running.result(limit))  # a script that has not asked for a task need not stay for it
        else:
            assert_failed(running.result(limit), FAULTS[fault])
        site_log.records.clear()
        assert_works(job)
        assert job.panics == []

    @pytest.mark.parametrize("fault", FAULTS)
    def test_at_the_launch(self, job, site_log, fault):
        self.start(job, "launching", fault, launch_once=False)  # else it may be over before there is a task
        self.fail_in_a_task(job, site_log, "launching", fault)

    @each_fault
    @pytest.mark.parametrize("phase", list(TASK_PHASES)[1:])
    def test_in_a_task(self, job, site_log, phase, faults):
        self.start(job, phase, faults[0])
        for number, fault in enumerate(faults, start=2):
            renew_fate(job, fault)
            self.fail_in_a_task(job, site_log, phase, fault)
            assert stats(job)["launches"] == number

    @each_fault
    def test_between_two_tasks(self, job, site_log, faults):
        self.start(job, "idle", faults[0])
        assert_works(job)
        for number, fault in enumerate(faults, start=2):
            renew_fate(job, fault)
            site_log.wait_for("waits for the next task")  # in flare.send() nvflare would catch what is raised
            os.kill(stats(job)["pid"], signal.SIGUSR1)
            site_log.wait_for(f"now: {fault}")
            site_log.wait_for("-> lost")
            site_log.records.clear()
            assert_works(job)
            assert stats(job)["launches"] == number

    @each_fault
    def test_after_the_result_was_accepted(self, job, site_log, faults):
        self.start(job, "accepted", faults[0])
        for fault in faults:
            renew_fate(job, fault)
            assert_works(job)
            site_log.wait_for(f"now: {fault}")
            site_log.wait_for("-> lost")
            site_log.records.clear()
        assert_works(job)
        assert stats(job)["launches"] == len(faults) + 1

    @pytest.mark.parametrize("phase", TASK_PHASES)
    def test_abort(self, job, site_log, phase):
        # One that is in the midst of something is not given time for a natural end, or the watchdog barks.
        self.start(job, phase, "hang", shutdown_timeout=1000.0)
        abort_signal = Signal()
        running = job.submit("train", task_of(TASK_PHASES[phase]), abort_signal)
        site_log.wait_for("now: hang")
        abort_signal.trigger(True)
        assert running.result(LIMIT).get_return_code() == ReturnCode.TASK_ABORTED
        job.end()

    @pytest.mark.parametrize("phase", TASK_PHASES)
    def test_end_of_the_job(self, job, site_log, phase):
        self.start(job, phase, "hang")
        running = job.submit("train", task_of(TASK_PHASES[phase]))
        site_log.wait_for("now: hang")
        job.end()
        assert_failed(running.result(LIMIT), "the job ends")

    def test_three_in_a_row_panic_the_job(self, job):
        start(job, "raise RuntimeError('no luck')")
        for _ in range(2):
            assert_failed(job.execute("train", make_task()), "no luck")
            assert job.panics == []
        assert_failed(job.execute("train", make_task()), "no luck")
        assert len(job.panics) == 1
        assert "3 tasks in a row" in job.panics[0]


@pytest.mark.parametrize("phase", [*TASK_PHASES, "accepted", "idle"])
def test_job_process_is_killed(killed_job_process, phase):
    trainer_tree = killed_job_process(phase)
    assert len(trainer_tree) == 2  # guard and trainer
    assert wait_gone(trainer_tree, STOP_GRACE_PERIOD + LIMIT) == set()
