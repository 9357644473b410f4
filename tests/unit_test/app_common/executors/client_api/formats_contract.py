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

"""What parameters go through in the formats of a job, whichever the mode: a test class derives and gives `start`."""


import numpy as np
import pytest

from nvflare.apis.dxo import DataKind, from_shareable
from tests.unit_test.app_common.executors.job_harness import LARGE, SMALL, assert_failed, make_task, model_of
from tests.unit_test.app_common.executors.markers import needs_torch

# Tells what it got and sends one more than that.
ADD_ONE = """
    import nvflare.client as flare
    flare.init()
    while flare.is_running():
        model = flare.receive()
        types = {name: type(value).__name__ for name, value in model.params.items()}
        flare.send(flare.FLModel(params={name: value + 1 for name, value in model.params.items()}, meta=types))
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


# Is refused a result that cannot be sent, and sends its next one.
IN_PLACE = """
    import nvflare.client as flare
    flare.init()
    while flare.is_running():
        model = flare.receive()
        model.params["w"] += 1
        try:
            flare.send(flare.FLModel(params={{"w": model.params["w"]}}, meta={{"x": object()}}))
        except ValueError:
            assert (flare.receive().params["w"] == model.params["w"]).all()
        flare.send({sent})
        assert model.params is None
"""


class FormatsContract:
    """The same job has the same results in all modes. `start` (a fixture) starts a job with a script."""

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

    @pytest.mark.parametrize("size", [SMALL, LARGE])
    def test_tensors_of_a_server_that_expects_arrays(self, torch, start, client_config, size):
        client_config(params_exchange_format="pytorch")
        job = start(ADD_ONE)
        params = model_of(job.execute("train", make_task(w=torch.ones(size)))).params
        assert type(params["w"]) is np.ndarray and params["w"].size == size and (params["w"] == 2.0).all()

    @pytest.mark.parametrize("sent", ["flare.FLModel(params=model.params)", "model"], ids=["another", "the received"])
    @pytest.mark.parametrize("size", [SMALL, LARGE])
    def test_difference_of_a_model_that_is_trained_in_place(self, start, client_config, size, sent):
        client_config(params_transfer_type="DIFF")
        job = start(IN_PLACE.format(sent=sent))
        for value in range(2):
            result = job.execute("train", make_task(w=np.full(size, value, dtype=np.float32)))
            assert from_shareable(result).data_kind == DataKind.WEIGHT_DIFF
            assert (model_of(result).params["w"] == 1.0).all()

    def test_difference_that_does_not_exist_is_named(self, start, client_config):
        client_config(params_transfer_type="DIFF")
        script = """
            import numpy as np
            import nvflare.client as flare
            flare.init()
            flare.receive()
            flare.send(flare.FLModel(params={"bias": np.ones(3)}))
        """
        result = start(script).execute("train", make_task(bias=np.zeros(2)))
        assert_failed(result, "parameter 'bias' has the shape (3,), and was received with (2,)")

    def test_tensors_for_both(self, torch, start, client_config):
        client_config(params_exchange_format="pytorch", server_expected_format="pytorch")
        job = start(STATE_DICT)
        result = model_of(job.execute("train", make_task(current_round=0)))
        again = model_of(job.execute("train", make_task(current_round=1, **result.params)))
        assert type(again.params["parameter"]) is torch.Tensor
        assert again.metrics == {"accuracy": 0.5}

    @pytest.mark.parametrize("transfer_type", ["FULL", "DIFF"])
    def test_large_tensors_for_both(self, torch, start, client_config, transfer_type):
        keys = {"params_exchange_format": "pytorch", "server_expected_format": "pytorch"}
        client_config(params_transfer_type=transfer_type, **keys)
        job = start(ADD_ONE)
        for value in range(2):
            task = make_task(w=torch.full((LARGE,), float(value)), small=torch.zeros(SMALL))
            params = model_of(job.execute("train", task)).params
            assert (params["w"] == (value + 1.0 if transfer_type == "FULL" else 1.0)).all()
            assert params["w"].numel() == LARGE and params["small"].tolist() == [1.0] * SMALL

    @needs_torch
    @pytest.mark.parametrize(
        "value, text",
        [
            ("torch.ones(2, dtype=torch.bfloat16)", "is a tensor of torch.bfloat16, which NumPy does not have"),
            ("[torch.ones(2)]", "is a <class 'list'>, which would be left out"),
        ],
    )
    def test_what_cannot_be_converted_is_named(self, start, client_config, value, text):
        client_config(params_exchange_format="pytorch")
        job = start(SEND.format(value=value))
        assert_failed(job.execute("train", make_task()), f"parameter 'bias' {text}", "in the job's client config")
