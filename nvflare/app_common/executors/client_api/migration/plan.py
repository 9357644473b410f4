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

"""Decides what becomes of one app's client config; reads only.

    plan(document, target, surroundings) -> LegacyJob with its lists filled (see job.py)

Whatever cannot be kept in meaning is refused with advice: a job that runs with the legacy parts runs the same way
afterwards.
"""

import math
import shlex
from typing import Any, List, Optional

from nvflare.app_common.executors.client_api.migration.advice import unknown_argument
from nvflare.app_common.executors.client_api.migration.components import (
    OWN_CONFIG_FILE,
    attach_advice,
    plan_drops,
    plan_launcher,
    plan_relays,
)
from nvflare.app_common.executors.client_api.migration.config_edit import ConfigDocument
from nvflare.app_common.executors.client_api.migration.events import plan_events
from nvflare.app_common.executors.client_api.migration.formats import plan_converters, plan_formats
from nvflare.app_common.executors.client_api.migration.job import (
    LegacyJob,
    NewArgument,
    NewExecutor,
    Surroundings,
    component_place,
    executor_place,
)
from nvflare.app_common.executors.client_api.migration.knobs import (
    ADDED,
    ARGUMENTS,
    CONVERTERS,
    DROPPED,
    FORMAT_DEFAULTS,
    JOB_KEYS,
    KEPT,
    KNOBS,
    LAUNCHER,
    LEGACY_DEFAULTS,
    NOTE,
    RENAMED,
)
from nvflare.app_common.executors.client_api.migration.parts import (
    ExecutorPart,
    PartError,
    UnknownPart,
    class_path,
    find_executor,
)
from nvflare.app_common.executors.client_api.migration.target import plan_gone, refuse_gone
from nvflare.app_common.executors.client_api_executor import ClientAPIExecutor
from nvflare.client.constants import CLIENT_API_CONFIG


def plan(document: ConfigDocument, target: str, surroundings: Surroundings) -> LegacyJob:
    """Plans the migration of a config.

    Args:
        document: the config.
        target: "2.8" or "2.9".
        surroundings: what is around it.

    Raises:
        PartError: it cannot be planned, and why. What is refused besides is in the rows of the result.
    """
    job = LegacyJob(document, target, surroundings)
    parts = _find_parts(job)
    for position, part in parts:
        _plan_executor(job, position, part)
    modes = {part.legacy.mode for _, part in parts}
    if modes:
        _refuse_twins(job)
        plan_events(job, modes)
    if LAUNCHER in modes or (modes and target == "2.9"):
        plan_relays(job)
    if target == "2.9":
        plan_gone(job)
    plan_drops(job)
    if target == "2.9":
        refuse_gone(job)
    _check_new_arguments(job)
    return job


def _refuse_twins(job: LegacyJob) -> None:
    """Which of two components of one id would be the executor's cannot be told: nvflare does not start such a job."""
    ids = [job.resolve(config.get("id")) for config in job.entries("components")]
    for twin in sorted({i for i in ids if isinstance(i, str) and ids.count(i) > 1}):
        job.refuse(component_place(twin), "id", twin, "several components have it: keep one, and migrate again")


def _find_parts(job: LegacyJob) -> list:
    parts = []
    for position, entry in enumerate(job.entries("executors")):
        where = executor_place(position)
        config = entry.get("executor")
        resolved = job.variables.component(config)
        try:
            part = find_executor(config, resolved, job.surroundings.custom_dir)
        except UnknownPart as e:
            part = None
            if set(resolved["args"]) & {"launcher_id", "task_script_path", "params_exchange_format"}:
                job.refuse(where, "path", class_path(resolved), f"{e}; run this where it can be imported")
                continue
            job.report(where, "path", class_path(resolved), NOTE, "", f"left alone: {e}")
        except PartError as e:
            job.refuse(where, "path", class_path(resolved), str(e))
            continue
        if isinstance(part, ExecutorPart):
            parts.append((position, part))
            if not isinstance(config.get("args", {}), dict):
                job.refuse(where, "args", config["args"], "write the arguments here, as a map, and migrate again")
            continue
        job.others.append(config)
        _note_pipe(job, where, part, resolved)
    modes = [part.legacy.mode for _, part in parts]
    for mode in set(modes):
        if modes.count(mode) > 1:
            raise PartError(
                f"{modes.count(mode)} Client API executors in one app would all be {mode}: give one of them all "
                "tasks (flare.is_train() and the like tell them apart), remove the others, and migrate again"
            )
    return parts


def _plan_executor(job: LegacyJob, position: int, part: ExecutorPart) -> None:
    where, mode = executor_place(position), part.legacy.mode
    job.report(where, part.name, None, RENAMED, "ClientAPIExecutor", f'execution_mode = "{mode}"')
    arguments = [NewArgument("execution_mode", mode)]
    if mode == LAUNCHER:
        arguments += plan_launcher(job, where, part)
    arguments += plan_formats(job, where, position, part)
    for name, value in part.arguments.items():
        argument = _plan_argument(job, where, mode, name, value)
        if argument:
            arguments.append(argument)
    arguments = _with_job_keys(job, mode, arguments)
    given = {argument.name for argument in arguments}
    defaults = {"train_with_evaluation": True} if part.legacy.evaluates else {}
    for name, value in {**defaults, **LEGACY_DEFAULTS[mode, job.target]}.items():
        if name not in given:
            arguments.append(NewArgument(name, value))
            job.report(where, name, value, ADDED, name, "the old default, which the new executor has another one for")
    plan_converters(job, where, position, part)
    job.executors.append(NewExecutor(position, arguments))


def _note_pipe(job: LegacyJob, where: str, part: Optional[str], resolved: dict) -> None:
    """An executor that somebody else's trainer serves is left alone; its successor is attach."""
    if part or "pipe_id" in resolved["args"]:
        advice = f"left alone; with a script that uses the Client API, {attach_advice(job.target)}"
        job.report(where, "path", class_path(resolved), NOTE, "", advice)


def _plan_argument(job: LegacyJob, where: str, mode: str, name: str, value: Any) -> Optional[NewArgument]:
    knob = ARGUMENTS[mode].get(name)
    if knob is None:
        job.refuse(where, name, value, unknown_argument("this executor", name, ARGUMENTS[mode]))
    elif name in FORMAT_DEFAULTS or name in CONVERTERS or name == "launcher_id":
        return None  # planned elsewhere
    elif name == "config_file_name":
        if job.resolve(value) == CLIENT_API_CONFIG:
            job.report(where, name, value, DROPPED, "", "the default")
        else:
            job.refuse(where, name, value, OWN_CONFIG_FILE)
    elif knob.fate == DROPPED:
        job.report(where, name, value, DROPPED, "", knob.why)
    else:
        new_value = _new_value(job, mode, name, value)
        why = knob.why if knob.fate != KEPT else "" if new_value == value else f"now {new_value!r}"
        job.report(where, name, value, knob.fate, knob.becomes, why)
        return NewArgument(knob.becomes, new_value, name)
    return None


def _new_value(job: LegacyJob, mode: str, name: str, value: Any) -> Any:
    """The value of an argument that stays, in the new executor's terms."""
    resolved = job.resolve(value)
    if name == "external_pre_init_timeout" and not resolved:
        return None  # both mean: no limit
    if name == "heartbeat_timeout" and resolved is None:
        return 0
    if name == "task_script_args" and job.target == "2.8" and isinstance(resolved, str):
        return _quoted_anew(value, resolved)
    return value


def _quoted_anew(value: str, resolved: str) -> str:
    """The legacy executor split at every space and knew no quotes; the new one splits like a shell."""
    try:
        if shlex.split(resolved) == resolved.split():
            return value
    except ValueError:
        pass  # an open quote
    if value != resolved:
        raise PartError(
            f"task_script_args: {resolved!r} has quotes or backslashes, which would now count, and comes from a "
            f"variable: write {shlex.join(resolved.split())!r} in the place of {value!r} and migrate again"
        )
    return shlex.join(resolved.split())


def _with_job_keys(job: LegacyJob, mode: str, arguments: List[NewArgument]) -> List[NewArgument]:
    """Takes over the job's keys that the launcher executors read."""
    if mode != LAUNCHER:
        return arguments
    knobs = KNOBS[JOB_KEYS]
    for name, value in job.data.items():
        knob = knobs.get(name)
        is_variable = f"{{{name}}}" in job.document.text
        if knob is None:
            read = next((key for key in knobs if key.lower() == str(name).lower()), None)
            if read and not is_variable:
                job.report("job", name, value, NOTE, "", f"left alone: nvflare does not read it, it reads {read}")
            continue
        if not job.surroundings.has_job_keys:
            why = "nvflare reads this key from config/config_fed_client.json only"
            job.report("job", name, value, DROPPED, "", why)
        elif knob.fate == RENAMED:
            arguments = [a for a in arguments if a.name != knob.becomes]
            arguments.append(NewArgument(knob.becomes, _seconds(job, name, value)))
            job.report("job", name, value, RENAMED, knob.becomes, knob.why)
        else:
            job.report("job", name, value, DROPPED, "", knob.why)
        if not is_variable:
            job.dropped_keys.append(name)
    return arguments


def _seconds(job: LegacyJob, name: str, value: Any) -> Optional[float]:
    """What the legacy executors make of a key's value."""
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = 0.0
    if seconds <= 0:
        job.refuse("job", name, value, "the legacy executor refuses it: write a positive number of seconds")
    if not math.isfinite(seconds):
        return None
    return seconds if isinstance(value, (str, bool)) else value


def _check_new_arguments(job: LegacyJob) -> None:
    """The new executor checks its arguments itself, when it is constructed."""
    if job.is_refused:
        return
    # Formats are no arguments in 2.8, and 2.9 splits the script's arguments as the legacy executors do.
    others = {*FORMAT_DEFAULTS} if job.target == "2.8" else {*FORMAT_DEFAULTS, "task_script_args"}
    for new in job.executors:
        arguments = {a.name: job.resolve(a.value) for a in new.arguments if a.name not in others}
        try:
            ClientAPIExecutor(**arguments)
        except (ValueError, TypeError) as e:
            job.refuse(executor_place(new.position), "", None, f"{e}: correct it, and migrate again")
