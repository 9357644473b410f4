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
"""The executor that a site may allow to jobs without code of their own: what it takes, and what a job gets by it."""

import inspect
import json
import re

import pytest

from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.fl_exception import UnsafeComponentError
from nvflare.apis.workspace import Workspace
from nvflare.app_common.executors.attach_executor import AttachExecutor
from nvflare.app_common.executors.client_api.arguments import RULES, ExecutionMode
from nvflare.app_common.executors.client_api_executor import ClientAPIExecutor
from nvflare.app_common.widgets.component_path_authorizer import ComponentPathAuthorizer
from nvflare.fuel.utils.component_builder import ComponentBuilder
from nvflare.job_config.api import FedJob

PATH = f"{AttachExecutor.__module__}.{AttachExecutor.__name__}"
OF_ATTACH = [name for name, rule in RULES.items() if ExecutionMode.ATTACH in rule.modes]
OF_OTHERS = ["execution_mode", *(name for name in RULES if name not in OF_ATTACH)]


class Builder(ComponentBuilder):
    """Builds components as a client does that reads a job's config."""

    def get_module_scanner(self):
        return None


def build(**args):
    return Builder().build_component({"path": PATH, "args": args})


def test_it_has_the_arguments_of_attach_with_their_defaults_and_no_others():
    own, base = (inspect.signature(executor).parameters for executor in (AttachExecutor, ClientAPIExecutor))
    assert dict(own) == {name: base[name] for name in OF_ATTACH}


def test_it_is_in_mode_attach_with_what_is_given():
    executor = build(attach_timeout=60.0, allow_reconnect=True)
    assert isinstance(executor, ClientAPIExecutor)
    assert vars(executor)["_execution_mode"] == ExecutionMode.ATTACH
    assert (vars(executor)["_attach_timeout"], vars(executor)["_allow_reconnect"]) == (60.0, True)


def told_of_arguments(executor: type) -> dict:
    """What the docstring tells of each argument, but for the modes in which it has a meaning."""
    lines = re.findall(r"^ +(\w+) \(.*?\): (.*)", executor.__init__.__doc__, re.MULTILINE)
    return {name: re.sub(r"^(external_process, )?attach: ", "", text) for name, text in lines}


def test_it_tells_of_its_arguments_what_client_api_executor_does():
    own, base = (told_of_arguments(executor) for executor in (AttachExecutor, ClientAPIExecutor))
    assert list(own) == OF_ATTACH
    assert {name for name in own if own[name] != base[name]} == {"heartbeat_timeout"}  # 0 means something to others


@pytest.mark.parametrize("name", OF_OTHERS)
def test_arguments_of_other_modes_are_refused(name):
    with pytest.raises(Exception, match=name):
        build(**{name: "external_process"})


def test_bad_values_are_refused_as_ever():
    with pytest.raises(ValueError, match="attach_timeout must be"):
        AttachExecutor(attach_timeout=-1)


def test_fed_job_exports_it(tmp_path):
    job = FedJob(name="attached", min_clients=1)
    job.to(AttachExecutor(attach_timeout=60.0), "site-1")
    job.export_job(str(tmp_path))
    (config,) = tmp_path.rglob("config_fed_client.json")
    (entry,) = json.loads(config.read_text())["executors"]
    assert entry["executor"] == {"path": PATH, "args": {"attach_timeout": 60.0}}
    assert isinstance(build(**entry["executor"]["args"]), AttachExecutor)


class TestClassAllowList:
    """What nvflare lets a job without code of its own name, on a site that allows AttachExecutor."""

    @pytest.fixture
    def authorize(self, tmp_path):
        for folder in ("startup", "local"):
            (tmp_path / folder).mkdir()
        (tmp_path / "local" / "resources.json").write_text(json.dumps({"class_allow_list": [PATH]}))
        fl_ctx = FLContext()
        fl_ctx.set_prop(FLContextKey.WORKSPACE_OBJECT, Workspace(str(tmp_path), "site-1"), sticky=False, private=True)

        def authorize(path: str) -> None:
            ComponentPathAuthorizer().authorize_component_config({"path": path, "args": {}}, fl_ctx=fl_ctx)

        return authorize

    def test_attach_executor(self, authorize):
        authorize(PATH)

    @pytest.mark.parametrize(
        "path",
        [
            f"{ClientAPIExecutor.__module__}.ClientAPIExecutor",
            "nvflare.app_common.executors.attach_executor.ClientAPIExecutor",
            f"{PATH}2",
            "nvflare.app_common.executors.client_api.client_api_runner.ClientAPIRunner",
            "nvflare.app_common.launchers.subprocess_launcher.SubprocessLauncher",  # as client_api_launcher
            "nvflare.fuel.utils.pipe.file_pipe.FilePipe",  # as client_api_pipe
        ],
    )
    def test_nothing_else(self, authorize, path):
        with pytest.raises(UnsafeComponentError, match="not in allow_list"):
            authorize(path)

    @pytest.mark.parametrize("name", ["__init__", "__init__.__globals__", "mro"])
    def test_what_it_has_is_no_class_to_build(self, name):
        with pytest.raises(Exception):
            Builder().build_component({"path": f"{PATH}.{name}", "args": {}})
