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

"""A client job process of its own, to be killed: `job_process.py ROOT SERVER_URL PHASE`.

It prints "now" when its trainer stands still in that phase of a task, after a task ("idle"), or when the ranks of its
torchrun spin ("ranks").
"""

import faulthandler
import logging
import sys
from pathlib import Path

from nvflare.private.fed.utils.fed_utils import nvflare_fobs_initialize
from tests.integration_test.client_api.cell_harness import connected_cell
from tests.integration_test.client_api.external_jobs import RANKS, start_fated, start_ranks, task_of
from tests.unit_test.app_common.executors.client_api.log_watch import LogWatch
from tests.unit_test.app_common.executors.job_harness import LARGE, LIMIT, SITE_NAME, SMALL, JobHarness

JOB = "killed-job"


def main(root: str, url: str, phase: str):
    faulthandler.dump_traceback_later(LIMIT, exit=True)
    nvflare_fobs_initialize()
    log = LogWatch()
    logging.basicConfig(level=logging.INFO, handlers=[log])
    job = JobHarness(Path(root) / "workspace", JOB, connected_cell(f"{SITE_NAME}.{JOB}", url))
    if phase == "ranks":
        start_ranks(job)
    else:
        start_fated(job, phase, "hang")
    if phase in ("receiving", "sending"):
        log.wait_for("waits for tasks")
    task = job.submit("train", task_of(LARGE if phase in ("receiving", "sending") else SMALL))
    if phase == "idle":
        task.result()
    else:
        log.wait_for("now: ", RANKS if phase == "ranks" else 1)
    print("now", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
