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

"""Client side of a measurement: when the run and each task began and ended, seen from the framework's events."""

import time

from bench_records import Recorder, load_plan

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_context import FLContext

RECORDED_EVENTS = {
    EventType.ABOUT_TO_START_RUN: "run_started",
    EventType.BEFORE_TASK_EXECUTION: "before",
    EventType.AFTER_TASK_EXECUTION: "after",
    EventType.END_RUN: "run_ended",
}


class BenchProbe(FLComponent):
    def __init__(self, plan_path: str):
        """Records the events of the client job process.

        It must be the job's first component: its handler then runs before those of the parts being measured.

        Args:
            plan_path: the measurement's plan, a JSON file.
        """
        super().__init__()
        self._recorder = Recorder(load_plan(plan_path)["records"], "cj")

    def handle_event(self, event_type: str, fl_ctx: FLContext):
        now = time.monotonic()
        name = RECORDED_EVENTS.get(event_type)
        if name == "run_started":
            self._recorder.write(name, time=now, **self._connection(fl_ctx))
        elif name:
            self._recorder.write(name, time=now)

    @staticmethod
    def _connection(fl_ctx: FLContext) -> dict:
        """Where a trainer that was not launched by the job can connect to."""
        core_cell = fl_ctx.get_engine().get_cell().core_cell
        return {"parent_url": core_cell.parent_url or core_cell.root_url, "fqcn": core_cell.get_fqcn()}
