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

import json
import re
import shutil
from types import SimpleNamespace
from typing import List

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
from tests.integration_test.client_api.poc_federation import PocJob
from tests.integration_test.client_api.simulator_parts import EAGER, hurry
from tests.unit_test.app_common.executors.markers import HAS_TORCH

pytestmark = pytest.mark.watchdog(900)

SITES = ["site-1", "site-2", "site-3"]
FILTERED, LOGGED = "site-2", "site-3"
SHIFT = 10.0
ROUNDS = 2
ALLOWED = "nvflare.app_common.executors.attach_executor.AttachExecutor"
MARK = "as this site wants it"


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


def allow(resources: str) -> str:
    """Adds the executor that runs nothing to a site's allow list."""
    content = json.loads(resources)
    content["class_allow_list"].append(ALLOWED)
    return json.dumps(content)


class RunningJob:
    """A job in which each site has its mode, held in the first training of one."""

    def __init__(self, federation: Federation, name: str, modes: List[str], size: int):
        self._federation = federation
        self.stage = Stage(federation.root / name)
        self._held = SITES[modes.index("external_process") if "external_process" in modes else 0]
        self._gate = self.stage.hold(self._held, "training", 0)
        executors = {site: self._executor(mode) for site, mode in zip(SITES, modes)}
        job = jobs.make_job(name, executors, ROUNDS, size, [FILTERED])
        hurry(job)
        self._job = federation.submit(job)
        self.job_id = self._job.job_id
        attaching = [site for site, mode in zip(SITES, modes) if mode == "attach"]
        self._attached = [federation.attach(site, jobs.TRAINER, str(self.stage.folder)) for site in attaching]

    def _executor(self, mode: str) -> ClientAPIExecutor:
        if mode != "torchrun":
            return jobs.executor(mode, self.stage.folder)
        command = f"torchrun --standalone --nproc_per_node=2 custom/{jobs.RANKED_TRAINER.name}"
        return jobs.executor("external_process", self.stage.folder, command=command)

    def wait_held(self) -> None:
        self.stage.wait_for(self._held, "training", 0)

    def finish(self, session) -> PocJob:
        """Lets it go on to its end, and that of its trainers; returns it."""
        self.stage.release(self._gate)
        self._job.finish(session)
        for key in self._attached:
            assert self._federation.wait_exit(key, jobs.REACH_TIMEOUT) == 0, self._federation.output(key)
        self.stage.close()
        return self._job


# Each mode is each site's in one of these: the filtered one's, the one's behind the relay, and the plain one's.
JOBS = {
    "torchrun behind the relay": ["in_process", "attach", "torchrun" if HAS_TORCH else "external_process"],
    "attach behind the relay": ["external_process", "in_process", "attach"],
    "in_process behind the relay": ["attach", "external_process", "in_process"],
}
SIZES = dict(zip(JOBS, [LARGE, SMALL, LARGE]))


@pytest.fixture(scope="module")
def side_by_side(federation):
    """Jobs at once: what there was while all trained, and what became of them, by name."""
    running = {name: RunningJob(federation, name.replace(" ", "_"), modes, SIZES[name]) for name, modes in JOBS.items()}
    for job in running.values():
        job.wait_held()
    seen = SimpleNamespace(trainers=federation.parts("trainer"), inventory=federation.inventory())
    with federation.session() as session:
        seen.jobs = {name: job.finish(session) for name, job in running.items()}
    return seen


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


def assert_credentials_are_private(federation, inventory) -> None:
    """Asserts that what a site keeps of keys, secrets and tokens is for its own user alone, while jobs run."""
    kits = [federation.startup_kit(site) for site in SITES]
    found = [c for c in inventory.credentials if any(kit in c.path.parents for kit in kits)]
    assert len(found) > len(SITES)  # more than the sites' own keys: those of the jobs
    assert [str(credential) for credential in found if not credential.is_private] == []


@pytest.mark.parametrize("name", JOBS)
class TestModes:
    def test_model_is_trained(self, side_by_side, name):
        assert_trained(side_by_side.jobs[name])

    def test_nothing_is_left(self, federation, side_by_side, name):
        assert_nothing_left(federation, side_by_side.jobs[name])

    def test_records_are_at_the_server(self, side_by_side, name):
        logging = [site for site, mode in zip(SITES, JOBS[name]) if mode != "torchrun"]
        server_dir = side_by_side.jobs[name].server_dir
        assert [jobs.scalars(server_dir, site) for site in logging] == [list(range(ROUNDS))] * len(logging)


class TestSites:
    def test_last_site_is_connected_through_the_relay(self, federation):
        remote = [line.split()[-1] for line in federation.inventory().sockets if f" {SITES[-1]} CP ESTABLISHED" in line]
        ports = {int(end.rpartition(":")[2]) for end in remote}
        assert federation.relay_port in ports and federation.port not in ports

    def test_jobs_at_once(self, side_by_side):
        job_ids = {side_by_side.jobs[name].job_id for name, modes in JOBS.items() if "external_process" in modes}
        assert len(job_ids) > 1 and job_ids <= {part.job_id for part in side_by_side.trainers}

    def test_credentials_are_private_while_jobs_run(self, federation, side_by_side):
        assert_credentials_are_private(federation, side_by_side.inventory)

    def test_log_config_of_a_site(self, side_by_side):
        job = side_by_side.jobs["attach behind the relay"]
        assert job.log(LOGGED).count(MARK) > 0 and job.log("site-1").count(MARK) == 0
        assert re.search(f"TrainerSession.*{MARK}.*ready", job.log(LOGGED), re.IGNORECASE)

    def test_class_allow_list(self, federation):
        """A job without code of its own may only name classes that the site allows."""
        wait, run_by_a_job = {"attach_timeout": jobs.REACH_TIMEOUT}, federation.root / "run_by_a_job"
        command = ClientAPIExecutor("external_process", command=f"touch {run_by_a_job}")
        with federation.session() as session:
            self.assert_refused(federation, session, self.submit(federation, "refused", AttachExecutor(**wait)))
            federation.configure(SITES[0], "resources.json", allow)
            key = federation.attach(SITES[0], jobs.TRAINER, str(federation.root))
            allowed = self.submit(federation, "allowed", AttachExecutor(**wait))
            self.assert_refused(federation, session, self.submit(federation, "command", command), "ClientAPIExecutor")
            allowed.finish(session)
        assert allowed.status == "FINISHED:COMPLETED"
        assert federation.wait_exit(key, jobs.REACH_TIMEOUT) == 0
        assert not run_by_a_job.exists()

    @staticmethod
    def assert_refused(federation, session, job: PocJob, name: str = "AttachExecutor") -> None:
        job.finish(session)
        console = "\n".join(federation.console(session, job.job_id).values())
        assert job.status != "FINISHED:COMPLETED"
        assert re.search(rf"{name}'.* is not in allow_list", console), console

    @staticmethod
    def submit(federation, name: str, executor: ClientAPIExecutor) -> PocJob:
        job = FedJob(name=name, min_clients=1)
        job.to_server(NPModelPersistor(model=[0.0]), id="persistor")
        job.to_server(FedAvg(num_clients=1, num_rounds=1, persistor_id="persistor"))
        job.to_server(EAGER)
        job.to(executor, SITES[0])
        job.export_job(str(federation.root / "jobs"))
        for empty in (federation.root / "jobs" / name).glob("*/custom"):
            empty.rmdir()  # it would count as code
        return federation.submit_folder(federation.root / "jobs" / name)
