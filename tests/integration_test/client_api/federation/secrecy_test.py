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

"""What a script says stays at a site with NVFLARE_SECURE_LOGGING: nothing of it is in any file of the server's."""

from pathlib import Path
from typing import List

import pytest

from nvflare.app_common.executors.client_api_executor import ClientAPIExecutor
from nvflare.app_common.np.np_model_persistor import NPModelPersistor
from nvflare.app_common.workflows.fedavg import FedAvg
from nvflare.job_config.api import FedJob
from nvflare.security.logging import SECURE_LOGGING_VAR_NAME
from tests.integration_test.client_api.federation.federation import Federation
from tests.integration_test.client_api.federation.jobs import JOB_FOLDER

pytestmark = [pytest.mark.chaos, pytest.mark.watchdog(600)]

SITE = "site-1"
SCRIPT = "talking_trainer.py"
WORDS = b"patient-17"
JOBS = {
    **{f"in_process-{end}": ("in_process", end) for end in ("exception", "exit", "thread", "sent")},
    **{f"external_process-{end}": ("external_process", end) for end in ("exception", "exit", "sent")},
    "attach-exception": ("attach", "exception"),
}


def make_job(name: str, mode: str, end: str) -> FedJob:
    own = {
        "in_process": {"task_script_path": SCRIPT, "task_script_args": end},
        "external_process": {"command": f"python3 -u custom/{SCRIPT} {end}"},
        "attach": {"attach_timeout": 60.0},
    }
    job = FedJob(name=name, min_clients=1)
    job.to_server(NPModelPersistor(model=[0.0]), id="persistor")
    job.to_server(FedAvg(num_clients=1, num_rounds=1, persistor_id="persistor"))
    job.to(ClientAPIExecutor(mode, **own[mode]), SITE)
    for file in (SCRIPT, "chatter.py"):
        job.add_file_to(str(JOB_FOLDER / file), SITE)
    return job


@pytest.fixture(scope="module")
def secretive(tmp_path_factory):
    """A federation in which all jobs have run, and what the console tells of each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SECURE_LOGGING_VAR_NAME, "true")
        with Federation(tmp_path_factory.mktemp("secretive"), sites=1) as federation:
            federation.consoles = {name: run(federation, name) for name in JOBS}
            yield federation


def run(federation: Federation, name: str) -> dict:
    mode, end = JOBS[name]
    job = federation.submit(make_job(name, mode, end))
    if mode == "attach":
        federation.attach(SITE, JOB_FOLDER / SCRIPT, end)
    with federation.session() as session:
        job.finish(session)
        return {**federation.console(session, job.job_id), "site's log": job.log(SITE)}


def files_with(folder: Path, words: bytes) -> List[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and words in path.read_bytes()]


class TestSecrecy:
    def test_nothing_that_a_script_says_is_at_the_server(self, secretive):
        outputs = {secretive.root / f"{process}.log" for process in (SITE, f"{SITE}-attached")}
        of_site = {secretive.startup_kit(SITE), *outputs}
        assert [path for path in files_with(secretive.root, WORDS) if of_site.isdisjoint({path, *path.parents})] == []

    @pytest.mark.parametrize("name", JOBS)
    def test_nothing_that_a_script_says_is_at_the_console(self, secretive, name):
        console = {key: text for key, text in secretive.consoles[name].items() if key != "site's log"}
        assert [key for key, text in console.items() if WORDS.decode() in text] == []

    @pytest.mark.parametrize("name", [name for name in JOBS if not name.startswith("attach")])
    def test_what_it_says_is_in_the_log_of_its_site(self, secretive, name):
        assert WORDS.decode() in secretive.consoles[name]["site's log"]

    @pytest.mark.parametrize("name", JOBS)
    def test_how_it_ended_is_at_the_console(self, secretive, name):
        assert secretive.consoles[name]["status"] == "FINISHED:EXECUTION_EXCEPTION"
        assert "failed" in secretive.consoles[name][f"ERRORLOG_{SITE}"]
