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

"""Who sees the arrays of a job, whose config is read as a site reads it."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_constant import FLContextKey
from nvflare.app_common.executors.client_api.arrays.onlookers import RESULTS, TASKS, nothing_else_sees
from nvflare.app_common.executors.client_api_executor import ClientAPIExecutor
from nvflare.private.fed.client.client_run_manager import ClientRunManager
from nvflare.private.fed.client.client_runner import ClientRunner, ClientRunnerConfig
from tests.unit_test.app_common.executors.job_harness import SITE_NAME


class Holder(FLComponent):
    """A component that has another one, and hears no events."""

    def __init__(self, helper=None):
        super().__init__()
        self.helper = helper


class TypedExecutor(ClientAPIExecutor):
    """Of another type, and its tasks go to the backend as ever."""


class LookingExecutor(ClientAPIExecutor):
    def execute(self, task_name, shareable, fl_ctx, abort_signal):
        return super().execute(task_name, dict(shareable), fl_ctx, abort_signal)


def part(kind: type, **args) -> dict:
    return {"path": f"{kind.__module__}.{kind.__qualname__}", "args": args}


def executor(kind: type = ClientAPIExecutor, task: str = "train") -> dict:
    return {"tasks": [task], "executor": part(kind, execution_mode="attach")}


ALL_UNSEEN = {TASKS: False, RESULTS: False}
EXCHANGER = {"tasks": ["other"], "executor": {"path": "nvflare.app_common.np.np_trainer.NPTrainer"}}
# Of nvflare's: its source names tasks, and no results.
LOOKER = {"path": "nvflare.app_common.widgets.event_recorder.ClientEventRecorder"}
FILTERS = [{"tasks": ["train"], "filters": [{"path": "nvflare.app_common.filters.exclude_vars.ExcludeVars"}]}]


def engine_of(job, config: ClientRunnerConfig) -> ClientRunManager:
    """What a site makes of a job's config before the job starts."""
    client = SimpleNamespace(client_name=SITE_NAME, client_args={})
    engine = ClientRunManager(SITE_NAME, job.job_id, job.workspace, client, config.components, config.handlers)
    engine.add_handler(ClientRunner({}, config, job.job_id, engine))
    return engine


@pytest.mark.parametrize(
    "config, is_seen",
    [
        ({}, ALL_UNSEEN),
        ({"executors": [executor(), executor(TypedExecutor, "validate")]}, {TASKS: False, RESULTS: False}),
        ({"executors": [executor(LookingExecutor)]}, {TASKS: True, RESULTS: True}),
        ({"executors": [executor(), executor(LookingExecutor, "validate")]}, {TASKS: True, RESULTS: True}),
        ({"executors": [executor(), EXCHANGER]}, {TASKS: True, RESULTS: True}),
        ({"components": [{"id": "holder", **part(Holder)}]}, {TASKS: False, RESULTS: False}),
        ({"components": [{"id": "looker", **LOOKER}]}, {TASKS: True, RESULTS: False}),
        ({"components": [{"id": "holder", **part(Holder, helper=LOOKER)}]}, {TASKS: True, RESULTS: False}),
        ({"task_data_filters": FILTERS}, {TASKS: True, RESULTS: False}),
        ({"task_result_filters": FILTERS}, {TASKS: False, RESULTS: True}),
    ],
    ids=[
        "the executor alone",
        "two of ours",
        "own execute()",
        "own execute() for another task",
        "another executor",
        "a component",
        "a component that looks",
        "one inside of another",
        "filter of tasks",
        "filter of results",
    ],
)
def test_who_sees_arrays(job, config, is_seen):
    assert seen_in(job, config) == is_seen


@pytest.mark.parametrize(
    "helper, is_seen", [("_".join(("TASK", "DATA")), {TASKS: True, RESULTS: False}), ("", ALL_UNSEEN)]
)
def test_helpers_of_a_component_of_the_jobs_own(job, monkeypatch, helper, is_seen):
    """Only what it imports names the property, and is imported late."""
    files = {
        "own_parts/__init__.py": "",
        "own_parts/watcher.py": f"from {FLComponent.__module__} import {FLComponent.__name__}\n"
        "class Watcher(FLComponent):\n    def handle_event(self, event_type, fl_ctx):\n        import peek\n",
        "peek.py": f"NAME = '{helper}'\n",
    }
    custom = Path(job.workspace.get_app_custom_dir(job.job_id))
    for name, text in files.items():
        (custom / name).parent.mkdir(parents=True, exist_ok=True)
        (custom / name).write_text(text)
    monkeypatch.syspath_prepend(str(custom))
    monkeypatch.delitem(sys.modules, "own_parts.watcher", raising=False)
    monkeypatch.delitem(sys.modules, "own_parts", raising=False)
    config = {"components": [{"id": "watcher", "path": "own_parts.watcher.Watcher", "args": {}}]}
    assert seen_in(job, config) == is_seen


def seen_in(job, config: dict) -> dict:
    config = {"format_version": 2, "executors": [executor()], **config}
    engine = engine_of(job, job.read_config("config_fed_client.json", json.dumps(config)))
    runner = engine.handlers[-1]
    with engine.new_context() as fl_ctx:
        fl_ctx.set_prop(FLContextKey.RUNNER, runner, private=True)
        return {what: not nothing_else_sees(what, fl_ctx) for what in (TASKS, RESULTS)}
