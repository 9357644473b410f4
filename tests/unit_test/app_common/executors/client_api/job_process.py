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

"""A client job process of its own, to be killed: `job_process.py ROOT SERVER_URL PHASE`; prints "now" in the phase."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from client_api.backend_contract import GATED_TRAIN  # noqa: E402
from client_api.cell_harness import connected_cell  # noqa: E402
from job_harness import SITE_NAME, JobHarness, make_task  # noqa: E402

from nvflare.app_common.executors.client_api_executor import ClientAPIExecutor  # noqa: E402
from nvflare.private.fed.utils.fed_utils import nvflare_fobs_initialize  # noqa: E402

JOB = "killed-job"


def main(root: str, url: str, phase: str):
    nvflare_fobs_initialize()
    job = JobHarness(Path(root) / "workspace", JOB, connected_cell(f"{SITE_NAME}.{JOB}", url))
    in_task, go_on = job.gate("in_task"), job.gate("go_on")
    command = f"{sys.executable} -u custom/{job.script(GATED_TRAIN)}"
    job.start(ClientAPIExecutor("external_process", command=command, stop_grace_period=1.0))
    task = job.submit("train", make_task())
    in_task.wait()
    if phase == "idle":
        go_on.open()
        task.result()
    print("now", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
