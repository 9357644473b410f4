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

"""What becomes of a result after the executor has returned it: the filters see it as it is, then its arrays are served.

A result is nvflare's while filters and other components see it. Just before it is sent references take the places of
its arrays, which the server pulls when it has the result; when that is over, a line tells where the time went.
"""

from typing import Optional

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.app_common.executors.client_api.arrays.serve import ResultServer
from nvflare.app_common.executors.client_api.arrays.traffic import leg, noted_legs
from nvflare.fuel.utils.log_utils import get_obj_logger
from nvflare.fuel.utils.memory_utils import try_malloc_trim
from nvflare.security.logging import secure_format_traceback

# Properties of a task's context: the Results of its executor with what that was asked for, such as `task 'train' (round
# 3)`, and the result.
_TASK, _RESULT = "__client_api_task__", "__client_api_result__"


class Results:
    """The results of one executor, from the task that each answers until the server has dealt with it."""

    def __init__(self):
        self.logger = get_obj_logger(self)
        self._server = ResultServer()
        self._totals = {"served_bytes": 0, "served_seconds": 0.0}

    def note_task(self, task_name: str, current_round: Optional[int], fl_ctx: FLContext) -> None:
        """Notes that the executor has a result of this task, in whose context the events of the result will come.

        A controller at the client calls executors in contexts of its own, and deals with their results itself.
        """
        of_round = "" if current_round is None else f" (round {current_round})"
        fl_ctx.set_prop(_TASK, (self, f"task {task_name!r}{of_round}"), private=True, sticky=False)

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Hears the events of a result. Does not raise."""
        owner, task = fl_ctx.get_prop(_TASK) or (None, "")
        if owner is not self:
            return  # another executor's, of the same job
        if event_type == EventType.AFTER_TASK_RESULT_FILTER:
            # Others may still look at it, or send its arrays in a way of their own.
            fl_ctx.set_prop(_RESULT, fl_ctx.get_prop(FLContextKey.TASK_RESULT), private=True, sticky=False)
        elif event_type == EventType.BEFORE_SEND_TASK_RESULT:
            self._refer(fl_ctx.get_prop(_RESULT), fl_ctx)
        elif event_type == EventType.AFTER_SEND_TASK_RESULT:
            served = self._server.settle()
            legs = noted_legs(fl_ctx)
            if served:
                try_malloc_trim()  # else what passed through the heaps of the threads stays there, and adds up
                self._totals["served_bytes"] += served.done
                self._totals["served_seconds"] += served.seconds
                some = f" {served.done / 1e6:.0f} of {served.total / 1e6:.0f} MB" if served.done < served.total else ""
                legs = [*legs, leg(f"served{some} in", served.seconds)]
            self.logger.info(f"{task}: {', '.join(legs)}")

    def _refer(self, result: Optional[Shareable], fl_ctx: FLContext) -> None:
        if result is None:
            return  # a filter has failed
        try:
            self._server.refer(result, fl_ctx)
        except Exception:  # at the border to nvflare, which can send the result without this
            self.logger.error(f"a result is served by nvflare: {secure_format_traceback()}")

    def stats(self) -> dict:
        return {name: round(value, 3) for name, value in self._totals.items()}

    def close(self) -> None:
        """Serves no more. Idempotent."""
        self._server.close()
