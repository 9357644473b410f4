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

"""Whatever nvflare sends of a model lands as it was: in memory to be handed over, and on the heap."""

import io

import numpy as np
import pytest

from nvflare.app_common.executors.client_api.arrays.arrival import HeapLanding, SharedLanding, land
from nvflare.app_common.executors.client_api.arrays.memory import CAN_SHARE
from nvflare.app_common.executors.client_api.arrays.parcels import placeholder
from tests.unit_test.app_common.executors.client_api.arrays.specs_test import ARRAYS, DTYPES, assert_same

MARK = b"0123456789abcdef"


def arrived(items: dict, landing):
    """Returns what has become of a message that is a list of these arrays."""
    for item in items.values():
        land(item, "model/", landing)
    content = [placeholder(MARK, number) for number in range(len(items))]
    return landing.finish(content, MARK, [f"model/{name}" for name in items])


def on_the_heap(items: dict) -> list:
    return arrived(items, HeapLanding())


def in_shared_memory(items: dict) -> list:
    placed = arrived(items, SharedLanding())
    arrays = placed.parcel.put_together(placed.memory.map(is_private=True))
    placed.memory.close()
    return arrays


needs_memfd = pytest.mark.skipif(not CAN_SHARE, reason="needs memfd")
ways = pytest.mark.parametrize("arrive", [on_the_heap, pytest.param(in_shared_memory, marks=needs_memfd)])


@ways
def test_arrays(arrive):
    items = {}
    for number, array in enumerate(ARRAYS.values()):
        file = io.BytesIO()
        np.savez(file, **{f"T{number}": array})
        items[f"T{number}"] = file.getvalue()
    for made, array in zip(arrive(items), ARRAYS.values()):
        assert_same(made, array)
        assert made.flags.writeable, "a script may train in place"


@ways
def test_tensors(arrive):
    torch, safetensors = pytest.importorskip("torch"), pytest.importorskip("safetensors.torch")
    tensors = [torch.arange(6).reshape(2, 3).to(getattr(torch, name)) for name in DTYPES]
    tensors += [torch.empty(0, 3), torch.tensor(2.5)]
    made = arrive({f"T{n}": safetensors.save({f"T{n}": tensor}) for n, tensor in enumerate(tensors)})
    for one, other in zip(made, tensors):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert safetensors.save({"": one}) == safetensors.save({"": other})
