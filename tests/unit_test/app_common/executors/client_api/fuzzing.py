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

"""Inputs made up at random for tests of what comes from outside.

`make test` tries a fixed sample of each kind; `make chaos` sets FUZZ_EXAMPLES for many more, other ones each time.
"""

import copy
import json
import os

import pytest

hypothesis = pytest.importorskip("hypothesis")  # which NVFlare's own tests do not need
HealthCheck, st = hypothesis.HealthCheck, hypothesis.strategies

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", 0))
# For every module of such tests.
FUZZ_WATCHDOG = pytest.mark.watchdog(3600 if EXAMPLES else 300)

texts = st.text(st.characters(), max_size=40)  # lone surrogates too
scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts
json_data = st.recursive(
    scalars, lambda data: st.lists(data, max_size=4) | st.dictionaries(texts, data, max_size=4), max_leaves=12
)
plain_texts = st.text(max_size=40)
wire_data = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | plain_texts | st.binary(max_size=80),
    lambda data: st.lists(data, max_size=4) | st.dictionaries(plain_texts, data, max_size=4),
    max_leaves=12,
)


def fuzzed(share: float = 1.0, sample: int = 100, **strategies):
    """Tries a test with random inputs: `sample` of them, always the same, or this share of FUZZ_EXAMPLES."""

    def decorate(test):
        options = {"max_examples": max(1, int(EXAMPLES * share)) if EXAMPLES else sample, "derandomize": not EXAMPLES}
        checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
        return hypothesis.settings(**options, deadline=None, database=None, suppress_health_check=checks)(
            hypothesis.given(**strategies)(test)
        )

    return decorate


@st.composite
def spoiled(draw, good: dict, names=texts, values=json_data):
    """A good dictionary in which one thing is missing, added or another."""
    bad = copy.deepcopy(good)
    how = draw(st.sampled_from(["drop", "add", "change"]))
    name = draw(names.filter(lambda text: text not in good) if how == "add" else st.sampled_from(sorted(good)))
    bad.pop(name, None)
    if how != "drop":
        bad[name] = draw(values.filter(lambda value: value != good.get(name)))
    return bad


def packed(data) -> bytes:
    return json.dumps(data).encode()
