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

"""A job's own ParamsConverter components as filters, through nvflare's own filter chain and an in-process script."""

import json
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from nvflare.apis.filter import Filter
from nvflare.apis.fl_constant import FilterKey, FLContextKey, ReturnCode
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.apis.signal import Signal
from nvflare.apis.utils.task_utils import apply_filters
from nvflare.app_common.abstract.params_converter import ParamsConverter
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.executors.client_api.formats import job_formats
from nvflare.app_common.executors.client_api.params_filter import ParamsConverterFilter
from nvflare.app_common.executors.client_api_executor import ClientAPIExecutor
from nvflare.job_config.api import FedJob
from nvflare.job_config.defs import FilterType
from nvflare.private.privacy_manager import Scope
from tests.unit_test.app_common.executors.job_harness import (
    JobHarness,
    assert_failed,
    make_submit_model_task,
    make_task,
    model_of,
)

SCRIPT = """
    import nvflare.client as flare
    flare.init()
    while flare.is_running():
        params = flare.receive().params or {"doubled": 7}
        assert params.keys() <= {"doubled", "w"}
        flare.send(flare.FLModel(params={name: value + 1 for name, value in params.items()}))
"""

SCRIPT_OF_OBJECTS = """
    import nvflare.client as flare
    flare.init()
    while flare.is_running():
        model = flare.receive()
        model.params["w"].values += 1
        flare.send(flare.FLModel(params=model.params))
"""


class FromServer(ParamsConverter):
    """Leaves a note for the way back, as nvflare's own converters do."""

    def convert(self, params, fl_ctx):
        fl_ctx.set_prop("name_at_server", "w")
        return {"doubled": params["w"] * 2}


class ToServer(ParamsConverter):
    def convert(self, params, fl_ctx):
        return {fl_ctx.get_prop("name_at_server"): params["doubled"] / 2}


class Weights:
    """A model that only the script and its converters know."""

    def __init__(self, values):
        self.values = values


class ToWeights(ParamsConverter):
    def convert(self, params, fl_ctx):
        return {name: Weights(value) for name, value in params.items()}


class FromWeights(ParamsConverter):
    def convert(self, params, fl_ctx):
        return {name: weights.values for name, weights in params.items()}


class AddTen(Filter):
    def process(self, shareable, fl_ctx):
        model_of(shareable).params["w"] += 10
        return shareable


def converters(**supported_tasks) -> dict:
    return {
        "from_server": FromServer(supported_tasks.get("from_server")),
        "to_server": ToServer(supported_tasks.get("to_server")),
        "other": "not a converter",
    }


class Site:
    """A job's executor with filters around it, applied as nvflare's ClientRunner does."""

    def __init__(self, job: JobHarness):
        self.job = job

    def start(self, data_filters: list, result_filters: list, components: dict, script: str = SCRIPT) -> "Site":
        self._data_filters, self._result_filters = data_filters, result_filters
        executor = ClientAPIExecutor("in_process", task_script_path=self.job.script(script))
        runner = SimpleNamespace(task_result_filters={"train" + FilterKey.DELIMITER + FilterKey.OUT: result_filters})
        self.job.start(executor, *data_filters, *result_filters, components=components, runner=runner)
        return self

    def run(self, name: str, task: Shareable) -> Shareable:
        with self.job.engine.new_context() as fl_ctx:
            fl_ctx.set_prop(FLContextKey.TASK_NAME, name, private=True, sticky=False)
            data_filters = {name + FilterKey.DELIMITER + FilterKey.IN: self._data_filters}
            task = apply_filters(Scope.TASK_DATA_FILTERS_NAME, task, fl_ctx, data_filters, name, FilterKey.IN)
            result = self.job.executor.execute(name, task, fl_ctx, Signal())
            result_filters = {name + FilterKey.DELIMITER + FilterKey.OUT: self._result_filters}
            return apply_filters(Scope.TASK_RESULT_FILTERS_NAME, result, fl_ctx, result_filters, name, FilterKey.OUT)


@pytest.fixture
def site(job):
    return Site(job)


class TestConversion:
    def test_script_and_filters_see_their_own_model(self, site):
        """Other filters see the server's model: those for task data run before, those for results after it."""
        site.start(
            [AddTen(), ParamsConverterFilter("from_server")],
            [ParamsConverterFilter("to_server"), AddTen()],
            converters(),
        )
        for value in (1.0, 2.0):
            params = model_of(site.run("train", make_task(value))).params
            assert params.keys() == {"w"}
            np.testing.assert_array_equal(params["w"], np.full(4, ((value + 10) * 2 + 1) / 2 + 10))

    @pytest.mark.parametrize("by_component", [True, False])
    def test_tasks_that_are_not_supported_pass(self, site, by_component):
        tasks = ["train"]
        components = converters(from_server=tasks, to_server=tasks) if by_component else converters()
        filters = [
            ParamsConverterFilter(name, None if by_component else tasks) for name in ("from_server", "to_server")
        ]
        site.start(filters[:1], filters[1:], components)
        assert model_of(site.run("train", make_task(2.0))).params["w"].tolist() == [2.5] * 4
        assert model_of(site.run("validate", make_task(2.0))).params["w"].tolist() == [3.0] * 4

    def test_task_without_a_model_passes_a_component_that_does_not_support_it(self, site):
        filters = [ParamsConverterFilter("from_server")], [ParamsConverterFilter("to_server")]
        site.start(*filters, converters(from_server=["train"], to_server=["train"]))
        result = site.run(AppConstants.TASK_SUBMIT_MODEL, make_submit_model_task())
        assert model_of(result).params == {"doubled": 8}

    def test_objects_that_only_the_script_and_its_converters_know(self, site):
        filters = [ParamsConverterFilter("from_server")], [ParamsConverterFilter("to_server")]
        site.start(*filters, {"from_server": ToWeights(), "to_server": FromWeights()}, SCRIPT_OF_OBJECTS)
        assert model_of(site.run("train", make_task(2.0))).params["w"].tolist() == [3.0] * 4

    def test_objects_that_nothing_converts_are_named(self, site):
        site.start([ParamsConverterFilter("from_server")], [], {"from_server": ToWeights()}, SCRIPT_OF_OBJECTS)
        assert_failed(site.run("train", make_task(2.0)), "parameter 'w' is of type", "Weights, which cannot be sent")

    def test_failed_task_is_not_converted(self, job):
        failure = make_reply(ReturnCode.EXECUTION_EXCEPTION)
        job.start(ParamsConverterFilter("to_server"), components=converters())
        with job.engine.new_context() as fl_ctx:
            assert job.executor.process(failure, fl_ctx) is failure

    def test_fault_of_the_component_is_named(self, site):
        site.start([ParamsConverterFilter("from_server")], [], converters())
        with pytest.raises(ValueError) as error:
            site.run("train", make_task(other=1))
        for text in ("FromServer", "'from_server'", "'train'", "KeyError: 'w'"):
            assert text in str(error.value)


class TestErrors:
    @pytest.mark.parametrize("component, found", [("none", "there is no such component"), ("other", "<class 'str'>")])
    def test_component_that_is_none_is_named_at_the_start(self, job, component, found):
        job.start(ParamsConverterFilter(component), components=converters())
        (panic,) = job.panics
        assert f"component {component!r} must be a ParamsConverter" in panic and found in panic

    def test_tensors_that_cannot_be_sent_are_told_at_the_start(self, job, monkeypatch):
        """A component has imported torch, and what sends tensors is not there."""
        monkeypatch.setitem(sys.modules, "torch", ModuleType("torch"))
        monkeypatch.setattr(job_formats, "optional_import", lambda **_: (None, False))
        job.start(ParamsConverterFilter("from_server"), components=converters())
        (panic,) = job.panics
        assert "a component that makes them) need torch and safetensors" in panic

    @pytest.mark.parametrize("converter_id", ["", None, 3])
    def test_bad_id(self, converter_id):
        with pytest.raises(ValueError, match="converter_id"):
            ParamsConverterFilter(converter_id)

    @pytest.mark.parametrize("tasks", ["train", [1]])
    def test_bad_tasks(self, tasks):
        with pytest.raises(ValueError, match="supported_tasks"):
            ParamsConverterFilter("from_server", tasks)


def test_job_api_exports_it(tmp_path):
    job = FedJob(name="job")
    filters = {"filter_type": FilterType.TASK_DATA, "tasks": ["train"]}
    job.to(ParamsConverterFilter("from_server", ["train"]), "site-1", **filters)
    job.export_job(str(tmp_path))
    config = (tmp_path / "job" / "app_site-1" / "config" / "config_fed_client.json").read_text()
    (chain,) = json.loads(config)["task_data_filters"]
    (entry,) = chain["filters"]
    assert entry["path"].endswith("params_filter.ParamsConverterFilter")
    assert entry["args"] == {"converter_id": "from_server", "supported_tasks": ["train"]}
