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

"""Where the threads of in_process meet: the executor's, the script's, and whoever ends things.

The executor's task thread hands a task over and waits for its result, the script's thread receives and sends through
the Client API, the end of the job or of the script ends both: every wait is on one condition, and whoever changes
something notifies.
"""

import threading
from typing import Any, Callable, Optional

from nvflare.apis.shareable import Shareable
from nvflare.app_common.executors.client_api.waiting import wait_until

_NO_RESULT = object()  # None may be published, too, and fails the task


class TaskHandover:
    """What the executor's and the script's threads share: at most one task, and whether either side has ended."""

    def __init__(self):
        self.changed = threading.Condition()
        self.delivered: Optional[Shareable] = None  # a task that the script has not received yet
        self.result: Any = _NO_RESULT  # of the open task
        self.script_end: Optional[str] = None  # how the script ended, once it has
        self.stop_reason: Optional[str] = None  # why the script is to end, once it is
        self.has_answered = False  # the script owes no result: it has sent one, or knows that there is no more task
        self.task_name: Optional[str] = None  # of the open task: the one that the executor waits for
        self._open: Optional[object] = None  # stands for the open task
        self._received: Optional[object] = None  # for the task that the script works on

    def open_task(self, name: Optional[str]) -> None:
        with self.changed:
            self._open = None if name is None else object()
            self.task_name, self.delivered, self.result = name, None, _NO_RESULT

    def close_task(self) -> None:
        """Forgets the open task: a result that still comes is late."""
        self.open_task(None)

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
            self.has_answered = False
            self.changed.notify_all()
            return self.task_name, task

    @property
    def has_result(self) -> bool:
        return self.result is not _NO_RESULT

    def submit(self, result: Any) -> bool:
        """Takes the script's result if it is the first one for the open task; tells whether it was taken."""
        with self.changed:
            self.has_answered = True
            if not self._open or self._received is not self._open or self.has_result:
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
