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
"""A large array that was handed over is served from where it is; whatever else has its bytes there is copied."""

import numpy as np
import pytest

from nvflare.app_common.executors.client_api.arrays.memory import CAN_SHARE, PREFACE, PrivateMemory
from nvflare.app_common.executors.client_api.arrays.parcels import ROOM, Parcel, Place, new_mark, placeholder, take_room
from nvflare.app_common.executors.client_api.arrays.serve import carry
from nvflare.app_common.executors.client_api.arrays.specs import NUMPY, ArraySpec, bytes_of, spec_of
from nvflare.app_common.np.np_downloader import ArrayConsumer
from tests.unit_test.app_common.executors.client_api.arrays.specs_test import assert_same
from tests.unit_test.app_common.executors.client_api.arrays.two_ends import MANY, Ends

pytestmark = [pytest.mark.skipif(not CAN_SHARE, reason="needs memfd"), pytest.mark.usefixtures("no_memory_left")]

both_ways = pytest.mark.parametrize("can_share", [True, False], ids=["shared memory", "pieces"])


def model() -> dict:
    table = np.arange(2.0 * MANY).reshape(2, MANY)
    return {"first": table + 1, "small": np.arange(7), "by columns": table.T, "last": np.ones(MANY + 1, ">f4")}


def carried(array) -> memoryview:
    return carry("T3", spec_of(array), bytes_of(array))


def is_in_place(data: memoryview, array) -> bool:
    return np.shares_memory(np.frombuffer(data, np.uint8), array)


def assert_server_reads(data: memoryview, array) -> None:
    assert_same(ArrayConsumer._to_dict(bytes(data))["T3"], array)


@both_ways
def test_all_arrays_of_a_result_stay_what_they_are(can_share):
    sent, received = model(), Ends(can_share).to_job(model())
    served = {name: carried(array) for name, array in received.items()}
    for name, array in sent.items():
        assert_same(received[name], array)
        assert_server_reads(served[name], array)
        assert is_in_place(served[name], received[name]) == (name != "small")


def test_once_more_is_a_copy():
    """The first one may still be on its way."""
    array = Ends().to_job(model())["first"]
    first, second = carried(array), carried(array)
    assert is_in_place(first, array) and not is_in_place(second, array)
    for data in (first, second):
        assert_server_reads(data, array)


@pytest.mark.parametrize(
    "view", [lambda a: a[0], lambda a: a[:, ::2], lambda a: a[:, 1:]], ids=["row", "steps", "rest"]
)
def test_part_of_an_array_is_copied(view):
    array = Ends().to_job(model())["first"]
    before = array.copy()
    data = carried(view(array))
    assert not is_in_place(data, array)
    assert_server_reads(data, view(before))
    assert_same(array, before)


def test_two_views_of_all_bytes():
    array = Ends().to_job(model())["first"]
    turned, other = array.T, array.view(">i8")
    served = [carried(view) for view in (turned, array, other)]
    assert [is_in_place(data, array) for data in served] == [True, False, False]
    for data, view in zip(served, (turned, array, other)):
        assert_server_reads(data, view)


def placed_by_another_version(gap: int) -> dict:
    """Returns the arrays of a message in whose memory so many bytes are between two of them."""
    places, end = [], PREFACE
    for shape in ((MANY,), (MANY + 8,)):
        places.append(Place(ArraySpec(NUMPY, "<f8", shape), end + gap))
        end += gap + places[-1].spec.size
    memory = PrivateMemory(end + gap)
    for number, place in enumerate(places):
        memory.write(place.offset, np.full(place.spec.shape, number + 1.0).tobytes())
    mark = new_mark()
    content = {number: placeholder(mark, number) for number in range(len(places))}
    return Parcel(content, mark, places, memory.size).put_together(memory.map(is_private=True))


@pytest.mark.parametrize("gap", [0, ROOM - 64, ROOM, 2 * ROOM])
def test_room_is_seen_and_not_believed(gap):
    arrays = placed_by_another_version(gap)
    served = [carried(array) for array in arrays.values()]
    for number, (data, array) in enumerate(zip(served, arrays.values())):
        assert (array == number + 1).all()
        assert_server_reads(data, array)
        assert is_in_place(data, array) == (gap == 2 * ROOM)


@pytest.mark.parametrize("makes_tensors", [True, False])
def test_tensor(torch, makes_tensors):
    safetensors = pytest.importorskip("safetensors.torch")
    ends = Ends()
    ends.job.makes_tensors = makes_tensors
    tensor = ends.to_job({"t": torch.arange(float(MANY)), "u": torch.ones(MANY)})["t"]
    spec, content = (spec_of(tensor), bytes_of(tensor)) if makes_tensors else (tensor.spec, tensor.content)
    data = carry("T3", spec, content)
    assert torch.equal(safetensors.load(bytes(data))["T3"], torch.arange(float(MANY)))
    assert is_in_place(data, np.frombuffer(content, np.uint8))


def test_more_than_the_room():
    content = bytes_of(Ends().to_job(model())["first"])
    assert take_room(content, ROOM + 1, 0) is None and take_room(content, 0, ROOM + 1) is None
    assert len(take_room(content, ROOM, ROOM)) == len(content) + 2 * ROOM


def test_array_of_the_process_is_copied():
    array = np.ones(MANY)
    data = carried(array)
    assert not is_in_place(data, array)
    assert_server_reads(data, array)
