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

"""The formats in which parameters travel, and the converter components: keys of the job and task filters now."""

from typing import List, Optional

from nvflare.app_common.executors.client_api.migration.job import LegacyJob, NewArgument, NewFilter
from nvflare.app_common.executors.client_api.migration.knobs import (
    ADDED,
    ARGUMENTS,
    CONVERTERS,
    DROPPED,
    FORMAT_DEFAULTS,
    IN_PROCESS,
    KEPT,
    MOVED,
    TARGET_DEFAULTS,
)
from nvflare.app_common.executors.client_api.migration.parts import (
    ExecutorPart,
    PartError,
    class_path,
    is_part,
    strings,
)
from nvflare.client.config import ExchangeFormat, TransferType

# Its client-side controllers call the executor themselves, past all filters.
_CLIENT_CONTROLLED = "nvflare.app_common.ccwf"
_TASK_NAMES = {
    "train_task_name": "train",
    "evaluate_task_name": "validate",
    "submit_model_task_name": "submit_model",
}
_FORMAT_CHOICES = {
    "params_exchange_format": ExchangeFormat,
    "server_expected_format": ExchangeFormat,
    "params_transfer_type": TransferType,
}


# nvflare's own converters, and the formats with which the trainer's Client API does what they do.
_PAIRS = {
    ("NumpyToPTParamsConverter", "PTToNumpyParamsConverter"): ("pytorch", "numpy"),
    ("PTReceiveParamsConverter", "PTSendParamsConverter"): ("pytorch", "pytorch"),
    ("NumpyToKerasModelParamsConverter", "KerasModelToNumpyParamsConverter"): ("keras_layer_weights", "numpy"),
}


def plan_formats(job: LegacyJob, where: str, position: int, part: ExecutorPart) -> List[NewArgument]:
    """Plans the three format keys; returns them as arguments where the target has them so."""
    given = {name: part.arguments[name] for name in FORMAT_DEFAULTS if name in part.arguments}
    effective = _checked_formats(job, where, part, given)
    reasons = dict.fromkeys(effective, f"the default of {part.name}")
    pair = _formats_of_pair(job, position, part)
    if pair:
        formats = dict(zip(("params_exchange_format", "server_expected_format"), pair))
        effective.update(formats)
        given.update({name: value for name, value in formats.items() if name in given})
        reasons.update(dict.fromkeys(formats, "of the converters"))
    elif _trainer_must_not_convert(part, effective):
        same = effective["server_expected_format"] = effective["params_exchange_format"]
        given["server_expected_format"] = same
        reasons["server_expected_format"] = f"else the trainer would convert, which {part.name} did not"
    defaults = TARGET_DEFAULTS[job.target]
    new = {name: given.get(name, value) for name, value in effective.items()}
    new = {name: value for name, value in new.items() if name in given or effective[name] != defaults[name]}
    for name, value in new.items():
        if name not in part.arguments or value != part.arguments[name]:
            job.report(where, name, value, ADDED, name, reasons[name])
        elif job.target == "2.9":
            job.report(where, name, value, KEPT, name)
        else:
            job.report(where, name, value, MOVED, name, ARGUMENTS[part.legacy.mode][name].why)
    if job.target == "2.9":
        return [NewArgument(name, value, name if name in part.arguments else None) for name, value in new.items()]
    _set_job_keys(job, effective, new)
    return []


def _checked_formats(job: LegacyJob, where: str, part: ExecutorPart, given: dict) -> dict:
    """The formats that an executor has, by what it is given and by its defaults."""
    effective = {**FORMAT_DEFAULTS, "params_exchange_format": part.legacy.exchange_format}
    effective.update({name: job.resolve(value) for name, value in given.items()})
    for name, choices in _FORMAT_CHOICES.items():
        if effective[name] not in [choice.value for choice in choices]:
            allowed = ", ".join(choice.value for choice in choices)
            raise PartError(f"{where}: {name} must be one of {allowed}, but is {effective[name]!r}")
    return effective


def _set_job_keys(job: LegacyJob, effective: dict, new: dict) -> None:
    if job.formats not in (None, effective):
        raise PartError("two executors with different formats, which are keys of the job now: make them the same")
    job.formats = effective
    for name, value in effective.items():
        if name in job.data and job.resolve(job.data[name]) != value:
            raise PartError(
                f"the job has a key {name} with the value {job.data[name]!r}, to which the executor paid no attention: "
                f"for it the value is {value!r}, and that becomes this key. Remove or rename the one that is not meant"
            )
    job.job_keys.update({name: value for name, value in new.items() if name not in job.data})


def _trainer_must_not_convert(part: ExecutorPart, effective: dict) -> bool:
    would_convert = effective["server_expected_format"] == ExchangeFormat.NUMPY and effective[
        "params_exchange_format"
    ] in (ExchangeFormat.PYTORCH, ExchangeFormat.KERAS_LAYER_WEIGHTS)
    if not would_convert or part.legacy.mode != IN_PROCESS:
        return False
    converters = [name for name in CONVERTERS if part.arguments.get(name)]
    if part.legacy.converts and len(converters) == 1:
        raise PartError(
            f"{part.name} has {converters[0]} only and converts by itself in the other direction: name a converter "
            "for that one, too (nvflare's own are in nvflare.app_opt), and migrate again"
        )
    return not part.legacy.converts or bool(converters)


def plan_converters(job: LegacyJob, where: str, position: int, part: ExecutorPart) -> None:
    """Plans what takes over an executor's converters: filters, or the formats."""
    are_formats = _formats_of_pair(job, position, part) is not None
    for name, section in CONVERTERS.items():
        value = part.arguments.get(name)
        converter_id = job.resolve(value)
        knob = ARGUMENTS[part.legacy.mode][name]
        if name not in part.arguments:
            continue
        if knob.fate == DROPPED:
            job.report(where, name, value, DROPPED, "", knob.why)
            job.may_go(converter_id, "nothing uses it")
        elif not converter_id:
            job.report(where, name, value, DROPPED, "", "there is none")
        elif not job.component(converter_id):
            job.refuse(where, name, value, job.why_missing(converter_id))
        elif are_formats:
            job.report(where, name, value, MOVED, "the formats", "which do what nvflare's own converters did")
            job.may_go(converter_id, "the formats do what it did")
        elif _why_no_filter(job):
            job.refuse(where, name, value, f"{_why_no_filter(job)}: convert in the script, and remove this")
        else:
            _check_chains(job, section)
            job.filters.append(NewFilter(section, converter_id, _tasks_of(job, position, part)))
            job.report(where, name, value, MOVED, knob.becomes, knob.why)


def _formats_of_pair(job: LegacyJob, position: int, part: ExecutorPart) -> Optional[tuple]:
    """Returns the two formats that do what the executor's two converters do, if these are a pair of nvflare's own."""
    if part.legacy.mode != IN_PROCESS:
        return None
    converters = [job.component(job.resolve(part.arguments.get(name))) for name in CONVERTERS]
    if None in converters or not all(is_part(c, class_path(c).rpartition(".")[2]) for c in converters):
        return None
    tasks = set(_tasks_of(job, position, part))
    train, evaluate, submit = (job.resolve(part.arguments.get(key, name)) for key, name in _TASK_NAMES.items())
    for converter, needed in zip(converters, ({train, evaluate}, {train, submit})):
        supported = converter["args"].get("supported_tasks")
        if supported and not needed & tasks <= set(strings(supported)):
            return None
    return _PAIRS.get(tuple(class_path(c).rpartition(".")[2] for c in converters))


def _why_no_filter(job: LegacyJob) -> str:
    if job.target == "2.9":
        return "2.9 has no converters"
    if any(class_path(job.variables.component(other)).startswith(_CLIENT_CONTROLLED) for other in job.others):
        return "client-controlled workflows run an executor past the filters"
    return ""


def _check_chains(job: LegacyJob, section: str) -> None:
    for chain in job.entries(section):
        if not isinstance(chain.get("tasks"), list) or not isinstance(chain.get("filters"), list):
            raise PartError(f"{section} must have lists of tasks and filters, but has {str(chain)[:200]}")


def _tasks_of(job: LegacyJob, position: int, part: ExecutorPart) -> List[str]:
    """The tasks that filters have to name: they know no patterns."""
    tasks = job.resolve(job.entries("executors")[position].get("tasks"))
    tasks = tasks if isinstance(tasks, list) else []
    names = [job.resolve(part.arguments.get(key, default)) for key, default in _TASK_NAMES.items()]
    prefixes = tuple(task.split("*")[0] for task in tasks if isinstance(task, str) and "*" in task)
    matched = [name for name in names if prefixes and isinstance(name, str) and name.startswith(prefixes)]
    plain = [task for task in tasks if isinstance(task, str) and "*" not in task]
    return list(dict.fromkeys(plain + matched))
