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

"""Every execution mode in a provisioned, secured federation of three sites, one of them behind a relay.

Site-2 has a privacy scope of its own that changes each parameter that leaves it, site-3 a log config of its own.
"""

import importlib.util
import json
import re
import shutil

import pytest
from shifting_filter import ShiftingFilter

from nvflare.app_common.executors.attach_executor import AttachExecutor
from nvflare.app_common.executors.client_api_executor import ClientAPIExecutor
from nvflare.app_common.np.np_model_persistor import NPModelPersistor
from nvflare.app_common.workflows.fedavg import FedAvg
from nvflare.job_config.api import FedJob
from tests.integration_test.client_api.federation import jobs
from tests.integration_test.client_api.federation.federation import Federation
from tests.integration_test.client_api.federation.jobs import LARGE, SMALL, Stage

pytestmark = pytest.mark.watchdog(900)

SITES = ["site-1", "site-2", "site-3"]
FILTERED, LOGGED = "site-2", "site-3"
SHIFT = 10.0
ROUNDS = 2
MODES = ["in_process", "external_process", "attach"]
ALLOWED = "nvflare.app_common.executors.attach_executor.AttachExecutor"
MARK = "as this site wants it"
needs_torch = pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="needs torch")


def prepare(federation: Federation) -> None:
    """What the administrators of two sites do before they start them."""
    local = federation.startup_kit(FILTERED) / "local"
    (local / "custom").mkdir()
    shutil.copy(jobs.JOB_FOLDER / "shifting_filter.py", local / "custom")
    shift = {"path": f"{ShiftingFilter.__module__}.{ShiftingFilter.__name__}", "args": {"shift": SHIFT}}
    scope = {"name": "private", "task_result_filters": [shift]}
    (local / "privacy.json").write_text(json.dumps({"scopes": [scope], "default_scope": "private"}))
    federation.configure(
        LOGGED, "log_config.json", lambda text: text.replace("%(levelname)s - ", f"%(levelname)s - {MARK} - ")
    )


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    root = tmp_path_factory.mktemp("federation")
    with Federation(root, len(SITES), with_relay=True, prepare=prepare) as federation:
        yield federation


@pytest.fixture
def stage(federation, request):
    stage = Stage(federation.root / re.sub(r"\W", "-", request.node.name))
    yield stage
    stage.close()


def allow(resources: str) -> str:
    """Adds the executor that runs nothing to a site's allow list."""
    content = json.loads(resources)
    content["class_allow_list"].append(ALLOWED)
    return json.dumps(content)


def make_job(stage: Stage, modes: dict, size: int = SMALL) -> FedJob:
    executors = {}
    for site, mode in modes.items():
        if mode == "torchrun":
            command = f"torchrun --standalone --nproc_per_node=2 custom/{jobs.RANKED_TRAINER.name}"
            executors[site] = jobs.executor("external_process", stage.folder, command=command)
        else:
            executors[site] = jobs.executor(mode, stage.folder)
    return jobs.make_job(stage.folder.name, executors, ROUNDS, size, [FILTERED])


def run(federation: Federation, stage: Stage, modes: dict, size: int = SMALL):
    """Runs a job in which each site has its mode; returns it."""
    attached = []

    def attach(*_):
        attached.extend(federation.attach(s, jobs.TRAINER, str(stage.folder)) for s in SITES if modes[s] == "attach")

    job = federation.run(make_job(stage, modes, size), attach)
    for key in attached:
        assert federation.wait_exit(key, jobs.REACH_TIMEOUT) == 0, federation.output(key)
    return job


def assert_trained(job) -> None:
    """Asserts that each site's results of each round count once, and that the model is what they make."""
    assert job.status == "FINISHED:COMPLETED"
    assert jobs.violations(job.server_dir) == []
    assert jobs.accepted(job.server_dir) == [(number, site) for number in range(ROUNDS) for site in SITES]
    for site in SITES:
        assert "could not be delivered" not in job.log(site)  # log records
    model = jobs.trained_model(job.server_dir)
    assert model == pytest.approx(ROUNDS * (1 + SHIFT / len(SITES)), rel=1e-5)


def assert_nothing_left(federation, job) -> None:
    left = federation.inventory().of_job(job.job_id)
    assert left.parts == [] and left.credentials == [] and left.client_api_files == []


def assert_credentials_are_private(federation) -> None:
    """Asserts that what a site keeps of keys, secrets and tokens is for its own user alone, while jobs run."""
    kits = [federation.startup_kit(site) for site in SITES]
    found = [c for c in federation.inventory().credentials if any(kit in c.path.parents for kit in kits)]
    assert len(found) > len(SITES)  # more than the sites' own keys: those of the jobs
    assert [str(credential) for credential in found if not credential.is_private] == []


class TestModes:
    @pytest.mark.parametrize("mode", MODES)
    def test_three_sites(self, federation, stage, mode):
        job = run(federation, stage, dict.fromkeys(SITES, mode), LARGE)
        assert_trained(job)
        assert_nothing_left(federation, job)

    @needs_torch
    def test_torchrun_behind_the_relay(self, federation, stage):
        job = run(federation, stage, dict(zip(SITES, ["in_process", "external_process", "torchrun"])))
        assert_trained(job)
        assert_nothing_left(federation, job)

    def test_mixed_in_one_job(self, federation, stage):
        job = run(federation, stage, dict(zip(SITES, MODES)))
        assert_trained(job)
        assert_nothing_left(federation, job)
        for site in SITES:
            assert jobs.scalars(job.server_dir, site) == list(range(ROUNDS))


class TestSites:
    def test_last_site_is_connected_through_the_relay(self, federation):
        remote = [line.split()[-1] for line in federation.inventory().sockets if f" {SITES[-1]} CP ESTABLISHED" in line]
        ports = {int(end.rpartition(":")[2]) for end in remote}
        assert federation.relay_port in ports and federation.port not in ports

    def test_two_jobs_at_once(self, federation, stage, tmp_path_factory):
        other = Stage(federation.root / "other")
        modes = dict.fromkeys(SITES, "external_process")
        held = [(s, s.hold("site-1", "training", 0)) for s in (stage, other)]
        try:
            running = [federation.submit(make_job(s, modes)) for s in (stage, other)]
            for s, _ in held:
                s.wait_for("site-1", "training", 0)
            trainers = federation.parts("trainer", "site-1")
            assert {part.job_id for part in trainers} == {job.job_id for job in running}
            assert_credentials_are_private(federation)
            for s, gate in held:
                s.release(gate)
            with federation.session() as session:
                for job in running:
                    job.finish(session)
        finally:
            other.close()
        for job in running:
            assert_trained(job)
            assert_nothing_left(federation, job)

    def test_log_config_of_a_site(self, federation, stage):
        job = run(federation, stage, dict.fromkeys(SITES, "external_process"))
        assert job.log(LOGGED).count(MARK) > 0 and job.log("site-1").count(MARK) == 0
        assert re.search(f"TrainerSession.*{MARK}.*ready", job.log(LOGGED), re.IGNORECASE)

    def test_class_allow_list(self, federation):
        """A job without code of its own may only name classes that the site allows."""
        wait = {"attach_timeout": jobs.REACH_TIMEOUT}
        self.assert_refused(federation, "refused", AttachExecutor(**wait))
        federation.configure(SITES[0], "resources.json", allow)
        key = federation.attach(SITES[0], jobs.TRAINER, str(federation.root))
        assert self.run_without_code(federation, "allowed", AttachExecutor(**wait)).status == "FINISHED:COMPLETED"
        assert federation.wait_exit(key, jobs.REACH_TIMEOUT) == 0
        command = f"touch {federation.root / 'run_by_a_job'}"
        self.assert_refused(federation, "command", ClientAPIExecutor("external_process", command=command))
        assert not (federation.root / "run_by_a_job").exists()

    def assert_refused(self, federation, name: str, executor: ClientAPIExecutor) -> None:
        refused = self.run_without_code(federation, name, executor)
        with federation.session() as session:
            console = "\n".join(federation.console(session, refused.job_id).values())
        assert refused.status != "FINISHED:COMPLETED"
        assert re.search(rf"{type(executor).__name__}'.* is not in allow_list", console), console

    @staticmethod
    def run_without_code(federation, name: str, executor: ClientAPIExecutor):
        job = FedJob(name=name, min_clients=1)
        job.to_server(NPModelPersistor(model=[0.0]), id="persistor")
        job.to_server(FedAvg(num_clients=1, num_rounds=1, persistor_id="persistor"))
        job.to(executor, SITES[0])
        job.export_job(str(federation.root / "jobs"))
        for empty in (federation.root / "jobs" / name).glob("*/custom"):
            empty.rmdir()  # it would count as code
        running = federation.submit_folder(federation.root / "jobs" / name)
        with federation.session() as session:
            running.finish(session)
        return running
