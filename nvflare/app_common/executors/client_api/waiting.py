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

"""How to wait: for a condition, a signal or a limit; every wait is bounded, or ended by an event."""

import threading
import time
from contextlib import contextmanager
from typing import Callable, Iterable, Iterator, NamedTuple, Optional

from nvflare.apis.signal import Signal

# nvflare's Signal cannot wake a waiter, so an abort is looked for this often (seconds); all else is notified.
ABORT_CHECK_INTERVAL = 0.5


class TaskAborted(Exception):
    """The abort signal of the task in hand was triggered."""


class WaitableSignal(Signal):
    """A signal that can be waited for."""

    def __init__(self):
        super().__init__()
        self._triggering = threading.Event()

    def trigger(self, value) -> None:
        super().trigger(value)
        self._triggering.set()

    def wait(self, timeout: float) -> bool:
        """Waits for the signal, at most `timeout` seconds."""
        return self._triggering.wait(timeout)


class AnySignal(Signal):
    """Is triggered when one of several signals is."""

    def __init__(self, *signals: Optional[Signal]):
        super().__init__()
        self._signals = [signal for signal in signals if signal is not None]

    @property
    def triggered(self) -> bool:
        return any(signal.triggered for signal in self._signals)


def join_all(threads: Iterable[threading.Thread], timeout: float) -> None:
    """Waits for threads to end, at most `timeout` seconds each; not for one that has not begun, or that calls this."""
    for thread in threads:
        if thread.is_alive() and thread is not threading.current_thread():
            thread.join(timeout)


class Turn:
    """Whose turn it is among several threads; a copy of its owner, as of a job that has not run, has one of its own."""

    def __init__(self):
        self._lock = threading.Lock()

    @contextmanager
    def taken(self, abort_signal: Signal) -> Iterator[None]:
        """Waits for the turn, and has it until the context is left.

        Raises:
            TaskAborted: the abort signal was triggered before.
        """
        while not self._lock.acquire(timeout=ABORT_CHECK_INTERVAL):
            if abort_signal.triggered:
                raise TaskAborted()
        try:
            yield
        finally:
            self._lock.release()

    def __reduce__(self) -> tuple:
        return Turn, ()


class WaitLimit(NamedTuple):
    """The argument that bounds a wait, and by how much."""

    seconds: Optional[float]  # None: nothing does
    argument: str

    def remaining(self, start: float) -> Optional[float]:
        """Returns the seconds that are left of a wait that began at a time of the monotonic clock; None: no limit."""
        return None if self.seconds is None else start + self.seconds - time.monotonic()

    def __str__(self):
        return f"{self.seconds} s ({self.argument})"


# The arguments that bound the wait for a trainer to take a task, and for its result.
UNTIL_TAKEN = ("task_wait_timeout", "result_wait_timeout")
UNTIL_RESULT = ("result_wait_timeout",)


def soonest_limit(arguments: object, names: Iterable[str]) -> WaitLimit:
    """Returns the one of several arguments, of which `arguments` has the seconds by their names, that is over first."""
    limits = [WaitLimit(getattr(arguments, name), name) for name in names if getattr(arguments, name) is not None]
    return min(limits, default=WaitLimit(None, ""))


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
