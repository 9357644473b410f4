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

"""nvflare's Lightning callback, and which validation metrics reach the server's choice of the best model."""

import importlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from functools import partial

import pytest

from nvflare.app_common.executors.client_api.client_api_runner import ClientAPIRunner
from nvflare.app_common.executors.client_api.migrate import main as migrate
from nvflare.fuel.data_event.data_bus import DataBus
from nvflare.fuel.utils.constants import FrameworkType
from nvflare.job_config.script_runner import ScriptRunner
from tests.unit_test.app_common.executors.job_harness import PROJECT

EXAMPLE = PROJECT / "examples" / "lightning"
JOB_TIMEOUT = 150  # seconds

pytestmark = [
    pytest.mark.watchdog(JOB_TIMEOUT + 50),
    pytest.mark.skipif(not importlib.util.find_spec("pytorch_lightning"), reason="needs pytorch_lightning"),
]


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """The current directory has the example's script, and one that never validates."""
    folder = tmp_path / "sources"
    shutil.copytree(EXAMPLE, folder)
    script = (folder / "train.py").read_text()
    (folder / "only_fit.py").write_text(script.replace("trainer.validate(model, loader)  # the global model", ""))
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    sys.modules.pop("lit_net", None)


def run(folder, make_runner, is_migrated: bool = False) -> str:
    """Runs a job of two rounds with nvflare's own choice of the best model; returns the simulator's log."""
    from nvflare.app_opt.pt.job_config.fed_avg import FedAvgJob

    net = importlib.import_module("lit_net").LitNet()
    job = FedAvgJob(net, n_clients=1, num_rounds=2, name="job", key_metric="loss")
    subscribers = DataBus().subscribers
    before = {topic: list(callbacks) for topic, callbacks in subscribers.items()}
    job.to_clients(make_runner(), tasks=["train"])
    job.add_file_to_clients("lit_net.py")
    job.export_job(str(folder))
    subscribers.clear()  # of what nvflare's executor has left there when it was made
    subscribers.update(before)
    if is_migrated:
        assert migrate([str(folder / "job"), "--in-place"]) == 0
        (config,) = (folder / "job").glob("*/config/config_fed_client.json")
        assert "ClientAPIExecutor" in json.loads(config.read_text())["executors"][0]["executor"]["path"]
    command = [sys.executable, "-m", "nvflare.private.fed.app.simulator.simulator", str(folder / "job")]
    path = os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]
    done = subprocess.run(
        [*command, "-w", str(folder / "run"), "-n", "1", "-t", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=JOB_TIMEOUT,
        cwd=folder,
        env={**os.environ, "PATH": path},
    )
    assert done.returncode == 0, done.stdout
    (model,) = (folder / "run" / "server").rglob("FL_global_model.pt")
    assert model.exists()
    return done.stdout


@pytest.mark.parametrize("mode", ["in_process", "external_process"])
def test_metrics_reach_the_choice_of_the_best_model(sources, tmp_path, no_process_left, mode):
    log = run(tmp_path, partial(ClientAPIRunner, "train.py", execution_mode=mode))
    assert "new best validation metric at round 1" in log


@pytest.mark.parametrize(
    "script, launched, has_metrics", [("train.py", False, True), ("only_fit.py", True, False)], ids=["in", "out"]
)
def test_migrated_job_has_the_metrics_that_it_had(sources, tmp_path, no_process_left, script, launched, has_metrics):
    old = partial(ScriptRunner, script, launch_external_process=launched, framework=FrameworkType.PYTORCH)
    log = run(tmp_path, old, is_migrated=True)
    assert ("new best validation metric at round 1" in log) == has_metrics
