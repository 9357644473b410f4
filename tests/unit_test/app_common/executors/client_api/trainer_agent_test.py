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

"""The trainer's end of a session, on an nvflare that lacks what it replaces."""

import pytest

import nvflare.client.ex_process.api as api
from nvflare.app_common.executors.client_api.session.trainer_agent import trainer_end

REPLACED = ("FlareAgentWithFLModel", "ModelRegistry", "create_analytic_dxo")


@pytest.mark.parametrize("missing", REPLACED)
def test_what_cannot_be_replaced_is_named_before_anything_is_done(monkeypatch, missing):
    monkeypatch.delattr(api, missing)
    before = [getattr(api, name, None) for name in REPLACED]
    with pytest.raises(ImportError, match=f"has no {missing}"):
        trainer_end("no_module.NoPipe")
    assert [getattr(api, name, None) for name in REPLACED] == before
