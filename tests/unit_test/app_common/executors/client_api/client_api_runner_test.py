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

"""ClientAPIRunner in jobs that nvflare's Job API builds, exports and runs."""

import importlib
import inspect
import json
import re
import shlex
import sys
import textwrap
from pathlib import Path

import pytest

from nvflare.app_common.aggregators.intime_accumulate_model_aggregator import InTimeAccumulateWeightedAggregator
from nvflare.app_common.ccwf.ccwf_job import CCWFJob, SwarmClientConfig, SwarmServerConfig
from nvflare.app_common.ccwf.comps.simple_model_shareable_generator import SimpleModelShareableGenerator
from nvflare.app_common.executors.client_api.client_api_runner import ClientAPIRunner
from nvflare.app_common.executors.client_api_executor import ClientAPIExecutor
from nvflare.app_common.np.np_model_persistor import NPModelPersistor
from nvflare.app_common.np.recipes.fedavg import NumpyFedAvgRecipe
from nvflare.client.config import ExchangeFormat, TransferType
from nvflare.fuel.utils.constants import FrameworkType
from nvflare.job_config.api import FedJob
from nvflare.job_config.base_fed_job import BaseFedJob
from nvflare.job_config.script_runner import BaseScriptRunner, ScriptRunner

TRAIN = """
    import sys
    import nvflare.client as flare
    from nvflare.client.tracking import SummaryWriter
    from step import STEP

    flare.init()
    while flare.is_running():
        model = flare.receive()
        if flare.is_train():
            after = model.params["numpy_key"] + STEP * int(sys.argv[1])
            SummaryWriter().add_scalar("sum", float(after.sum()), model.current_round)
            flare.send(flare.FLModel(params={"numpy_key": after}, metrics={"accuracy": 1.0}))
        else:
            flare.send(flare.FLModel(metrics={"sum": float(model.params["numpy_key"].sum())}))
"""
NUMPY = FrameworkType.NUMPY


def write_scripts(folder: Path) -> Path:
    """Writes a script, and a module that it imports."""
    folder.mkdir()
    (folder / "train.py").write_text(textwrap.dedent(TRAIN))
    (folder / "step.py").write_text("STEP = 1\n")
    return folder


@pytest.fixture
def scripts(tmp_path, monkeypatch):
    """The current directory has a script, and a module that it imports."""
    folder = write_scripts(tmp_path / "sources")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def exported(tmp_path, scripts):
    """Exports a job with runners for site-1; returns the client config and the names in the custom folder."""

    def export(*runners):
        job = BaseFedJob(name="job")
        for index, runner in enumerate(runners):
            job.to(runner, "site-1", tasks=[f"task-{index}"])
        job.export_job(str(tmp_path))
        app = tmp_path / "job" / "app_site-1"
        names = {str(path.relative_to(app / "custom")) for path in (app / "custom").rglob("*.py")}
        return json.loads((app / "config" / "config_fed_client.json").read_text()), names

    return export


def executors(config: dict) -> list:
    return [(entry["tasks"], entry["executor"]["args"]) for entry in config["executors"]]


class TestExport:
    def test_in_process(self, exported):
        config, names = exported(ClientAPIRunner("train.py", "--name 'a b'", framework=NUMPY, memory_gc_rounds=3))
        arguments = {"execution_mode": "in_process", "task_script_path": "train.py", "memory_gc_rounds": 3}
        assert executors(config) == [(["task-0"], {**arguments, "task_script_args": "--name 'a b'"})]
        assert names == {"train.py", "step.py"}

    def test_script_as_a_path(self, exported):
        paths = [executors(exported(ClientAPIRunner(script))[0])[0][1] for script in ("train.py", Path("train.py"))]
        assert paths[0] == paths[1]

    def test_external_process(self, exported):
        runner = ClientAPIRunner(
            script="train.py",
            execution_mode="external_process",
            command="torchrun --nproc_per_node=2",
            framework=NUMPY,
            launch_once=False,
        )
        config, names = exported(runner)
        arguments = {"execution_mode": "external_process", "command": "torchrun --nproc_per_node=2 custom/train.py"}
        assert executors(config) == [(["task-0"], {**arguments, "launch_once": False})]
        assert names == {"train.py", "step.py"}

    @pytest.mark.parametrize("command", [None, "", " \t"])
    @pytest.mark.parametrize(
        "mode, expected",
        [
            ("external_process", {"command": "python3 -u custom/train.py"}),
            ("in_process", {"task_script_path": "train.py"}),
        ],
    )
    def test_blank_command_is_unset(self, exported, command, mode, expected):
        config, _ = exported(ClientAPIRunner("train.py", execution_mode=mode, command=command, framework=NUMPY))
        assert executors(config)[0][1] == {"execution_mode": mode, **expected}

    def test_attach(self, exported):
        config, names = exported(ClientAPIRunner(execution_mode="attach", framework=NUMPY, attach_timeout=60.0))
        assert executors(config) == [(["task-0"], {"execution_mode": "attach", "attach_timeout": 60.0})]
        assert names == set()

    def test_the_command_is_that_of_nvflares_script_runner(self, exported):
        legacy, _ = exported(ScriptRunner("train.py", "--epochs 3", launch_external_process=True, framework=NUMPY))
        ours, _ = exported(ClientAPIRunner("train.py", "--epochs 3", "external_process", framework=NUMPY))
        (launcher,) = [component for component in legacy["components"] if component["id"] == "launcher"]
        assert shlex.split(executors(ours)[0][1]["command"]) == shlex.split(launcher["args"]["script"])

    @pytest.mark.parametrize("path", ["../my train.py", "{parent}/my train.py"])
    def test_script_of_another_folder_with_a_space_in_its_name(self, exported, tmp_path, path):
        (tmp_path / "my train.py").write_text("")
        config, names = exported(ClientAPIRunner(path.format(parent=tmp_path), "--a 1", "external_process"))
        command = executors(config)[0][1]["command"]
        assert shlex.split(command) == ["python3", "-u", "custom/my train.py", "--a", "1"]
        assert names == {"my train.py"}

    @pytest.mark.parametrize("mode, prefix", [("in_process", ""), ("external_process", "python3 -u ")])
    def test_script_that_is_only_at_the_sites(self, exported, mode, prefix):
        config, names = exported(ClientAPIRunner("/at/the/site/train.py", execution_mode=mode))
        arguments = executors(config)[0][1]
        assert arguments.get("command", arguments.get("task_script_path")).startswith(f"{prefix}/at/the/site/train.py")
        assert names == set()

    @pytest.mark.parametrize(
        "framework, exchanged",
        [("numpy", "numpy"), (FrameworkType.PYTORCH, "pytorch"), ("tensorflow", "keras_layer_weights"), ("raw", "raw")],
    )
    def test_formats(self, exported, framework, exchanged):
        expected = ExchangeFormat.PYTORCH if exchanged == "pytorch" else "numpy"
        transfer_type = TransferType.DIFF if exchanged in ("numpy", "pytorch") else "FULL"
        config, _ = exported(
            ClientAPIRunner(
                "train.py",
                framework=framework,
                server_expected_format=expected,
                params_transfer_type=transfer_type,
            )
        )
        assert config["params_exchange_format"] == exchanged
        assert config["server_expected_format"] == ("pytorch" if exchanged == "pytorch" else "numpy")
        assert config["params_transfer_type"] == ("DIFF" if exchanged in ("numpy", "pytorch") else "FULL")

    @pytest.mark.parametrize("framework", FrameworkType)
    @pytest.mark.parametrize("given", [None, True, False])
    def test_scripts_are_asked_for_metrics_as_by_nvflares_executors(self, exported, framework, given):
        runner = ClientAPIRunner(
            "train.py", framework=framework, **({} if given is None else {"train_with_evaluation": given})
        )
        arguments = executors(exported(runner)[0])[0][1]
        default = framework in (FrameworkType.PYTORCH, FrameworkType.TENSORFLOW)
        assert arguments.get("train_with_evaluation", False) is (default if given is None else given)

    def test_runners_for_different_tasks(self, exported):
        config, _ = exported(
            ClientAPIRunner("train.py", "1", framework=NUMPY),
            ClientAPIRunner("train.py", "2", "external_process", framework=NUMPY),
        )
        modes = [(tasks, arguments["execution_mode"]) for tasks, arguments in executors(config)]
        assert modes == [(["task-0"], "in_process"), (["task-1"], "external_process")]


class TestErrors:
    @pytest.mark.parametrize(
        "arguments, texts",
        [
            ({"script": "none.py"}, ["none.py", "is not a file in"]),
            ({"script": None}, ["script", "in_process"]),
            ({"script": " ", "execution_mode": "external_process"}, ["script", "external_process"]),
            ({"execution_mode": "attach"}, ["script", "attach", "train.py"]),
            ({"script": None, "execution_mode": "attach", "script_args": "1"}, ["script_args", "attach"]),
            ({"execution_mode": "remote"}, ["execution_mode", "remote"]),
            (
                {"execution_mode": "external", "script_args": "1", "script": None},
                ["invalid execution_mode 'external': must be one of"],
            ),
            ({"script_args": 1}, ["script_args", "1"]),
            *(
                (
                    {"script_args": "'a", "execution_mode": mode},
                    ["script_args must be a string", "No closing quotation"],
                )
                for mode in ("in_process", "external_process")
            ),
            ({"command": "python3"}, ["command", "external_process", "in_process"]),
            *(
                ({"command": command, "execution_mode": "external_process"}, ["command must be", f"but is {command!r}"])
                for command in (["torchrun", "--x"], [], 0, "torchrun \\")
            ),
            *(
                ({name: value}, [f"{name} must be one of", f"but is {value!r}", allowed])
                for name, allowed in [
                    ("framework", "tensorflow"),
                    ("server_expected_format", "keras_layer_weights"),
                    ("params_transfer_type", "DIFF"),
                ]
                for value in ([], {}, None)
            ),
            ({"framework": "jax"}, ["framework", "jax", "pytorch"]),
            ({"server_expected_format": "onnx"}, ["server_expected_format", "onnx", "numpy"]),
            ({"params_transfer_type": "HALF"}, ["params_transfer_type", "HALF", "DIFF"]),
            ({"framework": "raw", "params_transfer_type": "DIFF"}, ["params_transfer_type DIFF", "raw"]),
            ({"framework": "numpy", "server_expected_format": "pytorch"}, ["server_expected_format", "framework"]),
            ({"launch_once": False}, ["launch_once", "external_process"]),
            ({"task_script_path": "other.py"}, ["task_script_path", "script"]),
            ({"result_wait_timeout": -1}, ["result_wait_timeout", "-1"]),
        ],
    )
    def test_wrong_argument_is_named(self, scripts, arguments, texts):
        with pytest.raises(ValueError) as error:
            ClientAPIRunner(**{"script": "train.py", **arguments})
        for text in texts:
            assert text in str(error.value)

    @pytest.mark.parametrize(
        "name, advice",
        [
            ("lunch_once", "rename it to launch_once"),
            ("scrpt_args", "rename it to script_args"),
            ("train_script", "rename it to script"),
            ("launch_cmd", "rename it to command"),
            ("colour", "remove it"),
        ],
    )
    def test_unknown_argument_is_named(self, scripts, name, advice):
        with pytest.raises(TypeError, match=f"{name} is no argument of ClientAPIRunner: {advice}$"):
            ClientAPIRunner("train.py", **{name: "x"})

    def test_what_script_runner_takes_is_taken_or_named_with_what_takes_its_place(self, scripts):
        ours = inspect.signature(ClientAPIRunner.__init__).parameters.keys()
        ours |= inspect.signature(ClientAPIExecutor.__init__).parameters.keys()
        theirs = inspect.signature(BaseScriptRunner.__init__).parameters.keys()
        theirs |= inspect.signature(ScriptRunner.__init__).parameters.keys()
        assert len(theirs - ours) == 7
        for name in theirs - ours:
            with pytest.raises(TypeError, match=f"ClientAPIRunner has no argument {name}: instead of it, "):
                ClientAPIRunner("train.py", **{name: True})

    def test_script_runners_third_argument_is_understood(self, scripts):
        with pytest.raises(TypeError, match='execution_mode is "in_process" or "external_process", not True'):
            ClientAPIRunner("train.py", "--a 1", True, "python3 -u")

    def test_one_site_has_one_set_of_formats(self, exported):
        with pytest.raises(ValueError, match="site-1 already has params_exchange_format 'numpy'.* 'pytorch'"):
            exported(ClientAPIRunner("train.py", framework=NUMPY), ClientAPIRunner(execution_mode="attach"))

    def test_one_site_has_one_runner_in_a_mode(self, exported):
        with pytest.raises(ValueError, match="site-1 already has a runner in execution_mode in_process"):
            exported(ClientAPIRunner("train.py"), ClientAPIRunner("train.py"))

    def test_it_returns_the_ids_of_its_components(self, scripts):
        assert BaseFedJob(name="job").to(ClientAPIRunner("train.py"), "site-1") == {}

    def test_server_is_no_place_for_it(self, scripts):
        with pytest.raises(ValueError, match="tried to assign to server"):
            BaseFedJob().to_server(ClientAPIRunner("train.py"))


def recipe(**arguments) -> NumpyFedAvgRecipe:
    common = {"name": "job", "model": [0.0], "min_clients": 1, "num_rounds": 1, "train_script": "train.py"}
    return NumpyFedAvgRecipe(**{**common, **arguments})


def exported_configs(job: FedJob, folder) -> dict:
    """App -> client config."""
    job.export_job(str(folder))
    files = folder.glob("*/*/config/config_fed_client.json")
    return {path.parent.parent.name: json.loads(path.read_text()) for path in files}


class TestInARecipe:
    @pytest.mark.parametrize("is_launched", [True, False])
    def test_it_replaces_all_that_the_old_runner_has_made(self, scripts, tmp_path, is_launched):
        old = recipe(launch_external_process=is_launched)
        old.add_client_config({"other": 1})
        ClientAPIRunner("train.py", "--a 1", "external_process", framework=NUMPY).replace_in(old)
        (config,) = exported_configs(old.job, tmp_path / "jobs").values()
        arguments = {"execution_mode": "external_process", "command": "python3 -u custom/train.py --a 1"}
        assert executors(config) == [(["*"], arguments)]
        assert [component["id"] for component in config["components"]] == ["event_to_fed"]
        assert config["params_exchange_format"] == "numpy" and config["other"] == 1
        assert (tmp_path / "jobs" / "job" / "app" / "custom" / "step.py").exists()

    @pytest.mark.parametrize(
        "name, sent", [("fedavg", "FULL"), ("fedopt", "DIFF"), ("scaffold", "FULL"), ("cyclic", "FULL")]
    )
    @pytest.mark.parametrize("is_launched", [True, False])
    def test_recipes_for_pytorch(self, torch, scripts, tmp_path, monkeypatch, name, sent, is_launched):
        # In a file of its own: for a class of torch's, nvflare would put all of torch into the job.
        (scripts / "net.py").write_text("import torch\n\nclass Net(torch.nn.Linear):\n    pass\n")
        monkeypatch.syspath_prepend(str(scripts))
        monkeypatch.delitem(sys.modules, "net", raising=False)
        net = importlib.import_module("net").Net(2, 1)
        module = importlib.import_module(f"nvflare.app_opt.pt.recipes.{name}")
        make = next(getattr(module, key) for key in vars(module) if key.lower() == f"{name}recipe")
        old = make(
            name="job",
            model=net,
            min_clients=2,
            num_rounds=1,
            train_script="train.py",
            launch_external_process=is_launched,
        )
        (before,) = exported_configs(old.job, tmp_path / "before").values()
        ClientAPIRunner("train.py", params_transfer_type=sent).replace_in(old)
        (after,) = exported_configs(old.job, tmp_path / "after").values()
        # Metrics are asked for where they were: the launched script may have none.
        asked = {} if is_launched else {"train_with_evaluation": True}
        arguments = {"execution_mode": "in_process", "task_script_path": "train.py", **asked}
        assert executors(after) == [(executors(before)[0][0], arguments)]
        made = {"launcher", "pipe", "metric_relay", "metrics_pipe", "config_preparer"}
        assert after["components"] == [part for part in before["components"] if part["id"] not in made]

    @pytest.mark.parametrize("is_asked", [True, False])
    def test_what_is_said_of_metrics_counts(self, scripts, tmp_path, is_asked):
        old = recipe(launch_external_process=not is_asked)
        ClientAPIRunner("train.py", framework=NUMPY, train_with_evaluation=is_asked).replace_in(old)
        (config,) = exported_configs(old.job, tmp_path / "jobs").values()
        assert executors(config)[0][1].get("train_with_evaluation", False) is is_asked

    @pytest.mark.parametrize("is_launched", [True, False])
    @pytest.mark.parametrize(
        "formats, says",
        [
            ({"framework": FrameworkType.PYTORCH}, "params_exchange_format 'numpy', and this one 'pytorch'.*framework"),
            ({"params_transfer_type": TransferType.DIFF}, "params_transfer_type 'FULL', and this one 'DIFF'"),
            ({"framework": FrameworkType.RAW}, "params_exchange_format 'numpy', and this one 'raw'"),
        ],
    )
    def test_the_formats_are_those_for_which_the_server_is_made(self, scripts, is_launched, formats, says):
        old = recipe(launch_external_process=is_launched)
        with pytest.raises(ValueError, match=says):
            ClientAPIRunner("train.py", **{"framework": NUMPY, **formats}).replace_in(old)
        ClientAPIRunner("train.py", framework=NUMPY).replace_in(old)

    def test_one_site_at_a_time(self, scripts, tmp_path):
        old = recipe(per_site_config={"site-1": {}, "site-2": {}}, launch_external_process=True)
        ClientAPIRunner("train.py", framework=NUMPY).replace_in(old, "site-2")
        configs = exported_configs(old.job, tmp_path / "jobs")
        paths = [configs[f"app_{site}"]["executors"][0]["executor"]["path"] for site in ("site-1", "site-2")]
        assert [path.rpartition(".")[2] for path in paths] == ["ClientAPILauncherExecutor", "ClientAPIExecutor"]
        assert "launcher" in [component["id"] for component in configs["app_site-1"]["components"]]

    def test_other_executors_and_their_components_stay(self, scripts, tmp_path):
        job = CCWFJob(name="job", min_clients=2)
        client = SwarmClientConfig(
            executor=ScriptRunner("train.py", framework=NUMPY, launch_external_process=True),
            persistor=NPModelPersistor(model=[0.0]),
            shareable_generator=SimpleModelShareableGenerator(),
            aggregator=InTimeAccumulateWeightedAggregator(expected_data_kind="WEIGHTS"),
        )
        job.add_swarm(SwarmServerConfig(num_rounds=1), client)
        before = set(exported_configs(job, tmp_path / "before")["app"]["executors"][1]["tasks"])
        ClientAPIRunner("train.py", framework=NUMPY).replace_in(job)
        config = exported_configs(job, tmp_path / "after")["app"]
        assert [component["id"] for component in config["components"]] == [
            "persistor",
            "shareable_generator",
            "aggregator",
        ]
        swarm, ours = config["executors"]
        assert swarm["executor"]["path"].endswith("SwarmClientController")
        assert set(ours["tasks"]) == before and ours["executor"]["args"]["task_script_path"] == "train.py"

    def test_what_cannot_be_replaced_is_named(self, scripts):
        runner = ClientAPIRunner("train.py", framework=NUMPY)
        with pytest.raises(ValueError, match="no runner of nvflare's to replace at site-9"):
            runner.replace_in(recipe(launch_external_process=True), "site-9")
        with pytest.raises(ValueError, match="name no site to replace the one of all"):
            runner.replace_in(recipe(launch_external_process=True), "site-1")
        with pytest.raises(TypeError, match=r"sites must be names, .* one is \['site-1'\]"):
            runner.replace_in(recipe(launch_external_process=True), ["site-1"])
        for wrong in (None, 5, NumpyFedAvgRecipe):
            with pytest.raises(
                TypeError, match=f"recipe must be a Recipe or a FedJob, but is {re.escape(repr(wrong))}"
            ):
                runner.replace_in(wrong)
        old = recipe()
        runner.replace_in(old)
        with pytest.raises(ValueError, match="no runner of nvflare's to replace at any site"):
            runner.replace_in(old)
        job = BaseFedJob(name="job")
        for task in ("train", "validate"):
            job.to(ScriptRunner("train.py", "", True, framework=NUMPY), "site-1", tasks=[task])
        with pytest.raises(ValueError, match="site-1 has 2 runners of nvflare's: give one of them all tasks"):
            runner.replace_in(job)
