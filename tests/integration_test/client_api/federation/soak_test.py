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

"""A soak of SOAK_ROUNDS rounds (see soak.py); `make chaos SOAK_ROUNDS=500` for the long one."""

import json
import os
import random
from pathlib import Path

import pytest

from tests.integration_test.client_api.federation.federation import Federation
from tests.integration_test.client_api.federation.soak import MODES, soak

pytestmark = [pytest.mark.chaos, pytest.mark.watchdog(6 * 3600)]

ROUNDS = int(os.environ.get("SOAK_ROUNDS") or 10)
SEED = int(os.environ.get("SOAK_SEED") or random.randrange(2**32))
# From so many rounds on, growth can be told from noise.
ENOUGH_ROUNDS = 50
# What a process may differ by between the beginning and the end: MB, threads, descriptors.
LIMITS = {"rss": 25.0, "threads": 5, "descriptors": 10}


@pytest.fixture(scope="module")
def soaked(tmp_path_factory):
    print(f"SOAK_SEED={SEED}")
    with Federation(tmp_path_factory.mktemp("soak"), len(MODES)) as federation:
        found = soak(federation, ROUNDS, SEED)
    folder = os.environ.get("CHAOS_REPORT")
    if folder:
        Path(folder, "soak.json").write_text(json.dumps(found.record()))
    return found


class TestSoak:
    def test_job_ends_well(self, soaked):
        assert soaked.status == "FINISHED:COMPLETED" and soaked.left == []

    def test_every_result_counts_once(self, soaked):
        assert soaked.violations == [] and soaked.accepted == soaked.expected()

    def test_every_metric_is_at_the_server_once(self, soaked):
        assert soaked.scalars == {site: list(range(ROUNDS)) for site in MODES}

    @pytest.mark.parametrize("key", LIMITS)
    def test_nothing_grows(self, soaked, key):
        if ROUNDS < ENOUGH_ROUNDS:
            pytest.skip(f"growth shows from {ENOUGH_ROUNDS} rounds on")
        assert {name: grown for name, grown in soaked.growth(key).items() if grown > LIMITS[key]} == {}
