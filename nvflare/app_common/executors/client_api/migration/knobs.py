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

"""What the arguments of nvflare 2.8's legacy Client API parts become: tables, and nothing but tables.

KNOBS has a line for each argument of each part; the printed report and the guide's table are made of it.
"""

from typing import NamedTuple, Optional

IN_PROCESS, LAUNCHER = "in_process", "external_process"


class LegacyExecutor(NamedTuple):
    """What is to be known of a legacy executor's class."""

    mode: str  # the execution mode that takes its place
    exchange_format: str  # its default
    converts: bool  # whether it converts between the two formats without converter components
    module: str
    evaluates: bool = False  # its default of train_with_evaluation


_COMMON, _PT, _TF = "nvflare.app_common.executors", "nvflare.app_opt.pt", "nvflare.app_opt.tf"
LEGACY_EXECUTORS = {
    "InProcessClientAPIExecutor": LegacyExecutor(
        IN_PROCESS, "numpy", False, f"{_COMMON}.in_process_client_api_executor"
    ),
    "PTInProcessClientAPIExecutor": LegacyExecutor(
        IN_PROCESS, "pytorch", True, f"{_PT}.in_process_client_api_executor", evaluates=True
    ),
    "TFInProcessClientAPIExecutor": LegacyExecutor(
        IN_PROCESS, "keras_layer_weights", True, f"{_TF}.in_process_client_api_executor", evaluates=True
    ),
    "ClientAPILauncherExecutor": LegacyExecutor(LAUNCHER, "numpy", True, f"{_COMMON}.client_api_launcher_executor"),
    "PTClientAPILauncherExecutor": LegacyExecutor(LAUNCHER, "pytorch", True, f"{_PT}.client_api_launcher_executor"),
    "TFClientAPILauncherExecutor": LegacyExecutor(
        LAUNCHER, "keras_layer_weights", True, f"{_TF}.client_api_launcher_executor"
    ),
}

KEPT, RENAMED, MOVED, DROPPED, REFUSED, ADDED, NOTE = "kept", "renamed", "moved", "dropped", "refused", "added", "note"

EXECUTORS, ONE_PROCESS, LAUNCHED = "every executor", "in-process executors", "launcher executors"
SUBPROCESS_LAUNCHER, RELAY, CONFIGURATOR, PIPES = "SubprocessLauncher", "MetricRelay", "ExternalConfigurator", "pipes"
JOB_KEYS = "keys of the job"


class Knob(NamedTuple):
    """What becomes of a legacy argument."""

    fate: str
    becomes: Optional[str]  # its new name
    why: str


def _dropped(why: str) -> Knob:
    return Knob(DROPPED, None, why)


def _kept(name: str, why: str = "") -> Knob:
    return Knob(KEPT, name, why)


_NO_POLLING = "nothing polls any more"
_TRANSFER = "flare.send() returns when the result is safe, and a transfer may take as long as it moves"
_JOB_KEY = "a key of the job, the same for every execution mode (an argument with --target 2.9)"
_FILTER = "a ParamsConverterFilter for the executor's tasks, next to it; nvflare's own pairs become the format keys"
_IGNORED = "launcher executors of 2.8 ignore it, with a warning"
_PIPE = "with a launcher the pipe is the local way between two processes of the site; the executor has its own"

KNOBS = {
    EXECUTORS: {
        "params_exchange_format": Knob(MOVED, "params_exchange_format", _JOB_KEY),
        "server_expected_format": Knob(MOVED, "server_expected_format", _JOB_KEY),
        "params_transfer_type": Knob(MOVED, "params_transfer_type", _JOB_KEY),
        "train_task_name": _kept("train_task_name"),
        "evaluate_task_name": _kept("evaluate_task_name"),
        "submit_model_task_name": _kept("submit_model_task_name"),
        "memory_gc_rounds": _kept("memory_gc_rounds", "in the trainer"),
        "cuda_empty_cache": _kept("cuda_empty_cache"),
    },
    ONE_PROCESS: {
        "from_nvflare_converter_id": Knob(MOVED, "the last of task_data_filters", _FILTER),
        "to_nvflare_converter_id": Knob(MOVED, "the first of task_result_filters", _FILTER),
        "task_script_path": _kept("task_script_path"),
        "task_script_args": _kept("task_script_args", "quoted anew where spaces and quotes would now count"),
        "train_with_evaluation": _kept(
            "train_with_evaluation", "for the script alone; written if it was not set and the executor had true"
        ),
        "task_wait_time": _dropped("it had no effect; result_wait_timeout is such a limit"),
        "result_pull_interval": _dropped(_NO_POLLING),
        "log_pull_interval": _dropped("what the script logs is sent at once"),
    },
    LAUNCHED: {
        "launcher_id": Knob(RENAMED, "command", "the script of the launcher"),
        "pipe_id": _dropped(_PIPE),
        "from_nvflare_converter_id": _dropped(_IGNORED),
        "to_nvflare_converter_id": _dropped(_IGNORED),
        "external_pre_init_timeout": Knob(RENAMED, "launch_timeout", "seconds from launch to flare.init()"),
        "launch_timeout": _dropped("it bounded the calls of the launcher, which do not wait any more"),
        "task_wait_timeout": Knob(RENAMED, "result_wait_timeout", "seconds to the result of a task"),
        "heartbeat_interval": _kept("heartbeat_interval"),
        "heartbeat_timeout": _kept("heartbeat_timeout", "written with the old default of 300 if it was not set"),
        "train_with_evaluation": _kept("train_with_evaluation", "tells the script; its metrics are not checked"),
        "peer_read_timeout": _dropped("a task may travel as long as it moves; task_wait_timeout would limit it"),
        "last_result_transfer_timeout": _dropped(_TRANSFER),
        "submit_result_timeout": _dropped(_TRANSFER),
        "download_complete_timeout": _dropped(_TRANSFER),
        "max_resends": _dropped("an unacknowledged message is sent again, and taken once"),
        "monitor_interval": _dropped(_NO_POLLING),
        "read_interval": _dropped(_NO_POLLING),
        "workers": _dropped("there is no thread pool"),
        "config_file_name": Knob(
            REFUSED, None, "a name of one's own: the executor writes client_api_config.json; the default is dropped"
        ),
    },
    SUBPROCESS_LAUNCHER: {
        "script": Knob(RENAMED, "command", "split into words as before, and never given to a shell"),
        "launch_once": _kept("launch_once"),
        "shutdown_timeout": _kept("shutdown_timeout", "if it was not set, the script now has 30 s to end by itself"),
        "clean_up_script": Knob(REFUSED, None, "nothing runs after the command: the command has to clean up itself"),
    },
    PIPES: {"every argument": _dropped(_PIPE)},
    RELAY: {
        "pipe_id": _dropped("what the script logs travels with the tasks"),
        "event_type": _dropped(
            "the site gets analytix_log_stats, the server fed.analytix_log_stats; refused if a receiver would miss them"
        ),
        "fed_event": _dropped("the server gets every record; refused if it is false and no ConvertToFedEvent is there"),
        "pipe_channel_name": _dropped("what the script logs travels with the tasks"),
        "read_interval": _dropped(_NO_POLLING),
        "heartbeat_interval": _dropped("the heartbeats of the executor"),
        "heartbeat_timeout": _dropped("the heartbeats of the executor"),
    },
    CONFIGURATOR: {
        "component_ids": _dropped("the executor writes all that flare.init() reads; refused for other components"),
        "config_file_name": _dropped("the executor writes all that flare.init() reads"),
    },
    JOB_KEYS: {
        "EXTERNAL_PRE_INIT_TIMEOUT": Knob(
            RENAMED,
            "launch_timeout",
            "of the executor; the legacy ones read such keys from config_fed_client.json only",
        ),
        "PEER_READ_TIMEOUT": _dropped("as the argument"),
        "submit_result_timeout": _dropped("as the argument"),
        "max_resends": _dropped("as the argument"),
        "download_complete_timeout": _dropped("as the argument"),
    },
}

ARGUMENTS = {
    IN_PROCESS: {**KNOBS[EXECUTORS], **KNOBS[ONE_PROCESS]},
    LAUNCHER: {**KNOBS[EXECUTORS], **KNOBS[LAUNCHED]},
}

# Arguments whose legacy default is to stay where the new executor has another one: mode, target -> name -> value.
LEGACY_DEFAULTS = {
    (IN_PROCESS, "2.8"): {},
    (IN_PROCESS, "2.9"): {},
    (LAUNCHER, "2.8"): {"heartbeat_timeout": 300.0},
    (LAUNCHER, "2.9"): {"heartbeat_timeout": 300.0, "launch_timeout": 300.0},
}
FORMAT_DEFAULTS = {
    "params_exchange_format": "numpy",
    "server_expected_format": "numpy",
    "params_transfer_type": "FULL",
}
# Of the new executors: a format that differs from its target's default has to be written.
TARGET_DEFAULTS = {"2.8": FORMAT_DEFAULTS, "2.9": {**FORMAT_DEFAULTS, "params_exchange_format": "raw"}}
# Where the filter of a converter goes.
CONVERTERS = {"from_nvflare_converter_id": "task_data_filters", "to_nvflare_converter_id": "task_result_filters"}


def knob_table() -> str:
    """Returns KNOBS as a Markdown table."""
    lines = ["| part | argument | fate | becomes | why |", "| --- | --- | --- | --- | --- |"]
    for part, knobs in KNOBS.items():
        for name, knob in knobs.items():
            becomes = f"`{knob.becomes}`" if knob.becomes and " " not in knob.becomes else knob.becomes or ""
            argument = name if " " in name else f"`{name}`"
            lines.append(f"| {part} | {argument} | {knob.fate} | {becomes} | {knob.why} |")
    return "\n".join(lines) + "\n"
