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

"""Parameters in the formats of a job: the same in every execution mode, whole, or an error that names what is not."""

import importlib
import sys
import textwrap

import numpy as np
import pytest

from nvflare.apis.fl_context import FLContext
from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.app_common.executors.client_api.formats.result_converter import ResultConverter
from nvflare.app_common.executors.client_api_executor import ClientAPIExecutor
from nvflare.app_common.utils.fl_model_utils import FLModelUtils
from nvflare.fuel.utils import fobs
from tests.unit_test.app_common.executors.client_api.formats_contract import ADD_ONE, FormatsContract
from tests.unit_test.app_common.executors.job_harness import make_task, model_of
from tests.unit_test.app_common.executors.markers import HAS_TORCH, needs_torch

TELL_FORMATS = """
    import nvflare.client as flare
    from nvflare.client.api import get_config
    flare.init()
    flare.receive()
    formats = get_config()["TASK_EXCHANGE"]
    names = ("exchange_format", "server_expected_format", "transfer_type")
    flare.send(flare.FLModel(params={"formats": [formats[name] for name in names]}))
"""


@pytest.fixture
def tensors():
    """Has this process know tensors, as a job does that exchanges them."""
    fobs.register(importlib.import_module("nvflare.app_opt.pt.decomposers").TensorDecomposer)


class TestFormats(FormatsContract):
    @pytest.fixture
    def start(self, job):
        def start(script: str):
            return job.start(ClientAPIExecutor("in_process", task_script_path=job.script(script)))

        return start


class TestKeys:
    """What is wrong in the job's client config is found at START_RUN."""

    CONFIG = {
        "config_fed_client.json": """{
            "format_version": 2,
            "params_exchange_format": "raw", "server_expected_format": "raw", "params_transfer_type": "FULL",
            "executors": [{"tasks": ["train"], "executor": {"path": "%s", "args": {
                "execution_mode": "in_process", "task_script_path": "script.py"}}}],
            "components": [], "task_data_filters": [], "task_result_filters": []
        }""",
        "config_fed_client.conf": """
            format_version = 2
            params_exchange_format = "raw"
            server_expected_format = raw
            params_transfer_type = FULL
            executors = [{
                tasks = ["train"]
                executor { path = "%s", args { execution_mode = "in_process", task_script_path = "script.py" } }
            }]
            components = [], task_data_filters = [], task_result_filters = []
        """,
        "config_fed_client.yml": """
            format_version: 2
            params_exchange_format: raw
            server_expected_format: "raw"
            params_transfer_type: FULL
            executors: [{tasks: [train], executor: {path: "%s", args: {
                execution_mode: in_process, task_script_path: script.py}}}]
            components: []
            task_data_filters: []
            task_result_filters: []
        """,
    }

    @pytest.mark.parametrize("name", CONFIG)
    def test_every_kind_of_config_file(self, job, client_config, name):
        if name.endswith(".yml"):
            pytest.importorskip("omegaconf")
        executor_path = f"{ClientAPIExecutor.__module__}.{ClientAPIExecutor.__name__}"
        job.script(TELL_FORMATS)
        config = job.read_config(name, textwrap.dedent(self.CONFIG[name] % executor_path))
        job.start(*config.task_router.task_table.values())
        assert model_of(job.execute("train", make_task())).params == {"formats": ["raw", "raw", "FULL"]}

    @pytest.mark.parametrize("exchanged", ["raw", "keras_layer_weights"])
    def test_difference_of_a_format_that_has_none(self, job, client_config, exchanged):
        client_config(params_exchange_format=exchanged, params_transfer_type="DIFF")
        job.start(ClientAPIExecutor("external_process", command="python3 custom/none.py"))
        (panic,) = job.panics
        for text in ("params_transfer_type DIFF", exchanged, "pytorch or numpy"):
            assert text in panic

    @pytest.mark.parametrize("exchanged", ["numpy", "raw", "keras_layer_weights"])
    def test_tensors_of_the_server_for_a_script_of_another_format(self, job, client_config, exchanged):
        client_config(params_exchange_format=exchanged, server_expected_format="pytorch")
        job.start(ClientAPIExecutor("external_process", command="python3 custom/none.py"))
        (panic,) = job.panics
        assert f"server_expected_format pytorch needs the same params_exchange_format, not {exchanged}" in panic

    @pytest.mark.skipif(HAS_TORCH, reason="needs a Python without torch")
    def test_tensors_without_torch(self, job, client_config):
        client_config(params_exchange_format="pytorch", server_expected_format="pytorch")
        job.start(ClientAPIExecutor("external_process", command="python3 custom/none.py"))
        (panic,) = job.panics
        assert "server_expected_format or params_exchange_format pytorch" in panic
        assert "need torch and safetensors" in panic and sys.executable in panic

    def test_formats_that_nothing_converts(self, job, client_config, site_log):
        client_config(params_exchange_format="numpy", server_expected_format="keras_layer_weights")
        job.script(ADD_ONE)
        job.start(ClientAPIExecutor("in_process", task_script_path="script.py"))
        (warning,) = site_log.find("nothing converts")
        assert "numpy" in warning.getMessage() and "keras_layer_weights" in warning.getMessage()


def pt_to_numpy():
    return importlib.import_module("nvflare.app_opt.pt.numpy_params_converter").PTToNumpyParamsConverter()


def converted(converter=None, **model) -> FLModel:
    """What the server gets of a model that a script sends."""
    result = FLModelUtils.to_shareable(FLModel(**model))
    return FLModelUtils.from_shareable(ResultConverter(converter).process("train", result, FLContext()))


class TestWhatIsSent:
    """Each part of a result is looked at; at what in it, sendable_test.py tells."""

    def test_what_cannot_be_sent_is_named(self):
        bad, text = np.array([{}]), "is a NumPy array of object, which cannot be sent: send its tolist()"
        for fields, name in (
            ({"params": {"a": 1, "b": bad}}, "parameter 'b'"),
            ({"params": {"a": {"b": [0, bad]}}}, "parameter 'a.b.1'"),
            ({"metrics": {"a": 1, "b": bad}}, "metric 'b'"),
            ({"params": {"a": 1}, "metrics": {"b": bad}}, "metric 'b'"),
            ({"metrics": {"a": 1}, "meta": {"b": bad}}, "meta property 'b'"),
            ({"params": {"a": 1}, "current_round": 2**64}, "header 'current_round'"),
        ):
            with pytest.raises(ValueError) as error:
                converted(**fields)
            assert str(error.value).startswith(f"{name} is")
            assert text in str(error.value) or "integer of 65 bits" in str(error.value)

    def test_what_can_be_sent_is_not_touched(self):
        params = {"array": np.zeros(2), "number": np.float32(1), "list": [1, (2, None)], "dict": {"text": "b"}}
        sent = converted(params=params, metrics={"loss": np.float64(0.5)}, meta={"steps": np.int8(3)})
        assert sent.params == params and sent.params["array"] is params["array"]
        assert type(sent.params["number"]) is np.float32
        assert sent.metrics == {"loss": 0.5} and sent.meta["steps"] == 3 and type(sent.meta["steps"]) is int

    def test_rounds_are_numbers(self):
        model = FLModel(params={"a": 1}, total_rounds=9)
        model.current_round = np.int64(3)  # nothing checks that
        result = ResultConverter(None).process("train", FLModelUtils.to_shareable(model), FLContext())
        assert type(result.get_header("current_round")) is int

    def test_number_as_a_tensor_is_a_number(self, torch):
        sent = converted(metrics={"loss": torch.tensor([0.5])}, meta={"steps": torch.tensor(3)})
        assert sent.metrics == {"loss": 0.5} and sent.meta["steps"] == 3
        assert type(sent.metrics["loss"]) is float

    @needs_torch
    def test_result_without_a_model_keeps_its_metrics(self):
        assert converted(pt_to_numpy(), metrics={"loss": 0.5, "name": "a"}).metrics == {"loss": 0.5, "name": "a"}

    def test_tensors_as_arrays(self, torch):
        weight = torch.arange(2.0)
        params = {
            "parameter": torch.nn.Parameter(weight),
            "graph": (torch.ones(2, requires_grad=True) * 2),
            "conjugate": torch.complex(weight, weight).conj(),
            "negative": torch._neg_view(weight),
            "number": 3,
            "text": "relu",
            "net._extra_state": {"scale": torch.ones(1)},
        }
        sent = converted(pt_to_numpy(), params=params).params
        assert {name: value.tolist() for name, value in sent.items()} == {
            "parameter": [0.0, 1.0],
            "graph": [2.0, 2.0],
            "conjugate": [0.0, 1 - 1j],
            "negative": [0.0, -1.0],
        }

    @pytest.mark.parametrize("value", [{"a": 1}, [0.5], (1,), {1}, np.zeros(2)])
    def test_what_would_be_left_out_is_named(self, torch, value):
        with pytest.raises(ValueError, match="parameter 'b' is a .*, which would be left out.*FrameworkType.RAW"):
            converted(pt_to_numpy(), params={"a": torch.ones(2), "b": value})

    @pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn"])
    def test_tensor_that_numpy_lacks_is_named(self, torch, dtype):
        tensor = torch.ones(2).to(getattr(torch, dtype))
        with pytest.raises(
            ValueError, match=f"'b' is a tensor of torch.{dtype}.*server_expected_format to pytorch.*cast"
        ):
            converted(pt_to_numpy(), params={"a": torch.ones(2), "b": tensor})

    @needs_torch
    @pytest.mark.parametrize("params", [{"a": 1, "b": "relu"}, {"a": {1: 2}, "b": {3: 4}}])
    def test_model_of_which_nothing_would_be_left(self, params):
        with pytest.raises(ValueError, match="'a'.*FrameworkType.RAW"):
            converted(pt_to_numpy(), params=params)

    @needs_torch
    def test_empty_model(self):
        assert converted(pt_to_numpy(), params={}).params == {}

    def test_layer_that_keras_does_not_know_is_named(self):
        converter = importlib.import_module("nvflare.app_opt.tf.params_converter").KerasModelToNumpyParamsConverter()
        for value in ({"kernel": np.zeros(2)}, np.zeros(2)):
            with pytest.raises(ValueError, match="parameter 'dense' is a .*not the list of arrays that Keras has"):
                converted(converter, params={"relu": [], "dense": value})

    def test_views_arrive_as_the_script_sees_them(self, torch, tensors):
        weight = torch.arange(2.0)
        params = {"conjugate": torch.complex(weight, weight).conj(), "negative": torch._neg_view(weight)}
        sent = fobs.loads(fobs.dumps(converted(params=dict(params)).params))
        assert all(torch.equal(sent[name], value) for name, value in params.items())

    @pytest.mark.filterwarnings("ignore:ComplexHalf", "ignore:The PyTorch API of nested tensors")
    @pytest.mark.parametrize(
        "make, text",
        [
            (lambda torch: torch.ones(2, 2).to_sparse(), "is a tensor that is not dense .torch.sparse_coo."),
            (lambda torch: torch.ones(2, 2, device="meta"), "is a tensor that is not dense .on the meta device."),
            (lambda torch: torch.nested.nested_tensor([torch.ones(2, 2)]), "is a tensor that is not dense .nested."),
            (lambda torch: torch.ones(2, 2, dtype=torch.complex32), "is a tensor of torch.complex32"),
        ],
    )
    def test_tensor_that_cannot_be_sent_is_named(self, torch, make, text, tensors):
        for converter in (None, pt_to_numpy()):
            with pytest.raises(ValueError, match=f"parameter 'b' {text}"):
                converted(converter, params={"b": make(torch)})
