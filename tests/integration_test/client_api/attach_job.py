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

"""A client job in attach mode as a process of its own, which a test may kill: `attach_job.py URL ROOT`.

It does a task of so many elements for each line that it reads.
"""

import sys
from pathlib import Path

import numpy as np

from nvflare.private.fed.utils.fed_utils import nvflare_fobs_initialize
from tests.integration_test.client_api.attach_harness import SHORT_LEASE, attached
from tests.integration_test.client_api.cell_harness import connected_cell
from tests.unit_test.app_common.executors.job_harness import SITE_NAME, JobHarness, make_task

KILLED_JOB = "job-to-kill"


def main(url: str, root: str) -> None:
    nvflare_fobs_initialize()
    job = JobHarness(Path(root), KILLED_JOB, connected_cell(f"{SITE_NAME}.{KILLED_JOB}", url))
    job.start(attached(**SHORT_LEASE))
    print("the job has started", flush=True)
    for line in sys.stdin:
        job.submit("train", make_task(w=np.zeros(int(line), dtype=np.float32)))


if __name__ == "__main__":
    main(*sys.argv[1:])
