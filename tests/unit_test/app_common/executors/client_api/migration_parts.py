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
"""Parts of legacy jobs for the tests of the migration tool, and how to look at what it makes of them."""

import copy
import importlib.util
import json
import os
from pathlib import Path

import yaml

from nvflare.app_common.executors.client_api.migration.knobs import FORMAT_DEFAULTS, JOB_KEYS, KNOBS, LEGACY_EXECUTORS
from nvflare.fuel.utils.config_factory import ConfigFactory

JOBS = Path(__file__).parent / "legacy_jobs"
# More legacy jobs, a folder each, such as the job templates of nvflare itself; none if it is not set.
CORPUS = Path(os.environ.get("LEGACY_JOBS", os.devnull))
EXECUTOR = "nvflare.app_common.executors.client_api_executor.ClientAPIExecutor"
FILTER = "nvflare.app_common.executors.client_api.params_filter.ParamsConverterFilter"
LAUNCHER = "nvflare.app_common.executors.client_api_launcher_executor.ClientAPILauncherExecutor"
IN_PROCESS = "nvflare.app_common.executors.in_process_client_api_executor.InProcessClientAPIExecutor"
SUBPROCESS = "nvflare.app_common.launchers.subprocess_launcher.SubprocessLauncher"
CELL_PIPE = "nvflare.fuel.utils.pipe.cell_pipe.CellPipe"
RELAY = "nvflare.app_common.widgets.metric_relay.MetricRelay"
CONFIGURATOR = "nvflare.app_common.widgets.external_configurator.ExternalConfigurator"
REPLACED = ("Launcher", "Pipe", "MetricRelay", "ExternalConfigurator", "ModelParamsConverter", "ToNumpyParamsConverter")


def config_file(job: Path) -> Path:
    (path,) = job.glob("config_fed_client.*")
    return path


def load(path: Path) -> dict:
    """A config as nvflare reads it."""
    if path.suffix == ".yml" and not importlib.util.find_spec("omegaconf"):
        return yaml.safe_load(path.read_text())
    return ConfigFactory.load_config(str(path)).to_dict()


def outside(config: dict) -> dict:
    """A config without what a migration changes."""
    config = copy.deepcopy(config)
    for key in [*FORMAT_DEFAULTS, *KNOBS[JOB_KEYS]]:
        config.pop(key, None)
    for entry in config["executors"]:
        executor = entry["executor"]
        name = executor.get("path", executor.get("name")).rpartition(".")[2]
        if name in LEGACY_EXECUTORS or name == "ClientAPIExecutor":
            for key in ("path", "name", "args"):
                executor.pop(key, None)
    config["components"] = [c for c in config.get("components", []) if not c["path"].endswith(REPLACED)]
    for section in ("task_data_filters", "task_result_filters"):
        for chain in config.setdefault(section, []):
            chain["filters"] = [f for f in chain["filters"] if f["path"] != FILTER]
        config[section] = [chain for chain in config[section] if chain["filters"]]
    return config


def new_executors(config: dict) -> list:
    return [entry["executor"] for entry in config["executors"] if entry["executor"].get("path") == EXECUTOR]


def make_job(root: Path, executor: dict, components: list = (), **keys) -> Path:
    """Writes a job of one app with one executor and the given parts and keys; returns its folder."""
    config = {
        "format_version": 2,
        "executors": [{"tasks": ["train"], "executor": executor}],
        "components": list(components),
        **keys,
    }
    folder = root / "job" / "app" / "config"
    folder.mkdir(parents=True)
    (folder / "config_fed_client.json").write_text(json.dumps(config, indent=2))
    return root / "job"


def launcher_parts(**launcher) -> list:
    launcher = {"script": "python3 -u custom/train.py", **launcher}
    return [
        {"id": "launcher", "path": SUBPROCESS, "args": launcher},
        {"id": "pipe", "path": CELL_PIPE, "args": {"mode": "PASSIVE"}},
    ]


def launcher_executor(**arguments) -> dict:
    return {"path": LAUNCHER, "args": {"launcher_id": "launcher", "pipe_id": "pipe", **arguments}}


def external(command: str, **arguments) -> dict:
    """The arguments of a new executor in external_process."""
    return {"execution_mode": "external_process", "command": command, "heartbeat_timeout": 300.0, **arguments}


def in_process(script: str, **arguments) -> dict:
    """The arguments of a new executor in in_process."""
    return {"execution_mode": "in_process", "task_script_path": script, **arguments}
