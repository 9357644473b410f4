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

"""Tells the server when the process that runs the site is gone, and with it this job's part at the site.

nvflare ends a client job process (CJ) whose parent process is gone, and nobody tells the server. It would find out from
the parent's missing heartbeats; but a parent that was started again registers anew, and the server drops what it knew
of it without a word to its jobs, which then wait for this site for ever.
"""

import os

from nvflare.apis.event_type import EventType
from nvflare.apis.executor import Executor
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.job_def import JobMetaKey, job_from_meta
from nvflare.apis.shareable import Shareable


def fail_job_if_parent_is_gone(parent: int, executor: Executor, fl_ctx: FLContext) -> None:
    """Ends the job at the server if its parent process is gone, and it cannot go on without this site.

    A job that can do without the site is left to its workflow, as after any other loss.

    Args:
        parent: the parent's pid, at the start of the job.
        executor: the ClientAPIExecutor.
        fl_ctx: the context, at the end of the job.
    """
    site, meta = fl_ctx.get_identity_name(), fl_ctx.get_prop(FLContextKey.JOB_META) or {}
    if os.getppid() != parent and _is_needed(site, meta):
        cause = f"the parent process of this job at {site} is gone"
        executor.log_error(fl_ctx, cause)
        executor.fire_fed_event(EventType.FATAL_SYSTEM_ERROR, Shareable({"cause": cause}), fl_ctx)


def _is_needed(site: str, meta: dict) -> bool:
    """Whether the server would end the job if it knew that the site is lost: by the policy of its own."""
    job, clients = job_from_meta(meta), meta.get(JobMetaKey.JOB_CLIENTS.value)
    if not clients:
        return False  # not known
    return len(clients) - 1 < max(1, job.min_sites or 0) or site in (job.required_sites or ())
