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

"""nvflare's Lightning callback, and which validation metrics reach the server's choice of the best model.

Two jobs of two sites each: one with each site in another mode, one that was migrated.
"""

import importlib
import importlib.util
import json
import re
import shutil
import sys
from functools import partial

import pytest

from nvflare.app_common.executors.client_api.client_api_runner import ClientAPIRunner
from nvflare.app_common.executors.client_api.migrate import main as migrate
from nvflare.fuel.utils.constants import FrameworkType
from nvflare.job_config.script_runner import ScriptRunner
from tests.integration_test.client_api.legacy_jobs import subscriptions_taken_back
from tests.integration_test.client_api.simulation import JOB_TIMEOUT, Simulation
from tests.unit_test.app_common.executors.job_harness import PROJECT

EXAMPLE = PROJECT / "examples" / "lightning"
SITES = ("site-1", "site-2")
MODES = ("in_process", "external_process")

pytestmark = [
    pytest.mark.watchdog(JOB_TIMEOUT + 50),
    pytest.mark.skipif(not importlib.util.find_spec("pytorch_lightning"), reason="needs pytorch_lightning"),
]


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """The current directory has the example's script, and one that never validates."""
    folder = tmp_path_factory.mktemp("lightning") / "sources"
    shutil.copytree(EXAMPLE, folder)
    script = (folder / "train.py").read_text()
    (folder / "only_fit.py").write_text(script.replace("trainer.validate(model, loader)  # the global model", ""))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        yield folder
    sys.modules.pop("lit_net", None)


def export(folder, *make_runners) -> None:
    """Writes a job of two rounds with nvflare's own choice of the best model to FOLDER/job; a runner for each site."""
    from nvflare.app_opt.pt.job_config.fed_avg import FedAvgJob

    net = importlib.import_module("lit_net").LitNet()
    job = FedAvgJob(net, n_clients=len(SITES), num_rounds=2, name="job", key_metric="loss")
    with subscriptions_taken_back():
        for site, make_runner in zip(SITES, make_runners):
            job.to(make_runner(), site, tasks=["train"])
            job.add_file_to("lit_net.py", site)
        job.export_job(str(folder))


def run(folder) -> Simulation:
    simulation = Simulation(folder, folder / "job", len(SITES)).finish()
    assert simulation.exit_code == 0, simulation.log
    (model,) = simulation.server_dir.rglob("FL_global_model.pt")
    assert model.exists() and simulation.left_processes == []
    assert "new best validation metric at round 1" in simulation.log
    return simulation


@pytest.fixture(scope="module")
def two_modes(sources, tmp_path_factory):
    folder = tmp_path_factory.mktemp("two_modes")
    export(folder, *(partial(ClientAPIRunner, "train.py", execution_mode=mode) for mode in MODES))
    return run(folder)


@pytest.fixture(scope="module")
def migrated(sources, tmp_path_factory):
    folder = tmp_path_factory.mktemp("migrated")
    torch = {"framework": FrameworkType.PYTORCH}
    in_process = partial(ScriptRunner, "train.py", **torch)
    export(folder, in_process, partial(ScriptRunner, "only_fit.py", launch_external_process=True, **torch))
    assert migrate([str(folder / "job"), "--in-place"]) == 0
    for config in (folder / "job").glob("*/config/config_fed_client.json"):
        assert "ClientAPIExecutor" in json.loads(config.read_text())["executors"][0]["executor"]["path"]
    return run(folder)


@pytest.mark.parametrize("site", SITES, ids=MODES)
def test_metrics_reach_the_choice_of_the_best_model(two_modes, site):
    assert re.search(f"validation metric .* from client {site}", two_modes.log)


@pytest.mark.parametrize("site, has_metrics", list(zip(SITES, (True, False))), ids=["in", "out"])
def test_migrated_job_has_the_metrics_that_it_had(migrated, site, has_metrics):
    assert bool(re.search(f"validation metric .* from client {site}", migrated.log)) == has_metrics
