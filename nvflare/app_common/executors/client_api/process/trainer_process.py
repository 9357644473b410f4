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

"""The trainer process of a job: a Launcher that owns at most one process tree, and what of its output is logged.

external_process drives it through Launcher's own methods, and so may attach (component `client_api_launcher`) or any
launcher-based executor of nvflare's. Each launch makes an OwnedTree (process_tree.py), whose thread feeds the output to
an OutputLines; the lines that pass its bounds go to the site's log (see log_lines.py). No
protocol is known here: whoever stops the trainer has told it to end.
"""

import logging
import os
import shlex
import threading
from typing import Callable, Dict, List, Optional

from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from nvflare.app_common.abstract.launcher import Launcher, LauncherRunStatus
from nvflare.app_common.executors.client_api.formats.log_lines import log_line
from nvflare.app_common.executors.client_api.process.limits import SHUTDOWN_TIMEOUT, STOP_GRACE_PERIOD
from nvflare.app_common.executors.client_api.process.process_tree import OwnedTree, ProcessStatus
from nvflare.security.logging import is_secure
from nvflare.utils.job_launcher_utils import add_custom_dir_to_path


def split_command(command: str) -> List[str]:
    """Splits a command line as a POSIX shell would; nothing is expanded and no shell runs.

    Raises:
        ValueError: the command is blank, or a quotation is not closed.
    """
    argv = shlex.split(command)
    if not argv:
        raise ValueError(f"command must not be blank, but got {command!r}")
    return argv


class TrainerProcess(Launcher):
    def __init__(
        self,
        command: str,
        shutdown_timeout: Optional[float] = None,
        stop_grace_period: float = STOP_GRACE_PERIOD,
    ):
        """Owns at most one trainer process tree at a time; its methods may be called from any thread but on_exit's.

        Whoever drives it may set two attributes. `on_exit` receives why the command has ended, such as "exit code 3",
        once per launch, stop_task() included; all that the command wrote is in the tree's output by then.
        It runs on the watching thread: it must return soon, and call nothing here. `left_file` is a file to be removed
        if this process dies before it could do so.

        Args:
            command (str): the command line, split by split_command().
            shutdown_timeout (float): seconds that stop_task() gives the command to exit by itself; None: 30.
            stop_grace_period (float): seconds from SIGTERM, or from the death of this process, to SIGKILL.
        """
        super().__init__()
        self.command = command
        self.shutdown_timeout = shutdown_timeout
        self.stop_grace_period = stop_grace_period
        self.on_exit: Callable[[str], None] = lambda how: None
        self.left_file = ""
        self.tree: Optional[OwnedTree] = None  # of the last launch
        self._turn = threading.Lock()  # held while a tree is started or stopped

    def launch_task(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> bool:
        """Starts the command unless it runs; what an ended one has left is stopped first. Returns when it runs.

        Raises:
            TrainerLaunchError: nothing was started, nothing is left; a False could not say why.
            ValueError: the command cannot be split.
        """
        with self._turn:
            if self.tree and self.tree.status is ProcessStatus.RUNNING:
                return True
            if self.tree:
                self.tree.stop(0.0, self.stop_grace_period)
            self.tree = OwnedTree(
                split_command(self.command),
                self.get_app_dir(fl_ctx),
                self.stop_grace_period,
                self._handle_line,
                self.on_exit,
                self.left_file,
            )
            self.tree.start(launch_environment(fl_ctx))
            return True

    def stop_task(self, task_name: str, fl_ctx: FLContext, abort_signal: Signal) -> None:
        """Ends the tree; see OwnedTree.stop. A command that is not aborted gets its time to exit by itself."""
        with self._turn:
            if self.tree:
                limit = SHUTDOWN_TIMEOUT if self.shutdown_timeout is None else self.shutdown_timeout
                self.tree.stop(0.0 if abort_signal.triggered else limit, self.stop_grace_period)

    def check_run_status(self, task_name: str, fl_ctx: FLContext) -> str:
        status = self.tree.status if self.tree else ProcessStatus.STOPPED
        if status is ProcessStatus.EXITED:
            has_succeeded = self.tree.returncode == 0
            return LauncherRunStatus.COMPLETE_SUCCESS if has_succeeded else LauncherRunStatus.COMPLETE_FAILED
        return LauncherRunStatus.NOT_RUNNING if status is ProcessStatus.STOPPED else LauncherRunStatus.RUNNING

    def needs_deferred_stop(self) -> bool:
        """Each stop_task() ends the process, which may have something to finish, or to be pulled from."""
        return True

    def finalize(self, fl_ctx: FLContext) -> None:
        self.stop_task("", fl_ctx, Signal())

    def _handle_line(self, line: str) -> None:
        # The lines of an error log may go to the server.
        log_line(line, self.logger, highest=logging.INFO if is_secure() else logging.CRITICAL)


def launch_environment(fl_ctx: FLContext) -> Dict[str, str]:
    """Returns the environment of a trainer: ours, the Client API type, and the job's custom code on PYTHONPATH."""
    env = dict(os.environ, CLIENT_API_TYPE="EX_PROCESS_API")
    add_custom_dir_to_path(fl_ctx.get_workspace().get_app_custom_dir(fl_ctx.get_job_id()), env)
    return env
