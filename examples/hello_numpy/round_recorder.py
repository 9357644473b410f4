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

"""Observes a job: notes per round what the script reports and what the executor adds to it."""

import json
import os
import time

from nvflare.apis.dxo import from_shareable
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_constant import FLContextKey, ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.app_common.abstract.fl_model import MetaKey
from nvflare.app_common.app_constant import AppConstants

FILE_NAME = "rounds.jsonl"  # in the site's run folder; one JSON line per task that succeeded


class RoundRecorder(FLComponent):
    def __init__(self):
        super().__init__()
        self._started = 0.0

    def handle_event(self, event_type: str, fl_ctx: FLContext):
        if event_type == EventType.BEFORE_TASK_EXECUTION:
            self._started = time.monotonic()
        elif event_type == EventType.AFTER_TASK_EXECUTION:
            self._record(time.monotonic() - self._started, fl_ctx)

    def _record(self, seconds: float, fl_ctx: FLContext):
        result = fl_ctx.get_prop(FLContextKey.TASK_RESULT)
        if not isinstance(result, Shareable) or result.get_return_code() != ReturnCode.OK:
            return  # the task failed: the executor has logged why
        meta = from_shareable(result).meta
        record = {
            "round": result.get_header(AppConstants.CURRENT_ROUND),
            "loss": meta[MetaKey.INITIAL_METRICS]["loss"],
            "train_seconds": meta["train_seconds"],
            "overhead_seconds": seconds - meta["train_seconds"],
        }
        run_dir = fl_ctx.get_workspace().get_run_dir(fl_ctx.get_job_id())
        with open(os.path.join(run_dir, FILE_NAME), "a") as f:
            f.write(json.dumps(record) + "\n")
