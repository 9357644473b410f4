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

"""Small arrays travel inside their result, which nvflare decodes as it does its own."""

import numpy as np
import pytest

from nvflare.apis.dxo import DXO, DataKind, from_shareable
from nvflare.apis.fl_context import FLContext
from nvflare.app_common.executors.client_api.arrays.parcels import CarriedTensor
from nvflare.app_common.executors.client_api.arrays.serve import ResultServer
from nvflare.app_common.executors.client_api.arrays.specs import bytes_of, spec_of
from nvflare.fuel.utils import fobs
from tests.unit_test.app_common.executors.client_api.arrays.specs_test import ARRAYS, DTYPES, REFUSED, assert_same


def received(arrays: dict) -> dict:
    """Returns what the server makes of the arrays of a result, none of which it may have to pull."""
    result = DXO(DataKind.WEIGHTS, arrays).to_shareable()
    server = ResultServer()
    server.refer(result, FLContext())
    assert server.settle() is None
    return from_shareable(fobs.loads(fobs.dumps(result))).data


def test_arrays():
    made = received({**ARRAYS, "again": ARRAYS["floats"]})
    for name, array in {**ARRAYS, "again": ARRAYS["floats"]}.items():
        assert_same(made[name], array)
        assert made[name].flags.writeable


@pytest.mark.parametrize("is_carried", [False, True], ids=["tensor", "carried"])
def test_tensors(is_carried):
    torch, decomposers = pytest.importorskip("torch"), pytest.importorskip("nvflare.app_opt.pt.decomposers")
    fobs.register(decomposers.TensorDecomposer)
    tensors = [torch.arange(6).reshape(2, 3).to(getattr(torch, name)) for name in DTYPES]
    tensors += [torch.empty(0, 3), torch.tensor(2.5), torch.ones(3, requires_grad=True)]
    sent = [CarriedTensor(spec_of(one), bytes_of(one), 0) if is_carried else one for one in tensors]
    made = received({f"T{number}": one for number, one in enumerate(sent)})
    for one, other in zip(made.values(), tensors):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert bytes(bytes_of(one)) == bytes(bytes_of(other))


def test_what_is_left_to_nvflare():
    result = DXO(DataKind.WEIGHTS, dict(REFUSED)).to_shareable()
    ResultServer().refer(result, FLContext())
    assert all(one is other for one, other in zip(from_shareable(result).data.values(), REFUSED.values()))


def test_the_sender_keeps_its_arrays():
    model = {"w": np.arange(4.0)}
    received(model)
    assert_same(model["w"], np.arange(4.0))
