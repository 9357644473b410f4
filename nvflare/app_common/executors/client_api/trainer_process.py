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

import logging
import os
import re
import shlex
import sys
import threading
from typing import Callable, Dict, List, Mapping, Optional, Sequence

from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from nvflare.app_common.abstract.launcher import Launcher, LauncherRunStatus
from nvflare.app_common.executors.client_api.process_tree import (
    OwnedTree,
    ProcessStatus,
    TrainerLaunchError,
    TreeUsage,
)
from nvflare.utils.job_launcher_utils import add_custom_dir_to_path

MAX_LINE_BYTES = 8192
TAIL_LINES, TAIL_BYTES = 50, 3072
LOG_RATE = 128 * 1024  # bytes per second
LOG_BURST = 4 * LOG_RATE  # bytes
LINE_COST = 100  # bytes that a log line costs beside its text

_LEVELS = {name: getattr(logging, name) for name in ("DEBUG", "INFO", "WARN", "WARNING", "ERROR", "CRITICAL", "FATAL")}
_LEVELS.update({name[0]: level for name, level in _LEVELS.items() if name != "CRITICAL"})  # glog's letters
_NAMES = "|".join(name for name in _LEVELS if len(name) > 1)
_LEVEL_PATTERN = re.compile(
    r"\[?\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d[.,\d]*Z?\]?[\s-]*(?:\S+ - ){0,2}?"  # time, perhaps a name or two, level
    rf"\[?(?P<after_time>{_NAMES})\b|\[?(?P<first>{_NAMES})(?::|\]| - )|(?P<glog>[DIWEF])\d{{4}} \d\d:\d\d:\d\d"
)
_LEVEL_PREFIX = re.compile(r"^(DEBUG|INFO|WARNING|ERROR|CRITICAL):")  # which the log shows once more
_ANSI_COLOR = re.compile(r"\x1b\[[\d;]*m")


def split_command(command: str) -> List[str]:
    """Splits a command line as a POSIX shell would; nothing is expanded and no shell runs.

    Raises:
        ValueError: the command is blank, or a quotation is not closed.
    """
    argv = shlex.split(command)
    if not argv:
        raise ValueError(f"command must not be blank, but got {command!r}")
    return argv


def level_of(line: str) -> int:
    """Returns the logging level that a line of output announces in one of the common formats, else logging.INFO."""
    match = _LEVEL_PATTERN.match(_ANSI_COLOR.sub("", line))
    return _LEVELS[match[match.lastgroup]] if match else logging.INFO


class OutputLines:
    """Makes log lines of a byte stream, in bounded memory and at a bounded rate. Pure: the clock is passed in."""

    def __init__(self, rate: float = LOG_RATE, burst: float = LOG_BURST):
        self._rate = rate
        self._burst = burst
        self._budget = burst
        self._clock: Optional[float] = None
        self._rest = b""  # of a line whose end has not come
        self._tail = b""
        self._dropped_lines = 0
        self._dropped_bytes = 0

    @property
    def is_dropping(self) -> bool:
        return self._dropped_bytes > 0

    def feed(self, data: bytes, now: float) -> List[str]:
        """Takes output, returns the lines to log now. `now` is in seconds, monotonic."""
        self._tail = (self._tail + data[-TAIL_BYTES:])[-TAIL_BYTES:]
        elapsed = 0.0 if self._clock is None else now - self._clock
        self._budget = min(self._burst, self._budget + elapsed * self._rate)
        self._clock = now
        # Having dropped, stay mute for a second: one notice per second and no single lines in between.
        if self._budget <= 0 or (self.is_dropping and self._budget < min(self._rate, self._burst)):
            self._drop(data)
            return []
        return self._take_notice() + self._split(data)

    def flush(self) -> List[str]:
        """Returns what is left to log when the output has ended."""
        rest, self._rest = self._rest, b""
        return self._take_notice() + ([rest.decode(errors="replace")] if rest else [])

    def tail(self) -> str:
        """Returns the last lines, logged or not, at most TAIL_LINES and TAIL_BYTES."""
        lines = self._tail.decode(errors="replace").splitlines()
        return "\n".join([line for line in lines if line.strip()][-TAIL_LINES:])

    def _split(self, data: bytes) -> List[str]:
        # A carriage return ends a line too: progress bars know no other end.
        *lines, self._rest = (self._rest + data).replace(b"\r", b"\n").split(b"\n")
        if len(self._rest) > MAX_LINE_BYTES:
            lines.append(self._rest)
            self._rest = b""
        logged = []
        for line in lines:
            for start in range(0, len(line), MAX_LINE_BYTES):
                piece = line[start : start + MAX_LINE_BYTES]
                if self._budget <= 0:
                    self._count_dropped(1, len(piece))
                    continue
                self._budget -= len(piece) + LINE_COST
                logged.append(piece.decode(errors="replace"))
        return logged

    def _drop(self, data: bytes) -> None:
        # At 100 MB/s there is time to count, not to split.
        self._count_dropped(data.count(b"\n"), len(data))
        self._rest = data[max(data.rfind(b"\n") + 1, len(data) - MAX_LINE_BYTES) :]

    def _count_dropped(self, lines: int, size: int) -> None:
        self._dropped_lines += lines
        self._dropped_bytes += size

    def _take_notice(self) -> List[str]:
        lines, size = self._dropped_lines, self._dropped_bytes
        self._dropped_lines = self._dropped_bytes = 0
        return [f"... {lines} lines dropped ({size} bytes): more output than the log takes"] if size else []


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

    def start(self, argv: Sequence[str], cwd: Optional[str] = None, env: Optional[Mapping[str, str]] = None) -> None:
        """Starts a command; returns when it runs. What an ended one has left is stopped first.

        Args:
            argv (Sequence[str]): the command and its arguments; no shell.
            cwd (str): working directory; None: that of this process.
            env (Mapping[str, str]): its whole environment; None: that of this process. A tag is added.

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
            self.logger.log(level_of(line), "%s", _LEVEL_PREFIX.sub("", line, count=1))

    def _handle_exit(self, text: str) -> None:
        if self.on_exit:
            self.on_exit(text)


def launch_environment(fl_ctx: FLContext) -> Dict[str, str]:
    """Returns the environment of a trainer: ours, the Client API type, and the job's custom code on PYTHONPATH."""
    env = dict(os.environ, CLIENT_API_TYPE="EX_PROCESS_API")
    add_custom_dir_to_path(fl_ctx.get_workspace().get_app_custom_dir(fl_ctx.get_job_id()), env)
    return env
