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

"""When a site that has lost its parent process ends its job at the server; the federation has the real thing."""

import json
import os

import pytest

from nvflare.apis.event_type import EventType
from nvflare.app_common.executors.client_api_executor import ClientAPIExecutor
from tests.unit_test.app_common.executors.job_harness import SITE_NAME

SCRIPT = """
    import nvflare.client as flare
    flare.init()
    while flare.is_running():
        flare.receive()
"""
CAUSE = "the parent process of this job at site-1 is gone"


@pytest.fixture
def lose_parent(monkeypatch):
    return lambda: monkeypatch.setattr(os, "getppid", lambda: 1)


@pytest.fixture
def start(job):
    """Starts a job with so many sites, and what its meta says of those that it needs."""

    def start_job(sites: int, **policy):
        clients = [{"name": f"site-{i + 1}", "token": "", "fqcn": "", "fqsn": ""} for i in range(sites)]
        meta = {"name": "test", "job_clients": clients, **policy}
        with open(job.workspace.get_job_meta_path(job.job_id), "w") as f:
            json.dump(meta, f)
        job.start(ClientAPIExecutor("in_process", task_script_path=job.script(SCRIPT)))

    return start_job


@pytest.mark.parametrize(
    "sites, policy, is_fatal",
    [
        (2, {"min_clients": 2}, True),
        (3, {"min_clients": 2}, False),
        (2, {}, False),
        (1, {}, True),
        (3, {"min_clients": 1, "mandatory_clients": [SITE_NAME]}, True),
        (3, {"min_clients": 1, "mandatory_clients": ["site-2"]}, False),
        (0, {"min_clients": 2}, False),  # not known
    ],
)
def test_ends_a_job_that_needs_the_site(job, start, lose_parent, sites, policy, is_fatal):
    start(sites, **policy)
    lose_parent()
    job.fire(EventType.ABOUT_TO_END_RUN)
    assert [panic["cause"] for panic in job.panics] == ([CAUSE] if is_fatal else [])


def test_no_word_while_the_parent_is_there(job, start):
    start(2, min_clients=2)
    job.fire(EventType.ABOUT_TO_END_RUN)
    assert job.panics == []
