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
"""Whole jobs in nvflare's simulator, as nvflare's own tools write them and as the migration tool makes of them.

Both give the same models, bit by bit: seeds are fixed, and where more than two sites are added up the numbers are such
that floating point adds them up without rounding. All jobs run first, a few at a time; then each test looks at one.
"""

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Callable, NamedTuple

import numpy as np
import pytest

from nvflare.app_common.aggregators.intime_accumulate_model_aggregator import InTimeAccumulateWeightedAggregator
from nvflare.app_common.ccwf.ccwf_job import CCWFJob, SwarmClientConfig, SwarmServerConfig
from nvflare.app_common.ccwf.comps.simple_model_shareable_generator import SimpleModelShareableGenerator
from nvflare.app_common.executors.in_process_client_api_executor import InProcessClientAPIExecutor
from nvflare.app_common.np.np_formatter import NPFormatter
from nvflare.app_common.np.np_model_locator import NPModelLocator
from nvflare.app_common.np.np_model_persistor import NPModelPersistor
from nvflare.app_common.np.recipes.fedavg import NumpyFedAvgRecipe
from nvflare.app_common.shareablegenerators.full_model_shareable_generator import FullModelShareableGenerator
from nvflare.app_common.widgets.validation_json_generator import ValidationJsonGenerator
from nvflare.app_common.workflows.cross_site_model_eval import CrossSiteModelEval
from nvflare.app_common.workflows.cyclic_ctl import CyclicController
from nvflare.app_common.workflows.fedavg import FedAvg
from nvflare.client.config import TransferType
from nvflare.fuel.utils.config_factory import ConfigFactory
from nvflare.job_config.api import FedJob
from nvflare.job_config.script_runner import FrameworkType, ScriptRunner
from tests.integration_test.client_api.simulator_parts import EAGER

pytestmark = pytest.mark.watchdog(400)

# Seconds after which a job is taken to hang.
JOB_TIMEOUT = 200
# Simulators at a time: they mostly wait for one another's sites.
JOBS_AT_A_TIME = 4
ROUNDS = 2
INITIAL = [0.0, 1.0, 2.0, 3.0]
HAS_TORCH = importlib.util.find_spec("torch") is not None

TROUBLE = re.compile(r" - (ERROR|CRITICAL) - ")
EXECUTOR = "nvflare.app_common.executors.client_api_executor.ClientAPIExecutor"

# Adds multiples of 1/64 that site and round choose; the sites' weights are 1, 1, 2, so that means are exact.
TRAIN = """
    import sys
    from pathlib import Path
    import numpy as np
    import nvflare.client as flare

    key = sys.argv[1] if len(sys.argv) > 1 else "numpy_key"
    flare.init()
    number = int(flare.get_site_name()[-1])
    own_model = Path(f"own_model_{number}.npy").resolve()
    while flare.is_running():
        model = flare.receive()
        if flare.is_train():
            before = np.asarray(model.params[key])
            steps = np.random.default_rng(10 * number + model.current_round).integers(-64, 64, before.shape)
            after = before + steps.astype(before.dtype) / 64
            np.save(own_model, after)
            weights = {"NUM_STEPS_CURRENT_ROUND": max(1, number - 1)}
            flare.send(flare.FLModel(params={key: after}, metrics={"accuracy": float(before.sum())}, meta=weights))
        elif flare.is_evaluate():
            flare.send(flare.FLModel(metrics={"accuracy": float(model.params[key].sum())}))
        elif flare.is_submit_model():
            flare.send(flare.FLModel(params={key: np.load(own_model)}))
"""

# The script's model has another name and twice the size.
CONVERTERS = """
    from nvflare.app_common.abstract.params_converter import ParamsConverter

    class FromServer(ParamsConverter):
        def convert(self, params, fl_ctx):
            return {"doubled": params["numpy_key"] * 2}

    class ToServer(ParamsConverter):
        def convert(self, params, fl_ctx):
            return {"numpy_key": params["doubled"] / 2}
"""

NET = """
    import torch

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.layers = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1))

        def forward(self, x):
            return self.layers(x)
"""

TRAIN_TORCH = """
    import torch
    import nvflare.client as flare
    from net import Net

    torch.set_num_threads(1)
    flare.init()
    number = int(flare.get_site_name()[-1])
    net = Net()
    generator = torch.Generator().manual_seed(number)
    x = torch.randn(16, 4, generator=generator)
    y = x.sum(dim=1, keepdim=True)
    while flare.is_running():
        net.load_state_dict(flare.receive().params)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            loss = torch.nn.functional.mse_loss(net(x), y)
            loss.backward()
            optimizer.step()
        flare.send(flare.FLModel(params=net.state_dict(), metrics={"accuracy": -loss.item()}))
"""


def _script(root: Path, name: str, text: str) -> str:
    path = root / name
    path.write_text(textwrap.dedent(text))
    return str(path)


def _add_numpy_fedavg(job: FedJob, sites: int) -> None:
    job.to_server(NPModelPersistor(model=INITIAL), id="persistor")
    job.to_server(FedAvg(num_clients=sites, num_rounds=ROUNDS, persistor_id="persistor"))
    job.to_server(EAGER)


def in_process_with_cross_site_validation(root: Path) -> None:
    job = FedJob(name="job", min_clients=2)
    _add_numpy_fedavg(job, 2)
    job.to_server(NPModelLocator(), id="locator")
    job.to_server(NPFormatter(), id="formatter")
    job.to_server(ValidationJsonGenerator(), id="json")
    job.to_server(CrossSiteModelEval(model_locator_id="locator", formatter_id="formatter"))
    job.to_clients(ScriptRunner(script=_script(root, "train.py", TRAIN), framework=FrameworkType.NUMPY))
    job.export_job(str(root / "legacy"))


def external_numpy_recipe(root: Path) -> None:
    recipe = NumpyFedAvgRecipe(
        name="job",
        model=INITIAL,
        min_clients=2,
        num_rounds=ROUNDS,
        train_script=_script(root, "train.py", TRAIN),
        train_args="numpy_key",
        launch_external_process=True,
    )
    recipe.export(str(root / "legacy"))


def external_torch_recipe(root: Path) -> None:
    from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe

    recipe = FedAvgRecipe(
        name="job",
        model={"class_path": "net.Net", "args": {}},
        min_clients=2,
        num_rounds=ROUNDS,
        train_script=_script(root, "train.py", TRAIN_TORCH),
        launch_external_process=True,
        params_transfer_type=TransferType.DIFF,
    )
    net = _script(root, "net.py", NET)
    recipe.add_client_file(net)
    recipe.add_server_file(net)
    recipe.export(str(root / "legacy"))


def custom_converters(root: Path) -> None:
    job = FedJob(name="job", min_clients=2)
    _add_numpy_fedavg(job, 2)
    executor = InProcessClientAPIExecutor(
        task_script_path="train.py",
        task_script_args="doubled",
        from_nvflare_converter_id="from_server",
        to_nvflare_converter_id="to_server",
    )
    job.to_clients(executor, tasks=["train"])
    job.add_file_to_clients(_script(root, "train.py", TRAIN))
    job.add_file_to_clients(_script(root, "converters.py", CONVERTERS))
    job.export_job(str(root / "legacy"))
    path = _client_config(root)
    config = json.loads(path.read_text())
    config["components"] += [
        {"id": "from_server", "path": "converters.FromServer", "args": {"supported_tasks": ["train"]}},
        {"id": "to_server", "path": "converters.ToServer", "args": {"supported_tasks": ["train"]}},
    ]
    path.write_text(json.dumps(config, indent=2))


def cyclic(root: Path) -> None:
    job = FedJob(name="job", min_clients=2)
    job.to_server(NPModelPersistor(model=INITIAL), id="persistor")
    job.to_server(FullModelShareableGenerator(), id="shareable_generator")
    job.to_server(CyclicController(num_rounds=ROUNDS))
    job.to_server(EAGER)
    job.to_clients(ScriptRunner(script=_script(root, "train.py", TRAIN), framework=FrameworkType.NUMPY))
    job.export_job(str(root / "legacy"))
    _rewrite_as_conf(_client_config(root))


def _client_config(root: Path) -> Path:
    (path,) = (root / "legacy").glob("job/*/config/config_fed_client.json")
    return path


def _rewrite_as_conf(path: Path) -> None:
    """Has the config be as a person would write it: with a variable and a comment."""
    variable = '{\n  # the script\n  app_script = "train.py"'
    text = path.read_text().replace('"train.py"', '"{app_script}"').replace("{", variable, 1)
    path.with_suffix(".conf").write_text(text)
    path.unlink()


def swarm(root: Path) -> None:
    job = CCWFJob(name="job", min_clients=3)
    job.add_swarm(
        SwarmServerConfig(num_rounds=ROUNDS),
        SwarmClientConfig(
            executor=ScriptRunner(script=_script(root, "train.py", TRAIN), framework=FrameworkType.NUMPY),
            persistor=NPModelPersistor(model=INITIAL),
            shareable_generator=SimpleModelShareableGenerator(),
            aggregator=InTimeAccumulateWeightedAggregator(expected_data_kind="WEIGHTS"),
            min_responses_required=3,
        ),
    )
    job.export_job(str(root / "legacy"))


class JobKind(NamedTuple):
    export: Callable[[Path], None]  # writes the legacy job to ROOT/legacy/job
    sites: int
    model: str  # where the final models are in the run's workspace
    mode: str


SERVER_MODEL = "server/simulate_job/models/server.npy"
SERVER_MODEL_TORCH = "server/simulate_job/app_server/FL_global_model.pt"
JOBS = {
    "in_process": JobKind(in_process_with_cross_site_validation, 2, SERVER_MODEL, "in_process"),
    "external_numpy": JobKind(external_numpy_recipe, 2, SERVER_MODEL, "external_process"),
    "external_torch": JobKind(external_torch_recipe, 2, SERVER_MODEL_TORCH, "external_process"),
    "custom_converters": JobKind(custom_converters, 2, SERVER_MODEL, "in_process"),
    "cyclic": JobKind(cyclic, 2, SERVER_MODEL, "in_process"),
    "swarm": JobKind(swarm, 3, "site-*/simulate_job/models/server.npy", "in_process"),
}


class Run:
    """A job that has run in the simulator."""

    def __init__(self, folder: Path, sites: int, **environment: str):
        self.folder = folder
        command = [sys.executable, "-m", "nvflare.private.fed.app.simulator.simulator", str(folder / "job")]
        command += ["-w", str(folder / "run"), "-n", str(sites), "-t", str(sites)]
        with subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            cwd=folder,
            env={**os.environ, **environment},
        ) as process:
            try:
                self.log = process.communicate(timeout=JOB_TIMEOUT)[0]
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                self.log = "the job hangs:\n" + process.communicate()[0]
        self.exit_code = process.returncode

    def models(self, pattern: str) -> dict:
        return {str(path.relative_to(self.folder)): load_model(path) for path in (self.folder / "run").glob(pattern)}


class Pair:
    """A job and what the tool made of it, and the runs of both."""

    def __init__(self, root: Path, kind: JobKind):
        self.root = root
        self.kind = kind
        kind.export(root)
        self.tool = self.migrate("migrated", "2.8")
        self.runs = {}

    def migrate(self, name: str, target: str) -> subprocess.CompletedProcess:
        (self.root / name).mkdir()
        command = [sys.executable, "-m", "nvflare.app_common.executors.client_api.migrate"]
        command += [str(self.root / "legacy" / "job"), "--out", str(self.root / name / "job"), "--target", target]
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def run(self, name: str) -> None:
        if self.tool.returncode == 0:
            self.runs[name] = Run(self.root / name, self.kind.sites)

    def executors(self, name: str) -> list:
        files = (self.root / name / "job").glob("*/config/config_fed_client.*")
        configs = [ConfigFactory.load_config(str(file)).to_dict() for file in files]
        return [entry["executor"] for config in configs for entry in config["executors"]]


def load_model(path: Path) -> dict:
    if path.suffix == ".npy":
        return {"numpy_key": np.load(path)}
    import torch

    saved = torch.load(path, weights_only=False)
    return {name: tensor.numpy() for name, tensor in saved["model"].items()}


def initial_value(name: str) -> np.ndarray:
    if name == "numpy_key":
        return np.array(INITIAL)
    content = {}
    exec(textwrap.dedent(NET), content)
    return content["Net"]().state_dict()[name].numpy()


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """All jobs, run in both forms."""
    kinds = {name: kind for name, kind in JOBS.items() if HAS_TORCH or "torch" not in name}
    made = {name: Pair(tmp_path_factory.mktemp(name), kind) for name, kind in kinds.items()}
    with ThreadPoolExecutor(JOBS_AT_A_TIME) as pool:
        list(
            pool.map(
                lambda job: job[0].run(job[1]), [(p, form) for form in ("legacy", "migrated") for p in made.values()]
            )
        )
    return made


@pytest.fixture(params=JOBS)
def pair(request, pairs):
    if request.param not in pairs:
        pytest.skip("needs torch")
    return pairs[request.param]


def check_same_models(pair: Pair, run: Run) -> None:
    """Those of the legacy job, bit by bit."""
    legacy, migrated = (of.models(pair.kind.model) for of in (pair.runs["legacy"], run))
    assert legacy.keys() == migrated.keys() and legacy
    for file, model in legacy.items():
        assert model.keys() == migrated[file].keys()
        for name, array in model.items():
            assert array.dtype == migrated[file][name].dtype and array.shape == migrated[file][name].shape
            assert array.tobytes() == migrated[file][name].tobytes(), f"{file}: {name}"


class TestMigratedJob:
    def test_tool_migrates_it(self, pair):
        assert pair.tool.returncode == 0, pair.tool.stdout
        new = [executor for executor in pair.executors("migrated") if executor["path"] == EXECUTOR]
        assert [executor["args"]["execution_mode"] for executor in new] == [pair.kind.mode]
        assert EXECUTOR not in [executor["path"] for executor in pair.executors("legacy")]

    def test_both_run(self, pair):
        for run in pair.runs.values():
            assert run.exit_code == 0, run.log
        assert [line for line in pair.runs["migrated"].log.splitlines() if TROUBLE.search(line)] == []

    def test_models_are_the_same_bit_by_bit(self, pair):
        check_same_models(pair, pair.runs["migrated"])

    def test_models_are_trained(self, pair):
        """Else two jobs that do nothing would be the same."""
        for model in pair.runs["migrated"].models(pair.kind.model).values():
            for name, array in model.items():
                assert array.tobytes() != initial_value(name).astype(array.dtype).tobytes()


class TestCrossSiteValidation:
    def test_results_are_the_same(self, pairs):
        found = [
            json.loads((run.folder / "run/server/simulate_job/cross_site_val/cross_val_results.json").read_text())
            for run in pairs["in_process"].runs.values()
        ]
        assert found[0] == found[1]
        for results in found[0].values():
            assert results.keys() == {"SRV_server", "site-1", "site-2"}


@pytest.mark.parametrize("name", ["in_process", "external_numpy"])
def test_nvflare_2_9_runs_it_by_its_own_executor(name, pairs, nvflare_2_9):
    pair = pairs[name]
    tool = pair.migrate("for_2_9", "2.9")
    assert tool.returncode == 0, tool.stdout
    run = Run(pair.root / "for_2_9", pair.kind.sites, PYTHONPATH=str(nvflare_2_9))
    assert run.exit_code == 0, run.log
    check_same_models(pair, run)
