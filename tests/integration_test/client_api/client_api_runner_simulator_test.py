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

"""ClientAPIRunner in jobs and recipes that nvflare's simulator runs."""

import shlex
import sys

import numpy as np
import pytest

from nvflare.app_common.executors.client_api.client_api_runner import ClientAPIRunner
from nvflare.app_common.np.np_model_persistor import NPModelPersistor
from nvflare.app_common.np.recipes.fedavg import NumpyFedAvgRecipe
from nvflare.app_common.workflows.fedavg import FedAvg
from nvflare.fuel.utils.constants import FrameworkType
from nvflare.job_config.base_fed_job import BaseFedJob
from tests.integration_test.client_api.simulator_parts import hurry
from tests.unit_test.app_common.executors.client_api.client_api_runner_test import write_scripts


@pytest.mark.watchdog(400)
def test_simulator_run(tmp_path, monkeypatch, no_process_left):
    """Two sites in two modes, in a job with nvflare's own selection of the best model and conversion of log records."""
    monkeypatch.chdir(write_scripts(tmp_path / "sources"))
    job = BaseFedJob(name="job", min_clients=2)
    job.to_server(NPModelPersistor(model=[0.0, 0.0]), id="persistor")
    job.to_server(FedAvg(num_clients=2, num_rounds=2, persistor_id="persistor"))
    hurry(job)
    formats = {"framework": FrameworkType.NUMPY, "params_transfer_type": "DIFF"}
    job.to(ClientAPIRunner("train.py", "1", **formats), "site-1", tasks=["train"])
    command = f"{shlex.quote(sys.executable)} -u"
    job.to(ClientAPIRunner("train.py", "3", "external_process", command, **formats), "site-2", tasks=["train"])
    job.simulator_run(str(tmp_path / "run"))
    (model,) = (tmp_path / "run" / "server").rglob("server.npy")
    assert np.load(model).tolist() == [4.0, 4.0]  # twice the mean of 1 and 3


@pytest.mark.watchdog(400)
def test_recipe_run(tmp_path, monkeypatch, no_process_left):
    """A recipe of nvflare's own with its runner replaced."""
    monkeypatch.chdir(write_scripts(tmp_path / "sources"))
    recipe = NumpyFedAvgRecipe(
        name="job",
        model=[0.0, 0.0],
        min_clients=2,
        num_rounds=2,
        train_script="train.py",
        train_args="2",
        launch_external_process=True,
    )
    command = f"{shlex.quote(sys.executable)} -u"
    ClientAPIRunner("train.py", "2", "external_process", command, framework=FrameworkType.NUMPY).replace_in(recipe)
    recipe.job.simulator_run(str(tmp_path / "run"), n_clients=2)
    (model,) = (tmp_path / "run" / "server").rglob("server.npy")
    assert np.load(model).tolist() == [4.0, 4.0]
