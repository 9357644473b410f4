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

"""attach: the contract of a backend, and what concerns only a trainer that somebody else starts and owns.

Real cells, real processes: the server runs in a process of its own, the job in this one, the trainer where a test puts
it.
"""

import shlex
import signal
from pathlib import Path

import pytest

from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.signal import Signal
from nvflare.app_common.executors.client_api.attach import ExitCode
from nvflare.app_common.executors.client_api.session.rendezvous import RENDEZVOUS_FILE, ranks_file
from nvflare.client.constants import CLIENT_API_CONFIG
from tests.integration_test.client_api.attach_harness import (
    RUNNER,
    SHORT_LEASE,
    assert_works,
    attached,
    fated,
    left_files,
    rendezvous,
    stats,
    workspace,
)
from tests.integration_test.client_api.external_jobs import external, renew_fate
from tests.unit_test.app_common.executors.client_api.backend_contract import FATES, PHASES, TRAIN, BackendContract
from tests.unit_test.app_common.executors.client_api.private_files_test import MOMENTS, write_and_die
from tests.unit_test.app_common.executors.client_api.process_watch import WITH_PROCESSES
from tests.unit_test.app_common.executors.job_harness import (
    JOB_ID,
    LIMIT,
    SITE_NAME,
    assert_failed,
    make_task,
    model_of,
)

pytestmark = WITH_PROCESSES


class TestAttach(BackendContract):
    RETURNED = "it returned"
    EXITED = {0: "it exited with 0", 3: "it exited with 3"}
    TIMES = (*BackendContract.TIMES, "attach_timeout", "heartbeat_interval", "heartbeat_timeout")

    @pytest.fixture(autouse=True)
    def use_trainers(self, trainers):
        self.trainers = trainers

    def start(self, job, script, **arguments):
        job.start(attached(**arguments))
        self.trainer = self.trainers(job.custom_dir / job.script(script), a_job=job)
        return job

    # The pipe takes a task from the cell's thread, so only a process that stands still does not accept it.
    def test_task_wait_timeout(self, job, site_log):
        self.start(job, TRAIN, task_wait_timeout=0.5)
        site_log.wait_for("has joined")
        self.trainer.freeze()
        assert_failed(job.execute("train", make_task()), "task_wait_timeout", "0.5")

    # A script that ends before it has joined leaves the rendezvous to the next one.

    @pytest.mark.parametrize("phase", PHASES[1:3])
    @pytest.mark.parametrize("fate", FATES)
    def test_script_that_fails_fails_the_task_with_the_cause(self, job, phase, fate):
        super().test_script_that_fails_fails_the_task_with_the_cause(job, phase, fate)

    @pytest.mark.parametrize("phase", PHASES[1:3])
    def test_script_that_returns_fails_the_task_with_the_cause(self, job, phase):
        super().test_script_that_returns_fails_the_task_with_the_cause(job, phase)
        had_task = phase == "before_send"
        assert self.trainer.exit_code() == (ExitCode.FAILED if had_task else ExitCode.ENDED)
        assert ("the script has left a task without a result" in self.trainer.output.text()) == had_task

    @pytest.mark.parametrize("phase", PHASES[1:3])
    @pytest.mark.parametrize("code", [0, 3])
    def test_script_that_exits_fails_the_task_with_the_cause(self, job, phase, code):
        super().test_script_that_exits_fails_the_task_with_the_cause(job, phase, code)

    def test_what_a_trainer_logs_stays_with_its_owner(self, job, site_log):
        script = """
            import logging
            import nvflare.client as flare
            flare.init()
            print("I print")
            logging.warning("I warn")
            flare.send(flare.FLModel(params=flare.receive().params))
        """
        self.start(job, script)
        model_of(job.execute("train", make_task()))
        job.end()
        self.trainer.exit_code()
        lines = [line for line in self.trainer.output.text().splitlines() if line.endswith(("I print", "I warn"))]
        assert lines == ["I print", "WARNING:root:I warn"]
        assert not site_log.find("I print") + site_log.find("I warn")

    def test_script_that_never_uses_flare(self, job):
        self.start(job, "print('hello')")
        assert self.trainer.exit_code() == ExitCode.ENDED
        self.trainers(job.custom_dir / job.script(TRAIN, "other.py"))
        model_of(job.execute("train", make_task()))

    # Nobody waits for a trainer at the end of the job.

    def test_script_hears_of_the_end(self, job):
        self.start(job, TRAIN)
        model_of(job.execute("train", make_task()))
        job.end()
        assert self.trainer.exit_code() == ExitCode.ENDED
        assert (job.custom_dir / "ended").exists()

    def test_script_that_waits_for_its_first_task_hears_of_the_end(self, job, site_log):
        self.start(job, TRAIN)
        site_log.wait_for("has joined")
        job.end()
        assert self.trainer.exit_code() == ExitCode.ENDED
        assert (job.custom_dir / "ended").exists()

    # In a trainer process of nvflare 2.8, receive() raises at the end.
    def test_receive_returns_none_at_the_end(self, job):
        script = """
            import nvflare.client as flare
            flare.init()
            model = flare.receive()
            flare.send(flare.FLModel(params=model.params))
            flare.receive()
        """
        self.start(job, script)
        model_of(job.execute("train", make_task()))
        job.end()
        assert self.trainer.exit_code() == ExitCode.FAILED
        assert "AgentClosed: the session with the job has ended: the job ends" in self.trainer.output.text()

    def test_task_in_hand_is_gone_at_the_end(self, job):
        script = """
            import sys
            import nvflare.client as flare
            flare.init()
            model = flare.receive()
            print("in task")
            sys.stdin.readline()
            flare.send(flare.FLModel(params=model.params))
            print("running:", flare.is_running())
        """
        self.start(job, script)
        running = job.submit("train", make_task())
        self.trainer.output.wait_for("in task")
        job.end()
        assert_failed(running.result(LIMIT), "the job ends")
        assert self.trainer.is_alive()
        self.trainer.process.stdin.write("\n")
        self.trainer.process.stdin.flush()
        assert self.trainer.exit_code() == ExitCode.ENDED
        assert "running: False" in self.trainer.output.text()


class TestNobodyComes:
    def test_cause_says_what_to_run_and_where(self, job):
        job.start(attached(attach_timeout=0.5))
        cause = assert_failed(job.execute("train", make_task()), "no trainer came in 0.5 s", "attach_timeout")
        for text in (f"-m {RUNNER}", f"--workspace {workspace(job)}", f"--job {JOB_ID}", f"--site {SITE_NAME}"):
            assert text in cause

    def test_command_of_the_log_works(self, job, site_log, trainers):
        job.start(attached())
        (record,) = site_log.find("to start one: ")
        command = record.getMessage().partition("to start one: ")[2]
        script = str(job.custom_dir / job.script(TRAIN))
        trainers(command=shlex.split(command.replace("SCRIPT.py [ARGS]", script)))
        assert_works(job)

    def test_waiting_for_longer_than_the_lease_is_no_loss(self, job, trainers, site_log):
        job.start(attached(**SHORT_LEASE, attach_timeout=2.5))
        assert_failed(job.execute("train", make_task()), "no trainer came")
        trainers(fated(job))
        site_log.wait_for("waiting -> ready")  # a busy machine may need longer for it than a task waits
        assert_works(job)

    def test_abort(self, job):
        job.start(attached(attach_timeout=None))
        abort_signal = Signal()
        running = job.submit("train", make_task(), abort_signal)
        abort_signal.trigger(True)
        assert running.result(LIMIT).get_return_code() == ReturnCode.TASK_ABORTED

    def test_end_of_the_job(self, job):
        job.start(attached(attach_timeout=None))
        running = job.submit("train", make_task())
        job.end()
        assert_failed(running.result(LIMIT), "the job ends")
        assert left_files(job) == []

    def test_rendezvous_that_cannot_be_written_panics_the_job(self, job):
        config_dir = rendezvous(job).parent
        config_dir.rmdir()
        job.start(attached())
        assert len(job.panics) == 1
        assert str(config_dir) in job.panics[0]


class TestRendezvousFile:
    def test_is_private_and_removed_when_a_trainer_has_joined(self, job, site_log, trainers):
        job.start(attached())
        assert rendezvous(job).stat().st_mode & 0o777 == 0o600
        trainers(fated(job))
        assert_works(job)
        assert not rendezvous(job).exists()
        job.end()
        assert left_files(job) == []

    def test_trainer_that_comes_first_waits_for_the_job(self, job, trainers):
        trainer = trainers(fated(job))
        trainer.output.wait_for("waiting for a job")
        job.start(attached())
        assert_works(job)
        job.end()
        assert trainer.exit_code() == ExitCode.ENDED

    def test_of_two_trainers_one_joins_and_the_other_waits_on(self, job, site_log, trainers):
        both = [trainers(fated(job)) for _ in range(2)]
        for trainer in both:
            trainer.output.wait_for("waiting for a job")
        job.start(attached(allow_reconnect=True))
        assert_works(job)
        assert len(site_log.find("has joined")) == 1
        (first,) = [trainer for trainer in both if trainer.process.pid == stats(job)["trainer_pid"]]
        first.signal(signal.SIGTERM)
        assert_works(job)

    def test_trainer_that_ends_before_hello_leaves_it_to_the_next(self, job, trainers):
        job.start(attached())
        for fault, code in (("exit_0", ExitCode.ENDED), ("exception", ExitCode.FAILED), ("sigkill", -signal.SIGKILL)):
            trainer = trainers(fated(job), "launching", fault)
            assert trainer.exit_code() == code
            renew_fate(job)
        trainers(fated(job))
        assert_works(job)


class TestStats:
    def test_of_a_waiting_and_of_a_joined_trainer(self, job, trainers):
        job.start(attached())
        assert stats(job)["state"] == "waiting"
        trainer = trainers(fated(job))
        assert_works(job)
        seen = stats(job)
        assert (seen["state"], seen["trainer_pid"], seen["sessions"]) == ("ready", trainer.process.pid, 1)


@pytest.mark.parametrize("executor", [attached, lambda: external("no_script.py", launch_once=False)])
@pytest.mark.parametrize("moment", MOMENTS)
def test_what_a_killed_job_of_the_site_has_left_is_removed_when_the_next_one_starts(job, executor, moment):
    config = Path(workspace(job), "killed-job", f"app_{SITE_NAME}", "config")
    config.mkdir(parents=True)
    for name in (RENDEZVOUS_FILE, CLIENT_API_CONFIG, ranks_file()):
        write_and_die(config / name, moment)
    (config / "config_fed_client.json").touch()
    assert len(list(config.iterdir())) == 4
    job.start(executor())
    assert [path.name for path in config.iterdir()] == ["config_fed_client.json"]
