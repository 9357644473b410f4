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

A backend, or any launcher-based executor, calls TrainerProcess in the client job process. Each start makes an OwnedTree
(process_tree.py), whose thread feeds the output to an OutputLines and hands the lines that pass its bounds to
`log_line`, by default the site's log at the level that the line itself announces. The last lines are kept, logged or
not, for the cause of a failure. No protocol is known here: whoever calls `stop` has told the trainer to end.
"""

import os
import shlex
import sys
import threading
from typing import Callable, Dict, List, Mapping, Optional, Sequence

from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from nvflare.app_common.abstract.launcher import Launcher, LauncherRunStatus
from nvflare.app_common.executors.client_api.output_lines import OutputLines, level_of, without_level
from nvflare.app_common.executors.client_api.process_tree import OwnedTree, ProcessStatus, TrainerLaunchError, TreeUsage
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
        command: str = "",
        shutdown_timeout: float = 30.0,
        stop_grace_period: float = 30.0,
        log_line: Optional[Callable[[str], None]] = None,
        on_exit: Optional[Callable[[str], None]] = None,
    ):
        """Owns at most one trainer process tree at a time.

        Every method may be called from any thread but the one that runs the callbacks; start and stop wait for
        one another. The callbacks run on the watching thread: they must return soon, and call neither start nor stop.

        Args:
            command (str): what launch_task() starts, split by split_command(). start() does not use it.
            shutdown_timeout (float): default of stop(), seconds.
            stop_grace_period (float): default of stop(), seconds; also from the death of the CJ to SIGKILL.
            log_line (Callable[[str], None]): receives each line of output. Default: the logger, at level_of(line).
            on_exit (Callable[[str], None]): receives exit_text() once per launch, when the command has ended for
                whatever reason, stop() included; everything that it wrote is in output_tail() by then.
        """
        super().__init__()
        self.command = command
        self.shutdown_timeout = shutdown_timeout
        self.stop_grace_period = stop_grace_period
        self.log_line = log_line
        self.on_exit = on_exit
        self._lifecycle = threading.Lock()
        self._tree: Optional[OwnedTree] = None

    def start(
        self,
        argv: Sequence[str],
        cwd: Optional[str] = None,
        env: Optional[Mapping[str, str]] = None,
        left_file: str = "",
    ) -> None:
        """Starts a command; returns when it runs. What an ended one has left is stopped first.

        Args:
            argv (Sequence[str]): the command and its arguments; no shell.
            cwd (str): working directory; None: that of this process.
            env (Mapping[str, str]): its whole environment; None: that of this process. A tag is added.
            left_file (str): a file to be removed if this process dies before it could do so.

        Raises:
            TrainerLaunchError: nothing was started, nothing is left; see its subclasses.
            RuntimeError: a command is running.
        """
        if os.name != "posix":
            raise TrainerLaunchError(f"trainer processes need a POSIX system, this is {sys.platform}")
        if not argv:
            raise TrainerLaunchError("there is no command to start")
        with self._lifecycle:
            if self.status() is ProcessStatus.RUNNING:
                raise RuntimeError(f"trainer process {self.pid} is running")
            self._stop_tree(0.0, self.stop_grace_period)
            self._tree = OwnedTree(
                [os.fspath(arg) for arg in argv],
                os.path.abspath(cwd or os.curdir),
                os.environ if env is None else env,
                self.stop_grace_period,
                OutputLines(),
                self._handle_line,
                self._handle_exit,
                left_file,
            )
            self._tree.wait_started()

    def stop(self, shutdown_timeout: Optional[float] = None, stop_grace_period: Optional[float] = None) -> None:
        """Ends the tree; the caller has already told the trainer to end. Idempotent, never raises.

        Waits shutdown_timeout seconds for the command to exit; SIGTERM to all that is left; after stop_grace_period
        seconds SIGKILL. Returns when no process, thread or file descriptor is left, a few seconds later at most.
        """
        with self._lifecycle:
            self._stop_tree(
                self.shutdown_timeout if shutdown_timeout is None else shutdown_timeout,
                self.stop_grace_period if stop_grace_period is None else stop_grace_period,
            )

    def _stop_tree(self, shutdown_timeout: float, grace: float) -> None:
        if self._tree and self._tree.status is not ProcessStatus.STOPPED:
            self._tree.stop(shutdown_timeout, grace)

    def status(self) -> ProcessStatus:
        return self._tree.status if self._tree else ProcessStatus.NEW

    @property
    def pid(self) -> Optional[int]:
        """The pid of the command, also after its end; None before the first start."""
        return self._tree.pid if self._tree else None

    @property
    def returncode(self) -> Optional[int]:
        """As subprocess has it: negative for a signal; None while it runs, or if the guard died before it."""
        return self._tree.returncode if self._tree else None

    def wait(self, timeout: Optional[float] = None) -> bool:
        """Waits for the command to end (seconds; None: without limit). Returns whether it has."""
        return self._tree is None or self._tree.wait_exit(timeout)

    def exit_text(self) -> str:
        """Returns why the command ended, for example "exit code 3" or "killed by SIGKILL"; empty while it runs."""
        return self._tree.exit_text() if self._tree else ""

    def output_tail(self) -> str:
        """Returns the last lines of the output, bounded by TAIL_LINES and TAIL_BYTES."""
        return self._tree.output.tail() if self._tree else ""

    def cpu_and_state(self) -> TreeUsage:
        """Returns CPU use and state of the whole tree, from /proc: tells a frozen trainer from a busy one."""
        return self._tree.usage() if self._tree else TreeUsage(0.0, False)

    def finalize(self, fl_ctx: FLContext) -> None:
        self.stop()

    def launch_task(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> bool:
        """Starts the configured command unless it runs."""
        if self.status() is ProcessStatus.RUNNING:
            return True
        try:
            self.start(split_command(self.command), self.get_app_dir(fl_ctx), launch_environment(fl_ctx))
        except (TrainerLaunchError, ValueError) as e:
            self.log_error(fl_ctx, f"cannot launch the trainer: {e}")
            return False
        return True

    def stop_task(self, task_name: str, fl_ctx: FLContext, abort_signal: Signal) -> None:
        self.stop()

    def check_run_status(self, task_name: str, fl_ctx: FLContext) -> str:
        status = self.status()
        if status is ProcessStatus.EXITED:
            return LauncherRunStatus.COMPLETE_FAILED if self.returncode else LauncherRunStatus.COMPLETE_SUCCESS
        running = status in (ProcessStatus.STARTING, ProcessStatus.RUNNING)
        return LauncherRunStatus.RUNNING if running else LauncherRunStatus.NOT_RUNNING

    def _handle_line(self, line: str) -> None:
        if self.log_line:
            self.log_line(line)
        else:
            self.logger.log(level_of(line), "%s", without_level(line))

    def _handle_exit(self, text: str) -> None:
        if self.on_exit:
            self.on_exit(text)


def launch_environment(fl_ctx: FLContext) -> Dict[str, str]:
    """Returns the environment of a trainer: ours, the Client API type, and the job's custom code on PYTHONPATH."""
    env = dict(os.environ, CLIENT_API_TYPE="EX_PROCESS_API")
    add_custom_dir_to_path(fl_ctx.get_workspace().get_app_custom_dir(fl_ctx.get_job_id()), env)
    return env
