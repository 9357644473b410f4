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

"""What a difference from a received model cannot have: the script is told, and by name."""

import numpy as np
import pytest

from nvflare.app_common.abstract.fl_model import FLModel, ParamsType
from nvflare.app_common.executors.client_api.formats.difference import ScriptCopy
from nvflare.client.config import TransferType


@pytest.fixture
def script_copy():
    copy = ScriptCopy(TransferType.DIFF)
    copy.of(FLModel(params={"w": np.zeros((2, 3)), "steps": 7, "names": [1.0, 2.0]}))
    return copy


def test_new_parameter_is_told_once(script_copy, caplog):
    for _ in range(2):
        script_copy.check(FLModel(params={"w": np.ones((2, 3)), "head": np.ones(3)}))
    (record,) = caplog.records
    assert "'head'" in record.getMessage() and 'params_transfer_type = "FULL"' in record.getMessage()


@pytest.mark.parametrize("shape", [(3, 2), (2, 3, 1), (2,), (4, 2, 3)])
def test_other_shape_is_refused(script_copy, shape):
    with pytest.raises(ValueError) as e:
        script_copy.check(FLModel(params={"w": np.ones(shape)}))
    assert "'w'" in str(e.value) and str(shape) in str(e.value) and "(2, 3)" in str(e.value)


@pytest.mark.parametrize(
    "params",
    [
        {"w": np.ones((2, 3))},
        {"w": np.float64(1)},
        {"w": np.ones(3), "steps": 8},
        {"steps": np.int64(8), "names": [3.0, 4.0]},
        [np.ones(7)],
        None,
    ],
)
def test_what_can_be_subtracted_is_taken(script_copy, params, caplog):
    script_copy.check(FLModel(params=params, metrics={"loss": 0.5}))
    assert caplog.records == []


def test_difference_that_the_script_has_formed_is_its_own(script_copy):
    script_copy.check(FLModel(params={"w": np.ones(7)}, params_type=ParamsType.DIFF))


def test_full_models_may_have_any_parameters():
    copy = ScriptCopy(TransferType.FULL)
    copy.of(FLModel(params={"w": np.zeros(2)}))
    copy.check(FLModel(params={"w": np.zeros(3), "head": np.ones(3)}))
