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
"""Jobs of nvflare's own executors that the tool has migrated, in the simulator: they come to the same, bit by bit.

What they came to before is in legacy_results.json: see legacy_jobs.py. Each job runs once, then each test looks at it.
"""

import json
import re
import subprocess
import sys
from functools import cached_property
from pathlib import Path

import pytest

from nvflare.fuel.utils.config_factory import ConfigFactory
from tests.integration_test.client_api.legacy_jobs import JOBS, RESULTS, export, initial_model, results, run
from tests.integration_test.client_api.simulation import Simulation, complaints
from tests.unit_test.app_common.executors.markers import HAS_TORCH

pytestmark = pytest.mark.watchdog(400)

TROUBLE = re.compile(r" - (ERROR|CRITICAL) - ")
EXECUTOR = "nvflare.app_common.executors.client_api_executor.ClientAPIExecutor"


class MigratedJob:
    """A job that the tool has made from a legacy one."""

    def __init__(self, root: Path, name: str, target: str = "2.8"):
        self.root = root
        self.name = name
        export(name, root)
        (root / "migrated").mkdir()
        command = [sys.executable, "-m", "nvflare.app_common.executors.client_api.migrate"]
        command += [str(root / "legacy" / "job"), "--out", str(root / "migrated" / "job"), "--target", target]
        self.tool = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    @cached_property
    def run(self) -> Simulation:
        return run(self.name, self.root / "migrated")

    @property
    def results(self) -> dict:
        return results(self.name, self.run)

    def executors(self, folder: str) -> list:
        files = (self.root / folder / "job").glob("*/config/config_fed_client.*")
        configs = [ConfigFactory.load_config(str(file)).to_dict() for file in files]
        return [entry["executor"] for config in configs for entry in config["executors"]]


@pytest.fixture(scope="module", params=JOBS)
def job(request, tmp_path_factory):
    if "torch" in request.param and not HAS_TORCH:
        pytest.skip("needs torch")
    return MigratedJob(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def legacy(job):
    """What became of a job before."""
    return json.loads(RESULTS.read_text())[job.name]


class TestMigratedJob:
    def test_tool_migrates_it(self, job):
        assert job.tool.returncode == 0, job.tool.stdout
        new = [executor for executor in job.executors("migrated") if executor["path"] == EXECUTOR]
        assert [executor["args"]["execution_mode"] for executor in new] == [JOBS[job.name].mode]
        assert EXECUTOR not in [executor["path"] for executor in job.executors("legacy")]

    def test_it_runs(self, job):
        assert job.run.exit_code == 0, job.run.log
        assert [line for line in complaints(job.run.log) if TROUBLE.search(line)] == []

    def test_models_are_the_same_bit_by_bit(self, job, legacy):
        assert job.results["models"] == legacy["models"] != {}

    def test_models_are_trained(self, job):
        """Else two jobs that do nothing would be the same."""
        initial = initial_model(job.name)
        for model in job.results["models"].values():
            for key, bits in model.items():
                assert bits != initial[key]


@pytest.mark.parametrize("job", ["in_process"], indirect=True)
class TestCrossSiteValidation:
    def test_results_are_the_same(self, job, legacy):
        assert job.results["scores"] == legacy["scores"]
        for scores in legacy["scores"].values():
            assert scores.keys() == {"SRV_server", "site-1", "site-2"}


@pytest.mark.parametrize("name", ["in_process", "external_numpy"])
def test_nvflare_2_9_runs_it_by_its_own_executor(name, tmp_path, nvflare_2_9):
    job = MigratedJob(tmp_path, name, "2.9")
    assert job.tool.returncode == 0, job.tool.stdout
    done = run(name, tmp_path / "migrated", PYTHONPATH=str(nvflare_2_9))
    assert done.exit_code == 0, done.log
    assert results(name, done)["models"] == json.loads(RESULTS.read_text())[name]["models"]
