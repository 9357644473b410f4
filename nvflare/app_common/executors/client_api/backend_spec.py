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

"""The contract between ClientAPIExecutor and its backends.

The executor owns the framework's side: events, replies, analytics. A backend owns one way to run the user's training
script (a thread, a process tree, somebody else's process) and the exchange of tasks and results with it.

Who calls: the executor alone. `initialize` and `finalize` come on the job's event thread, once each; `execute` comes on
a task thread, one call at a time; `handle_event` and `stats` may come on any thread at any time in between.
"""

import threading
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Callable, NamedTuple, Optional

from nvflare.apis.executor import Executor
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.executors.client_api.outside_text import readable
from nvflare.security.logging import SECURE_LOGGING_VAR_NAME, is_secure

# Header of a failure reply: why the task failed, as a text of at most MAX_CAUSE_BYTES.
FAILURE_CAUSE_HEADER = "client_api_failure_cause"
MAX_CAUSE_BYTES = 4096

# nvflare's Signal cannot wake a waiter, so an abort is looked for this often (seconds); all else is notified.
ABORT_CHECK_INTERVAL = 0.5


class TrainerError(Exception):
    """The trainer, or the way to it, failed. The text is the cause that the user and the server get to read."""


class TaskAborted(Exception):
    """The abort signal of the task in hand was triggered."""


@dataclass(frozen=True)
class ClientAPIBackendContext:
    """What a backend may know: the executor it works for and the executor's validated arguments, with its defaults.

    All times are in seconds; None means no limit unless the argument says otherwise (see ClientAPIExecutor).
    """

    executor: Executor  # the ClientAPIExecutor
    execution_mode: str
    command: Optional[str] = None
    task_script_path: Optional[str] = None
    task_script_args: str = ""
    launch_once: bool = True
    launch_timeout: Optional[float] = None
    shutdown_timeout: Optional[float] = None
    stop_grace_period: float = 30.0
    heartbeat_interval: float = 5.0
    heartbeat_timeout: float = 30.0
    task_wait_timeout: Optional[float] = None
    result_wait_timeout: Optional[float] = None
    train_task_name: str = AppConstants.TASK_TRAIN
    evaluate_task_name: str = AppConstants.TASK_VALIDATION
    submit_model_task_name: str = AppConstants.TASK_SUBMIT_MODEL
    train_with_evaluation: bool = False
    memory_gc_rounds: int = 0
    cuda_empty_cache: bool = False
    attach_timeout: Optional[float] = None
    allow_reconnect: bool = False


class ClientAPIBackendSpec(ABC):
    """One way to run a training script."""

    @abstractmethod
    def initialize(self, context: ClientAPIBackendContext, fl_ctx: FLContext) -> None:
        """Starts the backend, at START_RUN.

        Must not wait for the user's script. On failure it undoes all that it did before it raises; the executor then
        panics the job with the cause and never calls `finalize`.

        Raises:
            TrainerError: the backend cannot start; any other exception is taken for a defect and logged in full.
        """

    @abstractmethod
    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        """Runs one task and returns the trainer's result for just this task.

        Every wait inside is bounded by a timeout or ended by an event, and looks at the abort signal.

        Raises:
            TaskAborted: the abort signal was triggered.
            TrainerError: the task failed; the executor replies EXECUTION_EXCEPTION with this cause.
            UnsafeJobError: passed on to the framework as it is.
        """

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Hears every event of the job but START_RUN and END_RUN. Must return soon and must not raise."""

    def stats(self) -> dict:
        """Tells what an administrator should see of the backend; values are plain strings and numbers."""
        return {}

    def where_time_went(self) -> str:
        """Tells where the time of the last task went, as in `launched 2.1 s, trained 41.2 s`; empty: not known."""
        return ""

    @abstractmethod
    def finalize(self, fl_ctx: FLContext) -> None:
        """Ends the trainer as far as the backend owns it and releases everything, at END_RUN.

        Bounded, idempotent, and must not raise; a call to `execute` that is still waiting is made to end.
        """


class WaitLimit(NamedTuple):
    """The argument that bounds a wait, and by how much."""

    seconds: Optional[float]  # None: nothing does
    argument: str

    def remaining(self, start: float) -> Optional[float]:
        """Returns the seconds that are left of a wait that began at a time of the monotonic clock; None: no limit."""
        return None if self.seconds is None else start + self.seconds - time.monotonic()

    def __str__(self):
        return f"{self.seconds} s ({self.argument})"


def soonest_limit(**seconds: Optional[float]) -> WaitLimit:
    """Returns the one of several arguments, by their names, that is over first."""
    limits = [WaitLimit(value, name) for name, value in seconds.items() if value is not None]
    return min(limits, default=WaitLimit(None, ""))


def told_by_script(text: str) -> str:
    """Returns what a script says, its output or an exception in it, as far as that may leave the site.

    A cause does: it goes to the server in replies and events, and with the site's error log.
    """
    return f"(kept at the site: {SECURE_LOGGING_VAR_NAME})" if text and is_secure() else text


def clip_cause(text: str) -> str:
    """Cuts a cause to MAX_CAUSE_BYTES of UTF-8, keeping its first line and as much of its end as fits.

    It becomes readable (see there), and no further line of it begins where a log's own lines do.
    """
    text = readable(text)
    if any(line[:1].strip() for line in text.split("\n")[1:]):
        text = text.replace("\n", "\n  ")
    data = text.encode()
    if len(data) > MAX_CAUSE_BYTES:
        head = data.partition(b"\n")[0][: MAX_CAUSE_BYTES // 2] + b"\n[...]\n"
        data = head + data[len(head) - MAX_CAUSE_BYTES :]
    return data.decode(errors="ignore")


def wait_until(
    condition: threading.Condition,
    predicate: Callable[[], object],
    abort_signal: Optional[Signal] = None,
    timeout: Optional[float] = None,
) -> bool:
    """Waits until `predicate()` holds. The caller holds `condition`, and whoever changes what it reads notifies.

    Args:
        condition: the condition that guards what the predicate reads.
        predicate: without side effects.
        abort_signal: ends the wait when triggered.
        timeout: seconds; None for no limit.

    Returns:
        True when the predicate held, False when the time was over first.

    Raises:
        TaskAborted: the abort signal was triggered and the predicate did not hold.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    while not predicate():
        if abort_signal is not None and abort_signal.triggered:
            raise TaskAborted()
        remaining = None if deadline is None else deadline - time.monotonic()
        if remaining is not None and remaining <= 0:
            return False
        step = remaining if abort_signal is None else min(ABORT_CHECK_INTERVAL, remaining or ABORT_CHECK_INTERVAL)
        condition.wait(step)
    return True
