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

"""What tests of handed over memory have."""

import gc

import pytest

from tests.unit_test.app_common.executors.client_api.arrays.two_ends import descriptors, mappings


@pytest.fixture
def no_memory_left(nothing_left):
    """Fails a test that leaves a descriptor or a map of handed over memory."""
    yield
    gc.collect()
    assert not [target for target in descriptors() if "memfd:client_api" in target]
    assert mappings() == 0
