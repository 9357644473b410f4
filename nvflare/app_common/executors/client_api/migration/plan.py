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

    plan(document, target, custom_dir) -> LegacyJob with its lists filled (see job.py)

Whatever cannot be kept in meaning is refused with advice: a job that runs with the legacy parts runs the same way
afterwards.
"""

import shlex
from pathlib import Path
from typing import Any, List, Optional

from nvflare.app_common.executors.client_api.migration.components import (
    converts_analytics,
    plan_drops,
    plan_launcher,
    plan_relays,
)
from nvflare.app_common.executors.client_api.migration.config_edit import ConfigDocument
from nvflare.app_common.executors.client_api.migration.config_scan import JSON
from nvflare.app_common.executors.client_api.migration.formats import plan_converters, plan_formats
from nvflare.app_common.executors.client_api.migration.job import LegacyJob, NewArgument, NewExecutor, executor_place
from nvflare.app_common.executors.client_api.migration.knobs import (
    ADDED,
    ARGUMENTS,
    CONVERTERS,
    DROPPED,
    FORMAT_DEFAULTS,
    IN_PROCESS,
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
from nvflare.app_common.executors.client_api_executor import ClientAPIExecutor
from nvflare.client.constants import CLIENT_API_CONFIG


def plan(document: ConfigDocument, target: str, custom_dir: Path) -> LegacyJob:
    """Plans the migration of a config.

    Args:
        document: the config.
        target: "2.8" or "2.9".
        custom_dir: of the app.

    Raises:
        PartError: it cannot be planned, and why. What is refused besides is in the rows of the result.
    """
    job = LegacyJob(document, target)
    parts = _find_parts(job, custom_dir)
    for position, part in parts:
        _plan_executor(job, position, part)
    if any(part.legacy.mode == LAUNCHER for _, part in parts):
        plan_relays(job)
        plan_drops(job)
    _check_new_arguments(job)
    return job


def _find_parts(job: LegacyJob, custom_dir: Path) -> list:
    parts = []
    for position, entry in enumerate(job.entries("executors")):
        where = executor_place(position)
        config = entry.get("executor")
        resolved = job.variables.component(config)
        try:
            part = find_executor(config, resolved, custom_dir)
        except UnknownPart as e:
            part = None
            if set(resolved["args"]) & {"launcher_id", "task_script_path", "params_exchange_format"}:
                job.refuse(where, "path", class_path(resolved), f"{e}; run this where it can be imported")
            else:
                job.report(where, "path", class_path(resolved), NOTE, "", f"left alone: {e}")
        except PartError as e:
            job.refuse(where, "path", class_path(resolved), str(e))
            continue
        if part:
            parts.append((position, part))
        else:
            job.others.append(config)
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
    arguments += plan_formats(job, where, part)
    for name, value in part.arguments.items():
        argument = _plan_argument(job, where, mode, name, value)
        if argument:
            arguments.append(argument)
    given = {argument.name for argument in arguments}
    for name, value in LEGACY_DEFAULTS[mode, job.target].items():
        if name not in given:
            arguments.append(NewArgument(name, value))
            job.report(where, name, value, ADDED, name, "the old default, which the new executor has another one for")
    plan_converters(job, where, position, part)
    if mode == IN_PROCESS and not converts_analytics(job):
        job.report(
            where, "", None, NOTE, "", "what the script logs reaches the server now; before, it stayed on the site"
        )
    job.executors.append(NewExecutor(position, _with_job_keys(job, mode, arguments)))


def _plan_argument(job: LegacyJob, where: str, mode: str, name: str, value: Any) -> Optional[NewArgument]:
    knob = ARGUMENTS[mode].get(name)
    if knob is None:
        job.refuse(where, name, value, "no argument of this executor: remove it, and migrate again")
    elif name in FORMAT_DEFAULTS or name in CONVERTERS or name == "launcher_id":
        return None  # planned elsewhere
    elif name == "config_file_name":
        if job.resolve(value) == CLIENT_API_CONFIG:
            job.report(where, name, value, DROPPED, "", "the default")
        else:
            job.refuse(
                where,
                name,
                value,
                f"the executor writes {CLIENT_API_CONFIG}: have the script call flare.init() without a file, "
                "remove this argument, and migrate again",
            )
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
    for name, knob in KNOBS[JOB_KEYS].items():
        value = job.data.get(name)
        if name not in job.data or f"{{{name}}}" in job.document.text:
            continue  # also when it is a variable
        job.dropped_keys.append(name)
        if knob.fate == RENAMED and job.document.syntax == JSON:
            arguments = [a for a in arguments if a.name != knob.becomes] + [NewArgument(knob.becomes, value)]
            job.report("job", name, value, RENAMED, knob.becomes, knob.why)
        else:
            why = knob.why if job.document.syntax == JSON else "nvflare reads this key from .json files only"
            job.report("job", name, value, DROPPED, "", why)
    return arguments


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
