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

from abc import ABC, abstractmethod

from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from nvflare.app_common.executors.client_api.arguments import ClientAPIBackendContext

# Header of a failure reply: why the task failed, as a text of at most MAX_CAUSE_BYTES.
FAILURE_CAUSE_HEADER = "client_api_failure_cause"


class TrainerError(Exception):
    """The trainer, or the way to it, failed. The text is the cause that the user and the server get to read."""


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
        """Hears every event of the job but START_RUN, END_RUN and SWAP_OUT. Must return soon and must not raise."""

    def stats(self) -> dict:
        """Tells what an administrator should see of the backend; values are plain strings and numbers."""
        return {}

    @abstractmethod
    def finalize(self, fl_ctx: FLContext) -> None:
        """Ends the trainer as far as the backend owns it and releases everything, at END_RUN or SWAP_OUT.

        Bounded, idempotent, and must not raise; a call to `execute` that is still waiting is made to end.
        """
