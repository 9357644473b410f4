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
"""Jobs of nvflare's own executors, and what becomes of them without this project.

Their results are kept in legacy_results.json, and `python -m tests.integration_test.client_api.legacy_jobs` makes that
again by running them all (a minute). Each comes to the same wherever it runs: seeds are fixed, and all numbers are
such that floating point need not round them.
"""

import json
import sys
import tempfile
import textwrap
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Callable, NamedTuple

import numpy as np

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
from nvflare.fuel.data_event.data_bus import DataBus
from nvflare.job_config.api import FedJob
from nvflare.job_config.script_runner import FrameworkType, ScriptRunner
from tests.integration_test.client_api.simulation import Simulation
from tests.integration_test.client_api.simulator_parts import hurry

RESULTS = Path(__file__).with_name("legacy_results.json")
JOBS_AT_A_TIME = 3  # they mostly wait
ROUNDS = 2
INITIAL = [0.0, 1.0, 2.0, 3.0]

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

# Of few bits, like the data: no sum in two rounds of training is rounded, so that no processor has another result.
NET = """
    import torch

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.layers = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))
            with torch.no_grad():
                for parameter in self.parameters():
                    parameter.copy_((parameter * 64).round() / 64)

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
    x = torch.arange(-number, 64 - number).reshape(16, 4).remainder(7) - 3.0
    while flare.is_running():
        net.load_state_dict(flare.receive().params)
        optimizer = torch.optim.SGD(net.parameters(), lr=1 / 16)
        optimizer.zero_grad()
        loss = net(x).sum()
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
    hurry(job)


def _in_process_with_cross_site_validation(root: Path) -> None:
    job = FedJob(name="job", min_clients=2)
    _add_numpy_fedavg(job, 2)
    job.to_server(NPModelLocator(), id="locator")
    job.to_server(NPFormatter(), id="formatter")
    job.to_server(ValidationJsonGenerator(), id="json")
    job.to_server(CrossSiteModelEval(model_locator_id="locator", formatter_id="formatter"))
    job.to_clients(ScriptRunner(script=_script(root, "train.py", TRAIN), framework=FrameworkType.NUMPY))
    job.export_job(str(root / "legacy"))


def _external_numpy_recipe(root: Path) -> None:
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


def _external_torch_recipe(root: Path) -> None:
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


def _custom_converters(root: Path) -> None:
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


def _cyclic(root: Path) -> None:
    job = FedJob(name="job", min_clients=2)
    job.to_server(NPModelPersistor(model=INITIAL), id="persistor")
    job.to_server(FullModelShareableGenerator(), id="shareable_generator")
    job.to_server(CyclicController(num_rounds=ROUNDS))
    hurry(job)
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


def _swarm(root: Path) -> None:
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
    "in_process": JobKind(_in_process_with_cross_site_validation, 2, SERVER_MODEL, "in_process"),
    "external_numpy": JobKind(_external_numpy_recipe, 2, SERVER_MODEL, "external_process"),
    "external_torch": JobKind(_external_torch_recipe, 2, SERVER_MODEL_TORCH, "external_process"),
    "custom_converters": JobKind(_custom_converters, 2, SERVER_MODEL, "in_process"),
    "cyclic": JobKind(_cyclic, 2, SERVER_MODEL, "in_process"),
    "swarm": JobKind(_swarm, 3, "site-*/simulate_job/models/server.npy", "in_process"),
}


@contextmanager
def subscriptions_taken_back():
    """For nvflare's executors: they subscribe to the DataBus of the process when they are made, for good."""
    subscribers = DataBus().subscribers
    before = {topic: list(callbacks) for topic, callbacks in subscribers.items()}
    yield
    subscribers.clear()
    subscribers.update(before)


def export(name: str, root: Path) -> None:
    """Writes a legacy job to ROOT/legacy/job."""
    with subscriptions_taken_back():
        JOBS[name].export(root)


def run(name: str, folder: Path, **environment) -> Simulation:
    """Runs a job, legacy or not, that is in FOLDER/job."""
    return Simulation(folder, folder / "job", JOBS[name].sites, **environment).finish()


def results(name: str, simulation: Simulation) -> dict:
    """What a job has come to, to the last bit: its models, and of cross-site validation the scores."""
    files = sorted(simulation.run_dir.glob(JOBS[name].model))
    found = {"models": {str(file.relative_to(simulation.run_dir)): _load_model(file) for file in files}}
    if (simulation.server_dir / "cross_site_val").exists():
        found["scores"] = simulation.cross_site_results()
    return found


def initial_model(name: str) -> dict:
    """What the models of a job are before they are trained."""
    if name != "external_torch":
        return _as_bits({"numpy_key": np.array(INITIAL)})
    content = {}
    exec(textwrap.dedent(NET), content)
    return _as_bits({key: tensor.numpy() for key, tensor in content["Net"]().state_dict().items()})


def _load_model(path: Path) -> dict:
    if path.suffix == ".npy":
        return _as_bits({"numpy_key": np.load(path)})
    import torch

    return _as_bits({key: tensor.numpy() for key, tensor in torch.load(path, weights_only=False)["model"].items()})


def _as_bits(arrays: dict) -> dict:
    return {key: [str(array.dtype), list(array.shape), array.tobytes().hex()] for key, array in arrays.items()}


def main():
    with tempfile.TemporaryDirectory() as root:
        folders = {name: Path(root) / name for name in JOBS}
        for name, folder in folders.items():
            folder.mkdir()
            export(name, folder)
        with ThreadPoolExecutor(JOBS_AT_A_TIME) as pool:
            ran = list(pool.map(lambda name: run(name, folders[name] / "legacy"), JOBS))
        for name, simulation in zip(JOBS, ran):
            if simulation.exit_code:
                sys.exit(f"{name} failed:\n{simulation.log}")
        found = {name: results(name, simulation) for name, simulation in zip(JOBS, ran)}
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
