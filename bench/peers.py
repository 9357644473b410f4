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

"""The peers: where each one's nvflare is installed, and how a job names its executor."""

import os
import shlex
import subprocess
import sys
import venv

REPO = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BENCH_HOME = os.path.join(REPO, ".bench")
REQUIREMENTS = {"ours": "nvflare==2.8.3", "legacy": "nvflare==2.8.3", "upstream": "nvflare==2.9.0"}
PEERS = tuple(REQUIREMENTS)
FLOOR = "floor"
ATTACH_ID = "bench"

IN_PROCESS, EXTERNAL, EXTERNAL_PER_TASK, ATTACH = "in_process", "external", "external_per_task", "attach"

# So that no job compiles what it imports. Some packages carry templates that are no Python: what fails is left alone.
_COMPILE_ALL = "import compileall, sysconfig; compileall.compile_dir(sysconfig.get_path('purelib'), quiet=2)"
_EXECUTORS = "nvflare.app_common.executors."
_CLIENT_API = _EXECUTORS + "client_api_executor.ClientAPIExecutor"
_CONVERT_TO_FED_EVENT = {
    "id": "event_to_fed",
    "path": "nvflare.app_common.widgets.convert_to_fed_event.ConvertToFedEvent",
    "args": {"events_to_convert": ["analytix_log_stats"], "fed_event_prefix": "fed."},
}


class Unsupported(Exception):
    """This peer has no such mode."""


def prepare_venv(peer: str, given: dict, tensors: bool) -> str:
    """Returns the path of the peer's Python; creates or updates its environment unless one was given."""
    source = "legacy" if peer == FLOOR else peer
    home = os.path.abspath(given.get(source) or os.path.join(BENCH_HOME, "venvs", source))
    python = os.path.join(home, "bin", "python")
    if source not in given:
        _make_venv(source, home, python, tensors)
    subprocess.run([python, "-Ic", _COMPILE_ALL], check=True)
    return python


def _make_venv(source: str, home: str, python: str, tensors: bool):
    if not os.path.exists(python):
        venv.create(home, with_pip=True)
    if not _can_import(python, "nvflare.apis, numpy"):
        _pip(python, REQUIREMENTS[source], "numpy")
    if source == "ours":
        _pip(python, "--force-reinstall", "--no-deps", REPO)
    if tensors and not _can_import(python, "torch, safetensors"):
        _pip(python, "torch", "safetensors")


def _can_import(python: str, modules: str) -> bool:
    return subprocess.run([python, "-Ic", f"import {modules}"], capture_output=True).returncode == 0


def _pip(python: str, *arguments: str):
    subprocess.run([python, "-m", "pip", "install", "--quiet", *arguments], check=True, stdout=sys.stderr)


def client_config(peer: str, mode: str, python: str, plan_path: str, tensors: bool) -> dict:
    """Returns the executor and components of one peer in one mode, as in config_fed_client.json."""
    probe = {"id": "probe", "path": "bench_probe.BenchProbe", "args": {"plan_path": plan_path}}
    if peer == FLOOR:
        executor, components = _floor(plan_path)
    elif peer == "legacy":
        executor, components = _legacy(mode, python, plan_path)
    else:
        executor, components = _client_api(peer, mode, python, plan_path)
    formats = {"params_exchange_format": "pytorch", "server_expected_format": "pytorch"} if tensors else {}
    if peer not in (FLOOR, "ours"):  # in ours they are keys of the job
        executor["args"].update(formats)
    return {
        "format_version": 2,
        **(formats if peer == "ours" else {}),
        "components": [probe, *components],
        "executors": [{"tasks": ["train"], "executor": executor}],
        "task_data_filters": [],
        "task_result_filters": [],
    }


def _command(python: str, plan_path: str) -> str:
    return shlex.join([python, "-u", "custom/train.py", plan_path])


def _floor(plan_path: str):
    return {"path": "bench_floor.BenchFloorExecutor", "args": {"plan_path": plan_path}}, []


def _client_api(peer: str, mode: str, python: str, plan_path: str):
    if mode == IN_PROCESS:
        args = {"execution_mode": mode, "task_script_path": "train.py", "task_script_args": plan_path}
        return {"path": _CLIENT_API, "args": args}, [_CONVERT_TO_FED_EVENT]
    if mode == ATTACH:
        args = {"execution_mode": mode, "attach_timeout": 120.0}
        if peer == "upstream":
            args["attach_id"] = ATTACH_ID
    else:
        args = {"execution_mode": "external_process", "command": _command(python, plan_path)}
        args["launch_once"] = mode == EXTERNAL
    return {"path": _CLIENT_API, "args": args}, []


def _legacy(mode: str, python: str, plan_path: str):
    if mode == IN_PROCESS:
        args = {"task_script_path": "train.py", "task_script_args": plan_path}
        path = _EXECUTORS + "in_process_client_api_executor.InProcessClientAPIExecutor"
        return {"path": path, "args": args}, [_CONVERT_TO_FED_EVENT]
    if mode == ATTACH:
        raise Unsupported("nvflare 2.8 has no attach mode")
    executor = {
        "path": _EXECUTORS + "client_api_launcher_executor.ClientAPILauncherExecutor",
        "args": {"launcher_id": "launcher", "pipe_id": "pipe"},
    }
    launcher = {
        "id": "launcher",
        "path": "nvflare.app_common.launchers.subprocess_launcher.SubprocessLauncher",
        "args": {"script": _command(python, plan_path), "launch_once": mode == EXTERNAL},
    }
    relay = {
        "id": "metric_relay",
        "path": "nvflare.app_common.widgets.metric_relay.MetricRelay",
        "args": {"pipe_id": "metrics_pipe", "event_type": "fed.analytix_log_stats", "read_interval": 0.1},
    }
    configurator = {
        "id": "config_preparer",
        "path": "nvflare.app_common.widgets.external_configurator.ExternalConfigurator",
        "args": {"component_ids": ["metric_relay"]},
    }
    return executor, [launcher, _cell_pipe("pipe"), _cell_pipe("metrics_pipe"), relay, configurator]


def _cell_pipe(component_id: str) -> dict:
    return {
        "id": component_id,
        "path": "nvflare.fuel.utils.pipe.cell_pipe.CellPipe",
        "args": {
            "mode": "PASSIVE",
            "site_name": "{SITE_NAME}",
            "token": "{JOB_ID}",
            "root_url": "{ROOT_URL}",
            "secure_mode": "{SECURE_MODE}",
            "workspace_dir": "{WORKSPACE}",
        },
    }


def upstream_attach_profile(run_started: dict, site: str) -> dict:
    """Returns the profile by which an nvflare 2.9 trainer finds the job over the network."""
    return {
        "schema_version": 1,
        "execution_mode": "attach",
        "attach_id": ATTACH_ID,
        "site_name": site,
        "connect_url": run_started["parent_url"],
        "connection_security": "clear",
        "cp_fqcn": run_started["fqcn"].rpartition(".")[0],
        "job_wait_timeout": 120.0,
    }
