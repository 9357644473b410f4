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

"""A job for nvflare 2.9: what 2.9 does not have goes when nothing uses it, and is refused else."""

import ast
from pathlib import Path
from typing import Any, Iterator

from nvflare.app_common.executors.client_api.migration import gone_in_2_9
from nvflare.app_common.executors.client_api.migration.job import LegacyJob, component_place, executor_place
from nvflare.app_common.executors.client_api.migration.knobs import NOTE
from nvflare.app_common.executors.client_api.migration.parts import class_path

# What this project adds to 2.8, and 2.9 has neither.
_OURS = "nvflare.app_common.executors.client_api.params_filter"
# Components that do nothing unless something else names them.
_PASSIVE = (
    "nvflare.app_common.launchers",
    "nvflare.app_opt.pt.numpy_params_converter",
    "nvflare.app_opt.pt.tensor_params_converter",
    "nvflare.app_opt.tf.params_converter",
    "nvflare.fuel.utils.pipe",
)
_INSTEAD = {
    "pipe": "a trainer that somebody else starts is execution_mode attach there, without a pipe",
    "hub": "it has no hub of federations",
    "MetricRelay": "it has no pipe: remove the argument",
    "MetricsSender": "it has no pipe: remove the argument",
    "TaskExchanger": "its ClientAPIExecutor with execution_mode attach runs a trainer that somebody else starts",
    "params_filter": "convert in the script, or by a filter of the job's own",
    "params_converter": "convert in the script, or by a filter of the job's own",
}


# Configs may name a class without its module.
_BY_NAME = {path.rpartition(".")[2]: path for path in gone_in_2_9.CLASSES}


def is_gone(path: str) -> bool:
    """Whether a class path, or a class name alone, names something that nvflare 2.9 does not have."""
    path = _BY_NAME.get(path, path)
    return any(path == gone or path.startswith(gone + ".") for gone in (*gone_in_2_9.MODULES, _OURS))


def plan_gone(job: LegacyJob) -> None:
    """Lets go what only something else could have used."""
    for component_id, config in job.components.items():
        path = class_path(config)
        if is_gone(path) and _BY_NAME.get(path, path).startswith(_PASSIVE):
            job.may_go(component_id, "nothing uses it, and nvflare 2.9 has no such class")


def refuse_gone(job: LegacyJob) -> None:
    """Refuses what stays and would not load; notes what the job's own code imports."""
    staying = {component_place(i): config for i, config in job.components.items() if i not in job.dropped}
    replaced = {executor.position for executor in job.executors}
    for position, entry in enumerate(job.entries("executors")):
        if position not in replaced:
            staying[executor_place(position)] = job.variables.component(entry.get("executor"))
    for section in ("task_data_filters", "task_result_filters"):
        staying[section] = job.entries(section)
    named = set()
    for where, config in staying.items():
        for part in _parts_of(config):
            named.add(class_path(part))
            _refuse_part(job, where, part)
    _check_own_code(job, named)


def gone_of_server(data: dict) -> list:
    """Returns class path and advice of each part of a server config that nvflare 2.9 does not have."""
    return [(class_path(part), _advice(class_path(part))) for part in _parts_of(data) if is_gone(class_path(part))]


def _refuse_part(job: LegacyJob, where: str, part: dict) -> None:
    path = class_path(part)
    if is_gone(path):
        job.refuse(where, "path", path, _advice(path))
        return
    known = {name: names for name, names in gone_in_2_9.ARGUMENTS.items() if path in (name, name.rpartition(".")[2])}
    arguments = part.get("args") if isinstance(part.get("args"), dict) else {}
    for name in [name for names in known.values() for name in names if name in arguments]:
        advice = f"no argument of it in nvflare 2.9: {_INSTEAD[path.rpartition('.')[2]]}, and migrate again"
        job.refuse(where, name, arguments[name], advice)


def _advice(path: str) -> str:
    words = _BY_NAME.get(path, path).split(".")
    instead = next((_INSTEAD[word] for word in reversed(words) if word in _INSTEAD), "write the job without it")
    return f"nvflare 2.9 has no {words[-1]}: {instead}"


def _parts_of(value: Any) -> Iterator[dict]:
    """All that is written like a component, however deep."""
    if isinstance(value, dict):
        if "." in class_path(value) or is_gone(class_path(value)):
            yield value
        for item in value.values():
            yield from _parts_of(item)
    elif isinstance(value, list):
        for item in value:
            yield from _parts_of(item)


def _check_own_code(job: LegacyJob, named: set) -> None:
    """A module that a config names has to load; of other code only its author knows whether it is used."""
    folder = job.surroundings.custom_dir
    for path in sorted(folder.rglob("*.py")):
        imports = sorted({name for name in _imports(path) if is_gone(name) and "." in name})
        module = ".".join(path.relative_to(folder).with_suffix("").parts)
        if not imports:
            continue
        where, what = f"custom/{path.relative_to(folder)}", ", ".join(imports)
        if any(name.startswith(module + ".") for name in named):
            job.refuse(where, "import", None, f"nvflare 2.9 has no {what}, and the config names this module")
        else:
            job.report(where, "import", None, NOTE, "", f"nvflare 2.9 has no {what}")


def _imports(path: Path) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
