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

"""Who may join a session: real processes with copies of the bootstrap file."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from nvflare.app_common.executors.client_api.session.handshake import PROTOCOL_VERSION, pack
from nvflare.app_common.executors.client_api.session.letters import CHANNEL, HELLO
from nvflare.fuel.f3.cellnet.utils import make_reply
from tests.integration_test.client_api.cell_harness import connected_cell
from tests.integration_test.client_api.external_jobs import (
    SENDS_UNKNOWN_CLASS,
    assert_works,
    bootstrap_path,
    start,
    start_fated,
    task_of,
)
from tests.unit_test.app_common.executors.client_api.backend_contract import GATED_TRAIN
from tests.unit_test.app_common.executors.client_api.process_watch import WITH_PROCESSES
from tests.unit_test.app_common.executors.job_harness import (
    LARGE,
    LIMIT,
    SITE_NAME,
    SMALL,
    assert_failed,
    make_task,
    model_of,
    stop_cell,
)

pytestmark = WITH_PROCESSES


class TestStrangers:
    """Processes that would like to be the trainer; the good one then finishes its task."""

    @pytest.fixture
    def in_task(self, job, site_log):
        in_task, go_on = job.gate("in_task"), job.gate("go_on")
        start(job, GATED_TRAIN)
        running = job.submit("train", make_task())
        in_task.wait()
        yield running
        go_on.open()
        assert (model_of(running.result(LIMIT)).params["w"] == 1.0).all()

    def join(self, job, prepare: str = "", **changes) -> str:
        """Runs another trainer with a copy of the bootstrap file; returns what it prints."""
        content = json.loads(bootstrap_path(job).read_text())
        content["TASK_EXCHANGE"]["pipe"]["ARG"].update(changes)
        copy = job.custom_dir / "copy.json"
        copy.write_text(json.dumps(content))
        return run_stranger(copy, prepare)

    def test_second_claimant(self, job, in_task, site_log):
        assert "has joined this session" in self.join(job)
        assert len(site_log.find("has joined this session")) == 1

    def test_wrong_proof(self, job, in_task, site_log):
        assert "wrong proof" in self.join(job, secret="a guess")
        assert len(site_log.find("wrong proof")) == 1

    def test_replayed_challenge_of_another_session(self, job, in_task):
        assert "wrong proof" in self.join(job, challenge="of another session")

    def test_wrong_protocol_version(self, job, in_task):
        prepare = "import nvflare.app_common.executors.client_api.session.handshake as h; h.PROTOCOL_VERSION = 99"
        assert f"speaks protocol {PROTOCOL_VERSION}" in self.join(job, prepare)

    def test_wrong_token(self, job, in_task):
        assert "no answer from the job" in self.join(job, IMPATIENT, token="0" * 32)

    def test_stale_session(self, job, tmp_path, site_log):
        start_fated(job, "accepted", "sigkill")
        stale = shutil.copy(bootstrap_path(job), tmp_path)
        assert_works(job)
        site_log.wait_for("-> lost")
        assert_works(job)
        assert "no answer from the job" in run_stranger(stale, IMPATIENT)

    @pytest.fixture
    def false_job(self, federation):
        cell = connected_cell(f"{SITE_NAME}_{'1' * 32}_passive", federation.url)
        yield cell
        stop_cell(cell)

    def test_job_that_cannot_prove_itself(self, job, in_task, false_job):
        false_job.core_cell.register_request_cb(
            channel=f"cell_pipe.{CHANNEL}", topic=HELLO, cb=lambda _: make_reply("ok", body=pack({"proof": "a guess"}))
        )
        assert "does not know the session's secret" in self.join(job, token="1" * 32)


def test_result_for_another_task_is_dropped(job, site_log):
    script = """
        import nvflare.client as flare
        from nvflare.apis.shareable import Shareable
        from nvflare.app_common.executors.client_api.session.trainer_pipe import TrainerPipe
        from nvflare.fuel.utils.pipe.pipe import Message

        send = TrainerPipe.send

        def send_another_before(pipe, msg, *args, **options):
            if msg.msg_type == Message.REPLY:
                assert send(pipe, Message.new_reply(msg.topic, Shareable(), "another task"))
            return send(pipe, msg, *args, **options)

        TrainerPipe.send = send_another_before
        flare.init()
        while flare.is_running():
            model = flare.receive()
            flare.send(flare.FLModel(params={"w": model.params["w"] + 1}))
    """
    start(job, script)
    for count in (1, 2):
        assert_works(job)
        assert len(site_log.find("dropped a result")) == count


class Own:
    """A class that nvflare knows only where an object of it is sent."""

    def __init__(self):
        self.value = 1


# By the message alone, and while its arrays are pulled.
@pytest.mark.parametrize("size", [SMALL, LARGE])
class TestUnknownClass:
    def test_in_a_result(self, job, site_log, size):
        start(job, SENDS_UNKNOWN_CLASS)
        assert_failed(job.execute("train", task_of(size)), "my result: it cannot be decoded", "Own")
        assert len(site_log.find("was refused")) == 1

    def test_in_a_task(self, job, site_log, size):
        start_fated(job)
        task = task_of(size)
        task["own"] = Own()
        assert_failed(job.execute("train", task), "the trainer cannot take the task", "cannot be decoded", "Own")
        assert_works(job, size)


@pytest.mark.parametrize(
    "log, fault",
    [
        ("fobs.register_data_classes(Own); flare.log('own', Own(), flare.AnalyticsDataType.PARAMETER)", "be decoded"),
        ("context.api.flare_agent.log(DXO(DataKind.ANALYTIC, {'value': 2**64}))", "Integer value out of range"),
    ],
)
def test_log_record_that_gets_past_the_check(job, site_log, log, fault):
    """The job cannot decode it, or this process cannot encode it: it is dropped, and the next one comes."""
    script = f"""
        import nvflare.client as flare
        from nvflare.apis.dxo import DXO, DataKind
        from nvflare.fuel.utils import fobs

        class Own:
            pass

        context = flare.init()
        while flare.is_running():
            model = flare.receive()
            {log}
            flare.log("good", 1.0, flare.AnalyticsDataType.SCALAR)
            flare.send(flare.FLModel(params={{"w": model.params["w"] + 1}}))
    """
    start(job, script)
    for number in (1, 2):
        assert_works(job)
        assert job.log_records == [("good", 1.0, None)] * number
    site_log.wait_for("a log record was dropped", count=2)  # a trainer's output comes when it comes
    first, second = site_log.find("a log record was dropped")
    assert fault in first.getMessage() and fault in second.getMessage()


# Do not wait long for a job that is not there.
IMPATIENT = "from nvflare.app_common.executors.client_api.session import limits; limits.HANDSHAKE_TIMEOUT = 2.0"


def run_stranger(config, prepare: str = "") -> str:
    code = f"{prepare}\nimport nvflare.client as flare\nflare.init(config_file={str(config)!r})"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "CLIENT_API_TYPE": "EX_PROCESS_API"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LIMIT,
    )
    assert done.returncode != 0
    return done.stdout
