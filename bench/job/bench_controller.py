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

"""Server side of a measurement: sends the rounds, checks every result, records when both happened."""

import math
import time

from bench_arrays import make_array, prepare
from bench_records import Recorder, load_plan, spread

from nvflare.apis.client import Client
from nvflare.apis.controller_spec import ClientTask, Task
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.impl.controller import Controller
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from nvflare.app_common.abstract.fl_model import FLModel, ParamsType
from nvflare.app_common.utils.fl_model_utils import FLModelUtils

VALUES = 8  # of which each array has one, small enough that bfloat16 holds it after every round


class BenchController(Controller):
    def __init__(self, plan_path: str):
        """Sends `rounds` models of `bytes` bytes to the one site, one after another.

        Args:
            plan_path: the measurement's plan, a JSON file.
        """
        super().__init__(task_check_period=0.05)
        self._plan = load_plan(plan_path)
        prepare(self._plan)
        self._recorder = Recorder(self._plan["records"], "server")
        self._error = None

    def start_controller(self, fl_ctx: FLContext):
        pass

    def stop_controller(self, fl_ctx: FLContext):
        pass

    def process_result_of_unknown_task(
        self, client: Client, task_name: str, client_task_id: str, result: Shareable, fl_ctx: FLContext
    ):
        pass

    def control_flow(self, abort_signal: Signal, fl_ctx: FLContext):
        for round_number in range(self._plan["rounds"]):
            task = Task(
                name="train",
                data=FLModelUtils.to_shareable(self._model(round_number)),
                before_task_sent_cb=self._about_to_send,
                result_received_cb=self._result_received,
            )
            task.set_prop("round", round_number)
            self.broadcast_and_wait(task, fl_ctx, min_responses=1, abort_signal=abort_signal)
            if self._error or abort_signal.triggered:
                self.system_panic(f"bench round {round_number} failed: {self._error or 'aborted'}", fl_ctx)
                return

    def _model(self, round_number: int) -> FLModel:
        arrays = self._plan["arrays"]
        params = {f"layer{i}": make_array(self._plan, round_number + i % VALUES) for i in range(arrays)}
        return FLModel(
            params=params,
            params_type=ParamsType.FULL,
            current_round=round_number,
            total_rounds=self._plan["rounds"],
        )

    def _about_to_send(self, client_task: ClientTask, fl_ctx: FLContext):
        round_number = client_task.task.get_prop("round")
        if round_number > 0:
            # A real server waits for other sites here. Without it the client's fixed fetch interval would keep the
            # trainer's polls in step with the tasks, and a poll could look fast.
            time.sleep(0.5 * spread(round_number, math.sqrt(3)))
        self._recorder.write("sent", round=round_number)

    def _result_received(self, client_task: ClientTask, fl_ctx: FLContext):
        received = time.monotonic()
        round_number = client_task.task.get_prop("round")
        self._error = self._check(client_task.result, round_number)
        if self._error:
            self._recorder.write("error", round=round_number, text=self._error)
        else:
            self._recorder.write("result", round=round_number, time=received)
        client_task.result = None

    def _check(self, result: Shareable, round_number: int) -> str:
        """Returns what is wrong with the result; empty if nothing is."""
        code = result.get_return_code()
        if code != ReturnCode.OK:
            return f"return code {code}"
        params = FLModelUtils.from_shareable(result).params or {}
        arrays = self._plan["arrays"]
        if len(params) != arrays:
            return f"{len(params)} arrays instead of {arrays}"
        for i in range(arrays):
            if not (params[f"layer{i}"] == round_number + i % VALUES + 1).all():
                return f"wrong values in array layer{i}"
        return ""
