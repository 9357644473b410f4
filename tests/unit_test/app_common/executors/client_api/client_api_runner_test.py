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

import json
import shlex
import textwrap
from pathlib import Path

import pytest

from nvflare.app_common.executors.client_api.client_api_runner import ClientAPIRunner
from nvflare.client.config import ExchangeFormat, TransferType
from nvflare.fuel.utils.constants import FrameworkType
from nvflare.job_config.base_fed_job import BaseFedJob
from nvflare.job_config.script_runner import ScriptRunner

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

    def test_external_process(self, exported):
        runner = ClientAPIRunner(
            script="train.py",
            execution_mode="external_process",
            command="torchrun --nproc_per_node=2",
            launch_once=False,
        )
        config, names = exported(runner)
        arguments = {"execution_mode": "external_process", "command": "torchrun --nproc_per_node=2 custom/train.py"}
        assert executors(config) == [(["task-0"], {**arguments, "launch_once": False})]
        assert names == {"train.py", "step.py"}

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
            ({"script_args": 1}, ["script_args", "1"]),
            ({"script_args": "'"}, ["task_script_args", "No closing quotation"]),
            ({"command": "python3"}, ["command", "external_process", "in_process"]),
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

    def test_unknown_argument_is_named(self, scripts):
        with pytest.raises(TypeError, match="lunch_once"):
            ClientAPIRunner("train.py", lunch_once=True)

    def test_one_site_has_one_set_of_formats(self, exported):
        with pytest.raises(ValueError, match="site-1 already has params_exchange_format 'numpy'.* 'pytorch'"):
            exported(ClientAPIRunner("train.py", framework=NUMPY), ClientAPIRunner(execution_mode="attach"))

    def test_one_site_has_one_runner_in_a_mode(self, exported):
        with pytest.raises(ValueError, match="site-1 already has a runner in execution_mode in_process"):
            exported(ClientAPIRunner("train.py"), ClientAPIRunner("train.py"))

    def test_server_is_no_place_for_it(self, scripts):
        with pytest.raises(ValueError, match="tried to assign to server"):
            BaseFedJob().to_server(ClientAPIRunner("train.py"))
