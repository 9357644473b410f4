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
it. A test that needs a trainer with bad manners plays it itself, with nvflare's cells and the rendezvous of the job.
"""

import json
import os
import shlex
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from client_api.attach_harness import LIMIT, RUNNER, SHORT_LEASE, attached, rendezvous, workspace
from client_api.backend_contract import FATES, GATED_TRAIN, PHASES, TRAIN, BackendContract, fateful_script
from job_harness import JOB_ID, SITE_NAME, assert_failed, make_task, model_of

from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_constant import FLContextKey, ReturnCode
from nvflare.apis.signal import Signal
from nvflare.app_common.executors.client_api.attach import ExitCode
from nvflare.app_common.executors.client_api.attach_backend import PIPE_COMPONENT
from nvflare.app_common.executors.client_api.handshake import HandshakeError, check_answer, make_hello
from nvflare.app_common.executors.client_api.trainer_pipe import HELLO, TrainerPipe
from nvflare.fuel.f3.message import Message
from nvflare.fuel.utils.constants import Mode
from nvflare.fuel.utils.pipe.file_pipe import FilePipe
from nvflare.fuel.utils.pipe.pipe import Message as PipeMessage
from nvflare.fuel.utils.pipe.pipe import Topic

pytestmark = [
    pytest.mark.watchdog(60),
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
]

TRAINER_SCRIPT = Path(__file__).with_name("trainer_script.py")
SMALL = 4
# Elements of an array that is too large to travel inside a message.
LARGE = 512 * 1024
# A task in whose midst something is to happen: (phase, elements of its array).
TASK_PHASES = {"receiving": LARGE, "training": SMALL, "sending": LARGE}


@pytest.fixture
def site_cell(job_cell):
    return job_cell


def left_files(job) -> list:
    return [path for path in rendezvous(job).parent.iterdir() if "client_api" in path.name]


def fated(job) -> Path:
    return Path(shutil.copy(TRAINER_SCRIPT, job.custom_dir))


def task_of(size: int):
    return make_task(w=np.zeros(size, dtype=np.float32))


def assert_works(job, size: int = SMALL) -> None:
    params = model_of(job.execute("train", task_of(size))).params
    assert params["w"].size == size and (params["w"] == 1.0).all()


def stats(job) -> dict:
    return job.stats()["ClientAPIExecutor"]


class TestAttach(BackendContract):
    RETURNED = "it returned"
    EXITED = {0: "it exited with 0", 3: "it exited with 3"}

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

    @pytest.mark.parametrize("phase", PHASES[1:3])
    @pytest.mark.parametrize("code", [0, 3])
    def test_script_that_exits_fails_the_task_with_the_cause(self, job, phase, code):
        super().test_script_that_exits_fails_the_task_with_the_cause(job, phase, code)

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

    def test_waiting_for_longer_than_the_lease_is_no_loss(self, job, trainers):
        job.start(attached(**SHORT_LEASE, attach_timeout=2.5))
        assert_failed(job.execute("train", make_task()), "no trainer came")
        trainers(fated(job))
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
            (job.custom_dir / "faulted").unlink()
        trainers(fated(job))
        assert_works(job)


class TestHandshake:
    """The test itself plays the trainer."""

    @pytest.fixture
    def pipe(self, job):
        job.start(attached())
        pipes = []

        def make() -> TrainerPipe:
            exchange = json.loads(rendezvous(job).read_text())["TASK_EXCHANGE"]
            pipes.append(TrainerPipe(**exchange["pipe"]["ARG"]))
            pipes[-1].open()
            return pipes[-1]

        yield make
        job.end()
        for pipe in pipes:
            pipe.close()

    @staticmethod
    def say_hello(pipe, hello) -> dict:
        reply = pipe.cell.core_cell.send_request(
            channel=pipe.channel, target=pipe.peer_fqcn, topic=HELLO, request=Message(payload=hello), timeout=LIMIT
        )
        return reply.payload

    def test_answer_proves_the_secret(self, pipe):
        pipe = pipe()
        hello = make_hello(pipe.secret, pipe.challenge)
        check_answer(self.say_hello(pipe, hello), pipe.secret, hello)
        with pytest.raises(HandshakeError, match="does not know"):
            check_answer(self.say_hello(pipe, hello), "another secret", hello)

    def test_other_protocol_version_is_rejected(self, pipe):
        pipe = pipe()
        hello = {**make_hello(pipe.secret, pipe.challenge), "protocol": 0}
        assert "protocol 1" in self.say_hello(pipe, hello)["reject"]
        pipe.greet()

    @pytest.mark.parametrize("hello", [None, [], "hello", {}, {"protocol": 1}, {"protocol": 1, "proof": 7}])
    def test_nonsense_is_rejected(self, pipe, hello):
        pipe = pipe()
        assert self.say_hello(pipe, hello)["reject"]
        pipe.greet()

    def test_second_trainer_is_rejected_and_the_first_untouched(self, pipe):
        first, second = pipe(), pipe()
        first.greet()
        with pytest.raises(HandshakeError, match=f"process {os.getpid()} on .* has joined this session"):
            second.greet()
        assert first.send(PipeMessage.new_request("METRICS", []), LIMIT)
        assert not second.send(PipeMessage.new_request("METRICS", []), 0.5)

    def test_replayed_hello_is_rejected(self, pipe):
        first, second = pipe(), pipe()
        hello = make_hello(first.secret, first.challenge)
        check_answer(self.say_hello(first, hello), first.secret, hello)
        assert "has joined" in self.say_hello(second, hello)["reject"]

    def test_end_from_a_stranger_is_refused(self, pipe, job):
        first, second = pipe(), pipe()
        first.greet()
        assert not second.send(PipeMessage.new_request(Topic.END, "go home"), 0.5)
        # And the trainer takes nothing from anybody but the job.
        second.peer_fqcn = first.cell.get_fqcn()
        for topic in (Topic.END, Topic.ABORT):
            assert not second.send(PipeMessage.new_request(topic, "go home"), 0.5)
        assert first.receive(0) is None
        assert stats(job)["state"] == "ready"

    def test_five_wrong_proofs_open_another_rendezvous(self, site_log, pipe, job):
        bad = pipe()
        running = job.submit("train", make_task())
        for _ in range(5):
            with pytest.raises(HandshakeError, match="wrong proof"):
                bad.secret = "guess"
                bad.greet()
        site_log.wait_for("waiting for a trainer", count=2)
        good = pipe()
        assert good.token.partition("-")[0] != bad.token.partition("-")[0] and good.secret != bad.secret
        good.greet()
        assert good.receive(LIMIT).data.get_header(FLContextKey.TASK_NAME) == "train"
        job.end()
        assert_failed(running.result(LIMIT), "the job ends")

    def test_trainer_that_dies_after_hello_is_lost(self, job, pipe, site_log):
        job.end()
        job.start(attached(**SHORT_LEASE))
        pipe().greet()  # and not a single heartbeat
        assert_failed(job.execute("train", make_task()), "no sign of life", "heartbeat_timeout")


class TestLoss:
    @pytest.mark.parametrize("phase", TASK_PHASES)
    def test_fails_the_task_and_later_ones_at_once(self, job, trainers, phase):
        job.start(attached(**SHORT_LEASE))
        trainers(fated(job), phase, "sigkill")
        for _ in range(2):
            assert_failed(job.execute("train", task_of(TASK_PHASES[phase])), "no sign of life for")

    @pytest.mark.parametrize("fault", ["sigkill", "exception", "exit_0"])
    @pytest.mark.parametrize("phase", TASK_PHASES)
    def test_successor_gets_the_task(self, job, trainers, phase, fault):
        job.start(attached(**SHORT_LEASE, allow_reconnect=True))
        for _ in range(2):
            trainers(fated(job), phase, fault)
        for _ in range(2):
            assert_works(job, TASK_PHASES[phase])
        assert stats(job)["sessions"] == 2

    def test_idle_trainer(self, job, trainers, site_log):
        job.start(attached(**SHORT_LEASE, allow_reconnect=True))
        first = trainers(fated(job))
        assert_works(job)
        first.signal(signal.SIGKILL)
        site_log.wait_for("waiting for a trainer", count=2)
        trainers(fated(job))
        assert_works(job)

    def test_late_result_of_a_frozen_trainer_is_dropped(self, job, trainers, site_log):
        in_task, go_on = job.gate("in_task"), job.gate("go_on")
        job.start(attached(**SHORT_LEASE, allow_reconnect=True))
        frozen = trainers(job.custom_dir / job.script(GATED_TRAIN))
        running = job.submit("train", make_task(value=10.0))
        in_task.wait()
        frozen.freeze()
        site_log.wait_for("waiting for a trainer", count=2)
        go_on.unlock()
        frozen.signal(signal.SIGCONT)
        assert frozen.exit_code() == ExitCode.LOST
        assert not running.done()
        trainers(fated(job))
        assert (model_of(running.result(LIMIT)).params["w"] == 11.0).all()

    def test_three_in_one_task_fail_it(self, job, trainers):
        job.start(attached(allow_reconnect=True))
        script = job.custom_dir / job.script(fateful_script("before_send", "raise RuntimeError('no luck')"))
        for _ in range(3):
            trainers(script)
        assert_failed(job.execute("train", make_task()), "3 trainers in a row", "no luck")
        trainers(fated(job))
        assert_works(job)


class TestEnd:
    @pytest.mark.parametrize("phase", TASK_PHASES)
    def test_abort(self, job, trainers, phase):
        job.start(attached())
        trainer = trainers(fated(job), phase, "hang")
        abort_signal = Signal()
        running = job.submit("train", task_of(TASK_PHASES[phase]), abort_signal)
        trainer.output.wait_for("now: hang")
        abort_signal.trigger(True)
        assert running.result(LIMIT).get_return_code() == ReturnCode.TASK_ABORTED
        assert trainer.is_alive()

    @pytest.mark.parametrize("phase", TASK_PHASES)
    def test_trainer_lives_on(self, job, trainers, phase):
        job.start(attached())
        trainer = trainers(fated(job), phase, "hang")
        running = job.submit("train", task_of(TASK_PHASES[phase]))
        trainer.output.wait_for("now: hang")
        job.end()
        assert_failed(running.result(LIMIT), "the job ends")
        assert trainer.is_alive()

    def test_frozen_trainer_does_not_hold_the_end(self, job, trainers):
        job.start(attached())
        trainer = trainers(fated(job))
        assert_works(job)
        trainer.freeze()
        job.end()
        assert trainer.is_alive()
        assert left_files(job) == []

    def test_trainer_of_a_job_that_has_vanished_is_told_so(self, job, trainers, site_log):
        in_task, go_on = job.gate("in_task"), job.gate("go_on")
        job.start(attached(**SHORT_LEASE))
        script = """
            from pathlib import Path
            import nvflare.client as flare
            flare.init()
            model = flare.receive()
            Path(__file__).with_name("in_task").write_text("")
            Path(__file__).with_name("go_on").read_text()
            try:
                flare.send(flare.FLModel(params=model.params))
            except Exception as error:
                print(type(error).__name__, error)
        """
        trainer = trainers(job.custom_dir / job.script(script))
        running = job.submit("train", make_task())
        in_task.wait()
        trainer.freeze()
        assert_failed(running.result(LIMIT), "no sign of life")
        go_on.unlock()
        trainer.signal(signal.SIGCONT)
        assert trainer.exit_code() == ExitCode.LOST
        assert "AgentClosed the result of task 'train' did not reach the job" in trainer.output.text()


class TestForeignPipe:
    """The job brings its own pipe: a shared folder, and no network between job and trainer."""

    @pytest.fixture
    def folder(self, tmp_path):
        return tmp_path / "shared"

    def start(self, job, folder, **arguments) -> None:
        pipe = FilePipe(mode=Mode.PASSIVE, root_path=str(folder))
        job.start(attached(**{**SHORT_LEASE, "heartbeat_timeout": 2.0, **arguments}), components={PIPE_COMPONENT: pipe})

    def test_tasks_log_records_and_the_end(self, job, trainers, folder):
        self.start(job, folder)
        script = """
            import nvflare.client as flare
            from nvflare.client.tracking import SummaryWriter
            flare.init()
            writer = SummaryWriter()
            while flare.is_running():
                model = flare.receive()
                for step in range(100):
                    writer.add_scalar("loss", float(step), step)
                flare.send(flare.FLModel(params={"w": model.params["w"] + 1}))
            print("at the end")
        """
        trainer = trainers(job.custom_dir / job.script(script))
        for number, size in enumerate((SMALL, LARGE)):
            assert_works(job, size)
            assert job.log_records == [("loss", float(step), step) for step in range(100)] * (number + 1)
        job.end()
        assert trainer.exit_code() == ExitCode.ENDED
        assert "at the end" in trainer.output.text()
        assert list(folder.rglob("*")) == []

    def test_rendezvous_has_no_credentials_of_the_site(self, job, folder):
        self.start(job, folder)
        content = rendezvous(job).read_text()
        assert "auth" not in content and "url" not in content

    def test_wrong_proof_is_rejected(self, job, trainers, folder):
        self.start(job, folder)
        content = json.loads(rendezvous(job).read_text())
        content["TASK_EXCHANGE"]["pipe"]["ARG"]["secret"] = "guess"
        rendezvous(job).write_text(json.dumps(content))
        trainer = trainers(fated(job))
        assert trainer.exit_code() == ExitCode.REJECTED
        assert "wrong proof" in trainer.output.text()

    @pytest.mark.parametrize("fault", ["sigkill", "exception"])
    def test_successor_gets_the_task(self, job, trainers, folder, fault):
        self.start(job, folder, allow_reconnect=True)
        for _ in range(2):
            trainers(fated(job), "training", fault)
        for _ in range(2):
            assert_works(job)
        assert stats(job)["sessions"] == 2

    def test_loss_fails_the_task(self, job, trainers, folder):
        self.start(job, folder)
        trainers(fated(job), "training", "sigkill")
        for _ in range(2):
            assert_failed(job.execute("train", make_task()), "no sign of life")

    def test_frozen_trainer_does_not_hold_the_end(self, job, trainers, folder):
        self.start(job, folder)
        trainer = trainers(fated(job))
        assert_works(job)
        trainer.freeze()
        job.end()
        trainer.signal(signal.SIGCONT)
        assert trainer.exit_code() == ExitCode.LOST

    def test_component_of_another_kind_panics_the_job(self, job):
        job.start(attached(), components={PIPE_COMPONENT: FLComponent()})
        assert f"component {PIPE_COMPONENT} must be a Pipe" in job.panics[0]


class TestStats:
    def test_of_a_waiting_and_of_a_joined_trainer(self, job, trainers):
        job.start(attached())
        assert stats(job)["state"] == "waiting"
        trainer = trainers(fated(job))
        assert_works(job)
        seen = stats(job)
        assert (seen["state"], seen["trainer_pid"], seen["sessions"]) == ("ready", trainer.process.pid, 1)
