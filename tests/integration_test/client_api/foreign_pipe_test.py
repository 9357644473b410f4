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

"""attach over a pipe that the job supplies: a shared folder, and no network between job and trainer."""

import json
import signal

import pytest

from nvflare.apis.fl_component import FLComponent
from nvflare.app_common.executors.client_api.attach import ExitCode
from nvflare.app_common.executors.client_api.session.channel import Channel
from nvflare.app_common.executors.client_api.session.foreign_pipe import PIPE_COMPONENT
from nvflare.app_common.executors.client_api.session.handshake import HandshakeError
from nvflare.app_common.executors.client_api.session.trainer_agent import trainer_end
from nvflare.fuel.utils.constants import Mode
from nvflare.fuel.utils.pipe.file_pipe import FilePipe
from tests.integration_test.client_api.attach_harness import (
    SHORT_LEASE,
    assert_works,
    attached,
    fated,
    rendezvous,
    stats,
)
from tests.integration_test.client_api.external_jobs import SENDS_UNKNOWN_CLASS
from tests.unit_test.app_common.executors.client_api.process_watch import WITH_PROCESSES
from tests.unit_test.app_common.executors.job_harness import LARGE, SMALL, assert_failed, make_task

pytestmark = WITH_PROCESSES


class BadlyClosing(FilePipe):
    def close(self):
        super().close()
        raise OSError("not connected")


class TestForeignPipe:
    """The job brings its own pipe: a shared folder, and no network between job and trainer."""

    @pytest.fixture
    def folder(self, tmp_path):
        return tmp_path / "shared"

    def start(self, job, folder, kind=FilePipe, **arguments) -> None:
        pipe = kind(mode=Mode.PASSIVE, root_path=str(folder))
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

    def test_folder_that_the_job_had_to_make_stays_for_others(self, job, folder):
        self.start(job, folder)
        (folder / "of another site").mkdir()
        job.end()
        assert [path.name for path in folder.iterdir()] == ["of another site"]

    def test_pipe_that_does_not_close_well(self, job, trainers, folder, site_log):
        self.start(job, folder, BadlyClosing, allow_reconnect=True)
        for _ in range(2):
            trainers(fated(job), "training", "sigkill")
        assert_works(job)
        site_log.wait_for("did not close well: OSError: not connected")

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

    def test_result_that_the_job_cannot_decode_is_refused_with_the_reason(self, job, trainers, folder):
        self.start(job, folder)
        trainer = trainers(job.custom_dir / job.script(SENDS_UNKNOWN_CLASS))
        assert_failed(job.execute("train", make_task()), "it cannot be decoded", "Own")
        assert trainer.exit_code() == ExitCode.FAILED

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

    @pytest.fixture
    def end_of_trainer(self, job):
        """Makes the trainer's end of the session."""
        ends = []

        def make() -> Channel:
            exchange = json.loads(rendezvous(job).read_text())["TASK_EXCHANGE"]
            ends.append(trainer_end(**exchange["pipe"]["ARG"]))
            return ends[-1]

        yield make
        for end in ends:
            end.close()

    def test_folder_is_found_wherever_the_trainer_runs(self, job, trainers, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        self.start(job, "shared")
        trainers(fated(job))
        assert_works(job)

    def test_trainer_that_comes_too_late_makes_no_folder(self, job, folder, end_of_trainer):
        self.start(job, folder)
        end = end_of_trainer()
        job.end()
        with pytest.raises(HandshakeError, match=f"component {PIPE_COMPONENT} cannot be used"):
            end.open()
        assert list(folder.rglob("*")) == []

    def test_folder_that_cannot_be_made_panics_the_job(self, job, folder):
        folder.touch()
        self.start(job, folder / "below")
        assert f"component {PIPE_COMPONENT} cannot be used: NotADirectoryError" in job.panics[0]

    def test_component_of_another_kind_panics_the_job(self, job):
        job.start(attached(), components={PIPE_COMPONENT: FLComponent()})
        assert f"component {PIPE_COMPONENT} must be a Pipe" in job.panics[0]
