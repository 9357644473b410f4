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
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
from client_api.attach_harness import attached
from client_api.external_jobs import LARGE, SMALL, external
from job_harness import assert_failed, make_task, model_of

from nvflare.apis.dxo import DataKind, from_shareable
from nvflare.apis.fl_context import FLContext
from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.app_common.executors.client_api.result_converter import ResultConverter
from nvflare.app_common.executors.client_api_executor import ClientAPIExecutor
from nvflare.app_common.utils.fl_model_utils import FLModelUtils
from nvflare.fuel.utils import fobs
from nvflare.private.fed.client.client_json_config import ClientJsonConfigurator

try:
    import torch
except ImportError:
    torch = None

needs_torch = pytest.mark.skipif(torch is None, reason="needs torch")

# Tells what it got and sends one more than that.
ADD_ONE = """
    import nvflare.client as flare
    flare.init()
    while flare.is_running():
        model = flare.receive()
        types = {name: type(value).__name__ for name, value in model.params.items()}
        flare.send(flare.FLModel(params={name: value + 1 for name, value in model.params.items()}, meta=types))
"""

TELL_FORMATS = """
    import nvflare.client as flare
    from nvflare.client.api import get_config
    flare.init()
    flare.receive()
    formats = get_config()["TASK_EXCHANGE"]
    names = ("exchange_format", "server_expected_format", "transfer_type")
    flare.send(flare.FLModel(params={"formats": [formats[name] for name in names]}))
"""

ADD_ONE_TO_LAYERS = """
    import nvflare.client as flare
    flare.init()
    while flare.is_running():
        layers = flare.receive().params
        assert list(layers) == ["dense"]  # as keras knows them
        flare.send(flare.FLModel(params={"dense": [weights + 1 for weights in layers["dense"]]}))
"""

# Everything that a state dict may hold; what it received must be what it has sent before.
STATE_DICT = """
    import torch
    import nvflare.client as flare

    def equal(one, other):
        return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other

    weight = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    state = {
        "plain": weight,
        "transposed": weight.t(),
        "bfloat16": weight.to(torch.bfloat16),
        "scalar": torch.tensor(7),
        "empty": torch.zeros(0),
        "parameter": torch.nn.Parameter(weight),
        "int": 3,
        "text": "relu",
        "none": None,
        "nested": {"momentum": weight.half(), "steps": [1, 2]},
    }
    flare.init()
    while flare.is_running():
        model = flare.receive()
        before = model.params
        if model.current_round:
            assert before.keys() == state.keys()
            for name in state.keys() - {"nested"}:
                assert equal(before[name], state[name]), name
                assert not isinstance(state[name], torch.Tensor) or before[name].dtype == state[name].dtype
            assert equal(before["nested"]["momentum"], state["nested"]["momentum"])
            assert before["nested"]["steps"] == [1, 2]
        flare.send(flare.FLModel(params=dict(state), metrics={"accuracy": torch.tensor(0.5)}))
"""

SEND = """
    import torch
    import nvflare.client as flare
    flare.init()
    flare.receive()
    flare.send(flare.FLModel(params={{"weight": torch.ones(2), "bias": {value}}}))
"""


@pytest.fixture(scope="module")
def site_cell(job_cell):
    return job_cell


@pytest.fixture(params=["in_process", "external_process", "attach"])
def start(request, job, trainers):
    """Starts a job with a script, in each of the modes."""

    def start(script: str):
        name = job.script(script)
        if request.param == "in_process":
            return job.start(ClientAPIExecutor("in_process", task_script_path=name))
        if request.param == "external_process":
            return job.start(external(f"custom/{name}"))
        job.start(attached())
        trainers(job.custom_dir / name)
        return job

    return start


@pytest.fixture
def tensors():
    """Has this process know tensors, as a job does that exchanges them."""
    fobs.register(importlib.import_module("nvflare.app_opt.pt.decomposers").TensorDecomposer)


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
        path = Path(job.workspace.get_app_config_dir(job.job_id), name)
        executor_path = f"{ClientAPIExecutor.__module__}.{ClientAPIExecutor.__name__}"
        path.write_text(textwrap.dedent(self.CONFIG[name] % executor_path))
        job.script(TELL_FORMATS)
        arguments = Namespace(
            sp_scheme="tcp",
            sp_target="localhost:1",
            client_name="site-1",
            job_id=job.job_id,
            workspace=str(path.parent),
        )
        configurator = ClientJsonConfigurator(job.workspace, str(path), arguments, str(path.parent))
        configurator.configure()
        job.start(*configurator.runner_config.task_router.task_table.values())
        assert model_of(job.execute("train", make_task())).params == {"formats": ["raw", "raw", "FULL"]}

    @pytest.mark.parametrize("exchanged", ["raw", "keras_layer_weights"])
    def test_difference_of_a_format_that_has_none(self, job, client_config, exchanged):
        client_config(params_exchange_format=exchanged, params_transfer_type="DIFF")
        job.start(external("custom/none.py"))
        (panic,) = job.panics
        for text in ("params_transfer_type DIFF", exchanged, "pytorch or numpy"):
            assert text in panic

    @pytest.mark.parametrize("exchanged", ["numpy", "raw", "keras_layer_weights"])
    def test_tensors_of_the_server_for_a_script_of_another_format(self, job, client_config, exchanged):
        client_config(params_exchange_format=exchanged, server_expected_format="pytorch")
        job.start(external("custom/none.py"))
        (panic,) = job.panics
        assert f"server_expected_format pytorch needs the same params_exchange_format, not {exchanged}" in panic

    @pytest.mark.skipif(torch is not None, reason="needs a Python without torch")
    def test_tensors_without_torch(self, job, client_config):
        client_config(params_exchange_format="pytorch", server_expected_format="pytorch")
        job.start(external("custom/none.py"))
        (panic,) = job.panics
        assert "server_expected_format pytorch needs torch" in panic and sys.executable in panic

    def test_formats_that_nothing_converts(self, job, client_config, site_log):
        client_config(params_exchange_format="numpy", server_expected_format="keras_layer_weights")
        job.script(ADD_ONE)
        job.start(ClientAPIExecutor("in_process", task_script_path="script.py"))
        (warning,) = site_log.find("nothing converts")
        assert "numpy" in warning.getMessage() and "keras_layer_weights" in warning.getMessage()


class TestFormats:
    """One job in all modes, with the same results."""

    def test_keras_weights(self, start, client_config):
        client_config(params_exchange_format="keras_layer_weights")
        job = start(ADD_ONE_TO_LAYERS)
        for _ in range(2):
            task = make_task(dense_nvf_0=np.zeros((2, 3)), dense_nvf_1=np.zeros(3))
            params = model_of(job.execute("train", task)).params
            assert {name: value.tolist() for name, value in params.items()} == {
                "dense_nvf_0": [[1.0] * 3] * 2,
                "dense_nvf_1": [1.0] * 3,
            }

    def test_raw(self, start, client_config):
        client_config(params_exchange_format="raw", server_expected_format="raw")
        job = start(ADD_ONE)
        result = model_of(job.execute("train", make_task(w=41, x=0.5)))
        assert result.params == {"w": 42, "x": 1.5}

    @needs_torch
    @pytest.mark.parametrize("transfer_type", ["FULL", "DIFF"])
    def test_tensors_for_the_script_arrays_for_the_server(self, start, client_config, transfer_type):
        client_config(params_exchange_format="pytorch", params_transfer_type=transfer_type)
        job = start(ADD_ONE)
        weights = np.arange(6, dtype=np.float32).reshape(2, 3)
        result = job.execute("train", make_task(weights=weights, steps=np.int64(7)))
        model = model_of(result)
        assert model.meta["weights"] == "Tensor"
        expected, kind = (weights + 1, DataKind.WEIGHTS) if transfer_type == "FULL" else (1.0, DataKind.WEIGHT_DIFF)
        assert from_shareable(result).data_kind == kind
        assert type(model.params["weights"]) is np.ndarray and model.params["weights"].dtype == np.float32
        assert (model.params["weights"] == expected).all()

    @needs_torch
    def test_tensors_for_both(self, start, client_config):
        client_config(params_exchange_format="pytorch", server_expected_format="pytorch")
        job = start(STATE_DICT)
        result = model_of(job.execute("train", make_task(current_round=0)))
        again = model_of(job.execute("train", make_task(current_round=1, **result.params)))
        assert type(again.params["parameter"]) is torch.Tensor
        assert again.metrics == {"accuracy": 0.5}

    @needs_torch
    @pytest.mark.parametrize("transfer_type", ["FULL", "DIFF"])
    def test_large_tensors_for_both(self, start, client_config, transfer_type):
        keys = {"params_exchange_format": "pytorch", "server_expected_format": "pytorch"}
        client_config(params_transfer_type=transfer_type, **keys)
        job = start(ADD_ONE)
        for value in range(2):
            task = make_task(w=torch.full((LARGE,), float(value)), small=torch.zeros(SMALL))
            params = model_of(job.execute("train", task)).params
            assert (params["w"] == (value + 1.0 if transfer_type == "FULL" else 1.0)).all()
            assert params["w"].numel() == LARGE and params["small"].tolist() == [1.0] * SMALL

    @needs_torch
    def test_what_cannot_be_converted_is_named(self, start, client_config):
        client_config(params_exchange_format="pytorch")
        job = start(SEND.format(value="torch.ones(2, dtype=torch.bfloat16)"))
        assert_failed(job.execute("train", make_task()), "parameter 'bias' cannot be converted", "BFloat16")


def converted(converter=None, **model) -> FLModel:
    """What the server gets of a model that a script sends."""
    result = FLModelUtils.to_shareable(FLModel(**model))
    return FLModelUtils.from_shareable(ResultConverter(converter).process("train", result, FLContext()))


class Opaque:
    """Something that FOBS takes apart, and that no other process can put together."""


class TestWhatIsSent:
    @pytest.mark.parametrize(
        "value, text",
        [
            (np.int8(1), "numpy.int8"),
            (np.array([{}]), "numpy.ndarray"),
            (np.ma.array([1.0], mask=[True]), "MaskedArray"),
            (Opaque(), "no decomposer"),
        ],
    )
    def test_what_cannot_be_sent_is_named(self, value, text):
        for params, name in (({"a": 1, "b": value}, "parameter 'b'"), ({"a": {"b": [0, value]}}, "parameter 'a.b.1'")):
            with pytest.raises(ValueError) as error:
                converted(params=params)
            assert name in str(error.value) and text in str(error.value)
        with pytest.raises(ValueError, match="metric 'b' is a "):
            converted(metrics={"a": 1, "b": value})
        with pytest.raises(ValueError, match="meta property 'b' is a "):
            converted(metrics={"a": 1}, meta={"b": value})

    def test_what_can_be_sent_is_not_touched(self):
        params = {"array": np.zeros(2), "number": np.float32(1), "list": [1, (2, None)], "dict": {"text": "b"}}
        sent = converted(params=params, metrics={"loss": np.float64(0.5)}, meta={"steps": 3})
        assert sent.params is params
        assert sent.metrics == {"loss": 0.5} and sent.meta["steps"] == 3

    def test_tensor_in_a_job_of_arrays_is_named(self, run_python):
        pytest.importorskip("torch")
        output = run_python(
            """
            import torch
            from nvflare.apis.fl_context import FLContext
            from nvflare.app_common.abstract.fl_model import FLModel
            from nvflare.app_common.executors.client_api.result_converter import ResultConverter
            from nvflare.app_common.utils.fl_model_utils import FLModelUtils

            for params in ({"a": 1, "b": torch.ones(2)}, {"a": 1, "b": torch.nn.Parameter(torch.ones(2))}):
                try:
                    result = FLModelUtils.to_shareable(FLModel(params=params))
                    ResultConverter(None).process("train", result, FLContext())
                except ValueError as e:
                    print(e)
            """
        )
        assert output.count("parameter 'b' is a torch tensor") == 2
        assert output.count("set params_exchange_format to pytorch") == 2

    @needs_torch
    def test_number_as_a_tensor_is_a_number(self):
        sent = converted(metrics={"loss": torch.tensor([0.5])}, meta={"steps": torch.tensor(3)})
        assert sent.metrics == {"loss": 0.5} and sent.meta["steps"] == 3
        assert type(sent.metrics["loss"]) is float

    @needs_torch
    def test_result_without_a_model_keeps_its_metrics(self):
        pt_to_numpy = importlib.import_module("nvflare.app_opt.pt.numpy_params_converter").PTToNumpyParamsConverter()
        assert converted(pt_to_numpy, metrics={"loss": 0.5, "name": "a"}).metrics == {"loss": 0.5, "name": "a"}

    @needs_torch
    @pytest.mark.filterwarnings("ignore:ComplexHalf")
    @pytest.mark.parametrize("make", ["to_sparse", "to_complex32"])
    def test_tensor_that_cannot_be_sent_is_named(self, make, tensors):
        tensor = torch.ones(2, 2)
        tensor = tensor.to_sparse() if make == "to_sparse" else tensor.to(torch.complex32)
        with pytest.raises(ValueError, match="parameter 'b' is a tensor of torch.*cannot be sent"):
            converted(params={"b": tensor})
