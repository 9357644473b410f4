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

"""What is left where a job's process and its process guard are killed together, until the site's next job starts."""

import pytest

from tests.integration_test.client_api.federation import jobs
from tests.integration_test.client_api.federation.jobs import Stage
from tests.integration_test.client_api.poc_federation import BOOTSTRAP_FILE
from tests.integration_test.client_api.simulation import complaints

pytestmark = [pytest.mark.chaos, pytest.mark.watchdog(600)]

SITE = "site-1"
# A rank in a session of its own, which the kernel does not end with the command.
COMMAND = f'sh -c "setsid sleep 3600 & exec python3 -u custom/{jobs.TRAINER.name} $0" {{folder}}'


@pytest.fixture(scope="module")
def successor(federation):
    """The job after the killed one, and what that had left."""
    stage = Stage(federation.root / "killed-together")
    command = COMMAND.format(folder=stage.folder)
    executor = jobs.executor("external_process", stage.folder, command=command)
    gate = stage.hold(SITE, "training", 0)
    job = federation.submit(jobs.make_job("killed-together", {SITE: executor}, rounds=1))
    stage.wait_for(SITE, "training", 0)
    federation.stop("guard", SITE, job.job_id)  # it must not hear of the other's death
    federation.kill("CJ", SITE, job.job_id)
    federation.kill("guard", SITE, job.job_id)
    left = set(job.processes()), list(job.site_dir(SITE).rglob(BOOTSTRAP_FILE))
    stage.release(gate)
    stage.close()
    stage = Stage(federation.root / "successor")
    executor = jobs.executor("external_process", stage.folder)
    successor = federation.submit(jobs.make_job("successor", {SITE: executor}, rounds=1))
    with federation.session() as session:
        job.finish(session)
        successor.finish(session)
    stage.close()
    successor.killed, successor.left = job, left
    return successor


class TestKilledTogether:
    def test_something_was_left(self, successor):
        processes, files = successor.left
        assert processes and files

    def test_the_next_job_removes_it_and_says_so(self, successor):
        assert successor.killed.left_processes == [] and successor.killed.left_bootstraps == []
        assert f"{BOOTSTRAP_FILE}, which a job that is gone has left" in successor.log(SITE)

    def test_the_next_job_is_not_troubled(self, successor):
        assert successor.status == "FINISHED:COMPLETED" and complaints(successor.log(SITE)) == []
