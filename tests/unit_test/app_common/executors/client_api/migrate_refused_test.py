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
"""The migration tool: what it refuses, and executor classes of the job's own."""

import json
import shutil

import pytest

from nvflare.app_common.executors.client_api.migrate import NOT_MIGRATED, OK, main
from tests.unit_test.app_common.executors.client_api.migration_parts import (
    CONFIGURATOR,
    IN_PROCESS,
    JOBS,
    LAUNCHER,
    RELAY,
    launcher_executor,
    launcher_parts,
    load,
    make_job,
)

# executor, components, keys -> what the advice says
REFUSED = {
    "no launcher": ({"path": LAUNCHER, "args": {"pipe_id": "pipe"}}, launcher_parts(), {}, "execution_mode attach"),
    "launcher is not there": (launcher_executor(), [], {}, "there is no component 'launcher'"),
    "launcher with another id": (
        {"path": LAUNCHER, "args": {"launcher_id": "launchr", "pipe_id": "pipe"}},
        launcher_parts(),
        {},
        "there is no component 'launchr': 'launcher' is probably meant: correct it, and migrate again",
    ),
    "launcher by a variable": (
        {"path": LAUNCHER, "args": {"launcher_id": "{x}", "pipe_id": "pipe"}},
        [],
        {"x": "starter"},
        "there is no component 'starter': add the launcher that it names, and migrate again; if there is to be none: "
        "a trainer that somebody else starts is execution_mode attach",
    ),
    "disabled launcher": (
        launcher_executor(),
        [{**launcher_parts()[0], "disabled": True}],
        {},
        "component 'launcher' is disabled: enable it, or name another one, and migrate again",
    ),
    "converter disabled by a variable": (
        {"path": IN_PROCESS, "args": {"task_script_path": "t.py", "to_nvflare_converter_id": "c"}},
        [{"id": "c", "path": "own.Converter", "args": {}, "disabled": "{off}"}],
        {"off": True},
        "component 'c' is disabled",
    ),
    "launch_command": (
        launcher_executor(),
        [{"id": "launcher", "path": launcher_parts()[0]["path"], "args": {"launch_command": "python3 a.py"}}],
        {},
        "no argument of SubprocessLauncher: rename it to script, and migrate again",
    ),
    "launch_cmd": (
        launcher_executor(),
        [{"id": "launcher", "path": launcher_parts()[0]["path"], "args": {"launch_cmd": "python3 a.py"}}],
        {},
        "no argument of SubprocessLauncher: rename it to script, and migrate again",
    ),
    "launcher without a script": (
        launcher_executor(),
        [{"id": "launcher", "path": launcher_parts()[0]["path"], "args": {"launch_once": True}}],
        {},
        "missing: write the command there, and migrate again",
    ),
    "script of the executor": (
        launcher_executor(script="python3 a.py"),
        launcher_parts(),
        {},
        "no argument of this executor: write it as the script of its launcher, and migrate again",
    ),
    "arguments that are none": (
        {"path": IN_PROCESS, "args": None},
        [],
        {},
        "write the arguments here, as a map, and migrate again",
    ),
    "arguments one level deeper": (
        {"path": IN_PROCESS, "args": {"class_attributes": {"task_script_path": "t.py"}}},
        [],
        {},
        "write what is in it in its place, and migrate again",
    ),
    "two launchers of one id": (
        launcher_executor(),
        [*launcher_parts(), {**launcher_parts(script="python3 other.py")[0], "id": "{starter}"}],
        {"starter": "launcher"},
        "several components have it: keep one, and migrate again",
    ),
    "arguments by a variable": (
        {"path": IN_PROCESS, "args": "{all}"},
        [],
        {"all": {"task_script_path": "t.py"}},
        "write the arguments here, as a map, and migrate again",
    ),
    "train_args": (
        {"path": IN_PROCESS, "args": {"task_script_path": "t.py", "train_args": "-a"}},
        [],
        {},
        "no argument of this executor: rename it to task_script_args, and migrate again",
    ),
    "nearly an argument": (
        launcher_executor(hearbeat_timeout=3),
        launcher_parts(),
        {},
        "no argument of this executor: rename it to heartbeat_timeout, and migrate again",
    ),
    "task_script": (
        {"path": IN_PROCESS, "args": {"task_script": "t.py"}},
        [],
        {},
        "rename it to task_script_path",
    ),
    "own name of the config file": (
        launcher_executor(),
        [*launcher_parts(), {"id": "x", "path": CONFIGURATOR, "args": {"component_ids": [], "config_file_name": "y"}}],
        {},
        "flare.init() without a file",
    ),
    "own launcher": (
        launcher_executor(),
        [{"id": "launcher", "path": "own.SlurmLauncher", "args": {}}],
        {},
        "a launcher of the job's own",
    ),
    "own pipe": (
        launcher_executor(),
        [launcher_parts()[0], {"id": "pipe", "path": "own.Pipe", "args": {}}],
        {},
        "a pipe of the job's own",
    ),
    "clean up": (
        launcher_executor(),
        launcher_parts(clean_up_script="rm -r cache"),
        {},
        "bash -c 'trap '\"'\"'rm -r cache'\"'\"' EXIT; python3 -u custom/train.py'",
    ),
    "config file": (launcher_executor(config_file_name="my.json"), launcher_parts(), {}, "flare.init() without a file"),
    "unknown argument": (launcher_executor(colour="red"), launcher_parts(), {}, "no argument of this executor"),
    "unknown launcher argument": (launcher_executor(), launcher_parts(shell=True), {}, "no argument of Subprocess"),
    "open quote": (launcher_executor(), launcher_parts(script="python 'x"), {}, "split into words"),
    "bad format": (launcher_executor(params_exchange_format="jax"), launcher_parts(), {}, "must be one of raw, py"),
    "missing variable": (launcher_executor(), launcher_parts(script="{nobody}"), {}, "requires a non-empty command"),
    "circle": (launcher_executor(), launcher_parts(script="x {a}"), {"a": "y {b}", "b": "z {a}"}, "go in a circle"),
    "heartbeats": (launcher_executor(heartbeat_timeout=1.0), launcher_parts(), {}, "must be less than"),
    "conflict": (
        launcher_executor(params_transfer_type="DIFF"),
        launcher_parts(),
        {"params_transfer_type": "FULL"},
        "Remove or rename the one that is not meant",
    ),
    "key that was not looked at": (
        launcher_executor(),
        launcher_parts(),
        {"params_transfer_type": "DIFF"},
        "to which the executor paid no attention",
    ),
    "event type": (
        launcher_executor(),
        [*launcher_parts(), {"id": "r", "path": RELAY, "args": {"pipe_id": "pipe", "event_type": "mine"}}],
        {},
        "the executor sends fed.analytix_log_stats",
    ),
    "metrics that stay on the site": (
        launcher_executor(),
        [*launcher_parts(), {"id": "r", "path": RELAY, "args": {"pipe_id": "pipe", "fed_event": False}}],
        {},
        "would leave the site now",
    ),
    "own exports": (
        launcher_executor(),
        [*launcher_parts(), {"id": "x", "path": CONFIGURATOR, "args": {"component_ids": ["own"]}}],
        {},
        "it also tells the script about ['own']",
    ),
    "one converter": (
        {
            "name": "PTInProcessClientAPIExecutor",
            "args": {"task_script_path": "t.py", "to_nvflare_converter_id": "c"},
        },
        [{"id": "c", "path": "own.Converter", "args": {}}],
        {},
        "name a converter for that one, too",
    ),
    "converter is not there": (
        {"path": IN_PROCESS, "args": {"task_script_path": "t.py", "to_nvflare_converter_id": "c"}},
        [],
        {},
        "there is no component 'c'",
    ),
    "quotes in a variable": (
        {"path": IN_PROCESS, "args": {"task_script_path": "t.py", "task_script_args": "{a}"}},
        [],
        {"a": "-n 'x y'"},
        "has quotes or backslashes",
    ),
    "base class": ({"path": "nvflare.app_common.executors.launcher_executor.LauncherExecutor"}, [], {}, "base class"),
    "components": (launcher_executor(), [5], {}, "components must be a list of maps"),
}


class TestRefused:
    @pytest.mark.parametrize("name", REFUSED)
    def test_with_advice_and_nothing_is_written(self, name, tmp_path, capsys):
        executor, components, keys, advice = REFUSED[name]
        job = make_job(tmp_path, executor, components, **keys)
        (path,) = job.glob("*/config/*.json")
        before = path.read_bytes()
        assert main([str(job), "--in-place"]) == NOT_MIGRATED
        captured = capsys.readouterr()
        assert advice in captured.out and "refused" in captured.out
        assert captured.err.count("\n") == 1 and "1 of 1 configs cannot be migrated" in captured.err
        assert path.read_bytes() == before

    @pytest.mark.parametrize(
        "path, args",
        [
            ("nvflare.app_common.executors.task_exchanger.TaskExchanger", {"pipe_id": "pipe"}),
            ("TaskExchanger", {"pipe_id": "pipe"}),
            ("nvflare.app_common.executors.ipc_exchanger.IPCExchanger", {}),
            ("somebody.elses.Executor", {"pipe_id": "pipe"}),
        ],
    )
    def test_an_executor_with_a_pipe_alone_is_left_with_a_word_on_attach(self, path, args, tmp_path, capsys):
        executor = {"path" if "." in path else "name": path, "args": args}
        job = make_job(tmp_path, executor, [{"id": "pipe", "path": "somebody.elses.Pipe", "args": {}}])
        (config,) = job.glob("*/config/*.json")
        before = config.read_bytes()
        assert main([str(job), "--in-place"]) == OK
        report = capsys.readouterr().out
        assert "note" in report and "execution_mode attach" in report and "there was nothing to migrate" in report
        assert config.read_bytes() == before

    def test_an_executor_that_cannot_be_imported_is_refused_and_no_more(self, tmp_path, capsys):
        """To be told of attach as well would be to be told two things."""
        job = make_job(tmp_path, {**launcher_executor(), "path": "somebody.elses.Executor"}, launcher_parts())
        assert main([str(job)]) == NOT_MIGRATED
        report = capsys.readouterr().out
        assert "run this where it can be imported" in report and "attach" not in report

    def test_a_pipe_that_is_not_there_is_noted(self, tmp_path, capsys):
        job = make_job(
            tmp_path, {"path": LAUNCHER, "args": {"launcher_id": "launcher", "pipe_id": "pip"}}, launcher_parts()
        )
        assert main([str(job)]) == OK
        assert "there is no component 'pip': 'pipe' is probably meant" in capsys.readouterr().out

    def test_two_executors_of_one_mode(self, tmp_path, capsys):
        job = make_job(tmp_path, launcher_executor(), launcher_parts())
        (path,) = job.glob("*/config/*.json")
        config = load(path)
        config["executors"].append({"tasks": ["validate"], "executor": launcher_executor()})
        path.write_text(json.dumps(config))
        assert main([str(job)]) == NOT_MIGRATED
        assert "give one of them all tasks" in capsys.readouterr().out

    def test_converters_in_a_client_controlled_workflow(self, tmp_path, capsys):
        executor = {"path": IN_PROCESS, "args": {"task_script_path": "t.py", "from_nvflare_converter_id": "c"}}
        job = make_job(tmp_path, executor, [{"id": "c", "path": "own.Converter", "args": {}}])
        (path,) = job.glob("*/config/*.json")
        config = load(path)
        swarm = {"path": "nvflare.app_common.ccwf.SwarmClientController", "args": {}}
        config["executors"].append({"tasks": ["swarm_*"], "executor": swarm})
        path.write_text(json.dumps(config))
        assert main([str(job)]) == NOT_MIGRATED
        assert "run an executor past the filters" in capsys.readouterr().out

    def test_one_refused_app_holds_back_the_others(self, tmp_path, capsys):
        job = shutil.copytree(JOBS / "two_sites", tmp_path / "job")
        second = job / "app_site-2" / "config" / "config_fed_client.json"
        second.write_text(second.read_text().replace("task_script_args", "colour"))
        before = {path: path.read_bytes() for path in job.glob("*/config/*")}
        assert main([str(job), "--in-place"]) == NOT_MIGRATED
        assert main([str(job), "--out", str(tmp_path / "new")]) == NOT_MIGRATED
        assert {path: path.read_bytes() for path in job.glob("*/config/*")} == before
        assert not (tmp_path / "new").exists() and "1 of 2 configs" in capsys.readouterr().err
