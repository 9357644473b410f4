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

"""Migration as a process of its own does it, what nvflare 2.9 makes of the result, and what the guide says."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import nvflare.apis
from nvflare.app_common.executors.client_api.migrate import NOT_MIGRATED, OK, main
from nvflare.app_common.executors.client_api.migration import gone_in_2_9
from nvflare.app_common.executors.client_api.migration.knobs import knob_table
from tests.unit_test.app_common.executors.client_api.migration_parts import (
    CORPUS,
    JOBS,
    in_process,
    load,
    make_job,
    new_executors,
)
from tests.unit_test.app_common.executors.job_harness import PROJECT

OWN = """
from nvflare.app_common.executors.task_exchanger import TaskExchanger
from nvflare.app_common.executors.in_process_client_api_executor import InProcessClientAPIExecutor
print("hello from own.py")

class Plain(InProcessClientAPIExecutor):
    "Nothing but a name."

class Preset(InProcessClientAPIExecutor):
    def __init__(self, script, **kwargs):
        super().__init__(task_script_path=script + ".py", params_transfer_type="DIFF", memory_gc_rounds=3, **kwargs)

class Busy(InProcessClientAPIExecutor):
    def execute(self, *args):
        return super().execute(*args)

class Other:
    pass

class Exchanger(TaskExchanger):
    def __init__(self):
        super().__init__(pipe_id="pipe")
"""


class TestOwnClasses:
    """Executor classes in the app's custom folder."""

    @pytest.fixture
    def run(self, tmp_path):
        def run(name: str, arguments: dict, module: str = OWN) -> tuple:
            job = make_job(tmp_path, {"path": f"own.{name}", "args": arguments})
            (job / "app" / "custom").mkdir()
            (job / "app" / "custom" / "own.py").write_text(module)
            # In a process of its own: nvflare's executors subscribe to the DataBus when they are constructed.
            command = [sys.executable, "-m", "nvflare.app_common.executors.client_api.migrate", str(job), "--in-place"]
            done = subprocess.run(command, capture_output=True, text=True)
            assert [path.name for path in (job / "app" / "custom").iterdir()] == ["own.py"]
            assert "Traceback" not in done.stderr and "hello" not in done.stdout
            return done, load(job / "app" / "config" / "config_fed_client.json")

        return run

    def test_subclass_without_a_body(self, run):
        done, config = run("Plain", {"task_script_path": "t.py", "train_task_name": "train"})
        assert done.returncode == OK
        assert new_executors(config)[0]["args"] == in_process("t.py", train_task_name="train")

    def test_subclass_that_presets_arguments(self, run):
        done, config = run("Preset", {"script": "t", "evaluate_task_name": "validate"})
        assert done.returncode == OK
        arguments = new_executors(config)[0]["args"]
        assert arguments == in_process("t.py", memory_gc_rounds=3, evaluate_task_name="validate")
        assert config["params_transfer_type"] == "DIFF"

    def test_subclass_with_behaviour_is_refused(self, run):
        done, config = run("Busy", {"task_script_path": "t.py"})
        assert done.returncode == NOT_MIGRATED
        assert "own.Busy has behaviour of its own (execute)" in done.stdout

    def test_other_class_is_left_alone(self, run):
        done, config = run("Other", {})
        assert done.returncode == OK and "nothing to migrate" in done.stdout
        assert config["executors"][0]["executor"]["path"] == "own.Other"

    def test_exchanger_is_left_with_a_word_on_attach(self, run):
        done, config = run("Exchanger", {})
        assert done.returncode == OK and "execution_mode attach" in done.stdout
        assert config["executors"][0]["executor"]["path"] == "own.Exchanger"

    @pytest.mark.parametrize("module", ["import no_such_module", "raise SystemExit(3)", "class {"])
    def test_module_that_cannot_be_imported(self, run, module):
        done, _ = run("Plain", {"speed": 1}, module)
        assert done.returncode == OK and "left alone: own.Plain cannot be imported" in done.stdout
        assert "nothing to migrate" in done.stdout

    def test_likely_executor_that_cannot_be_imported(self, run):
        done, _ = run("Plain", {"task_script_path": "t.py"}, "import no_such_module")
        assert done.returncode == NOT_MIGRATED and "run this where it can be imported" in done.stdout


LOAD = """
import importlib
import json
import sys

import nvflare

assert nvflare.__file__.startswith(sys.argv[1]), nvflare.__file__
classes, executors = json.load(sys.stdin)
for path in classes:
    module, _, name = path.rpartition(".")
    try:
        getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as e:
        if e.name.split(".")[0] == "nvflare":
            raise
    except ImportError as e:
        if "nvflare" in str(e):
            raise
from nvflare.app_common.executors.client_api_executor import ClientAPIExecutor

for arguments in executors:
    ClientAPIExecutor(**arguments)
print(len(classes), len(executors))
"""


def class_paths(value) -> set:
    """nvflare's classes that are named in a config, and the arguments of each ClientAPIExecutor."""
    if isinstance(value, list):
        return set().union(*map(class_paths, value))
    if not isinstance(value, dict):
        return set()
    path = value.get("path") or value.get("class_path")
    found = {path} if isinstance(path, str) and path.startswith("nvflare.") else set()
    return found.union(*map(class_paths, value.values()))


def test_the_list_of_what_is_gone_is_what_its_command_prints(nvflare_2_9):
    installed = Path(nvflare.apis.__file__).parent.parent
    command = [sys.executable, str(PROJECT / ".ci" / "gone_in_2_9.py"), str(installed), str(nvflare_2_9 / "nvflare")]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed == Path(gone_in_2_9.__file__).read_text()


def test_all_that_is_left_loads_in_2_9(nvflare_2_9, tmp_path):
    """Jobs of every shape, and the collection where it is at hand."""
    sources = [path for root in (JOBS, CORPUS) if root.is_dir() for path in root.iterdir()]
    classes, executors = set(), []
    for source in sources:
        job = shutil.copytree(source, tmp_path / source.name)
        if main([str(job), "--in-place", "--target", "2.9"]) != OK:
            continue
        for path in job.rglob("config_fed_*"):
            config = load(path)
            classes |= class_paths(config)
            for entry in config.get("executors", []):
                if entry["executor"].get("path", "").endswith(".ClientAPIExecutor"):
                    executors.append({k: config.get(str(v)[1:-1], v) for k, v in entry["executor"]["args"].items()})
    assert len(executors) >= len(sources) - 3
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(nvflare_2_9)],
        input=json.dumps([sorted(classes), executors]),
        env={**os.environ, "PYTHONPATH": str(nvflare_2_9)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(len(classes)), str(len(executors))]


def test_table_of_the_arguments_is_the_guides():
    assert knob_table() in (PROJECT / "docs" / "migration.md").read_text()
