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

"""attach in a real federation: server and sites as separate processes, the trainers started by hand."""

import subprocess
import sys
import textwrap

import pytest

from nvflare.apis.executor import Executor
from nvflare.app_common.executors.attach_executor import AttachExecutor
from nvflare.app_common.executors.client_api_executor import ClientAPIExecutor
from nvflare.app_common.np.np_model_persistor import NPModelPersistor
from nvflare.app_common.workflows.fedavg import FedAvg
from nvflare.job_config.api import FedJob
from tests.integration_test.client_api.external_process_poc_test import SITES, global_model, unexpected
from tests.integration_test.client_api.poc_federation import PocFederation
from tests.integration_test.client_api.simulator_parts import EAGER

pytestmark = pytest.mark.watchdog(600)

ROUNDS = 2
WAIT = 90  # seconds
ATTACH = "nvflare.app_common.executors.client_api.attach"

TRAIN = """
    import nvflare.client as flare

    flare.init()
    while flare.is_running():
        model = flare.receive()
        flare.send(flare.FLModel(params={"numpy_key": model.params["numpy_key"] + 1}, metrics={"sum": 1.0}))
    print("at the end")
"""


ALLOWED = f"{AttachExecutor.__module__}.{AttachExecutor.__name__}"


def make_job(name: str, executor: Executor) -> FedJob:
    job = FedJob(name=name, min_clients=len(SITES))
    job.to_server(NPModelPersistor(model=[0.0, 0.0, 0.0]), id="persistor")
    job.to_server(FedAvg(num_clients=len(SITES), num_rounds=ROUNDS, persistor_id="persistor"))
    job.to_server(EAGER)
    job.to_clients(executor)
    return job


@pytest.fixture(scope="module")
def attached(tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    script = elsewhere / "train.py"
    script.write_text(textwrap.dedent(TRAIN))
    trainers = []

    def attach(poc_job, session):
        for site in SITES:
            command = [sys.executable, "-m", ATTACH, "--workspace", str(poc_job.site_dir(site).parent), "--site", site]
            command += ["--wait", str(WAIT), "--", str(script)]
            trainers.append(subprocess.Popen(command, cwd=elsewhere, stdout=subprocess.PIPE, text=True))

    proof = elsewhere / "a_command_has_run"
    command = ClientAPIExecutor("external_process", command=f"touch {proof}")
    with PocFederation(tmp_path_factory.mktemp("federation"), allowed=[ALLOWED]) as federation:
        try:
            job = federation.run(make_job("attached", AttachExecutor(attach_timeout=WAIT)), attach, has_code=False)
            job.with_a_command = federation.run(make_job("with_a_command", command), has_code=False)
            job.has_run_a_command = proof.exists()
            job.trainer_ends = [(trainer.communicate(timeout=WAIT)[0], trainer.returncode) for trainer in trainers]
        finally:
            for trainer in trainers:
                trainer.kill()
                trainer.communicate()
        yield job


class TestAttachedTrainers:
    """On sites that allow AttachExecutor, and of this package's classes no other, to jobs without code."""

    def test_job_that_names_a_command_is_refused(self, attached):
        assert attached.with_a_command.status != "FINISHED:COMPLETED" and not attached.has_run_a_command

    def test_model_is_trained(self, attached):
        assert attached.status == "FINISHED:COMPLETED"
        assert global_model(attached) == [float(ROUNDS)] * 3

    def test_trainers_end_well(self, attached):
        assert [code for _, code in attached.trainer_ends] == [0, 0]
        assert all("at the end" in output for output, _ in attached.trainer_ends)

    @pytest.mark.parametrize("site", SITES)
    def test_log_is_quiet(self, attached, site):
        assert unexpected(attached.log(site)) == []

    def test_nothing_is_left(self, attached):
        assert attached.left_processes == []
        assert list(attached.site_dir(SITES[0]).rglob("client_api_*.json")) == []
