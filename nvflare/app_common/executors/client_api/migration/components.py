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

"""What becomes of the components around a launcher executor: launcher, pipes, metric relays, configurators."""

import shlex
from typing import Any, List

from nvflare.app_common.executors.client_api.migration.advice import (
    as_shell_command,
    shell_syntax,
    similar,
    unknown_argument,
)
from nvflare.app_common.executors.client_api.migration.job import LegacyJob, NewArgument, component_place
from nvflare.app_common.executors.client_api.migration.knobs import (
    DROPPED,
    KEPT,
    KNOBS,
    NOTE,
    PIPES,
    REFUSED,
    RELAY,
    SUBPROCESS_LAUNCHER,
)
from nvflare.app_common.executors.client_api.migration.parts import ExecutorPart, class_path, is_part, strings
from nvflare.client.constants import CLIENT_API_CONFIG

OWN_CONFIG_FILE = (
    f"the executor writes {CLIENT_API_CONFIG}: have the script call flare.init() without a file, remove this "
    "argument, and migrate again"
)
_ATTACH = {
    "2.8": 'by hand: path ClientAPIExecutor with args execution_mode = "attach"; the formats become keys of the job; '
    "a FilePipe stays as the component with id client_api_pipe, a CellPipe goes; the trainer is started with "
    "`python -m nvflare.app_common.executors.client_api.attach --workspace DIR -- SCRIPT.py`",
    "2.9": 'by hand: path ClientAPIExecutor with args execution_mode = "attach", an attach_id and the formats; the '
    "pipe goes; nvflare 2.9's own guide says how the trainer is started",
}


def plan_launcher(job: LegacyJob, where: str, part: ExecutorPart) -> List[NewArgument]:
    """Returns the arguments that come from an executor's launcher; the launcher and the pipe may go."""
    launcher_id = job.resolve(part.arguments.get("launcher_id"))
    launcher = job.component(launcher_id)
    if launcher is None:
        job.refuse(where, "launcher_id", launcher_id, _missing_launcher(job, launcher_id))
        return []
    if not is_part(launcher, "SubprocessLauncher"):
        job.refuse(component_place(launcher_id), "path", class_path(launcher), _own_launcher(job.target))
        return []
    _plan_pipe(job, part)
    job.may_go(launcher_id, "its arguments are the executor's now")
    raw = job.written_arguments(launcher_id)
    if not any(similar(name, ["script"]) for name in raw):
        job.refuse(component_place(launcher_id), "script", None, "missing: write the command there, and migrate again")
    arguments = []
    for name, value in raw.items():
        knob = KNOBS[SUBPROCESS_LAUNCHER].get(name)
        if name == "clean_up_script" and not job.resolve(value):
            job.report(component_place(launcher_id), name, value, DROPPED, "", "there is none")
        elif knob is None or knob.fate == REFUSED:
            job.refuse(component_place(launcher_id), name, value, _launcher_advice(name, value, raw))
        else:
            why = knob.why if knob.fate != KEPT else ""
            job.report(component_place(launcher_id), name, value, knob.fate, knob.becomes, why)
            arguments.append(NewArgument(knob.becomes, value))
        if name == "shutdown_timeout" and job.resolve(value) is None:
            why = "it had no limit at the end; now it has 30 s"
            job.report(component_place(launcher_id), name, value, NOTE, "", why)
    _note_shell(job, launcher_id, launcher["args"].get("script"))
    return arguments


def attach_advice(target: str) -> str:
    return f"a trainer that somebody else starts is execution_mode attach, {_ATTACH[target]}"


def _own_launcher(target: str) -> str:
    keeps_it = "give it the id client_api_launcher: " if target == "2.8" else ""
    return (
        "a launcher of the job's own: if it runs a command, write a SubprocessLauncher with that command as script and "
        "migrate again; if it hands the trainer to somebody else (a scheduler, a service), "
        f"{keeps_it}{attach_advice(target)}"
    )


def _missing_launcher(job: LegacyJob, launcher_id: Any) -> str:
    if launcher_id is None:
        return attach_advice(job.target)
    launchers = [i for i, config in job.components.items() if "launcher" in class_path(config).lower()]
    advice = job.why_missing(launcher_id, launchers)
    if job.has(launcher_id) or "meant" in advice:
        return advice
    attach = attach_advice(job.target)
    return f"{advice}: add the launcher that it names, and migrate again; if there is to be none: {attach}"


def _note_shell(job: LegacyJob, launcher_id: str, script: Any) -> None:
    found = shell_syntax(script) if isinstance(script, str) else []
    if found:
        advice = f"only a shell understands {' '.join(found)}, and the launcher gave it to no shell either; for one: "
        job.report(component_place(launcher_id), "script", script, NOTE, "", advice + as_shell_command(script))


def _plan_pipe(job: LegacyJob, part: ExecutorPart) -> None:
    pipe_id = job.resolve(part.arguments.get("pipe_id"))
    pipe = job.component(pipe_id)
    if pipe is None:
        why = f"{job.why_missing(pipe_id)} (2.8 cannot start the job; it is not needed now)"
        job.report("pipe", "pipe_id", pipe_id, NOTE, "", why)
        return
    if not is_part(pipe, "CellPipe", "FilePipe"):
        job.refuse(
            component_place(pipe_id),
            "path",
            class_path(pipe),
            "a pipe of the job's own: if it only leads to the launched trainer, write a CellPipe and migrate again; "
            f"else: {attach_advice(job.target)}",
        )
    job.may_go(pipe_id, KNOBS[PIPES]["every argument"].why)


def plan_relays(job: LegacyJob) -> None:
    """What brings the script's log records and config to a launched script may go."""
    for relay_id, relay in job.components.items():
        if not is_part(relay, "MetricRelay"):
            continue
        job.may_go(relay_id, KNOBS[RELAY]["pipe_id"].why)
        job.may_go(relay["args"].get("pipe_id"), KNOBS[PIPES]["every argument"].why)
    for config_id, config in job.components.items():
        if is_part(config, "ExternalConfigurator"):
            ids = config["args"].get("component_ids") or []
            foreign = [i for i in ids if str(i) not in job.candidates] if isinstance(ids, list) else [ids]
            if foreign:
                advice = f"it also tells the script about {foreign}: pass that on as a script argument, remove it"
                job.refuse(component_place(config_id), "component_ids", ids, advice)
            name = config["args"].get("config_file_name", CLIENT_API_CONFIG)
            if name != CLIENT_API_CONFIG:
                job.refuse(component_place(config_id), "config_file_name", name, OWN_CONFIG_FILE)
            job.may_go(config_id, "the executor writes all that flare.init() reads")


def plan_drops(job: LegacyJob) -> None:
    """Of what is not needed any more, all goes but what something else still refers to."""
    going = {i for i in job.candidates if i in job.components}
    while True:
        staying = [config for i, config in job.components.items() if i not in going]
        chains = job.entries("task_data_filters") + job.entries("task_result_filters")
        referred = set(strings([_arguments(job, c) for c in job.others + chains] + staying))
        kept = {i for i in going if i in referred}
        if not kept:
            break
        going -= kept
    for component_id in job.candidates:
        if component_id in going:
            name = class_path(job.components[component_id]).rpartition(".")[2]
            job.report(component_place(component_id), name, None, DROPPED, "", job.candidates[component_id])
            job.dropped.append(component_id)
        elif component_id in job.components:
            job.report(component_place(component_id), "", None, KEPT, "", "something else in the config refers to it")


def _arguments(job: LegacyJob, config: Any) -> Any:
    if isinstance(config, dict) and "filters" in config:
        return config["filters"]
    return job.variables.component(config)["args"]


def _launcher_advice(name: str, value: Any, arguments: dict) -> str:
    if name != "clean_up_script":
        known = KNOBS[SUBPROCESS_LAUNCHER].keys() - arguments.keys()
        return unknown_argument("SubprocessLauncher", name, sorted(known))
    inner = f"trap {shlex.quote(str(value))} EXIT; {arguments.get('script')}"
    return f"nothing runs after the command: remove it and write the script as {as_shell_command(inner)}"
