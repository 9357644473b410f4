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

"""attach: who may join a session, and what happens when its trainer is lost, the task aborted or the job ends.

Where a trainer with bad manners is needed the test plays it itself, with nvflare's cells and the rendezvous of the job.
"""

import json
import os
import signal
from dataclasses import replace

import pytest

from nvflare.apis.fl_constant import FLContextKey, ReturnCode
from nvflare.apis.signal import Signal
from nvflare.app_common.executors.client_api.attach import ExitCode
from nvflare.app_common.executors.client_api.session.handshake import PROTOCOL_VERSION, HandshakeError, pack, unpack
from nvflare.app_common.executors.client_api.session.letters import HELLO
from nvflare.app_common.executors.client_api.session.trainer_agent import trainer_end
from nvflare.app_common.executors.client_api.session.trainer_pipe import TrainerPipe
from nvflare.fuel.f3.message import Message
from nvflare.fuel.utils.pipe.pipe import Message as PipeMessage
from nvflare.fuel.utils.pipe.pipe import Topic
from tests.integration_test.client_api.attach_harness import (
    SHORT_LEASE,
    TASK_PHASES,
    assert_works,
    attached,
    fated,
    left_files,
    rendezvous,
    stats,
    task_of,
)
from tests.unit_test.app_common.executors.client_api.backend_contract import GATED_TRAIN, fateful_script
from tests.unit_test.app_common.executors.client_api.process_watch import WITH_PROCESSES
from tests.unit_test.app_common.executors.job_harness import LIMIT, assert_failed, make_task, model_of

pytestmark = WITH_PROCESSES


def assert_refused(stranger: TrainerPipe, topic: str, data) -> None:
    """Whoever has no part in a session gets no answer that he could believe."""
    assert not stranger.send(PipeMessage.new_request(topic, data), 0.5)


class TestHandshake:
    """The test itself plays the trainer."""

    @pytest.fixture
    def pipe(self, job):
        job.start(attached())
        pipes = []

        def make() -> TrainerPipe:
            exchange = json.loads(rendezvous(job).read_text())["TASK_EXCHANGE"]
            pipes.append(trainer_end(**exchange["pipe"]["ARG"]))
            pipes[-1].open()
            return pipes[-1]

        yield make
        job.end()
        for pipe in pipes:
            pipe.close()

    @staticmethod
    def say_hello(pipe, hello) -> dict:
        reply = pipe.cell.core_cell.send_request(
            channel=pipe.channel,
            target=pipe.peer,
            topic=HELLO,
            request=Message(payload=pack(hello)),
            timeout=LIMIT,
        )
        return unpack(reply.payload)

    def test_answer_proves_the_secret(self, pipe):
        pipe = pipe()
        handshake = pipe.handshake_with(pipe.cell.get_fqcn())
        hello = handshake.hello()
        handshake.check_answer(self.say_hello(pipe, hello), hello)
        with pytest.raises(HandshakeError, match="does not know"):
            replace(handshake, secret="another secret").check_answer(self.say_hello(pipe, hello), hello)

    def test_other_protocol_version_is_rejected(self, pipe):
        pipe = pipe()
        hello = {**pipe.handshake_with(pipe.cell.get_fqcn()).hello(), "protocol": 0}
        assert f"protocol {PROTOCOL_VERSION}" in self.say_hello(pipe, hello)["reject"]
        pipe.greet()

    @pytest.mark.parametrize("hello", [None, [], "hello", {}, {"protocol": 1}, {"protocol": 1, "proof": 7}])
    def test_nonsense_is_rejected(self, pipe, hello):
        pipe = pipe()
        assert self.say_hello(pipe, hello)["reject"]
        pipe.greet()

    def test_second_trainer_is_rejected_and_the_first_untouched(self, pipe, job):
        first, second = pipe(), pipe()
        first.greet()
        with pytest.raises(HandshakeError, match=f"process {os.getpid()} on .* has joined this session"):
            second.greet()
        assert first.send(PipeMessage.new_request("METRICS", []), LIMIT)
        assert_refused(second, "METRICS", [])
        assert stats(job)["refused"] > 1

    def test_replayed_hello_is_rejected(self, pipe):
        first, second = pipe(), pipe()
        handshake = first.handshake_with(first.cell.get_fqcn())
        hello = handshake.hello()
        handshake.check_answer(self.say_hello(first, hello), hello)
        assert "said by another one" in self.say_hello(second, hello)["reject"]

    def test_nothing_is_accepted_after_the_loss(self, pipe, job):
        job.end()
        job.start(attached(**SHORT_LEASE))
        trainer = pipe()
        trainer.greet()  # and not a single heartbeat
        assert_failed(job.execute("train", make_task()), "no sign of life")
        assert not trainer.send(PipeMessage.new_request("METRICS", []), 0.5)

    def test_end_from_a_stranger_is_refused(self, pipe, job):
        first, second = pipe(), pipe()
        first.greet()
        assert_refused(second, Topic.END, "go home")
        # And the trainer takes nothing from anybody but the job.
        second.peer = first.cell.get_fqcn()
        for topic in (Topic.END, Topic.ABORT):
            assert_refused(second, topic, "go home")
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

    def test_who_goes_on_guessing_leaves_the_others_time_to_join(self, site_log, pipe, job):
        def guess(bad) -> None:
            bad.secret = "guess"
            for _ in range(5):
                with pytest.raises(HandshakeError, match="wrong proof"):
                    bad.greet()

        guess(pipe())
        site_log.wait_for("waiting for a trainer", count=2)
        good = pipe()
        guess(pipe())
        good.greet()
        assert stats(job)["sessions"] == 2

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

    @pytest.mark.parametrize(
        "phase, fault",
        [*((phase, "sigkill") for phase in TASK_PHASES), ("training", "exception"), ("sending", "exit_0")],
    )
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
