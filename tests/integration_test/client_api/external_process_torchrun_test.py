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

"""external_process with torchrun: its launcher or the job's process is killed while the ranks spin in C code."""

import os
import signal
import sys
from pathlib import Path

import pytest

from nvflare.app_common.executors.client_api.process.process_table import KILL_LIMIT
from nvflare.client.constants import CLIENT_API_CONFIG
from tests.integration_test.client_api.external_jobs import (
    RANKS,
    STOP_GRACE_PERIOD,
    assert_works,
    external,
    start_ranks,
    stats,
    task_of,
)
from tests.unit_test.app_common.executors.client_api.process_watch import marked_pids, wait_gone
from tests.unit_test.app_common.executors.job_harness import LIMIT, assert_failed
from tests.unit_test.app_common.executors.markers import needs_torch

pytestmark = [
    pytest.mark.watchdog(300),
    needs_torch,
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
]

# Seconds from the death of a command to the failure of its task: no heartbeat timeout is awaited.
FAILURE_LIMIT = 15.0


def test_launcher_is_killed(job, site_log, no_process_left):
    start_ranks(job)
    running = job.submit("train", task_of())
    site_log.wait_for("now: spin", RANKS)
    tree = marked_pids(no_process_left) - {os.getpid()}
    assert len(tree) == 2 + RANKS  # guard and launcher
    os.kill(stats(job)["pid"], signal.SIGKILL)
    assert_failed(running.result(FAILURE_LIMIT), "killed by SIGKILL")
    assert wait_gone(tree, STOP_GRACE_PERIOD + LIMIT) == set()
    assert_works(job, added=3.0)


def test_job_process_is_killed(killed_job_process):
    tree = killed_job_process("ranks")
    assert len(tree) == 2 + RANKS
    assert wait_gone(tree, STOP_GRACE_PERIOD + LIMIT) == set()


def test_job_process_and_guard_are_killed_together(killed_job_process, job, tmp_path):
    """Nobody is left to end the ranks, and to remove the file, until the next job of the site starts."""
    tree = killed_job_process("ranks", with_guard=True)
    assert len(tree) == 2 + RANKS
    (config,) = tmp_path.rglob(CLIENT_API_CONFIG)
    workspace = Path(job.workspace.get_root_dir())
    config.parents[2].rename(workspace / config.parents[2].name)
    job.start(external("no_script.py", launch_once=False))
    assert wait_gone(tree, KILL_LIMIT) == set()
