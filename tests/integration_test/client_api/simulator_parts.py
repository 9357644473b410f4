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

"""What the simulator tests put into their jobs, next to the training script."""

import json
import os
import sys

from nvflare.apis.analytix import AnalyticsData
from nvflare.apis.dxo import from_shareable
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.app_common.widgets.streaming import AnalyticsReceiver
from nvflare.job_config.api import FedJob

# For a job's to_server(): its sites ask for a task every 0.1 s, not every 2 s.
EAGER = {"server": {"task_request_interval": 0.1}}
LOG_FILE = "log_records.jsonl"  # of a LogKeeper, in the job's folder at the server


class LogKeeper(AnalyticsReceiver):
    """Writes every log record that reaches the server to a file, in the order of arrival."""

    def initialize(self, fl_ctx: FLContext):
        run_dir = fl_ctx.get_workspace().get_run_dir(fl_ctx.get_job_id())
        self._file = open(os.path.join(run_dir, LOG_FILE), "w")

    def save(self, fl_ctx: FLContext, shareable: Shareable, record_origin: str):
        data = AnalyticsData.from_dxo(from_shareable(shareable))
        value = data.value.tolist() if hasattr(data.value, "tolist") else data.value
        self._file.write(json.dumps([record_origin, data.tag, value, data.step]) + "\n")

    def finalize(self, fl_ctx: FLContext):
        self._file.close()


class NoTensors(FLComponent):
    """Spares a server without torch its import, with which nvflare ends each job, to tidy up after tensors."""

    def handle_event(self, event_type: str, fl_ctx: FLContext):
        if event_type == EventType.START_RUN and "torch" not in sys.modules:
            sys.modules["nvflare.app_opt.pt.tensor_downloader"] = None


def hurry(job: FedJob) -> None:
    """Has a job that may bring code of its own take no longer than it must."""
    job.to_server(EAGER)
    job.to_server(NoTensors(), id="no_tensors")
