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

"""Runs the training script on a thread of the client job process.

Tasks, results and log records travel over nvflare's DataBus, on the topics of its in-process Client API, between the
executor's task thread and the script's thread (see script/ for its side):

    execute() --TOPIC_GLOBAL_RESULT--> flare.receive() ... flare.send() --TOPIC_LOCAL_RESULT--> execute()
                                       flare.log()                      --TOPIC_LOG_DATA------> executor
    finalize() -------TOPIC_STOP-----> flare.is_running() is False
"""

import logging
import threading
import time
from contextlib import ExitStack
from typing import Callable, Optional

from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from nvflare.apis.utils.analytix_utils import create_analytic_dxo
from nvflare.app_common.executors.client_api.arrays.onlookers import others_of
from nvflare.app_common.executors.client_api.arrays.pull import Puller
from nvflare.app_common.executors.client_api.arrays.traffic import leg, note_legs, pull_leg
from nvflare.app_common.executors.client_api.backend_spec import (
    ClientAPIBackendContext,
    ClientAPIBackendSpec,
    TrainerError,
)
from nvflare.app_common.executors.client_api.formats.job_formats import client_config
from nvflare.app_common.executors.client_api.params_filter import converts_results
from nvflare.app_common.executors.client_api.script.script_thread import ScriptThread
from nvflare.app_common.executors.client_api.script.task_handover import TaskHandover
from nvflare.app_common.executors.client_api.script.trainer_api import InProcessTrainerAPI, forget_api, unsubscribe_all
from nvflare.app_common.executors.client_api.waiting import UNTIL_RESULT, UNTIL_TAKEN, soonest_limit, wait_until
from nvflare.app_common.executors.in_process_client_api_executor import InProcessClientAPIExecutor
from nvflare.client.api_spec import CLIENT_API_KEY
from nvflare.client.config import ConfigKey
from nvflare.client.in_process.api import TOPIC_GLOBAL_RESULT, TOPIC_LOCAL_RESULT, TOPIC_LOG_DATA, TOPIC_STOP
from nvflare.fuel.data_event.data_bus import DataBus
from nvflare.fuel.utils.log_utils import get_obj_logger

# Seconds that the end of the job waits for a script that was told to stop, and for one that owes no result and may
# have a last thing to do, such as saving its model; nobody can set them.
SCRIPT_STOP_TIMEOUT = 5.0
SCRIPT_END_TIMEOUT = 300.0


class InProcessBackend(ClientAPIBackendSpec):
    """Feeds a script that runs on a thread of this process."""

    def __init__(self):
        self.logger = get_obj_logger(self)
        self._data_bus = DataBus()
        self._exchange = TaskHandover()
        self._context: Optional[ClientAPIBackendContext] = None
        self._runner: Optional[ScriptThread] = None
        self._thread: Optional[threading.Thread] = None
        self._untold_failure = ""  # why the script ended while no task was running
        self._was_told = False  # by a task that failed of it
        self._puller: Optional[Puller] = None
        self._cleanup = ExitStack()

    def initialize(self, context: ClientAPIBackendContext, fl_ctx: FLContext) -> None:
        if isinstance(self._data_bus.get_data(CLIENT_API_KEY), InProcessTrainerAPI):
            raise TrainerError("another in_process executor runs in this job, and flare.init() can serve only one")
        if others_of(None, InProcessClientAPIExecutor, fl_ctx):
            raise TrainerError("nvflare's in-process executor runs in this job, too: give one all their tasks")
        _check_script_path(context.task_script_path)
        self._context = context
        with ExitStack() as cleanup:
            self._puller = Puller(fl_ctx)
            cleanup.callback(self._puller.close)
            api = self._create_api(client_config(context, fl_ctx), converts_results(fl_ctx), cleanup)
            self._runner = self._create_runner(api, fl_ctx)
            cleanup.callback(self._runner.restore)
            self._runner.redirect()
            # A daemon: a script that does not stop when it is told to must not keep the process.
            self._thread = threading.Thread(target=self._run_script, name="client_api_trainer", daemon=True)
            self._thread.start()
            self._cleanup = cleanup.pop_all()

    def _create_api(self, config: dict, passes_objects: bool, cleanup: ExitStack) -> InProcessTrainerAPI:
        config[ConfigKey.TASK_NAME] = None
        api = InProcessTrainerAPI(config, self._exchange, passes_objects)
        cleanup.callback(forget_api, api)
        if self._context.memory_gc_rounds:
            api.configure_memory_management(self._context.memory_gc_rounds, self._context.cuda_empty_cache)
        cleanup.callback(unsubscribe_all, self)
        self._data_bus.subscribe([TOPIC_LOCAL_RESULT], self._on_result)
        self._data_bus.subscribe([TOPIC_LOG_DATA], self._on_log)
        self._data_bus.put_data(CLIENT_API_KEY, api)
        return api

    def _create_runner(self, api: InProcessTrainerAPI, fl_ctx: FLContext) -> ScriptThread:
        path, args = self._context.task_script_path, self._context.task_script_args
        custom_dir = fl_ctx.get_prop(FLContextKey.WORKSPACE_OBJECT).get_app_custom_dir(fl_ctx.get_job_id())
        try:
            return ScriptThread(custom_dir, path, args, api, self._exchange)
        except ValueError:
            raise TrainerError(f"task_script_path {path!r} was not found in {custom_dir}") from None

    def _run_script(self) -> None:
        self.logger.info(f"trainer script {self._runner.name} starts")
        self._runner.run()
        exchange = self._exchange
        how = exchange.script_end
        if exchange.stop_reason is not None:
            # A task that is running fails with the whole text.
            is_untold = self._runner.has_failed and exchange.task_name is None
            level, told = (logging.WARNING, how) if is_untold else (logging.INFO, how.splitlines()[0])
            self.logger.log(level, f"the script was told to stop ({exchange.stop_reason}): {told}")
        elif exchange.task_name is None:
            # The next task fails with the whole text; if none comes, the end of the job tells.
            self._untold_failure = how if self._runner.has_failed else ""
            self.logger.info(f"the script ended while no task was running: {how.splitlines()[0]}")

    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        exchange = self._exchange
        with self._puller.start(shareable, abort_signal) as task:
            shareable = task.wait()
        exchange.open_task(task_name)
        try:
            if not self._has_ended():
                self._data_bus.publish([TOPIC_GLOBAL_RESULT], shareable)
            handed_over = time.monotonic()
            with exchange.changed:
                self._wait(lambda: exchange.delivered is None, abort_signal, handed_over, UNTIL_TAKEN)
                taken = time.monotonic()
                self._wait(lambda: exchange.has_result, abort_signal, handed_over, UNTIL_RESULT)
                note_legs([*pull_leg(task.pulled), leg("trained", time.monotonic() - taken)], fl_ctx)
                return exchange.result
        finally:
            exchange.close_task()

    def _wait(self, predicate: Callable[[], bool], abort_signal: Signal, start: float, limits: tuple) -> None:
        exchange = self._exchange
        limit = soonest_limit(self._context, limits)
        in_time = wait_until(
            exchange.changed, lambda: predicate() or self._has_ended(), abort_signal, limit.remaining(start)
        )
        if exchange.has_result:
            return  # whatever has ended since, the result is good
        if self._has_ended():
            # Both, if there are both: a script may fail because it was stopped.
            how = ": ".join(reason for reason in (exchange.stop_reason, exchange.script_end) if reason is not None)
            self._was_told = True
            hint = "" if self._runner.has_used_flare else ", flare.init() was never called"
            raise TrainerError(f"no result was sent{hint}: {how}")
        if not in_time:
            missing = "asked for the task" if exchange.delivered is not None else "sent a result"
            raise TrainerError(f"{self._runner.name} has not {missing} in {limit}")

    def _has_ended(self) -> bool:
        return self._exchange.script_end is not None or self._exchange.stop_reason is not None

    def _on_result(self, topic: str, result: Shareable, data_bus: DataBus) -> None:
        if not self._exchange.submit(result):
            self.logger.warning("a result was dropped: its task is over (timed out, aborted, or answered before)")

    def _on_log(self, topic: str, record: dict, data_bus: DataBus) -> None:
        fields = dict(record)  # a copy: all subscribers of the topic share the record, which flare.log() has checked
        self._context.executor.relay_log_record(create_analytic_dxo(tag=fields.pop("key"), **fields))

    def stats(self) -> dict:
        exchange = self._exchange
        state = "ended" if exchange.script_end else "stopping" if exchange.stop_reason else "running"
        return {"state": state, "script": self._context.task_script_path}

    def finalize(self, fl_ctx: FLContext) -> None:
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._data_bus.publish([TOPIC_STOP], "the job ends")
        self._await_end(thread)
        if self._untold_failure and not self._was_told:
            self.logger.error(f"the script failed after its last task: {self._untold_failure}")
        self._cleanup.close()

    def _await_end(self, thread: threading.Thread) -> None:
        limit = SCRIPT_STOP_TIMEOUT
        thread.join(limit)
        if thread.is_alive() and self._exchange.has_answered:
            name, limit = self._runner.name, SCRIPT_END_TIMEOUT
            self.logger.info(f"{name} goes on after its last task: the end of the job waits {limit:g} s for it")
            thread.join(limit)
        if thread.is_alive():
            self.logger.warning(f"{self._runner.name} did not stop within {limit:g} s; its thread is left to itself")


def _check_script_path(path: Optional[str]) -> None:
    if not path:
        raise TrainerError("task_script_path is not set: it names the .py file that is to run")
    if not path.endswith(".py"):
        raise TrainerError(f"task_script_path must be the path of a .py file, but is {path!r}")
