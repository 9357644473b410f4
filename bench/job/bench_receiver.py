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

"""Server side of the metrics measurement: which scalar arrived when."""

from bench_records import Recorder, load_plan

from nvflare.apis.analytix import ANALYTIC_EVENT_TYPE, AnalyticsData
from nvflare.apis.dxo import from_shareable
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.app_common.widgets.streaming import AnalyticsReceiver


class BenchReceiver(AnalyticsReceiver):
    def __init__(self, plan_path: str):
        """Records the step of each scalar that arrives.

        Args:
            plan_path: the measurement's plan, a JSON file.
        """
        super().__init__(events=[f"fed.{ANALYTIC_EVENT_TYPE}"])
        self._recorder = Recorder(load_plan(plan_path)["records"], "scalars")

    def initialize(self, fl_ctx: FLContext):
        pass

    def save(self, fl_ctx: FLContext, shareable: Shareable, record_origin: str):
        data = AnalyticsData.from_dxo(from_shareable(shareable))
        self._recorder.write("scalar", step=data.step)

    def finalize(self, fl_ctx: FLContext):
        pass
