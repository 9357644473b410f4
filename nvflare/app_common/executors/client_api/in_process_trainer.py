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

"""The script's side of in_process: its Client API, the thread body that runs it, and what it shares with the backend.

`TaskExchange` is where the executor's task thread (hands a task over, waits for its result), the script's thread
(receives and sends through the Client API) and whoever ends things (the end of the job or of the script) meet: every
wait is on its condition, and whoever changes something notifies.
"""

import builtins
import os
import shlex
import sys
import threading
import traceback
import weakref
from contextlib import ExitStack
from functools import partial
from typing import Any, Callable, Optional

import nvflare.client.api as client_api
from nvflare.apis.analytix import AnalyticsDataType
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.utils.analytix_utils import create_analytic_dxo
from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.app_common.executors.client_api.backend_spec import told_by_script, wait_until
from nvflare.app_common.executors.client_api.log_lines import logging_print
from nvflare.app_common.executors.client_api.owner_process import OwnerProcess, no_init_in_commands, run_as_main
from nvflare.app_common.executors.client_api.result_converter import ResultConverter
from nvflare.app_common.executors.client_api.sendable import record_fields
from nvflare.app_common.executors.task_script_runner import TaskScriptRunner
from nvflare.app_common.utils.fl_model_utils import FLModelUtils
from nvflare.client.api_context import ClientAPIType
from nvflare.client.api_spec import CLIENT_API_KEY
from nvflare.client.config import ClientConfig, ConfigKey
from nvflare.client.converter_utils import create_default_params_converters
from nvflare.client.in_process.api import (
    TOPIC_ABORT,
    TOPIC_GLOBAL_RESULT,
    TOPIC_LOCAL_RESULT,
    TOPIC_STOP,
    InProcessClientAPI,
)
from nvflare.fuel.data_event.data_bus import DataBus
from nvflare.fuel.data_event.event_manager import EventManager
from nvflare.security.logging import secure_format_traceback

# Lines of a script's traceback that travel as the cause.
TRACEBACK_LINES = 20

_NO_RESULT = object()  # None may be published, too, and fails the task

# The error in a process that the script starts.
_NOT_IN_COMMANDS = (
    "in_process: only the process of the job itself can call flare.init(), not one that the script starts; for that "
    'set execution_mode="external_process"'
)

# Threads of scripts that ignored the end of their job. flare finds its API by a global, so that they would train, and
# answer, for the next job in this process.
_abandoned_threads = weakref.WeakSet()


class TaskExchange:
    """What the executor's and the script's threads share: at most one task, and whether either side has ended."""

    def __init__(self):
        self.changed = threading.Condition()
        self.delivered: Optional[Shareable] = None  # a task that the script has not received yet
        self.result: Any = _NO_RESULT  # of the open task
        self.script_end: Optional[str] = None  # how the script ended, once it has
        self.stop_reason: Optional[str] = None  # why the script is to end, once it is
        self.task_name: Optional[str] = None  # of the open task: the one that the executor waits for
        self._open = 0  # number of the open task, counted from 1; 0 if there is none
        self._received = 0  # number of the task that the script works on
        self._count = 0

    def open_task(self, name: str) -> None:
        with self.changed:
            self._count += 1
            self._open, self.task_name, self.delivered, self.result = self._count, name, None, _NO_RESULT

    def close_task(self) -> None:
        """Forgets the open task: a result that still comes is late."""
        with self.changed:
            self._open, self.task_name, self.delivered, self.result = 0, None, None, _NO_RESULT

    def deliver(self, task: Shareable) -> None:
        with self.changed:
            self.delivered = task
            self.changed.notify_all()

    def receive(self, is_over: Callable[[], bool], timeout: Optional[float]) -> Optional[tuple]:
        """Waits for a task; returns (name, task), or None when `is_over()` holds or the time (seconds) is up."""
        with self.changed:
            wait_until(self.changed, lambda: self.delivered is not None or is_over(), timeout=timeout)
            if self.delivered is None or self.stop_reason is not None:
                return None
            task, self.delivered, self._received = self.delivered, None, self._open
            self.changed.notify_all()
            return self.task_name, task

    @property
    def has_result(self) -> bool:
        return self.result is not _NO_RESULT

    def submit(self, result: Any) -> bool:
        """Takes the script's result if it is the first one for the open task; tells whether it was taken."""
        with self.changed:
            if not self._open or self._received != self._open or self.has_result:
                return False
            self.result = result
            self.changed.notify_all()
            return True

    def end_script(self, how: str) -> None:
        with self.changed:
            self.script_end = self.script_end or how
            self.changed.notify_all()

    def stop(self, reason: str) -> None:
        with self.changed:
            self.stop_reason = self.stop_reason or reason
            self.changed.notify_all()


class InProcessTrainerAPI(InProcessClientAPI):
    """nvflare's in-process Client API, woken by events where the base class polls.

    A task waits in the exchange until the script asks for it, and only then becomes the base class's `fl_model`: the
    base class forgets its model at the end of `send()`, when the next task may already be there.
    """

    def __init__(self, config: dict, exchange: TaskExchange):
        super().__init__(task_metadata=config)
        unsubscribe_all(self)  # the base class only sets flags that it polls
        self.data_bus.subscribe([TOPIC_GLOBAL_RESULT], self._on_task)
        self.data_bus.subscribe([TOPIC_ABORT, TOPIC_STOP], self._on_stop)
        self.event_manager = _ResultPublisher(self.data_bus, self._to_server_format)
        self.owner = OwnerProcess()
        self.script_threads = set()  # threads that have used this API
        self._exchange = exchange
        self._converter_context = FLContext()
        formats = ClientConfig(config)
        self._from_nvflare, to_nvflare = create_default_params_converters(
            formats.get_server_expected_format(),
            formats.get_exchange_format(),
            formats.get_train_task(),
            formats.get_eval_task(),
            formats.get_submit_model_task(),
        )
        self._to_nvflare = ResultConverter(to_nvflare)

    def init(self, rank: Optional[str] = None, config: Optional[dict] = None) -> None:
        self.script_threads.add(threading.current_thread())
        super().init(rank, config)

    def receive(self, timeout: Optional[float] = None) -> Optional[FLModel]:
        self._receive_task(timeout)
        return super().receive(timeout=0)

    def is_running(self) -> bool:
        self._receive_task(None)
        return not self.stop and self.fl_model is not None

    def log(self, key: str, value: Any, data_type: AnalyticsDataType, **kwargs) -> None:
        self._check_caller()
        fields = record_fields(key, value=value, data_type=data_type, **kwargs)
        create_analytic_dxo(**fields)  # raises here what nvflare would refuse on a thread of its own
        super().log(fields.pop("tag"), **fields)

    def send(self, model: FLModel, clear_cache: bool = True) -> None:
        self._check_caller()
        if self.stop:
            self.logger.info(f"nothing was sent: {self.stop_reason}")
            return
        super().send(model, clear_cache)

    def shutdown(self) -> None:
        self._on_stop(TOPIC_STOP, "the script called flare.shutdown()", self.data_bus)

    @staticmethod
    def _check_caller() -> None:
        if threading.current_thread() in _abandoned_threads:
            raise RuntimeError("the job of this script has ended")

    def _receive_task(self, timeout: Optional[float]) -> None:
        self._check_caller()
        self.script_threads.add(threading.current_thread())
        received = self._exchange.receive(lambda: self.stop or self.fl_model is not None, timeout)
        if self.stop:
            self.fl_model = None
        if received:
            task_name, shareable = received
            self.meta[ConfigKey.TASK_NAME] = task_name
            if self._from_nvflare:
                shareable = self._from_nvflare.process(task_name, shareable, self._converter_context)
            self.fl_model = FLModelUtils.from_shareable(shareable)
            self.receive_called = False

    def _to_server_format(self, result: Shareable) -> Shareable:
        return self._to_nvflare.process(self.meta[ConfigKey.TASK_NAME], result, self._converter_context)

    def _on_task(self, topic: str, task: Shareable, data_bus: DataBus) -> None:
        self._exchange.deliver(task)

    def _on_stop(self, topic: str, reason: str, data_bus: DataBus) -> None:
        self.stop, self.stop_reason = True, reason
        self._exchange.stop(reason)


class _ResultPublisher(EventManager):
    """Converts a result on the script's thread, just before it is published: an error is the script's to see."""

    def __init__(self, data_bus: DataBus, convert: Callable[[Shareable], Shareable]):
        super().__init__(data_bus)
        self._convert = convert

    def fire_event(self, event_name: str, event_data=None) -> None:
        if event_name == TOPIC_LOCAL_RESULT:
            event_data = self._convert(event_data)
        super().fire_event(event_name, event_data)


class ScriptRunner(TaskScriptRunner):
    """Runs the script so that its end, whatever it is, is told once, and the process is left as it was found."""

    def __init__(
        self, custom_dir: str, script_path: str, script_args: str, api: InProcessTrainerAPI, exchange: TaskExchange
    ):
        super().__init__(custom_dir, script_path, script_args)
        self.name = os.path.basename(self.script_full_path)
        self._api = api
        self._exchange = exchange
        self._changes = ExitStack()  # what was changed in the process
        self._thread_failure = ""  # of the last thread of the script that died
        self.has_failed = False  # the script has ended, and not as a script that is done does

    def get_sys_argv(self) -> list:
        return [self.script_full_path] + shlex.split(self.script_args)

    def redirect(self) -> None:
        """Gives the process the script's sys.argv, a print() that logs, an eye on dying threads, word for commands."""
        for owner, name, value in (
            (sys, "argv", self.get_sys_argv()),
            (builtins, "print", logging_print(builtins.print)),
            (threading, "excepthook", partial(self._on_thread_died, threading.excepthook)),
        ):
            self._changes.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, value)
        self._changes.enter_context(no_init_in_commands(ClientAPIType.IN_PROCESS_API, _NOT_IN_COMMANDS))

    def restore(self) -> None:
        self._changes.close()

    @property
    def has_used_flare(self) -> bool:
        return bool(self._api.script_threads)

    def run(self) -> None:
        """Runs the script on the caller's thread; returns when it, and every thread of it that used flare, ended."""
        try:
            run_as_main(self.script_full_path, before_end=self._join_threads)
            self._end(f"{self.name} returned{self._thread_failure}", failed=bool(self._thread_failure))
        except SystemExit as e:
            line = self._line_of(e.__traceback__)
            code = "" if e.code is None else repr(e.code) if isinstance(e.code, int) else told_by_script(repr(e.code))
            self._end(f"{self.name} called sys.exit({code}) at line {line}", failed=bool(e.code))
        except BaseException as e:  # a script may raise KeyboardInterrupt, too; it ends the script and nothing else
            self._end(f"{self.name} {self._describe(e)}")
        finally:
            self.restore()

    def _join_threads(self) -> None:
        for thread in self._api.script_threads - {threading.current_thread()}:
            thread.join()

    def _end(self, how: str, failed: bool = True) -> None:
        self.has_failed = self.has_failed or failed
        self._exchange.end_script(how)

    def _on_thread_died(self, default_hook: Callable, args) -> None:
        default_hook(args)
        if self._line_of(args.exc_traceback) is None or not self._api.owner.is_here:
            return  # no thread of the script, or one of a child that it has forked
        try:
            raise args.exc_value
        except BaseException as e:
            failure = f"thread {args.thread.name} {self._describe(e)}"
        self._thread_failure = f", and its {failure}"
        if args.thread in self._api.script_threads:
            self._end(f"{self.name}: {failure}")  # nobody else sends what this thread was to send

    def _line_of(self, tb) -> Optional[int]:
        """Returns the script's line that a traceback passes last, or None if it does not touch the script."""
        lines = [line for frame, line in traceback.walk_tb(tb) if frame.f_code.co_filename == self.script_full_path]
        return lines[-1] if lines else None

    def _describe(self, error: BaseException) -> str:
        """Describes the exception that is being handled."""
        lines = secure_format_traceback().splitlines()
        where = self._line_of(error.__traceback__)
        at = f" at line {where}" if where else ""
        return f"raised {type(error).__name__}{at}:\n" + "\n".join(lines[-TRACEBACK_LINES:])


def unsubscribe_all(owner: object) -> None:
    """Removes every subscription of the owner's methods from the DataBus."""
    data_bus = DataBus()
    for topic, subscriptions in list(data_bus.subscribers.items()):
        for callback, _ in list(subscriptions):
            if getattr(callback, "__self__", None) is owner:
                data_bus.unsubscribe(topic, callback)


def forget_api(api: InProcessTrainerAPI) -> None:
    """Removes every trace of the API from the process, so that the next job's flare.init() finds its own."""
    data_bus = DataBus()
    _abandoned_threads.update(api.script_threads)
    unsubscribe_all(api)
    if data_bus.get_data(CLIENT_API_KEY) is api:
        data_bus.data_store.pop(CLIENT_API_KEY)
    with client_api.global_context_lock:
        # A context that the script has closed (`with flare.init()`) has no API any more, and is as useless.
        for key, context in list(client_api.context_dict.items()):
            if context.api in (api, None):
                client_api.context_dict.pop(key)
        if client_api.default_context is not None and client_api.default_context.api in (api, None):
            client_api.default_context = None
    api.clear()
