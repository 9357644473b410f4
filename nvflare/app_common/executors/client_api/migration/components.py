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
from nvflare.app_common.executors.client_api.migration.parts import ExecutorPart, class_path, is_part

_ANALYTICS = "analytix_log_stats"
# What only a shell understands; neither nvflare's launcher nor the executor gives a command to one.
_SHELL_WORDS = {"&&", "||", "|", ";", "&", ">", ">>", "<", "2>&1"}

ATTACH_ADVICE = (
    "somebody else starts its trainer, so it becomes execution_mode attach, by hand: path ClientAPIExecutor with "
    'args execution_mode = "attach"; the formats become keys of the job; a FilePipe stays as the component with id '
    "client_api_pipe, a CellPipe goes; the trainer is started with "
    "`python -m nvflare.app_common.executors.client_api.attach --workspace DIR -- SCRIPT.py`"
)
LAUNCHER_ADVICE = (
    "a launcher of the job's own: if it runs a command, write a SubprocessLauncher with that command as script and "
    "migrate again; if it hands the trainer to somebody else (a scheduler, a service), give it the id "
    "client_api_launcher, and " + ATTACH_ADVICE
)


def plan_launcher(job: LegacyJob, where: str, part: ExecutorPart) -> List[NewArgument]:
    """Returns the arguments that come from an executor's launcher; the launcher and the pipe may go."""
    launcher_id = job.resolve(part.arguments.get("launcher_id"))
    launcher = job.component(launcher_id)
    if launcher_id is None or launcher is None:
        problem = f"there is no component {launcher_id!r}: " if launcher_id else ""
        job.refuse(where, "launcher_id", launcher_id, problem + ATTACH_ADVICE)
        return []
    if not is_part(launcher, "SubprocessLauncher"):
        job.refuse(component_place(launcher_id), "path", class_path(launcher), LAUNCHER_ADVICE)
        return []
    _plan_pipe(job, part)
    job.candidates[launcher_id] = "its arguments are the executor's now"
    raw = job.written_arguments(launcher_id)
    arguments = []
    for name, value in raw.items():
        knob = KNOBS[SUBPROCESS_LAUNCHER].get(name)
        if name == "clean_up_script" and not value:
            job.report(component_place(launcher_id), name, value, DROPPED, "", "there is none")
        elif knob is None or knob.fate == REFUSED:
            job.refuse(component_place(launcher_id), name, value, _launcher_advice(name, value, raw.get("script")))
        else:
            why = knob.why if knob.fate != KEPT else ""
            job.report(component_place(launcher_id), name, value, knob.fate, knob.becomes, why)
            arguments.append(NewArgument(knob.becomes, value))
        if name == "shutdown_timeout" and job.resolve(value) is None:
            why = "it had no limit at the end; now it has 30 s"
            job.report(component_place(launcher_id), name, value, NOTE, "", why)
    _note_shell(job, launcher_id, launcher["args"].get("script"))
    return arguments


def _note_shell(job: LegacyJob, launcher_id: str, script: Any) -> None:
    try:
        words = shlex.split(script) if isinstance(script, str) else []
    except ValueError:
        return  # the executor says what is wrong with it
    if _SHELL_WORDS & set(words) or (words and "=" in words[0]):
        advice = f"the launcher gave it to no shell either; for one: bash -c {shlex.quote(script)}"
        job.report(component_place(launcher_id), "script", script, NOTE, "", advice)


def _plan_pipe(job: LegacyJob, part: ExecutorPart) -> None:
    pipe_id = job.resolve(part.arguments.get("pipe_id"))
    pipe = job.component(pipe_id)
    if pipe is None:
        return  # the launcher's own trainer does not need it
    if not is_part(pipe, "CellPipe", "FilePipe"):
        job.refuse(
            component_place(pipe_id),
            "path",
            class_path(pipe),
            "a pipe of the job's own: if it only leads to the launched trainer, write a CellPipe and migrate again; "
            "if somebody else's trainer is at its end, " + ATTACH_ADVICE,
        )
    job.candidates[pipe_id] = KNOBS[PIPES]["every argument"].why


def plan_relays(job: LegacyJob) -> None:
    """What brings the script's log records and config to a launched script may go."""
    for relay_id, relay in job.components.items():
        if not is_part(relay, "MetricRelay"):
            continue
        arguments = relay["args"]
        event_type = arguments.get("event_type", _ANALYTICS)
        if event_type not in (_ANALYTICS, "fed." + _ANALYTICS):
            advice = f"the executor sends fed.{_ANALYTICS}: have the server's components listen to that, remove this"
            job.refuse(component_place(relay_id), "event_type", event_type, advice)
        elif not arguments.get("fed_event", True) and not converts_analytics(job):
            advice = "what the script logs would leave the site now: remove this, or add a ConvertToFedEvent"
            job.refuse(component_place(relay_id), "fed_event", False, advice)
        job.candidates[relay_id] = KNOBS[RELAY]["pipe_id"].why
        if job.component(arguments.get("pipe_id")):
            job.candidates.setdefault(arguments["pipe_id"], KNOBS[PIPES]["every argument"].why)
    for config_id, config in job.components.items():
        if is_part(config, "ExternalConfigurator"):
            ids = config["args"].get("component_ids") or []
            foreign = [i for i in ids if str(i) not in job.candidates] if isinstance(ids, list) else [ids]
            if foreign:
                advice = f"it also tells the script about {foreign}: pass that on as a script argument, remove it"
                job.refuse(component_place(config_id), "component_ids", ids, advice)
            job.candidates[config_id] = "the executor writes all that flare.init() reads"


def converts_analytics(job: LegacyJob) -> bool:
    converters = [c for c in job.components.values() if is_part(c, "ConvertToFedEvent")]
    return any(_ANALYTICS in strings(c["args"].get("events_to_convert")) for c in converters)


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


def _launcher_advice(name: str, value: Any, script: Any) -> str:
    if name != "clean_up_script":
        return "no argument of SubprocessLauncher: remove it, and migrate again"
    inner = f"trap {shlex.quote(str(value))} EXIT; {script}"
    return f"nothing runs after the command: remove it and write the script as bash -c {shlex.quote(inner)}"


def strings(value: Any) -> list:
    """All strings in a value, keys excepted."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [text for item in value for text in strings(item)]
    return [value] if isinstance(value, str) else []
