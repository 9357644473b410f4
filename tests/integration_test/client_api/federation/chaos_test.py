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

"""The cases of docs/design/chaos.md, each in a real federation; `make chaos` runs all, `make test` the quick half."""

import json
import os
from pathlib import Path

import pytest

from tests.integration_test.client_api.federation.chaos import Chaos, load_cases

pytestmark = pytest.mark.watchdog(1200)

REPORT_VARIABLE = "CHAOS_REPORT"  # the folder that gets the records; none if it is not set


def as_parameter(case):
    return pytest.param(case, id=case.name, marks=[] if case.half == "quick" else [pytest.mark.chaos])


@pytest.fixture(scope="module")
def chaos(federation):
    return Chaos(federation)


@pytest.fixture(scope="module")
def outcomes(chaos, request):
    """Runs a case when its outcome is asked for, with all the selected cases that share its job."""
    selected = [item.callspec.params["case"] for item in request.session.items if item.fspath == request.fspath]
    found = {}

    def outcome_of(case):
        if case not in found:
            together = [c for c in selected if c.shares_job and c.mode == case.mode] if case.shares_job else [case]
            for outcome in chaos.run(together):
                found[outcome.case] = outcome
                record(outcome)
        return found[case]

    return outcome_of


def record(outcome) -> None:
    folder = os.environ.get(REPORT_VARIABLE)
    if folder:
        with open(Path(folder, "outcomes.jsonl"), "a") as file:
            file.write(json.dumps(outcome.record()) + "\n")


@pytest.mark.parametrize("case", [as_parameter(case) for case in load_cases()])
def test_case(outcomes, case):
    outcome = outcomes(case)
    assert outcome.problems == [], outcome.evidence
