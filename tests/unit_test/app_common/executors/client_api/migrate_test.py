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
"""The migration tool: what it makes of each shape of a legacy job.

The jobs of legacy_jobs/ are the project's own; the larger collection beside the project is used where it is there.
"""

import importlib
import inspect
import shutil
from pathlib import Path

import pytest
import yaml

from nvflare.app_common.executors.client_api.migrate import NOT_MIGRATED, OK, main
from nvflare.app_common.executors.client_api.migration.advice import shell_syntax
from nvflare.app_common.executors.client_api.migration.knobs import (
    ARGUMENTS,
    FORMAT_DEFAULTS,
    JOB_KEYS,
    KNOBS,
    LEGACY_EXECUTORS,
    PIPES,
    knob_table,
)
from nvflare.app_common.executors.client_api_executor import ClientAPIExecutor
from nvflare.client.config import ConfigKey
from nvflare.client.constants import EXTERNAL_PRE_INIT_TIMEOUT, PEER_READ_TIMEOUT
from tests.unit_test.app_common.executors.client_api.migration_parts import (
    CONFIGURATOR,
    CORPUS,
    EXECUTOR,
    FILTER,
    IN_PROCESS,
    JOBS,
    LAUNCHER,
    RELAY,
    SUBPROCESS,
    config_file,
    external,
    in_process,
    launcher_executor,
    launcher_parts,
    load,
    make_job,
    new_executors,
    outside,
)

# The arguments of nvflare 2.9.0's own ClientAPIExecutor and their defaults.
ARGUMENTS_2_9 = {
    "execution_mode": None,
    "command": None,
    "task_script_path": None,
    "task_script_args": "",
    "launch_once": True,
    "launch_timeout": 300.0,
    "shutdown_timeout": None,
    "stop_grace_period": 30.0,
    "heartbeat_interval": 5.0,
    "heartbeat_timeout": 30.0,
    "task_wait_timeout": None,
    "result_wait_timeout": None,
    "train_task_name": "train",
    "evaluate_task_name": "validate",
    "submit_model_task_name": "submit_model",
    "train_with_evaluation": False,
    "params_exchange_format": "raw",
    "server_expected_format": "numpy",
    "params_transfer_type": "FULL",
    "memory_gc_rounds": 0,
    "cuda_empty_cache": False,
    "attach_id": None,
    "attach_timeout": None,
    "allow_reconnect": False,
    "allow_insecure_attach": False,
}


# What becomes of each: the executor's arguments, the keys of the job, the ids of the components.
EXPECTED = {
    "in_process": (
        in_process(
            "{app_script}",
            task_script_args="{app_config}",
            train_with_evaluation=True,
            evaluate_task_name="validate",
            memory_gc_rounds=2,
        ),
        {"params_transfer_type": "DIFF"},
        ["event_to_fed"],
    ),
    "in_process_converters": (
        in_process("train.py", train_with_evaluation=True),
        {"params_exchange_format": "pytorch", "server_expected_format": "pytorch"},
        ["from_server", "to_server"],
    ),
    "in_process_pt": (in_process("client.py", train_with_evaluation=True), {"params_exchange_format": "pytorch"}, []),
    "in_process_tf": (
        in_process("keras_train.py", task_script_args="--name 'it'\"'\"'s'", train_with_evaluation=True),
        {"params_exchange_format": "keras_layer_weights", "server_expected_format": "numpy"},
        [],
    ),
    "in_process_unconverted": (
        in_process("train.py"),
        {"params_exchange_format": "pytorch", "server_expected_format": "pytorch"},
        [],
    ),
    "launcher_all_knobs": (
        external(
            "bash -c 'source env.sh && exec python3 custom/train.py'",
            launch_once=True,
            shutdown_timeout=5.0,
            launch_timeout=None,
            result_wait_timeout=600.0,
            heartbeat_interval=2.0,
            train_with_evaluation=False,
            train_task_name="train",
            evaluate_task_name="validate",
            submit_model_task_name="submit_model",
            memory_gc_rounds=1,
            cuda_empty_cache=True,
        )
        | {"heartbeat_timeout": 0},
        {"params_exchange_format": "raw", "server_expected_format": "raw", "params_transfer_type": "FULL"},
        [],
    ),
    "launcher_file_pipe": (
        external("python3 -u custom/{app_script} {app_config} ", launch_once=False, train_with_evaluation=True),
        {"params_exchange_format": "numpy"},
        ["selector"],
    ),
    "launcher_metrics": (
        external(
            "python3 -m torch.distributed.run --nproc_per_node=2 custom/train.py",
            shutdown_timeout=10,
            launch_timeout=45.0,
        ),
        {"params_exchange_format": "pytorch", "params_transfer_type": "DIFF"},
        ["keeper"],
    ),
    "launcher_tf_converters": (
        external("python3 -u custom/{app_script}"),
        {"params_exchange_format": "numpy"},
        [],
    ),
    "shared_pipe": (external("python3 -u custom/train.py"), {}, ["pipe"]),
    "swarm": (
        external("python3 -u custom/train.py"),
        {"params_exchange_format": "pytorch"},
        ["persistor", "shareable_generator", "aggregator"],
    ),
}


# But for converters of the job's own, and a TaskExchanger with its pipe.
RUN_ON_2_9 = sorted(EXPECTED.keys() - {"in_process_converters", "shared_pipe"})


def migrated_config(job: Path) -> dict:
    assert main([str(job), "--in-place"]) == OK
    (path,) = job.glob("*/config/config_fed_client.json")
    return load(path)


class TestEachShape:
    @pytest.fixture(params=EXPECTED)
    def shape(self, request, tmp_path):
        shutil.copytree(JOBS / request.param, tmp_path / request.param)
        return tmp_path / request.param

    def test_becomes_what_it_should(self, shape):
        arguments, job_keys, components = EXPECTED[shape.name]
        assert main([str(shape), "--in-place"]) == OK
        config = load(config_file(shape))
        (executor,) = new_executors(config)
        assert executor["args"] == arguments
        assert {key: config[key] for key in FORMAT_DEFAULTS if key in config} == job_keys
        assert [component["id"] for component in config.get("components", [])] == components

    def test_executor_takes_its_arguments(self, shape):
        main([str(shape), "--in-place"])
        (executor,) = new_executors(load(config_file(shape)))
        arguments = {k: "train.py" if v == "{app_script}" else v for k, v in executor["args"].items()}
        assert ClientAPIExecutor(**arguments)

    def test_everything_else_stays(self, shape):
        main([str(shape), "--in-place"])
        before, after = (outside(load(config_file(job))) for job in (JOBS / shape.name, shape))
        if shape.name == "shared_pipe":
            (pipe,) = [c for c in load(config_file(shape))["components"] if c["id"] == "pipe"]
            assert pipe["args"] == {"mode": "PASSIVE", "root_path": "/tmp/pipe"}
        assert after == before

    def test_second_run_changes_nothing(self, shape, capsys):
        main([str(shape), "--in-place"])
        content = config_file(shape).read_bytes()
        capsys.readouterr()
        assert main([str(shape), "--in-place"]) == OK
        assert config_file(shape).read_bytes() == content
        assert "there was nothing to migrate" in capsys.readouterr().out

    def test_every_argument_is_in_the_report(self, shape, capsys):
        assert main([str(shape)]) == OK
        report = capsys.readouterr().out
        for entry in load(config_file(shape))["executors"]:
            executor = entry["executor"]
            if executor.get("path", executor.get("name")).rpartition(".")[2] in LEGACY_EXECUTORS:
                for name in executor["args"]:
                    assert name in report or name == "launcher_id"

    def test_target_2_9_takes_the_arguments(self, shape):
        code = main([str(shape), "--in-place", "--target", "2.9"])
        if shape.name not in RUN_ON_2_9:
            assert code == NOT_MIGRATED
            return
        config = load(config_file(shape))
        (executor,) = new_executors(config)
        assert code == OK and executor["args"].keys() <= ARGUMENTS_2_9.keys()
        assert not FORMAT_DEFAULTS.keys() & config.keys()

    @pytest.mark.parametrize("shape", RUN_ON_2_9, indirect=True)
    def test_target_2_9_has_the_old_behaviour(self, shape):
        """Formats and limits are the same with the defaults of 2.9 as they are in 2.8."""
        main([str(shape), "--in-place", "--target", "2.9"])
        given = ARGUMENTS_2_9 | new_executors(load(config_file(shape)))[0]["args"]
        arguments, job_keys, _ = EXPECTED[shape.name]
        for name, default in FORMAT_DEFAULTS.items():
            assert given[name] == job_keys.get(name, default)
        if arguments["execution_mode"] == "external_process":
            assert given["heartbeat_timeout"] == arguments["heartbeat_timeout"]
            assert given["launch_timeout"] == arguments.get("launch_timeout", 300.0)


class TestFilters:
    def test_stand_next_to_the_executor(self, tmp_path):
        job = shutil.copytree(JOBS / "in_process_converters", tmp_path / "job")
        main([str(job), "--in-place"])
        config = load(config_file(job))
        of_train, of_validate = config["task_data_filters"]
        assert [f["path"].rpartition(".")[2] for f in of_train["filters"]] == [
            "HEModelDecryptor",
            "ParamsConverterFilter",
        ]
        assert of_train["filters"][-1]["args"] == {"converter_id": "from_server", "supported_tasks": ["train"]}
        assert of_validate == {
            "tasks": ["validate"],
            "filters": [{"path": FILTER, "args": {"converter_id": "from_server"}}],
        }
        first = config["task_result_filters"][0]
        assert [f["path"].rpartition(".")[2] for f in first["filters"]] == ["ParamsConverterFilter", "HEModelEncryptor"]
        assert first["filters"][0]["args"] == {"converter_id": "to_server"}

    def test_sections_that_are_not_there_are_added(self, tmp_path):
        converters = {"from_nvflare_converter_id": "{from}", "to_nvflare_converter_id": "b"}
        executor = {"path": IN_PROCESS, "args": {"task_script_path": "t.py", **converters}}
        components = [{"id": name, "path": "own.Converter", "args": {}} for name in ("a", "b")]
        config = migrated_config(make_job(tmp_path, executor, components, **{"from": "a"}))
        for section, converter in (("task_data_filters", "a"), ("task_result_filters", "b")):
            assert config[section] == [
                {"tasks": ["train"], "filters": [{"path": FILTER, "args": {"converter_id": converter}}]}
            ]

    @pytest.mark.parametrize("target", ["2.8", "2.9"])
    def test_beside_a_launcher_there_are_none_as_before(self, target, tmp_path, capsys):
        job = shutil.copytree(JOBS / "launcher_tf_converters", tmp_path / "job")
        assert main([str(job), "--in-place", "--target", target]) == OK
        report = capsys.readouterr().out
        assert report.count("launcher executors of 2.8 ignore it") == 2 and report.count("nothing uses it") == 2
        config = load(config_file(job))
        assert config["components"] == [] and not {"task_data_filters", "task_result_filters"} & config.keys()
        formats = new_executors(config)[0]["args"] if target == "2.9" else config
        assert formats["params_exchange_format"] == "numpy" and "server_expected_format" not in formats

    @pytest.mark.parametrize("target", ["2.8", "2.9"])
    @pytest.mark.parametrize(
        "module, names, exchanged, expected",
        [
            ("pt.numpy", ("NumpyToPTParamsConverter", "PTToNumpyParamsConverter"), "pytorch", None),
            ("pt.tensor", ("PTReceiveParamsConverter", "PTSendParamsConverter"), "pytorch", "pytorch"),
            (
                "tf",
                ("NumpyToKerasModelParamsConverter", "KerasModelToNumpyParamsConverter"),
                "keras_layer_weights",
                None,
            ),
        ],
    )
    def test_nvflares_own_pairs_become_the_formats(self, target, module, names, exchanged, expected, tmp_path):
        ids = {"from_nvflare_converter_id": "a", "to_nvflare_converter_id": "b"}
        executor = {"path": IN_PROCESS, "args": {"task_script_path": "t.py", "params_exchange_format": "raw", **ids}}
        module = f"nvflare.app_opt.{module}{'.' if module == 'tf' else '_'}params_converter"
        parts = [{"id": id_, "path": f"{module}.{name}", "args": {}} for id_, name in zip("ab", names)]
        job = make_job(tmp_path, executor, parts)
        assert main([str(job), "--in-place", "--target", target]) == OK
        config = load(job / "app" / "config" / "config_fed_client.json")
        formats = new_executors(config)[0]["args"] if target == "2.9" else config
        assert formats["params_exchange_format"] == exchanged
        assert formats.get("server_expected_format") == expected
        assert config["components"] == [] and "task_data_filters" not in config

    def test_filters_of_the_other_direction_are_left_alone(self, tmp_path):
        chain = {"tasks": ["train"], "direction": "OUT", "filters": [{"path": "own.Filter", "args": {}}]}
        executor = {"path": IN_PROCESS, "args": {"task_script_path": "t.py", "from_nvflare_converter_id": "c"}}
        job = make_job(
            tmp_path, executor, [{"id": "c", "path": "own.Converter", "args": {}}], task_data_filters=[chain]
        )
        config = migrated_config(job)
        assert config["task_data_filters"][0] == chain
        assert config["task_data_filters"][1]["filters"][0]["path"] == FILTER


class TestMeaning:
    @pytest.mark.parametrize(
        "value, seconds", [(7, 7), (7.5, 7.5), ("1800", 1800.0), (True, 1.0), ("inf", None), (float("nan"), None)]
    )
    def test_job_key_overrides_the_argument_as_it_did(self, value, seconds, tmp_path):
        executor = launcher_executor(external_pre_init_timeout=100.0)
        keys = {EXTERNAL_PRE_INIT_TIMEOUT: value, PEER_READ_TIMEOUT: "9", "submit_result_timeout": 8}
        config = migrated_config(make_job(tmp_path, executor, launcher_parts(), **keys))
        assert new_executors(config)[0]["args"]["launch_timeout"] == seconds
        assert not keys.keys() & config.keys()

    @pytest.mark.parametrize("value", [0, -1, "soon", None, "", []])
    def test_job_key_that_the_legacy_executor_refuses_is_refused(self, value, tmp_path, capsys):
        job = make_job(tmp_path, launcher_executor(), launcher_parts(), **{EXTERNAL_PRE_INIT_TIMEOUT: value})
        assert main([str(job)]) == NOT_MIGRATED
        assert "write a positive number of seconds" in capsys.readouterr().out

    @pytest.mark.parametrize("key", [EXTERNAL_PRE_INIT_TIMEOUT.lower(), "Peer_Read_Timeout", "MAX_RESENDS"])
    def test_job_key_that_nvflare_does_not_read_is_noted_and_stays(self, key, tmp_path, capsys):
        config = migrated_config(make_job(tmp_path, launcher_executor(), launcher_parts(), **{key: 5}))
        assert new_executors(config)[0]["args"] == external("python3 -u custom/train.py")
        assert config[key] == 5 and "nvflare does not read it, it reads" in capsys.readouterr().out

    def test_job_key_has_no_meaning_where_nvflare_does_not_look(self, tmp_path, capsys):
        job = make_job(tmp_path, launcher_executor(), launcher_parts(), **{EXTERNAL_PRE_INIT_TIMEOUT: 5})
        path = job / "app" / "config" / "config_fed_client.json"
        path.rename(path.with_suffix(".json.default"))
        assert main([str(job), "--in-place"]) == OK
        config = load(path.with_suffix(".json.default"))
        assert new_executors(config)[0]["args"] == external("python3 -u custom/train.py")
        assert "from config/config_fed_client.json only" in capsys.readouterr().out

    def test_job_key_that_is_a_variable_stays(self, tmp_path):
        executor = launcher_executor(task_wait_timeout=f"{{{EXTERNAL_PRE_INIT_TIMEOUT}}}")
        config = migrated_config(make_job(tmp_path, executor, launcher_parts(), **{EXTERNAL_PRE_INIT_TIMEOUT: 7}))
        arguments = new_executors(config)[0]["args"]
        assert arguments["result_wait_timeout"] == f"{{{EXTERNAL_PRE_INIT_TIMEOUT}}}"
        assert arguments["launch_timeout"] == config[EXTERNAL_PRE_INIT_TIMEOUT] == 7

    def test_ids_may_be_variables(self, tmp_path):
        executor = {"path": LAUNCHER, "args": {"launcher_id": "{starter}", "pipe_id": "{way}"}}
        parts = launcher_parts()
        parts[0]["id"], parts[1]["id"] = "{starter}", "{way}"
        config = migrated_config(make_job(tmp_path, executor, parts, starter="l", way="p"))
        assert config["components"] == []
        assert new_executors(config)[0]["args"] == external("python3 -u custom/train.py")

    def test_references_of_a_yaml_are_resolved_and_kept(self, tmp_path, capsys):
        """OmegaConf's own, which it resolves before nvflare sees them."""
        executor = launcher_executor(
            params_exchange_format="${site.format}", heartbeat_timeout="${limit}", pipe_id="${pipe}"
        )
        parts = launcher_parts(script="python3 ${site.script} {limit} ${oc.env:HOME}", launch_once="${site.once}")
        site = {"format": "pytorch", "script": "a.py", "once": False}
        path = (
            make_job(tmp_path, executor, parts, site=site, limit=7, pipe="pipe") / "app/config/config_fed_client.json"
        )
        path = path.rename(path.with_suffix(".yml"))
        assert main([str(path.parent), "--in-place"]) == OK
        config = yaml.safe_load(path.read_text())
        assert new_executors(config)[0]["args"] == {
            "execution_mode": "external_process",
            "command": "python3 ${site.script} {limit} ${oc.env:HOME}",
            "launch_once": "${site.once}",
            "heartbeat_timeout": "${limit}",
        }
        assert config["params_exchange_format"] == "${site.format}" and config["components"] == []
        assert "shell" not in capsys.readouterr().out.replace("never given to a shell", "")

    def test_format_key_may_be_a_variable(self, tmp_path):
        executor = launcher_executor(params_exchange_format="{format}")
        config = migrated_config(make_job(tmp_path, executor, launcher_parts(), format="pytorch"))
        assert config["params_exchange_format"] == "{format}"

    def test_key_that_is_there_already_stays(self, tmp_path):
        executor = launcher_executor(params_transfer_type="{params_transfer_type}")
        config = migrated_config(make_job(tmp_path, executor, launcher_parts(), params_transfer_type="DIFF"))
        assert config["params_transfer_type"] == "DIFF"

    def test_relay_on_the_site_is_replaced_if_events_are_converted(self, tmp_path):
        relay = {"id": "relay", "path": RELAY, "args": {"pipe_id": "pipe", "fed_event": False}}
        converter = {
            "id": "event_to_fed",
            "path": "nvflare.app_common.widgets.convert_to_fed_event.ConvertToFedEvent",
            "args": {"events_to_convert": ["analytix_log_stats"]},
        }
        config = migrated_config(make_job(tmp_path, launcher_executor(), [*launcher_parts(), relay, converter]))
        assert [component["id"] for component in config["components"]] == ["event_to_fed"]

    def test_component_by_class_name_or_class_path(self, tmp_path):
        executor = {"class_path": LAUNCHER, "args": launcher_executor()["args"]}
        parts = [{**part, "name": part["path"].rpartition(".")[2]} for part in launcher_parts()]
        for part in parts:
            del part["path"]
        config = migrated_config(make_job(tmp_path, executor, parts))
        assert config["executors"][0]["executor"]["class_path"] == EXECUTOR and config["components"] == []

    @pytest.mark.parametrize("script", ["a.sh && b.sh", "X=1 python3 a.py", "cat a | b", "cd x; python3 a.py"])
    def test_shell_words_are_noted_and_kept(self, script, tmp_path, capsys):
        config = migrated_config(make_job(tmp_path, launcher_executor(), launcher_parts(script=script)))
        assert new_executors(config)[0]["args"]["command"] == script
        assert "no shell either; for one: bash -c" in capsys.readouterr().out

    @pytest.mark.parametrize(
        "command, found",
        [
            ("cd x; python3 a.py", ["cd", ";"]),
            ("a.sh&&b.sh>log 2>&1", ["&&", ">", "2>&1"]),
            ("X=1 python3 $HOME/a.py `hostname` $(nproc)", ["X=1", "$HOME", "`", "$(nproc)"]),
            ("python3 'a;b' \"c|d\" e\\;f '$g' {$HOME}", []),
            ("bash -c 'cd x && exec python3 a.py'", []),
            ("python3 a.py --lr=0.1 --name=x.y", []),
        ],
    )
    def test_what_only_a_shell_understands(self, command, found):
        assert shell_syntax(command) == found

    def test_arguments_that_are_split_the_same_way_keep_their_text(self, tmp_path):
        executor = {"path": IN_PROCESS, "args": {"task_script_path": "t.py", "task_script_args": "  -a   {b} "}}
        config = migrated_config(make_job(tmp_path, executor, b="1 2"))
        assert new_executors(config)[0]["args"]["task_script_args"] == "  -a   {b} "


class TestKnobs:
    @pytest.mark.parametrize("name", LEGACY_EXECUTORS)
    def test_every_argument_of_the_executors_is_there(self, name):
        legacy = LEGACY_EXECUTORS[name]
        if "app_opt.pt" in legacy.module:
            pytest.importorskip("torch")
        executor = getattr(importlib.import_module(legacy.module), name)
        parameters = dict(list(inspect.signature(executor.__init__).parameters.items())[1:])
        assert parameters.keys() <= ARGUMENTS[legacy.mode].keys()
        assert parameters["params_exchange_format"].default == legacy.exchange_format
        assert parameters["server_expected_format"].default == "numpy"
        assert parameters["params_transfer_type"].default == "FULL"
        assert parameters["train_with_evaluation"].default is legacy.evaluates
        if legacy.mode == "external_process":
            assert parameters["heartbeat_timeout"].default == 300.0
            assert parameters["external_pre_init_timeout"].default == 300.0

    @pytest.mark.parametrize("path", [SUBPROCESS, RELAY, CONFIGURATOR])
    def test_every_argument_of_the_components_is_there(self, path):
        module, _, name = path.rpartition(".")
        component = getattr(importlib.import_module(module), name)
        assert inspect.signature(component.__init__).parameters.keys() - {"self"} == KNOBS[name].keys()

    def test_keys_of_the_job_are_those_that_nvflare_reads(self):
        others = {ConfigKey.SUBMIT_RESULT_TIMEOUT, ConfigKey.MAX_RESENDS, ConfigKey.DOWNLOAD_COMPLETE_TIMEOUT}
        assert KNOBS[JOB_KEYS].keys() == {EXTERNAL_PRE_INIT_TIMEOUT, PEER_READ_TIMEOUT, *others}

    def test_new_names_are_arguments(self):
        new = inspect.signature(ClientAPIExecutor.__init__).parameters
        for part, knobs in KNOBS.items():
            for knob in knobs.values():
                assert knob.why or knob.becomes
                if part != PIPES and knob.fate in ("kept", "renamed"):
                    assert knob.becomes in new and knob.becomes in ARGUMENTS_2_9

    def test_table_is_printed(self, capsys):
        assert main(["--knobs"]) == OK
        assert capsys.readouterr().out == knob_table()


@pytest.mark.skipif(not CORPUS.is_dir(), reason="LEGACY_JOBS names no folder")
@pytest.mark.parametrize("name", sorted(path.name for path in CORPUS.glob("*")) or ["none"])
class TestCorpus:
    @pytest.fixture
    def job(self, name, tmp_path):
        job = tmp_path / name
        job.mkdir()
        for path in (CORPUS / name).iterdir():
            (job / path.name).write_bytes(path.read_bytes())
        return job

    def test_is_migrated_and_all_else_stays(self, name, job):
        assert main([str(job), "--in-place"]) == OK
        before, after = load(config_file(CORPUS / name)), load(config_file(job))
        assert len(new_executors(after)) == 1
        assert outside(after) == outside(before)
        kept = [line for line in config_file(job).read_text().splitlines() if line.strip().startswith("#")]
        assert set(kept) <= set(config_file(CORPUS / name).read_text().splitlines())

    def test_second_run_changes_nothing(self, name, job):
        main([str(job), "--in-place"])
        content = config_file(job).read_bytes()
        assert main([str(job), "--in-place"]) == OK
        assert config_file(job).read_bytes() == content

    def test_target_2_9(self, name, job):
        assert main([str(job), "--in-place", "--target", "2.9"]) == OK
        (executor,) = new_executors(load(config_file(job)))
        assert executor["args"].keys() <= ARGUMENTS_2_9.keys()
