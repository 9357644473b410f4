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

"""Decides whether arrays travel past the client job process (CJ), between server and trainer.

That saves a hop each way, and the CJ from ever holding the model. It is possible only where nothing at the CJ has to
see the arrays: neither a filter of the job or of the site's privacy scope nor, on the way to the trainer, another
executor. nvflare switches it on for a channel of the CJ's cell, before a task's size is known. Small models are faster
inline, so it is switched by the size of the last result: a model comes and goes in the same size.
"""

import threading

from nvflare.apis.executor import Executor
from nvflare.apis.fl_constant import FilterKey, FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.app_common.executors.client_api.trainer_session import TrainerSession
from nvflare.app_common.executors.client_api.transfer import INLINE_LIMIT, array_bytes
from nvflare.fuel.f3.cellnet.defs import CellChannel
from nvflare.private.privacy_manager import Scope

# Seconds in which the server must have dealt with a result whose trainer was lost while it was being pulled.
LOST_RESULT_GRACE = 5.0


class PassThrough:
    def __init__(self, fl_ctx: FLContext):
        """Reads what the job and the site have in the way, and switches it on where it is possible.

        Args:
            fl_ctx: the context, at START_RUN.
        """
        runner = fl_ctx.get_prop(FLContextKey.RUNNER)
        scope = fl_ctx.get_prop(FLContextKey.SCOPE_OBJECT)
        self.of_results = not _has_filters(runner, scope, Scope.TASK_RESULT_FILTERS_NAME, FilterKey.OUT)
        self._engine = fl_ctx.get_engine()
        self._channels = self._engine.get_cell().decode_pass_through_channels
        self._of_tasks = _is_only_executor(runner) and not _has_filters(
            runner, scope, Scope.TASK_DATA_FILTERS_NAME, FilterKey.IN
        )
        self._switch(True)

    def adapt(self, result: Shareable) -> None:
        """Looks at a result to choose how the next task comes; one without arrays tells nothing."""
        size = array_bytes(result)
        if size:
            self._switch(size > INLINE_LIMIT)

    def lose_trainer(self, session: TrainerSession, executor: Executor, cause: str) -> None:
        """Ends the job at the server if that still waits for arrays that are gone with their trainer. Returns at once.

        No reply can tell the server: it has the result, and would ask for the arrays again and again, 600 s each time
        (nvflare's streaming_per_request_timeout), before its process gives up.
        """
        if session.is_being_pulled:
            thread = threading.Thread(target=self._fail_job, args=(session, executor, cause), daemon=True)
            thread.name = "client_api_lost_result"
            thread.start()

    def _fail_job(self, session: TrainerSession, executor: Executor, cause: str) -> None:
        if session.wait_settled(LOST_RESULT_GRACE):
            return
        with self._engine.new_context() as fl_ctx:
            site = fl_ctx.get_identity_name()
            executor.fail_job(f"the trainer of {site} was lost while the server pulled its result: {cause}", fl_ctx)

    def close(self) -> None:
        self._switch(False)

    def _switch(self, on: bool) -> None:
        if on and self._of_tasks:
            self._channels.add(CellChannel.SERVER_COMMAND)
        else:
            self._channels.discard(CellChannel.SERVER_COMMAND)


def _has_filters(runner, scope, chain: str, direction: str) -> bool:
    if runner is None:
        return True  # not known, so there may be some
    if scope and getattr(scope, chain)[direction]:
        return True
    return any(
        key.endswith(FilterKey.DELIMITER + direction) and filters for key, filters in getattr(runner, chain).items()
    )


def _is_only_executor(runner) -> bool:
    return runner is not None and len({id(executor) for executor in runner.task_router.task_table.values()}) == 1
