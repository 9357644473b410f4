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

"""Any array is described, carried and made again as it was: by nvflare's own receivers, and by ours from nvflare's."""

import io
import zipfile

import numpy as np
import pytest

from nvflare.app_common.executors.client_api.arrays import specs
from nvflare.app_common.executors.client_api.arrays.forms import read_start
from nvflare.app_common.executors.client_api.arrays.serve import carry
from nvflare.app_common.executors.client_api.arrays.specs import ArrayRefused
from nvflare.app_common.np.np_downloader import ArrayConsumer

ARRAYS = {
    "floats": np.arange(10.0),
    "scalar": np.array(3.0),
    "empty": np.empty((0, 3)),
    "by columns": np.asfortranarray(np.arange(12).reshape(3, 4)),
    "big-endian": np.arange(5, dtype=">i2"),
    "strings": np.array(["a", "bc"]),
    "no strings": np.array([], dtype="<U0"),
    "dates": np.arange(3).astype("M8[s]"),
    "flags": np.array([True, False]),
    "complex": np.arange(3, dtype=np.complex64),
    "a view": np.arange(20)[::3],
    "backwards": np.arange(20)[::-1],
    "half": np.arange(4, dtype=np.float16),
    "20 dimensions": np.zeros((1,) * 20),
    "read-only": np.broadcast_to(np.float32(2), (3, 3)),
}
REFUSED = {
    "objects": np.array([object()]),
    "records": np.zeros(2, dtype=[("a", np.int16), ("b", np.float32)]),
    "void": np.zeros(2, dtype="V8"),
}
arrays = pytest.mark.parametrize("array", ARRAYS.values(), ids=ARRAYS.keys())


def assert_same(made: np.ndarray, array: np.ndarray) -> None:
    assert made.dtype == array.dtype and made.shape == array.shape
    np.testing.assert_array_equal(made, array)


@arrays
def test_made_again_in_place(array):
    spec = specs.spec_of(array)
    buffer = bytearray(64) + bytearray(specs.bytes_of(array))
    assert len(buffer) == 64 + spec.size
    made = specs.array_in(buffer, spec, 64)
    assert_same(made, array)
    assert made.flags.f_contiguous >= (array.flags.f_contiguous and not array.flags.c_contiguous)


@arrays
def test_nvflare_reads_what_is_carried(array):
    spec = specs.spec_of(array)
    carried = carry("T3", spec, specs.bytes_of(array))
    assert_same(ArrayConsumer._to_dict(bytes(carried))["T3"], array)


def test_every_archive_has_the_form_of_large_ones():
    array = np.arange(5)
    with zipfile.ZipFile(io.BytesIO(carry("T3", specs.spec_of(array), specs.bytes_of(array)))) as archive:
        (entry,) = archive.infolist()
        assert archive.testzip() is None
    zip64 = 1
    assert int.from_bytes(entry.extra[:2], "little") == zip64


@arrays
def test_what_nvflare_carries_is_read(array):
    file = io.BytesIO()
    np.savez(file, T7=array)
    name, spec, offset = read_start(memoryview(file.getvalue()))
    assert name == "T7"
    assert_same(specs.array_in(bytearray(file.getvalue()[offset : offset + spec.size]), spec, 0), array)


@pytest.mark.parametrize("array", REFUSED.values(), ids=REFUSED.keys())
def test_refused_by_name(array):
    with pytest.raises(ArrayRefused, match="dtype"):
        specs.spec_of(array)


@pytest.mark.parametrize("name", ["records", "void"])
def test_refused_by_its_name_in_an_archive(name):
    file = io.BytesIO()
    np.savez(file, T7=REFUSED[name])
    with pytest.raises(ArrayRefused, match="dtype") as refused:
        read_start(memoryview(file.getvalue()))
    assert refused.value.name == "T7"


@pytest.mark.parametrize("shape", [(-1,), "ab", (1.5,), None])
def test_malformed_description_is_refused(shape):
    with pytest.raises(ArrayRefused, match="malformed"):
        specs.ArraySpec.checked("numpy", "<f4", shape, False)


def test_other_forms_are_refused():
    compressed, other = io.BytesIO(), b"\x05" * 100
    np.savez_compressed(compressed, a=np.zeros(100))
    for data in (compressed.getvalue(), other, b"", b"PK\x03\x04"):
        with pytest.raises(ArrayRefused):
            read_start(memoryview(data))


# Names of torch's dtypes that safetensors has a name for.
DTYPES = """bool uint8 int8 int16 int32 int64 float16 bfloat16 float32 float64 complex64 uint16 uint32 uint64
    float8_e4m3fn float8_e5m2""".split()


class TestTensors:
    @pytest.fixture(autouse=True)
    def torch(self):
        self.torch = pytest.importorskip("torch")
        self.safetensors = pytest.importorskip("safetensors.torch")

    def tensors(self) -> list:
        torch = self.torch
        counted = torch.arange(6).reshape(2, 3)
        found = [counted.to(getattr(torch, name)) for name in DTYPES]
        storage = torch.arange(10.0)
        parameter = torch.nn.Parameter(torch.ones(3))
        return found + [counted.T, counted[0, 0], counted[:0], storage[2:5], parameter.detach(), storage.clone()]

    def test_copied_as_from_a_device(self):
        for tensor in self.tensors():
            target = bytearray(tensor.numel() * tensor.element_size())
            specs.copy_from_device(tensor, memoryview(target))
            assert target == specs.bytes_of(tensor)

    def bits(self, tensor):
        return self.torch.atleast_1d(tensor.detach()).contiguous().view(self.torch.uint8)

    def assert_same(self, made, tensor):
        assert made.dtype == tensor.dtype and made.shape == tensor.shape
        assert self.torch.equal(self.bits(made), self.bits(tensor))

    def test_made_again_in_place(self):
        for tensor in self.tensors():
            spec = specs.spec_of(tensor)
            buffer = bytearray(64) + bytearray(specs.bytes_of(tensor))
            self.assert_same(specs.array_in(buffer, spec, 64), tensor)

    def test_carried_both_ways(self):
        for tensor in self.tensors():
            spec = specs.spec_of(tensor)
            carried = carry("T3", spec, specs.bytes_of(tensor))
            self.assert_same(self.safetensors.load(bytes(carried))["T3"], tensor)
            data = self.safetensors.save({"T7": tensor.contiguous().clone()})
            name, found, offset = read_start(memoryview(data))
            assert (name, found) == ("T7", spec)
            assert data[offset:] == bytes(specs.bytes_of(tensor))

    def test_gradient_is_left_behind(self):
        weight = self.torch.ones(3, requires_grad=True)
        made = specs.array_in(bytearray(specs.bytes_of(weight)), specs.spec_of(weight), 0)
        assert not made.requires_grad and self.torch.equal(made, weight.detach())

    def test_complex_numbers_of_double_size_are_refused(self):
        with pytest.raises(ArrayRefused, match="complex128"):
            specs.spec_of(self.torch.zeros(2, dtype=self.torch.complex128))
