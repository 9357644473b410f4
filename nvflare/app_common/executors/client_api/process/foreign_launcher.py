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

"""Has a Launcher that the job supplies bring the trainers that attach waits for, for example by a batch system.

It is the job's component `client_api_launcher`, any of nvflare's kind. What it launches joins like any other trainer,
by the rendezvous; what becomes of its processes is its own affair. Its calls may take long, so all are made on one
thread.
"""

import queue
import threading
from typing import Callable

from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from nvflare.app_common.abstract.launcher import Launcher, LauncherRunStatus
from nvflare.app_common.executors.client_api.backend_spec import TrainerError
from nvflare.app_common.executors.client_api.process import limits
from nvflare.app_common.executors.client_api.waiting import WaitableSignal
from nvflare.fuel.utils.log_utils import get_obj_logger
from nvflare.security.logging import secure_format_exception

# The job's component that launches its trainers.
LAUNCHER_COMPONENT = "client_api_launcher"
# Launchers know tasks; here one launch serves all tasks until its trainer is lost.
TASK_NAME = "attach"


class ForeignLauncher:
    def __init__(self, launcher: Launcher, fl_ctx: FLContext):
        """Initializes with a component of the job; nothing is launched before `launch`.

        Args:
            launcher: the component.
            fl_ctx: the context, at START_RUN.

        Raises:
            TrainerError: it is no Launcher.
        """
        if not isinstance(launcher, Launcher):
            raise TrainerError(f"component {LAUNCHER_COMPONENT} must be a Launcher, but is a {type(launcher)}")
        self.logger = get_obj_logger(self)
        self._launcher = launcher
        self._new_context = fl_ctx.get_engine().new_context
        self._is_initialized = False
        self._launches = queue.SimpleQueue()  # arguments of `launch`; None at the end
        self._stop = WaitableSignal()
        self._at_end = Signal()  # whether the last stop is to be a quick one
        self._thread = threading.Thread(target=self._serve, name="client_api_launcher", daemon=True)

    def launch(self, is_awaited: Callable[[], bool], on_failure: Callable[[str], None]) -> None:
        """Launches a trainer, the one before having been stopped, and watches for failure. Returns at once.

        Args:
            is_awaited: whether the trainer has yet to join.
            on_failure: told why no trainer will come.
        """
        self._launches.put((is_awaited, on_failure))
        if self._thread.ident is None:
            self._thread.start()

    def _serve(self) -> None:
        for is_awaited, on_failure in iter(self._launches.get, None):
            try:
                failure = self._launch()
                while not failure and is_awaited() and not self._stop.wait(limits.LAUNCHER_CHECK_INTERVAL):
                    failure = self._why_failed()
            except Exception as e:  # of the job's own code
                failure = f"failed: {secure_format_exception(e)}"
            if failure and is_awaited() and not self._stop.triggered:
                on_failure(f"the job's launcher {type(self._launcher).__name__} ({LAUNCHER_COMPONENT}) {failure}")
        if self._is_initialized:
            self._finalize()

    def _launch(self) -> str:
        if self._stop.triggered:
            return ""
        with self._new_context() as fl_ctx:
            if self._is_initialized:
                self._launcher.stop_task(TASK_NAME, fl_ctx, self._stop)
            else:
                self._is_initialized = True
                self._launcher.initialize(fl_ctx)
            was_launched = self._launcher.launch_task(TASK_NAME, Shareable(), fl_ctx, self._stop)
            return "" if was_launched else "has launched no trainer"

    def _why_failed(self) -> str:
        with self._new_context() as fl_ctx:
            status = self._launcher.check_run_status(TASK_NAME, fl_ctx)
        # One that was successful may have handed the trainer to somebody else.
        return "says that its trainer failed" if status == LauncherRunStatus.COMPLETE_FAILED else ""

    def _finalize(self) -> None:
        with self._new_context() as fl_ctx:
            try:
                self._launcher.stop_task(TASK_NAME, fl_ctx, self._at_end)
                self._launcher.finalize(fl_ctx)
            except Exception as e:  # of the job's own code
                self.logger.error(f"{type(self._launcher).__name__} did not stop well: {secure_format_exception(e)}")

    def close(self, knows_the_end: bool) -> None:
        """Has the launcher stop what it has launched, and waits for that, at most LAUNCHER_STOP_TIMEOUT seconds.

        Args:
            knows_the_end: whether the trainer was told that the job ends, and so may end by itself.
        """
        if not knows_the_end:
            self._at_end.trigger("the job ends")
        self._stop.trigger("the job ends")
        self._launches.put(None)
        if self._thread.is_alive():
            self._thread.join(limits.LAUNCHER_STOP_TIMEOUT)
        if self._thread.is_alive():
            self.logger.warning(f"{type(self._launcher).__name__} did not stop within {limits.LAUNCHER_STOP_TIMEOUT} s")
