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

"""What is accepted arrives equal, what is refused is named."""

import copy
import enum
import math
from argparse import Namespace
from collections import Counter, OrderedDict, defaultdict
from dataclasses import dataclass
from datetime import date, timezone
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as np_st

from nvflare.apis.analytix import AnalyticsDataType
from nvflare.apis.dxo import DXO, DataKind
from nvflare.apis.shareable import Shareable
from nvflare.app_common.executors.client_api.formats.sendable import MAX_DEPTH, Unsendable, record_fields, sendable
from nvflare.fuel.utils import fobs
from nvflare.private.fed.utils.fed_utils import nvflare_fobs_initialize
from tests.unit_test.app_common.executors.client_api.fuzzing import FUZZ_WATCHDOG, fuzzed

pytestmark = FUZZ_WATCHDOG


@pytest.fixture(scope="module", autouse=True)
def decomposers():
    """Has this process know what a server knows."""
    nvflare_fobs_initialize()


def refuse_tensor(tensor):
    raise Unsendable("is a tensor")


def look(value, **options):
    return sendable(value, "parameter", refuse_tensor, **options)


def arrived(value):
    """What the server gets of a value that was accepted."""
    return fobs.loads(fobs.dumps(Shareable({"value": look(value)})))["value"]


def is_same(one, other) -> bool:
    """Whether two nested values are of the same types and content, NaN being equal to itself."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        pairs = zip(one.items(), other.items())
        return len(one) == len(other) and all(is_same(list(a), list(b)) for a, b in pairs)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(is_same, one, other))
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    return one == other or one != one and other != other


dtypes = np_st.scalar_dtypes() | np_st.unicode_string_dtypes(max_len=4) | np_st.byte_string_dtypes(max_len=4)
arrays = dtypes.flatmap(lambda dtype: np_st.arrays(dtype, np_st.array_shapes(min_dims=0, max_dims=3, min_side=0)))
texts = st.text(max_size=8)
keys = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | texts | st.binary()
leaves = (
    keys
    | st.floats()
    | st.datetimes(timezones=st.none() | st.just(timezone.utc))
    | st.sets(keys | st.tuples(keys, keys), max_size=3)
    | np_st.from_dtype(np.dtype("f4"))
    | np_st.from_dtype(np.dtype("f8"))
    | np_st.from_dtype(np.dtype("i4"))
    | arrays
    | st.sampled_from(DataKind)
    | st.builds(Namespace, a=texts)
)
contents = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3)
    | st.lists(inner, max_size=3).map(tuple)
    | st.dictionaries(keys | st.tuples(keys), inner, max_size=3)
    | st.dictionaries(keys, inner, max_size=3).map(OrderedDict),
    max_leaves=8,
)


class Colour(enum.Enum):
    RED = "red"


class RegisteredColour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


class Text(str):
    pass


@dataclass
class Point:
    x: int


@dataclass
class RegisteredPoint:
    x: int


class Opaque:
    """Something that FOBS takes apart, and that no other process can put together."""


BAD = {
    "too large": (2**64, "is an integer of 65 bits"),
    "too small": (-(2**63) - 1, "is an integer of 64 bits"),
    "lone surrogate": ("a\ud800", "it has a lone surrogate at 1"),
    "lone surrogate in a key": ({"\ud800": 1}, "has a name that is no text"),
    "lone surrogate in a set": ({"\ud800"}, "lone surrogate"),
    "large integer as a key": ({2**64: 1}, "has a name that is an integer of 65 bits"),
    "marker of FOBS": ({"__fobs_type__": "builtins.int"}, "has a name that FOBS keeps for itself"),
    "bytearray": (bytearray(b"a"), "bytearray, which cannot be sent: send bytes(...) of it"),
    "memoryview": (memoryview(b"a"), "memoryview, which cannot be sent: send bytes(...) of it"),
    "defaultdict": (defaultdict(int), "collections.defaultdict, which cannot be sent: send dict(...) of it"),
    "Counter": (Counter("a"), "collections.Counter, which cannot be sent: send dict(...) of it"),
    "frozenset": (frozenset(), "frozenset, which cannot be sent: send list(...) of it"),
    "frozenset as a key": ({frozenset(): 1}, "has a name that is of type frozenset"),
    "enum": (Colour.RED, "Colour, which cannot be sent: send its value"),
    "int enum": (Level.LOW, "Level, which cannot be sent: send its value"),
    "enum as a key": ({Colour.RED: 1}, "Colour, which cannot be sent: send its value"),
    "subclass of str": (Text("a"), "Text, which cannot be sent: FOBS has no decomposer for it"),
    "dataclass": (Point(1), "Point, which cannot be sent: FOBS has no decomposer for it"),
    "object": (Opaque(), "Opaque, which cannot be sent: FOBS has no decomposer for it"),
    "class": (Opaque, "type, which cannot be sent"),
    "function": (look, "function, which cannot be sent"),
    "complex": (1j, "complex, which cannot be sent"),
    "decimal": (Decimal(1), "decimal.Decimal, which cannot be sent"),
    "fraction": (Fraction(1), "fractions.Fraction, which cannot be sent"),
    "date": (date.min, "datetime.date, which cannot be sent"),
    "range": (range(3), "range, which cannot be sent"),
    "array of objects": (np.array([{}]), "NumPy array of object"),
    "array with objects": (np.zeros(1, [("a", "f4"), ("b", "O")]), "which cannot be sent"),
    "array with fields": (np.zeros(1, [("a", "f4")]), "NumPy array of [('a', '<f4')], which cannot be sent"),
    "array with a field of no text": (np.zeros(1, [("\ud800", "f4")]), "which cannot be sent"),
    "array of bytes": (np.zeros(1, "V8"), "NumPy array of |V8, which cannot be sent"),
    "masked array": (np.ma.array([1.0], mask=[True]), "MaskedArray, which cannot be sent: send numpy.asarray(...)"),
    "matrix": (np.ones((1, 1)).view(np.matrix), "matrix, which cannot be sent: send numpy.asarray(...)"),
    "NumPy's number that FOBS lacks": (np.int8(1), "numpy.int8, which cannot be sent: send numpy.asarray(...)"),
    "NumPy's longdouble": (np.longdouble(1), "numpy.longdouble, which cannot be sent"),
    "NumPy's time": (np.datetime64(1, "s"), "numpy.datetime64, which cannot be sent"),
    "what an object holds": (Namespace(a={"b": 2**64}), ".data.a.b' is an integer of 65 bits"),
    "what a nested result holds": (DXO(DataKind.WEIGHTS, {"a": bytearray(1)}), "bytearray, which cannot be sent"),
}


class TestWhatArrives:
    @fuzzed(sample=300, value=contents)
    def test_what_is_accepted_arrives_equal(self, value):
        assert is_same(arrived(value), value)

    @pytest.mark.parametrize(
        "array",
        [
            np.arange(4, dtype=">i8"),
            np.arange(6.0).reshape(2, 3).T,
            np.asfortranarray(np.arange(6.0).reshape(2, 3)),
            np.arange(8)[::-2],
            np.array(["a", "bc"]),
            np.zeros(2, np.longdouble),
        ],
    )
    def test_arrays_of_every_order(self, array):
        assert is_same(arrived(array), array)

    @pytest.mark.parametrize("make", [lambda v: [v], lambda v: (v,), lambda v: {"a": v}, lambda v: OrderedDict(a=v)])
    def test_deepest_nesting(self, make):
        value = 1
        for _ in range(MAX_DEPTH):
            value = make(value)
        assert arrived(value) == value
        with pytest.raises(ValueError, match="is nested more than 100 levels deep, or contains itself"):
            look(make(value))

    def test_types_that_the_script_registers(self):
        fobs.register_data_classes(RegisteredPoint)
        fobs.register_enum_types(RegisteredColour)
        value = [RegisteredPoint(1), RegisteredColour.RED]
        assert arrived(value) == value
        with pytest.raises(ValueError, match="'0.data.x' is an integer of 65 bits"):
            look([RegisteredPoint(2**64)])

    def test_what_the_script_does_to_its_own_later_does_not_matter(self):
        value = {"list": [1], "dict": {"a": {1}}, "ordered": OrderedDict(a=[2])}
        before = copy.deepcopy(value)
        taken = look(value)
        value["list"].append(2)
        value["dict"]["a"].add(2)
        value["ordered"]["a"].clear()
        assert taken == before

    def test_arrays_are_not_copied(self):
        array = np.zeros(2)
        assert look({"a": [array]})["a"][0] is array


class TestWhatIsRefused:
    @pytest.mark.parametrize("name", BAD)
    def test_is_named(self, name):
        value, text = BAD[name]
        for place, where in (({"a": 1, "b": value}, "parameter 'b"), ({"a": {"b": [0, (value,)]}}, "'a.b.1.0")):
            with pytest.raises(ValueError) as error:
                look(place)
            assert where in str(error.value) and text in str(error.value)
            str(error.value).encode()  # so that it can be told

    @pytest.mark.parametrize("name", BAD)
    def test_is_refused_again(self, name):
        """FOBS makes up a decomposer for what it meets, and knows it the next time."""
        for _ in range(2):
            with pytest.raises(ValueError):
                look(BAD[name][0])

    @fuzzed(
        sample=300,
        name=st.sampled_from(sorted(BAD)),
        good=contents,
        path=st.lists(texts.filter(lambda text: text != "bad") | st.integers(0, 3), max_size=4),
    )
    def test_anywhere(self, name, good, path):
        value = BAD[name][0]
        for step in reversed(path):
            value = [good] * step + [value] if isinstance(step, int) else {"other": good, step: value}
        with pytest.raises(ValueError, match="parameter"):
            look(value)

    def test_what_contains_itself(self):
        for value in ([], {}, OrderedDict(), Namespace()):
            {list: lambda: value.append(value), Namespace: lambda: setattr(value, "a", value)}.get(
                type(value), lambda: value.update(a=value)
            )()
            with pytest.raises(ValueError, match="parameter"):
                look({"a": value})

    def test_a_long_name_is_cut(self):
        with pytest.raises(ValueError) as error:
            look({"a" * 100_000: 2**64})
        assert len(str(error.value)) < 300

    def test_root(self):
        with pytest.raises(ValueError, match="parameter data is of type collections.defaultdict"):
            look(defaultdict(int))


class TestNumbers:
    @pytest.mark.parametrize(
        "number", [np.int8(1), np.uint64(2**64 - 1), np.float16(0.5), np.float64(0.1), np.bool_(True), np.array(3)]
    )
    def test_of_numpy(self, number):
        sent = look([number, {number[()]: 1}], numbers=True)
        assert sent == [number, {number: 1} if number.ndim == 0 and not isinstance(number, np.ndarray) else {3: 1}]
        assert type(sent[0]) in (bool, int, float) and type(*sent[1]) in (bool, int, float)

    @pytest.mark.parametrize("value", [np.array([1.0]), np.array("2020", "M8[Y]"), np.str_("a"), math.nan, math.inf])
    def test_what_is_no_number_stays(self, value):
        sent = look(value, numbers=True)
        assert is_same(sent, value) or sent == "a"

    @pytest.mark.parametrize(
        "value", [np.longdouble(1), np.complex64(1), np.timedelta64(1, "s"), np.datetime64(1, "ns")]
    )
    def test_what_python_has_no_number_for(self, value):
        with pytest.raises(ValueError, match="parameter data is"):
            look(value, numbers=True)

    def test_of_torch(self):
        torch = pytest.importorskip("torch")
        for tensor in (torch.tensor(0.5), torch.tensor([0.5], dtype=torch.bfloat16, requires_grad=True)):
            fields = record_fields("loss", value={"a": tensor}, data_type=AnalyticsDataType.SCALARS)
            assert fields == {"tag": "loss", "value": {"a": 0.5}, "data_type": AnalyticsDataType.SCALARS}
        for tensor in (torch.ones(2), torch.ones(0), torch.ones(1, device="meta")):
            with pytest.raises(ValueError, match="log record 'loss.value' is a torch tensor, and not of one number"):
                record_fields("loss", value=tensor)
