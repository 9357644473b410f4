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

"""Migrates one app's client config: plans (plan.py), edits the document, checks the result."""

from typing import List, NamedTuple

from nvflare.app_common.executors.client_api.migration.config_edit import ConfigDocument
from nvflare.app_common.executors.client_api.migration.job import LegacyJob, NewExecutor, NewFilter, Row, Surroundings
from nvflare.app_common.executors.client_api.migration.knobs import REFUSED
from nvflare.app_common.executors.client_api.migration.parts import PartError
from nvflare.app_common.executors.client_api.migration.plan import plan
from nvflare.app_common.executors.client_api_executor import ClientAPIExecutor

EXECUTOR_PATH = f"{ClientAPIExecutor.__module__}.{ClientAPIExecutor.__name__}"
FILTER_PATH = "nvflare.app_common.executors.client_api.params_filter.ParamsConverterFilter"
# Directions in which a client's filters of a section work, the default first.
_DIRECTIONS = {"task_data_filters": ("in", "inout"), "task_result_filters": ("out", "inout")}


class Migrated(NamedTuple):
    """What became of a config."""

    text: str  # the new one; the old one if there was nothing to migrate or something was refused
    rows: List[Row]  # each argument's fate

    @property
    def is_refused(self) -> bool:
        return any(row.fate == REFUSED for row in self.rows)


def migrate_config(text: str, syntax: str, target: str, surroundings: Surroundings) -> Migrated:
    """Migrates the text of a client config.

    Args:
        text: of the config.
        syntax: one of config_scan's JSON, HOCON and YAML.
        target: the nvflare version that is to run it: "2.8", with this project's executor, or "2.9", with its own.
        surroundings: what is around it.

    Raises:
        ConfigEditError: the config is broken, or cannot be edited in place.
    """
    document = ConfigDocument(text, syntax)
    try:
        job = plan(document, target, surroundings)
    except PartError as e:
        return Migrated(text, [Row("config", "", None, REFUSED, "", str(e))])
    if job.is_refused or not (job.executors or job.dropped):
        return Migrated(text, job.rows)
    for executor in job.executors:
        _edit_executor(document, executor)
    for new_filter in job.filters:
        _add_filter(document, new_filter)
    _drop_components(document, job)
    after = "format_version" if "format_version" in document.data else None
    for name, value in reversed(job.job_keys.items()):
        document.insert((), name, value, after)
    if job.dropped_keys:
        document.delete((), job.dropped_keys)
    return Migrated(document.verified_text(), job.rows)


def _edit_executor(document: ConfigDocument, new: NewExecutor) -> None:
    path = ("executors", new.position, "executor")
    config = document.data["executors"][new.position]["executor"]
    key = next(key for key in ("path", "class_path", "name") if config.get(key))
    document.set((*path, key), EXECUTOR_PATH)
    if key == "name":
        document.rename((*path, key), "path")
        key = "path"
    if not isinstance(config.get("args"), dict):
        document.insert(path, "args", {argument.name: argument.value for argument in new.arguments}, after=key)
        return
    path = (*path, "args")
    old_names = set(config["args"])
    after = None
    for argument in new.arguments:
        if argument.old_name not in old_names:
            document.insert(path, f"{_NEW}{argument.name}", argument.value, after)
            after = f"{_NEW}{argument.name}"
    document.delete(path, old_names - {argument.old_name for argument in new.arguments})
    for argument in new.arguments:
        if argument.old_name not in old_names:
            document.rename((*path, f"{_NEW}{argument.name}"), argument.name)
            continue
        if config["args"][argument.old_name] != argument.value:
            document.set((*path, argument.old_name), argument.value)
        if argument.old_name != argument.name:
            document.rename((*path, argument.old_name), argument.name)


# While an old argument of the same name may still be there.
_NEW = "new_"


def _add_filter(document: ConfigDocument, new: NewFilter) -> None:
    """Puts a converter's filter where it works on what the executor alone would see."""
    is_last = new.section == "task_data_filters"
    open_tasks = list(new.tasks)
    if new.section not in document.data:
        is_behind = not is_last and "task_data_filters" in document.data
        document.insert((), new.section, [], after="task_data_filters" if is_behind else "executors")
    chains = document.data[new.section]
    for position, chain in enumerate(chains):
        direction = str(chain.get("direction", _DIRECTIONS[new.section][0])).lower()
        covered = [task for task in chain["tasks"] if task in open_tasks]
        if direction not in _DIRECTIONS[new.section] or not covered:
            continue
        arguments = {"converter_id": new.converter_id}
        if set(chain["tasks"]) - set(new.tasks):
            arguments["supported_tasks"] = covered
        after = len(chain["filters"]) - 1 if is_last and chain["filters"] else None
        document.insert((new.section, position, "filters"), None, {"path": FILTER_PATH, "args": arguments}, after)
        open_tasks = [task for task in open_tasks if task not in covered]
    if open_tasks:
        chain = {"tasks": open_tasks, "filters": [{"path": FILTER_PATH, "args": {"converter_id": new.converter_id}}]}
        document.insert((new.section,), None, chain, after=len(chains) - 1 if chains else None)


def _drop_components(document: ConfigDocument, job: LegacyJob) -> None:
    components = enumerate(document.data.get("components", []))
    positions = [i for i, config in components if job.resolve(config.get("id")) in job.dropped]
    if positions:
        document.delete(("components",), positions)
