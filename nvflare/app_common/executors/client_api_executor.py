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

"""ClientAPIExecutor: one executor for scripts that use the Client API, in one of three execution modes.

The executor is the framework's side of the work: it validates the arguments, creates the backend of the chosen mode at
START_RUN and finalizes it at END_RUN, hands it one task at a time, turns failures into replies that carry the cause,
and what the script logs into analytics events. How a script is run is the backend's (see client_api/backend_spec.py).
"""

import os
from functools import partial
from typing import Optional

from nvflare.apis.analytix import ANALYTIC_EVENT_TYPE
from nvflare.apis.dxo import DXO
from nvflare.apis.event_type import EventType
from nvflare.apis.executor import Executor
from nvflare.apis.fl_constant import FLContextKey, FLMetaKey, ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.fl_exception import UnsafeJobError
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.apis.signal import Signal
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.executors.client_api.arguments import (  # noqa: F401
    ALL_EXECUTION_MODES,
    RULES,
    ClientAPIBackendContext,
    ExecutionMode,
    check_arguments,
)
from nvflare.app_common.executors.client_api.arrays.onlookers import looks_at_no_arrays, others_of
from nvflare.app_common.executors.client_api.backend_spec import (
    FAILURE_CAUSE_HEADER,
    ClientAPIBackendSpec,
    TrainerError,
)
from nvflare.app_common.executors.client_api.formats.outside_text import clip_cause
from nvflare.app_common.executors.client_api.server.analytics import UNHEARD, AnalyticsRelay, find_audience
from nvflare.app_common.executors.client_api.server.lost_parent import fail_job_if_parent_is_gone
from nvflare.app_common.executors.client_api.server.results import Results
from nvflare.app_common.executors.client_api.waiting import Turn
from nvflare.app_common.widgets.convert_to_fed_event import FED_EVENT_PREFIX
from nvflare.security.logging import secure_format_exception, secure_format_traceback
from nvflare.widgets.info_collector import InfoCollector

FED_ANALYTIC_EVENT_TYPE = FED_EVENT_PREFIX + ANALYTIC_EVENT_TYPE


class ClientAPIExecutor(Executor):
    def __init__(
        self,
        execution_mode: str,
        command: Optional[str] = None,
        task_script_path: Optional[str] = None,
        task_script_args: str = "",
        launch_once: bool = True,
        launch_timeout: Optional[float] = None,
        shutdown_timeout: Optional[float] = None,
        stop_grace_period: float = 30.0,
        heartbeat_interval: float = 5.0,
        heartbeat_timeout: float = 30.0,
        task_wait_timeout: Optional[float] = None,
        result_wait_timeout: Optional[float] = None,
        train_task_name: str = AppConstants.TASK_TRAIN,
        evaluate_task_name: str = AppConstants.TASK_VALIDATION,
        submit_model_task_name: str = AppConstants.TASK_SUBMIT_MODEL,
        train_with_evaluation: bool = False,
        memory_gc_rounds: int = 0,
        cuda_empty_cache: bool = False,
        attach_timeout: Optional[float] = None,
        allow_reconnect: bool = False,
    ):
        """Initializes the executor and checks its arguments.

        An argument that is set away from its default in a mode that ignores it is an error; all times are in seconds.
        Parameter formats are set by keys of the job's client config: `params_exchange_format`, `server_expected_format`
        and `params_transfer_type`.

        Args:
            execution_mode (str): "in_process", "external_process" or "attach".
            command (str, optional): external_process: the launch command; split into words, never given to a shell.
            task_script_path (str, optional): in_process: the .py file to run, absolute or in the app's custom folder.
            task_script_args (str): in_process: the script's arguments; split into words like a shell command.
            launch_once (bool): external_process: one trainer for the whole job, or a new one per task.
            launch_timeout (float, optional): external_process: launch to handshake. None: while the process lives.
            shutdown_timeout (float, optional): external_process: for a natural exit after an orderly end. None: 30.
            stop_grace_period (float): external_process: from SIGTERM to SIGKILL.
            heartbeat_interval (float): external_process, attach: between two heartbeats of the session.
            heartbeat_timeout (float): external_process, attach: silence that is looked into. 0, not in attach: none is.
            task_wait_timeout (float, optional): from the delivery of a task until the trainer has it. None: no limit.
            result_wait_timeout (float, optional): from the delivery of a task to its result. None: no limit.
            train_task_name (str): the task for which `flare.is_train()` holds.
            evaluate_task_name (str): the task for which `flare.is_evaluate()` holds.
            submit_model_task_name (str): the task for which `flare.is_submit_model()` holds.
            train_with_evaluation (bool): tells the script that train results are to have metrics.
            memory_gc_rounds (int): collect garbage in the trainer every so many rounds; 0: never.
            cuda_empty_cache (bool): also empty the CUDA cache then.
            attach_timeout (float, optional): attach: how long a task waits for a trainer. None: no limit.
            allow_reconnect (bool): attach: whether a new trainer may take over from a lost one.

        Raises:
            ValueError: names the argument, its value and what is allowed.
        """
        given = dict(locals())
        super().__init__()
        # FedJob exports an argument from the attribute of the same name with an underscore.
        self._execution_mode = execution_mode
        for name, value in check_arguments(execution_mode, given).items():
            setattr(self, "_" + name, value)
        self._analytics_fire_fed_event = False
        self._backend: Optional[ClientAPIBackendSpec] = None
        self._analytics: Optional[AnalyticsRelay] = None
        self._results = Results()
        self._turn = Turn()  # of the execute() call whose task the backend works on
        self._stats = {"current_task": "", "tasks_done": 0, "tasks_failed": 0}
        self._parent = os.getppid()  # the process that runs the site, from START_RUN on

    def handle_event(self, event_type: str, fl_ctx: FLContext):
        if event_type == EventType.START_RUN:
            super().handle_event(event_type, fl_ctx)
            self._start(fl_ctx)
            return
        if event_type in (EventType.END_RUN, EventType.SWAP_OUT):
            # The simulator swaps a site out by ending its process, and fires no END_RUN there.
            self._stop(fl_ctx)
        else:
            self._relay(event_type, fl_ctx)
        super().handle_event(event_type, fl_ctx)

    @looks_at_no_arrays
    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        """Has the backend run one task; the result of a failure carries its cause in FAILURE_CAUSE_HEADER.

        Calls that come at the same time are served one after another.

        Raises:
            UnsafeJobError: from the backend, as it is.
        """
        try:
            with self._turn.taken(abort_signal):
                self._stats["current_task"] = task_name
                try:
                    result = self._execute(task_name, shareable, fl_ctx, abort_signal)
                finally:
                    self._stats["current_task"] = ""
                self._stats["tasks_done"] += 1
                return result
        except UnsafeJobError:
            raise
        except Exception as e:
            if abort_signal.triggered:
                return make_reply(ReturnCode.TASK_ABORTED)
            # A typed error is its own explanation, anything else is a defect: show where.
            cause = str(e) if isinstance(e, TrainerError) else secure_format_traceback()
            return self._failure_reply(f"task {task_name!r} failed ({self._execution_mode}): {cause}", fl_ctx)

    def _execute(self, task_name, shareable, fl_ctx, abort_signal) -> Shareable:
        analytics, backend = self._analytics, self._backend  # which the end of the job takes away
        if backend is None:
            raise TrainerError("the executor is not running")
        if analytics:  # not if the backend was put in its place without a START_RUN, as unit tests do
            analytics.release()
        fl_ctx.set_prop("abort_signal", abort_signal)  # as nvflare's executors do, for whoever works in this task
        # Read before the backend gets the shareable, which it may hand over for good.
        current_round = shareable.get_header(AppConstants.CURRENT_ROUND)
        shareable.set_header(FLMetaKey.JOB_ID, fl_ctx.get_job_id())
        shareable.set_header(FLMetaKey.SITE_NAME, fl_ctx.get_identity_name())
        result = backend.execute(task_name, shareable, fl_ctx, abort_signal)
        if not isinstance(result, Shareable):
            raise TrainerError(f"the result must be a Shareable, but is {type(result)}")
        if current_round is not None:
            result.set_header(AppConstants.CURRENT_ROUND, current_round)
        # What was logged goes before the result: that of a task of the runner's when the filters are done with it (see
        # the relay's handle_event), that of a controller at the client now.
        if analytics and fl_ctx.get_prop(FLContextKey.TASK_NAME) != task_name:
            analytics.flush(abort_signal=abort_signal)
        self._results.note_task(task_name, current_round, fl_ctx)
        return result

    def _failure_reply(self, cause: str, fl_ctx: FLContext) -> Shareable:
        self._stats["tasks_failed"] += 1
        cause = clip_cause(cause)
        self.log_error(fl_ctx, cause)
        reply = make_reply(ReturnCode.EXECUTION_EXCEPTION)
        reply.set_header(FAILURE_CAUSE_HEADER, cause)
        return reply

    def _start(self, fl_ctx: FLContext) -> None:
        try:
            self._parent = os.getppid()
            self._check_alone(fl_ctx)
            # A script may log before its first task, so the relay is there before the backend.
            self._analytics = self._create_analytics(fl_ctx)
            backend = self._create_backend()
            backend.initialize(self._build_backend_context(), fl_ctx)
            self._backend = backend
        except Exception as e:
            self._stop(fl_ctx)
            self._panic(e, fl_ctx)

    def _panic(self, error: Exception, fl_ctx: FLContext) -> None:
        cause = str(error) if isinstance(error, TrainerError) else secure_format_exception(error)
        cause = clip_cause(f"{self.name} in mode {self._execution_mode} cannot start: {cause}")
        try:
            if not isinstance(error, TrainerError):
                self.log_error(fl_ctx, secure_format_traceback())
            self.system_panic(cause, fl_ctx)
        except Exception:  # of an engine that fires no events
            self.logger.error(f"{cause}\n{secure_format_traceback()}")

    def _check_alone(self, fl_ctx: FLContext) -> None:
        mode = self._execution_mode
        if any(other._execution_mode == mode for other in others_of(self, ClientAPIExecutor, fl_ctx)):
            # They would write the same file for flare.init(), and the scripts take one another's tasks.
            raise TrainerError(f"another {mode} executor runs in this job: give one all their tasks")

    def _stop(self, fl_ctx: FLContext) -> None:
        backend, self._backend = self._backend, None
        if backend:
            try:
                backend.finalize(fl_ctx)
            except Exception:
                self.log_error(fl_ctx, f"the backend did not end well: {secure_format_traceback()}")
        self._results.close()
        if self._analytics:
            self._analytics.close()
            self._analytics = None

    def _relay(self, event_type: str, fl_ctx: FLContext) -> None:
        try:
            if self._analytics:
                self._analytics.handle_event(event_type, fl_ctx)
            if event_type == EventType.ABOUT_TO_END_RUN:
                fail_job_if_parent_is_gone(self._parent, self, fl_ctx)
            if self._backend:
                if event_type == InfoCollector.EVENT_TYPE_GET_STATS:
                    self._report_stats(fl_ctx)
                self._results.handle_event(event_type, fl_ctx)
                self._backend.handle_event(event_type, fl_ctx)
        except Exception:
            self.log_error(fl_ctx, f"event {event_type} was not handled: {secure_format_traceback()}", fire_event=False)

    def _report_stats(self, fl_ctx: FLContext) -> None:
        collector = fl_ctx.get_prop(InfoCollector.CTX_KEY_STATS_COLLECTOR)
        if collector and self._analytics:
            info = {"mode": self._execution_mode, **self._stats, **self._analytics.stats(), **self._backend.stats()}
            info.update(self._results.stats())
            which = f" ({self._execution_mode})" if others_of(self, ClientAPIExecutor, fl_ctx) else ""
            collector.set_info(group_name=ClientAPIExecutor.__name__ + which, info=info)

    # Analytics

    def set_analytics_fire_fed_event(self, enabled: bool) -> None:
        """Has log records become federated events (True) in place of the site's own (False, as it is at first)."""
        self._analytics_fire_fed_event = bool(enabled)

    def fire_log_analytics(self, fl_ctx: FLContext, dxo: DXO) -> None:
        """Fires the event of one log record, on the caller's thread."""
        self._fire_analytics(dxo, self._analytics_fire_fed_event, fl_ctx)

    def relay_log_record(self, *records: DXO, can_wait: bool = True) -> bool:
        """Takes records of `flare.log` (see OrderedSender.put): delivered in order, and before the task's result."""
        analytics = self._analytics
        return analytics is None or analytics.put(*records, can_wait=can_wait)

    def _create_analytics(self, fl_ctx: FLContext) -> AnalyticsRelay:
        audience = find_audience(fl_ctx.get_engine())
        # In in_process nothing leaves the site that the job does not convert, as with nvflare's own executor.
        is_sent = self._execution_mode != ExecutionMode.IN_PROCESS and not audience.is_converted
        warning = "" if is_sent or audience.is_heard else UNHEARD
        return AnalyticsRelay(partial(self._fire_record, fl_ctx.get_engine(), is_sent), warning)

    def _fire_record(self, engine, is_sent: bool, record: DXO) -> None:
        with engine.new_context() as fl_ctx:
            self.fire_log_analytics(fl_ctx, record)
            if is_sent and not self._analytics_fire_fed_event:
                self._fire_analytics(record, True, fl_ctx)

    def _fire_analytics(self, record: DXO, is_federated: bool, fl_ctx: FLContext) -> None:
        data = record.to_shareable()
        if self._analytics:
            self._analytics.claim(data)
        # The calls are those of nvflare's send_analytic_dxo, which has no place for a claim.
        fl_ctx.set_prop(FLContextKey.EVENT_DATA, data, private=True, sticky=False)
        if is_federated:
            self.fire_fed_event(event_type=FED_ANALYTIC_EVENT_TYPE, event_data=data, fl_ctx=fl_ctx)
        else:
            self.fire_event(event_type=ANALYTIC_EVENT_TYPE, fl_ctx=fl_ctx)

    # Backends

    def _build_backend_context(self) -> ClientAPIBackendContext:
        arguments = {name: getattr(self, "_" + name) for name in RULES}
        return ClientAPIBackendContext(self, self._execution_mode, **arguments)

    def _backend_registry(self) -> dict:
        return {
            ExecutionMode.IN_PROCESS: self._create_in_process_backend,
            ExecutionMode.EXTERNAL_PROCESS: self._create_external_process_backend,
            ExecutionMode.ATTACH: self._create_attach_backend,
        }

    def _create_backend(self) -> ClientAPIBackendSpec:
        registry = self._backend_registry()
        if self._execution_mode not in registry:
            raise ValueError(
                f"no backend factory registered for execution_mode {self._execution_mode!r}: "
                f"registered modes are {list(registry)}"
            )
        return registry[self._execution_mode]()

    # Each import is late: a mode must not cost what only another one needs.

    def _create_in_process_backend(self) -> ClientAPIBackendSpec:
        from nvflare.app_common.executors.client_api.in_process_backend import InProcessBackend

        return InProcessBackend()

    def _create_external_process_backend(self) -> ClientAPIBackendSpec:
        from nvflare.app_common.executors.client_api.external_process_backend import ExternalProcessBackend

        return ExternalProcessBackend()

    def _create_attach_backend(self) -> ClientAPIBackendSpec:
        from nvflare.app_common.executors.client_api.attach_backend import AttachBackend

        return AttachBackend()
