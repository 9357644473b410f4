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

"""The wall clock is set while a job runs: nothing is noticed later or sooner for that, at either end."""

import os
import signal
import time

import pytest

from nvflare.app_common.executors.client_api.attach_backend import PIPE_COMPONENT
from nvflare.fuel.utils.constants import Mode
from nvflare.fuel.utils.pipe.file_pipe import FilePipe
from tests.integration_test.client_api.attach_harness import SHORT_LEASE, assert_works, attached, fated
from tests.integration_test.client_api.external_jobs import start_fated, stats
from tests.unit_test.app_common.executors.client_api.process_watch import WITH_PROCESSES
from tests.unit_test.app_common.executors.job_harness import LIMIT, assert_failed, make_task

pytestmark = WITH_PROCESSES

# Seconds; longer than any wait of these tests.
STEPS = [-2 * LIMIT, 3600.0]
LEASE = {**SHORT_LEASE, "heartbeat_timeout": 2.0}


@pytest.fixture
def set_clock(monkeypatch):
    """Sets the wall clock of this process by so many seconds."""

    def step(seconds):
        monkeypatch.setattr(time, "time", lambda read=time.time: read() + seconds)

    return step


def pipes(folder, kind) -> dict:
    return {PIPE_COMPONENT: FilePipe(mode=Mode.PASSIVE, root_path=str(folder))} if kind == "folder" else {}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("kind", ["cellnet", "folder"])
class TestAttach:
    def test_loss_is_noticed(self, job, trainers, site_log, set_clock, tmp_path, kind, step):
        job.start(attached(**LEASE), components=pipes(tmp_path / "shared", kind))
        trainer = trainers(fated(job))
        assert_works(job)
        trainer.freeze()
        set_clock(step)
        site_log.wait_for("-> lost")
        assert_failed(job.execute("train", make_task()), "no sign of life for 2 s")

    def test_work_goes_on(self, job, trainers, site_log, set_clock, tmp_path, kind, step):
        job.start(attached(**LEASE), components=pipes(tmp_path / "shared", kind))
        trainers(fated(job))
        for _ in range(3):
            assert_works(job)
            set_clock(step)
        job.end()
        assert site_log.find("-> lost") == []


@pytest.mark.parametrize("step", STEPS)
class TestExternalProcess:
    def test_frozen_trainer_is_noticed(self, job, set_clock, step):
        start_fated(job, "", "", **SHORT_LEASE)
        assert_works(job)
        os.kill(stats(job)["pid"], signal.SIGSTOP)
        set_clock(step)
        assert_failed(job.execute("train", make_task()), "SIGSTOP")

    def test_result_wait_timeout(self, job, site_log, set_clock, step):
        start_fated(job, "training", "hang", result_wait_timeout=2.0)
        running = job.submit("train", make_task())
        site_log.wait_for("now: hang")
        set_clock(step)
        assert_failed(running.result(LIMIT), "result_wait_timeout")
