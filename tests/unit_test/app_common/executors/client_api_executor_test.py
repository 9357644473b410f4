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

"""The surface of ClientAPIExecutor: names and defaults, the validation matrix, and the way through a job's config."""

import inspect
import itertools
import json
import math
from argparse import Namespace
from dataclasses import MISSING, fields

import numpy as np
import pytest

from nvflare.apis.workspace import Workspace
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.executors import client_api_executor
from nvflare.app_common.executors.client_api.arguments import RULES
from nvflare.app_common.executors.client_api.backend_spec import ClientAPIBackendContext, ClientAPIBackendSpec
from nvflare.app_common.executors.client_api_executor import (
    ALL_EXECUTION_MODES,
    FED_ANALYTIC_EVENT_TYPE,
    ClientAPIExecutor,
    ExecutionMode,
)
from nvflare.fuel.common.excepts import ConfigError
from nvflare.fuel.utils.config_service import ConfigService
from nvflare.job_config.api import FedJob
from nvflare.private.fed.client.client_json_config import ClientJsonConfigurator

IN_PROCESS, EXTERNAL, ATTACH = ExecutionMode.IN_PROCESS, ExecutionMode.EXTERNAL_PROCESS, ExecutionMode.ATTACH

SURFACE = {
    "execution_mode": inspect.Parameter.empty,
    "command": None,
    "task_script_path": None,
    "task_script_args": "",
    "launch_once": True,
    "launch_timeout": None,
    "shutdown_timeout": None,
    "stop_grace_period": 30.0,
    "heartbeat_interval": 5.0,
    "heartbeat_timeout": 30.0,
    "task_wait_timeout": None,
    "result_wait_timeout": None,
    "train_task_name": AppConstants.TASK_TRAIN,
    "evaluate_task_name": AppConstants.TASK_VALIDATION,
    "submit_model_task_name": AppConstants.TASK_SUBMIT_MODEL,
    "train_with_evaluation": False,
    "memory_gc_rounds": 0,
    "cuda_empty_cache": False,
    "attach_timeout": None,
    "allow_reconnect": False,
}

# What each mode cannot do without.
REQUIRED = {
    IN_PROCESS: {},
    EXTERNAL: {"command": "python3 train.py"},
    ATTACH: {},
}

# For each argument a valid value that is not its default.
GOOD = {
    "command": "torchrun --nproc_per_node=2 'my train.py'",
    "task_script_path": "src/train_2.py",
    "task_script_args": "--name 'two words'",
    "launch_once": False,
    "launch_timeout": 60,
    "shutdown_timeout": 0,
    "stop_grace_period": 0.0,
    "heartbeat_interval": 1.5,
    "heartbeat_timeout": 45,
    "task_wait_timeout": 0.5,
    "result_wait_timeout": 3600,
    "train_task_name": "fit",
    "evaluate_task_name": "score",
    "submit_model_task_name": "hand_in",
    "train_with_evaluation": True,
    "memory_gc_rounds": 2,
    "cuda_empty_cache": True,
    "attach_timeout": 120.0,
    "allow_reconnect": True,
}

NOT_A_TEXT = [7, True, b"train.py", ["train.py"], "train\0.py"]
NO_PROGRAM = ["''", "'' train.py"]
UNBALANCED = ["train 'it", 'train "it', "train\\"]
NOT_SECONDS = ["5", True, [5], -1, -0.1, math.nan, math.inf, -math.inf, 1e10, 10**400]
NOT_A_FLAG = [None, 2, "yes", "", [True], np.array([1, 2])]
NOT_A_NAME = [None, "", "  ", 7, True]

BAD = {
    "command": NOT_A_TEXT + UNBALANCED + NO_PROGRAM,
    "task_script_path": NOT_A_TEXT,
    "task_script_args": NOT_A_TEXT + UNBALANCED + [None],
    "launch_once": NOT_A_FLAG,
    "launch_timeout": NOT_SECONDS + [0],
    "shutdown_timeout": NOT_SECONDS,
    "stop_grace_period": NOT_SECONDS + [None],
    "heartbeat_interval": NOT_SECONDS + [None, 0],
    "heartbeat_timeout": NOT_SECONDS + [None],
    "task_wait_timeout": NOT_SECONDS + [0],
    "result_wait_timeout": NOT_SECONDS + [0],
    "train_task_name": NOT_A_NAME,
    "evaluate_task_name": NOT_A_NAME,
    "submit_model_task_name": NOT_A_NAME,
    "train_with_evaluation": NOT_A_FLAG,
    "memory_gc_rounds": [None, -1, 1.0, "1", True],
    "cuda_empty_cache": NOT_A_FLAG,
    "attach_timeout": NOT_SECONDS + [0],
    "allow_reconnect": [],  # anything is true or false
}

MATRIX = list(itertools.product(RULES, ALL_EXECUTION_MODES))
MEANINGFUL = [(name, mode) for name, mode in MATRIX if mode in RULES[name].modes]
IGNORED = [(name, mode) for name, mode in MATRIX if mode not in RULES[name].modes]


def make(mode: str, **arguments) -> ClientAPIExecutor:
    """An executor with what its mode requires, and the arguments."""
    return ClientAPIExecutor(mode, **{**REQUIRED[mode], **arguments})


def arguments_of(executor: ClientAPIExecutor) -> dict:
    context = executor._build_backend_context()
    return {field.name: getattr(context, field.name) for field in fields(context) if field.name != "executor"}


class TestSurface:
    def test_names_order_and_defaults(self):
        parameters = list(inspect.signature(ClientAPIExecutor).parameters.values())
        assert [(p.name, p.default) for p in parameters] == list(SURFACE.items())
        assert all(p.kind == inspect.Parameter.POSITIONAL_OR_KEYWORD for p in parameters)

    def test_tables_cover_the_surface(self):
        arguments = set(SURFACE) - {"execution_mode"}
        assert set(RULES) == set(GOOD) == set(BAD) == arguments
        assert {field.name for field in fields(ClientAPIBackendContext)} == set(SURFACE) | {"executor"}
        assert all(GOOD[name] != SURFACE[name] for name in arguments)

    def test_modes(self):
        assert ALL_EXECUTION_MODES == ("in_process", "external_process", "attach")
        assert (IN_PROCESS, EXTERNAL, ATTACH) == ALL_EXECUTION_MODES

    def test_names_that_others_rely_on(self):
        assert FED_ANALYTIC_EVENT_TYPE == client_api_executor.FED_ANALYTIC_EVENT_TYPE == "fed.analytix_log_stats"
        executor = make(IN_PROCESS)
        assert executor._analytics_fire_fed_event is False
        executor.set_analytics_fire_fed_event(1)
        assert executor._analytics_fire_fed_event is True
        assert list(inspect.signature(executor.fire_log_analytics).parameters) == ["fl_ctx", "dxo"]
        registry = executor._backend_registry()
        assert registry == {
            IN_PROCESS: executor._create_in_process_backend,
            EXTERNAL: executor._create_external_process_backend,
            ATTACH: executor._create_attach_backend,
        }

    @pytest.mark.parametrize("mode", ALL_EXECUTION_MODES)
    def test_backend_is_the_modes(self, mode):
        backend = make(mode)._create_backend()
        assert isinstance(backend, ClientAPIBackendSpec)
        assert type(backend).__module__.endswith(f".client_api.{mode}_backend")

    def test_mode_without_a_factory(self):
        reads = []

        class Executor(ClientAPIExecutor):
            def _backend_registry(self):
                reads.append(1)
                return {"own": None, ATTACH: None}

        with pytest.raises(ValueError) as error:
            Executor(IN_PROCESS)._create_backend()
        assert str(error.value) == (
            "no backend factory registered for execution_mode 'in_process': registered modes are ['own', 'attach']"
        )
        assert len(reads) == 1

    def test_registry_of_a_subclass_is_read_once(self):
        reads, backend = [], object()

        class Executor(ClientAPIExecutor):
            def _backend_registry(self):
                reads.append(1)
                return {IN_PROCESS: lambda: backend}

        assert Executor(IN_PROCESS)._create_backend() is backend
        assert len(reads) == 1

    def test_context_has_a_field_and_a_default_for_each_argument(self):
        parameters = inspect.signature(ClientAPIExecutor).parameters
        given = {field.name: field for field in fields(ClientAPIBackendContext)}
        assert list(given) == ["executor", *parameters]
        for name, parameter in list(parameters.items())[1:]:
            assert (given[name].default, given[name].type) == (parameter.default, parameter.annotation), name
        assert all(given[name].default is MISSING for name in ("executor", "execution_mode"))

    def test_context_can_be_made_of_two_arguments(self):
        context = ClientAPIBackendContext(object(), ATTACH)
        assert {name: getattr(context, name) for name in SURFACE} == {**SURFACE, "execution_mode": ATTACH}

    def test_attribute_that_is_missing_is_an_error(self):
        executor = make(IN_PROCESS)
        del executor._launch_once
        with pytest.raises(AttributeError, match="_launch_once"):
            executor._build_backend_context()

    def test_context_holds_the_arguments_and_cannot_be_changed(self):
        executor = make(IN_PROCESS, memory_gc_rounds=3)
        context = executor._build_backend_context()
        assert context.executor is executor
        assert arguments_of(executor) == {
            **SURFACE,
            "execution_mode": IN_PROCESS,
            **REQUIRED[IN_PROCESS],
            "memory_gc_rounds": 3,
        }
        with pytest.raises(AttributeError):
            context.command = "another"


class TestValidation:
    @pytest.mark.parametrize("name, mode", MEANINGFUL)
    def test_argument_is_taken_where_it_has_a_meaning(self, name, mode):
        assert arguments_of(make(mode, **{name: GOOD[name]}))[name] == GOOD[name]

    @pytest.mark.parametrize("name, mode", IGNORED)
    def test_argument_is_refused_where_it_has_no_meaning(self, name, mode):
        modes = " or ".join(repr(valid) for valid in RULES[name].modes)
        with pytest.raises(ValueError) as error:
            make(mode, **{name: GOOD[name]})
        assert str(error.value) == (
            f"{name} is only valid for execution_mode {modes}, "
            f"but got {name}={GOOD[name]!r} with execution_mode {mode!r}"
        )

    def test_refusal_names_all_modes_of_an_argument(self):
        with pytest.raises(ValueError) as error:
            make(IN_PROCESS, heartbeat_interval=1.5)
        assert str(error.value) == (
            "heartbeat_interval is only valid for execution_mode 'external_process' or 'attach', "
            "but got heartbeat_interval=1.5 with execution_mode 'in_process'"
        )

    @pytest.mark.parametrize("name, mode", IGNORED)
    def test_default_is_taken_even_where_it_has_no_meaning(self, name, mode):
        assert arguments_of(make(mode, **{name: SURFACE[name]}))[name] == SURFACE[name]

    @pytest.mark.parametrize("name, mode", MEANINGFUL)
    def test_bad_values_are_refused(self, name, mode):
        for value in BAD[name]:
            with pytest.raises(ValueError) as error:
                make(mode, **{name: value})
            assert str(error.value).startswith(f"{name} must be"), value
            assert repr(value) in str(error.value)

    @pytest.mark.parametrize("name, mode", IGNORED)
    def test_bad_values_are_refused_in_other_modes_too(self, name, mode):
        for value in BAD[name]:
            if value is None:
                continue  # says that nothing is set
            with pytest.raises(ValueError) as error:
                make(mode, **{name: value})
            assert f"but got {name}={value!r} with execution_mode {mode!r}" in str(error.value)

    @pytest.mark.parametrize("value", [None, "", " \t"])
    def test_external_process_needs_a_command(self, value):
        with pytest.raises(ValueError) as error:
            ClientAPIExecutor(EXTERNAL, command=value)
        assert str(error.value).startswith("execution_mode 'external_process' requires a non-empty command, such as ")
        assert repr(value) in str(error.value)

    @pytest.mark.parametrize("path", [None, "train.sh", "not_there.py"])
    def test_in_process_executor_can_be_made_without_its_script(self, path):
        assert arguments_of(ClientAPIExecutor(IN_PROCESS, task_script_path=path))["task_script_path"] == path

    @pytest.mark.parametrize("blank", ["", "  ", "\t"])
    @pytest.mark.parametrize(
        "name, mode", [("command", IN_PROCESS), ("command", ATTACH)] + [("task_script_path", m) for m in REQUIRED]
    )
    def test_blank_means_unset(self, name, mode, blank):
        assert arguments_of(make(mode, **{name: blank}))[name] is None

    @pytest.mark.parametrize("mode", ALL_EXECUTION_MODES)
    @pytest.mark.parametrize("falsy", [None, 0, 0.0, "", [], np.bool_(False)], ids=repr)
    def test_falsy_allow_reconnect_is_false(self, mode, falsy):
        assert arguments_of(make(mode, allow_reconnect=falsy))["allow_reconnect"] is False

    @pytest.mark.parametrize("truthy", [1, "yes", [0], np.bool_(True)], ids=repr)
    def test_truthy_allow_reconnect_is_true_and_for_attach_only(self, truthy):
        assert arguments_of(make(ATTACH, allow_reconnect=truthy))["allow_reconnect"] is True
        for mode in (IN_PROCESS, EXTERNAL):
            with pytest.raises(ValueError, match="allow_reconnect is only valid for execution_mode 'attach', but got"):
                make(mode, allow_reconnect=truthy)

    @pytest.mark.parametrize("mode", ["", "IN_PROCESS", "inprocess", None, 1, ["attach"], np.array([1, 2])], ids=repr)
    def test_unknown_mode(self, mode):
        with pytest.raises(ValueError) as error:
            ClientAPIExecutor(mode)
        assert str(error.value) == (
            f"invalid execution_mode {mode!r}: must be one of ['in_process', 'external_process', 'attach']"
        )

    def test_mode_is_required(self):
        with pytest.raises(TypeError, match="execution_mode"):
            ClientAPIExecutor()

    @pytest.mark.parametrize("mode", [EXTERNAL, ATTACH])
    @pytest.mark.parametrize("interval, timeout", [(5.0, 5.0), (30.0, 5.0), (5, 4.999)])
    def test_heartbeat_interval_must_be_less_than_the_timeout(self, mode, interval, timeout):
        with pytest.raises(ValueError) as error:
            make(mode, heartbeat_interval=interval, heartbeat_timeout=timeout)
        for text in ("heartbeat_interval", "heartbeat_timeout", repr(interval), repr(timeout)):
            assert text in str(error.value)

    def test_heartbeat_check_can_be_switched_off_for_an_owned_process_only(self):
        assert arguments_of(make(EXTERNAL, heartbeat_timeout=0))["heartbeat_timeout"] == 0
        with pytest.raises(
            ValueError, match="heartbeat_timeout must be more than 0 with execution_mode 'attach', but is 0"
        ):
            make(ATTACH, heartbeat_timeout=0)

    @pytest.mark.parametrize("name", [name for name in SURFACE if isinstance(SURFACE[name], bool)])
    def test_flags_are_stored_as_bool(self, name):
        mode = RULES[name].modes[0]
        for given, stored in ((1, True), (0, False)):
            assert arguments_of(make(mode, **{name: given}))[name] is stored


class TestExport:
    """FedJob writes an executor to a configuration file, and nvflare's own reader makes it again."""

    @pytest.fixture
    def round_trip(self, tmp_path):
        def export_and_load(executor):
            job = FedJob(name="round_trip", min_clients=1)
            job.to(executor, "site-1", tasks=["train", "validate"])
            job.export_job(str(tmp_path))
            (file,) = tmp_path.glob("round_trip/*/config/config_fed_client.json")
            return json.loads(file.read_text())["executors"][0], self.load(file, tmp_path)

        yield export_and_load
        ConfigService.reset()

    @staticmethod
    def load(file, tmp_path):
        for folder in ("startup", "local"):
            (tmp_path / folder).mkdir()
        args = Namespace(
            sp_scheme="grpc", sp_target="localhost:8002", job_id="job-1", client_name="site-1", workspace=str(tmp_path)
        )
        ConfigService.initialize({}, [str(file.parent)])
        workspace = Workspace(str(tmp_path), site_name="site-1")
        configurator = ClientJsonConfigurator(workspace, str(file), args, str(file.parent))
        configurator.configure()
        return configurator.executors[0].executor

    @pytest.mark.parametrize("mode", ALL_EXECUTION_MODES)
    def test_every_argument_comes_back(self, round_trip, mode):
        arguments = {name: GOOD[name] for name, rule in RULES.items() if mode in rule.modes}
        config, loaded = round_trip(ClientAPIExecutor(mode, **arguments))
        assert config["tasks"] == ["train", "validate"]
        assert config["executor"]["args"] == {"execution_mode": mode, **arguments}
        assert type(loaded) is ClientAPIExecutor
        assert arguments_of(loaded) == {**SURFACE, "execution_mode": mode, **arguments}

    @pytest.mark.parametrize("mode", ALL_EXECUTION_MODES)
    def test_defaults_are_left_out(self, round_trip, mode):
        config, loaded = round_trip(make(mode))
        assert config["executor"]["args"] == {"execution_mode": mode, **REQUIRED[mode]}
        assert arguments_of(loaded) == {**SURFACE, "execution_mode": mode, **REQUIRED[mode]}

    def test_every_argument_is_exported_in_some_mode(self):
        assert {name for name, _ in MEANINGFUL} == set(RULES)

    @pytest.mark.parametrize(
        "args, what",
        [
            ({"launchonce": True}, "launchonce"),
            ({}, "exception: .*command"),
            ({"command": 5}, "command must be a string"),
        ],
    )
    def test_what_is_wrong_in_a_config_is_told_by_its_reader(self, job, args, what):
        executor = {"path": "nvflare.app_common.executors.client_api_executor.ClientAPIExecutor"}
        executor["args"] = {"execution_mode": "external_process", **args}
        config = {"format_version": 2, "executors": [{"tasks": ["train"], "executor": executor}]}
        with pytest.raises(ConfigError, match=rf"Error processing '.*config_fed_client.json' in element .*{what}"):
            job.read_config("config_fed_client.json", json.dumps({**config, "components": []}))
