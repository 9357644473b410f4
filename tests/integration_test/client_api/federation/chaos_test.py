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

"""Faults in a real federation, and what comes of them.

The cases of docs/design/chaos.md: `make chaos` runs all, `make test` the quick half. And whatever ends a trainer, the
administrator finds the reason at the console: job status, server's log, error logs.
"""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.integration_test.client_api.federation import jobs
from tests.integration_test.client_api.federation.chaos import Chaos, load_cases
from tests.integration_test.client_api.federation.jobs import Stage
from tests.integration_test.client_api.simulator_parts import hurry

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
    tests = [item for item in request.session.items if item.fspath == request.fspath]
    selected = [test.callspec.params["case"] for test in tests if "case" in test.callspec.params]
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


SITE = "site-1"


@dataclass(frozen=True)
class Cause:
    """What ends a trainer, and the words by which the administrator knows it."""

    words: str
    mode: str = "external_process"
    fate: str = ""
    arguments: dict = field(default_factory=dict)


CAUSES = {
    "exception": Cause("RuntimeError: out of data", fate="exception"),
    "in-process exception": Cause("RuntimeError: out of data", mode="in_process", fate="exception"),
    "exit code": Cause("exit code 3", fate="exit"),
    "signal": Cause("killed by SIGKILL", fate="kill"),
    "unknown command": Cause("command not found: 'no-such-command'", arguments={"command": "no-such-command"}),
    "nobody came": Cause("no trainer came in 3.0 s (attach_timeout)", mode="attach", arguments={"attach_timeout": 3.0}),
}


@pytest.fixture(scope="module")
def consoles(federation):
    """Runs a job for each cause, all at the same time; what the console tells of each, and its status."""
    federation.detach(SITE)  # a trainer of an earlier test's would come
    stages, running = {}, {}
    for name, cause in CAUSES.items():
        stage = stages[name] = Stage(federation.root / name.replace(" ", "-"))
        if cause.fate == "kill":
            stage.hold(SITE, "training", 0)
        elif cause.fate:
            stage.fate(SITE, cause.fate, 0)
        executor = jobs.executor(cause.mode, stage.folder, **cause.arguments)
        job = jobs.make_job(stage.folder.name, {SITE: executor}, rounds=1)
        hurry(job)
        running[name] = federation.submit(job)
    stages["signal"].wait_for(SITE, "training", 0)
    federation.kill("trainer", SITE, running["signal"].job_id)
    found = {}
    with federation.session() as session:
        for name, job in running.items():
            job.finish(session)
            found[name] = federation.console(session, job.job_id)
    for stage in stages.values():
        stage.close()
    return found


@pytest.mark.parametrize("name", CAUSES)
class TestCause:
    def test_status_tells_of_failure(self, consoles, name):
        assert consoles[name]["status"] == "FINISHED:EXECUTION_EXCEPTION"

    def test_error_log_of_the_site_is_at_the_console(self, consoles, name):
        assert CAUSES[name].words in consoles[name][f"ERRORLOG_{SITE}"]

    def test_server_tells_which_site(self, consoles, name):
        assert SITE in consoles[name]["server's log"]
