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

"""What the framework costs without any Client API: an executor that does the script's work itself."""

import time

from bench_arrays import prepare
from bench_records import Recorder, load_plan
from train import training_seconds

from nvflare.apis.executor import Executor
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.app_common.utils.fl_model_utils import FLModelUtils


class BenchFloorExecutor(Executor):
    def __init__(self, plan_path: str):
        """Adds one to each array, in the client job process.

        Args:
            plan_path: the measurement's plan, a JSON file.
        """
        super().__init__()
        self._plan = load_plan(plan_path)
        prepare(self._plan)
        self._recorder = Recorder(self._plan["records"], "trainer")

    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        received = time.monotonic()
        model = FLModelUtils.from_shareable(shareable)
        time.sleep(training_seconds(self._plan, model.current_round))
        params = {name: array + 1 for name, array in model.params.items()}
        self._recorder.write("step", round=model.current_round, received=received, send_called=time.monotonic())
        return FLModelUtils.to_shareable(FLModel(params=params))
