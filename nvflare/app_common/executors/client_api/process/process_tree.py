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

"""One launch: the process tree of a command, from its start until nothing of it is left, as its owner sees it.

OwnedTree.start starts process_guard.py as a child of the client job process (CJ), and the guard starts the command.
Three pipes lead to the guard: the lifeline (orders; the kernel closes it when the CJ dies), the status pipe (one line
per event) and the output of command and guard. One thread reads both of the latter, so that what was written before an
exit is known when the exit is told; it alone changes the status, until `stop` closes the book. The owner gets lines and
the exit through two callbacks, and waits on one condition. Standard library only; no protocol is known here.

Borrowed: the ladder of `stop` from jupyter_client's kernel shutdown, the role of OwnedTree from torch elastic's
SubprocessHandler, a launch that leaves nothing behind from trio's `_open_process`.
"""

import errno
import logging
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, suppress
from enum import Enum
from typing import BinaryIO, Callable, List, Mapping, NamedTuple, Optional, Sequence

from nvflare.app_common.executors.client_api.formats.outside_text import told_by_script
from nvflare.app_common.executors.client_api.process import limits, process_table
from nvflare.app_common.executors.client_api.process.orphans import GUARD, new_tag
from nvflare.app_common.executors.client_api.process.output_lines import OutputLines

logger = logging.getLogger(__name__)


class TrainerLaunchError(RuntimeError):
    """The command could not be started; the text says what and why."""


class ProcessStatus(str, Enum):
    """What of a launch is there; see _MOVES for what follows what."""

    STARTING = "starting"
    RUNNING = "running"
    EXITED = "exited"  # the command has ended, descendants may be left
    STOPPED = "stopped"  # nothing is left


_MOVES = {
    ProcessStatus.STARTING: {ProcessStatus.RUNNING, ProcessStatus.STOPPED},
    ProcessStatus.RUNNING: {ProcessStatus.EXITED, ProcessStatus.STOPPED},
    ProcessStatus.EXITED: {ProcessStatus.STOPPED},
    ProcessStatus.STOPPED: set(),
}


_ENDED = {ProcessStatus.EXITED, ProcessStatus.STOPPED}


class TreeUsage(NamedTuple):
    """What the processes of a launch have done, and whether they can do anything."""

    cpu_seconds: float  # of all processes, ended ones included
    is_stopped: bool  # there are processes, and a signal (SIGSTOP, a debugger) has stopped every one


def describe_exit(returncode: int) -> str:
    """Returns "exit code 3" or "killed by SIGKILL" for a return code as subprocess has it."""
    if returncode >= 0:
        return f"exit code {returncode}"
    try:
        return f"killed by {signal.Signals(-returncode).name}"
    except ValueError:
        return f"killed by signal {-returncode}"


class OwnedTree:
    """One launch: the guard, the command and all its descendants, and the thread that watches them."""

    def __init__(
        self,
        argv: Sequence[str],
        cwd: str,
        grace: float,
        on_line: Callable[[str], None],
        on_exit: Callable[[str], None],
        left_file: str = "",
    ):
        """Describes a launch; nothing is started before `start()`.

        Args:
            argv (Sequence[str]): the command and its arguments; no shell.
            cwd (str): its working directory.
            grace (float): seconds from the death of this process to SIGKILL.
            on_line (Callable[[str], None]): receives each line, on the watching thread.
            on_exit (Callable[[str], None]): receives why a started command has ended, such as "exit code 3" or "killed
                by SIGKILL", once it has, on the same thread.
            left_file (str): a file that the guard removes if this process dies before it could.
        """
        self.pid: Optional[int] = None  # of the command, also after its end
        self.returncode: Optional[int] = None  # as subprocess has it; None if the guard died before the command
        self.was_signalled = False  # the command was not left to end by itself
        self.error = ""  # why it was not started
        self.status = ProcessStatus.STARTING
        self.output = OutputLines()
        self._command = (argv, cwd)
        self._guard_args = [str(grace), left_file, cwd, *argv]
        self._on_line, self._on_exit = on_line, on_exit
        self._changed = threading.Condition()
        self._tag = new_tag()
        self._since = time.monotonic()  # the launch, later the stop
        self._guard: Optional[subprocess.Popen] = None
        self._group: Optional[int] = None  # of the command, until the guard says that nothing is left
        self._status_fd = -1
        self._output_pipe: Optional[BinaryIO] = None  # its other end is the output of command and guard
        self._thread = threading.Thread(target=self._watch, name="trainer-watch", daemon=True)

    def start(self, env: Mapping[str, str]) -> None:
        """Returns when the command runs, with this environment and a tag.

        Raises:
            TrainerLaunchError: nothing was started, nothing is left.
        """
        if os.name != "posix":
            raise TrainerLaunchError(f"trainer processes need a POSIX system, this is {sys.platform}")
        try:
            self._start_guard({**env, process_table.TAG_NAME: self._tag})
        except (OSError, ValueError, TypeError, RuntimeError) as e:  # out of descriptors, of threads; a null byte
            self._fail(f"cannot start the process guard of {self._command[0][0]!r}: {e}")
        with self._changed:
            if not self._changed.wait_for(lambda: self.status is not ProcessStatus.STARTING, limits.LAUNCH_LIMIT):
                self.error = f"{self._command[0][0]!r} was not started within {limits.LAUNCH_LIMIT} s"
        if self.error:
            self.stop(0.0, 0.0)
            raise TrainerLaunchError(self.error)

    def _start_guard(self, env: Mapping[str, str]) -> None:
        with ExitStack() as undo:
            with ExitStack() as of_guard:
                self._status_fd, guard_status_fd = os.pipe()
                undo.callback(os.close, self._status_fd)
                of_guard.callback(os.close, guard_status_fd)
                output_fd, guard_output_fd = os.pipe()
                self._output_pipe = open(output_fd, "rb", buffering=0)
                undo.callback(self._output_pipe.close)
                of_guard.callback(os.close, guard_output_fd)
                os.set_blocking(output_fd, False)
                self._guard = subprocess.Popen(
                    [sys.executable, "-EsS", str(GUARD), str(guard_status_fd), str(output_fd), *self._guard_args],
                    bufsize=0,
                    stdin=subprocess.PIPE,
                    stdout=guard_output_fd,
                    stderr=subprocess.STDOUT,
                    env=env,
                    pass_fds=(guard_status_fd, output_fd),
                    start_new_session=True,
                )
            undo.pop_all()
            undo.callback(self._settle)
            undo.callback(self._guard.kill)
            self._thread.start()
            undo.pop_all()

    def wait_exit(self, timeout: Optional[float]) -> bool:
        """Waits (seconds; None: without limit) for the command to end; returns whether it has."""
        with self._changed:
            return self._changed.wait_for(lambda: self.status in _ENDED, timeout)

    def usage(self) -> Optional[TreeUsage]:
        """Returns what tells a frozen trainer from a busy one, of the whole tree; None where there is no /proc."""
        if not process_table.HAS_PROC:
            return None
        tree = process_table.find_tree(self._tag)
        states = [process.state for process in tree if process.pid != self._guard.pid]
        ticks = sum(process.cpu for process in tree)
        return TreeUsage(ticks / os.sysconf("SC_CLK_TCK"), bool(states) and all(state in "Tt" for state in states))

    def stop(self, shutdown_timeout: float, grace: float) -> None:
        """The ladder: natural exit, SIGTERM, SIGKILL (both by the guard), and past a deaf guard. Always reaped.

        Waits shutdown_timeout seconds for the command to exit; SIGTERM to all that is left; after `grace` seconds
        SIGKILL. Returns when no process, thread or file descriptor is left, a few seconds later at most. Idempotent.
        """
        if self.status is ProcessStatus.STOPPED and not self._thread.is_alive():
            return
        self._since = time.monotonic()
        self._guard.send_signal(signal.SIGCONT)  # a stopped guard could neither report nor obey
        if not self.wait_exit(shutdown_timeout):
            level = logging.WARNING if shutdown_timeout else logging.INFO
            self._log(f"no exit by itself within {shutdown_timeout:g} s (shutdown_timeout)", level)
        with self._changed:
            if not self._guard.stdin.closed:
                with suppress(BrokenPipeError):  # the guard has just ended
                    self._guard.stdin.write(f"stop {grace}\n".encode())
        self._thread.join(grace + limits.GUARD_LIMIT)
        if self._thread.is_alive():
            self._log("the process guard does not answer: SIGKILL to all")
            self._guard.kill()
        _, is_clean = process_table.end_tree(self._tag, self._group)
        self._thread.join(limits.GUARD_LIMIT)
        with self._changed:
            self._move(ProcessStatus.STOPPED, "nothing is left" if is_clean else "processes survive SIGKILL")

    def _watch(self) -> None:
        try:
            self._serve()
        except Exception:
            logger.exception(f"trainer process {self.pid}: the watch failed")
        finally:
            self._settle()

    def _serve(self) -> None:
        poller = select.poll()
        poller.register(self._status_fd, select.POLLIN)
        poller.register(self._output_pipe, select.POLLIN)
        while True:
            ready = [fd for fd, _ in poller.poll(1000 if self.output.is_dropping else None)]
            if self._status_fd in ready:
                reports = os.read(self._status_fd, limits.READ_BYTES).decode()
                if not reports:
                    return
                for report in reports.splitlines():
                    self._on_report(*report.split())
            self._pump()

    def _pump(self) -> bool:
        """Logs one read of output; returns whether there was any."""
        data = self._output_pipe.read(limits.READ_BYTES)  # None: nothing there now; b"": no writer is left
        self._log_lines(self.output.feed(data or b"", time.monotonic()))
        return bool(data)

    def _drain(self) -> None:
        for _ in range(limits.DRAIN_READS):
            if not self._pump():
                return

    def _log_lines(self, lines: List[str]) -> None:
        for line in lines:
            _call(self._on_line, line)

    def _on_report(self, event: str, *values: str) -> None:
        if event == "pid":
            with self._changed:
                self.pid = self._group = int(values[0])
                self._move(ProcessStatus.RUNNING, f"pid {self.pid}, guard {self._guard.pid}")
        elif event == "error":
            self.error = _launch_error(*self._command, values[0], int(values[1]))
        elif event == "exit":
            self.returncode = os.waitstatus_to_exitcode(int(values[0]))
            self._leader_ended(describe_exit(self.returncode))
        elif event == "gone":
            self._group = None  # its number may be another one's by now
        elif event in ("term", "kill"):
            self.was_signalled = True
            self._log(f"SIG{event.upper()} to {values[0]} processes")

    def _leader_ended(self, how: str) -> None:
        self._drain()
        with self._changed:
            self._move(ProcessStatus.EXITED, how)
        _call(self._on_exit, how)

    def _settle(self) -> None:
        """The guard has ended, in its time or not: nothing of the tree may live on, nothing of ours may stay open."""
        try:
            self._guard.wait(limits.GUARD_LIMIT)
        except subprocess.TimeoutExpired:
            self._guard.kill()
            self._guard.wait()
        process_table.end_tree(self._tag, self._group)
        if self.status is ProcessStatus.RUNNING:
            self._leader_ended(f"its process guard ended first: {describe_exit(self._guard.returncode)}")
        self._drain()
        self._log_lines(self.output.flush())
        with self._changed:
            self._guard.stdin.close()
        if self.status is ProcessStatus.STARTING:
            failure = f"the process guard of {self._command[0][0]!r} failed: {told_by_script(self.output.tail())}"
            self._fail(self.error or failure)
        self._output_pipe.close()
        os.close(self._status_fd)

    def _fail(self, why: str) -> None:
        with self._changed:
            self.error = why
            self._move(ProcessStatus.STOPPED, why)

    def _move(self, status: ProcessStatus, why: str) -> None:
        """Changes the status, with the condition held; a move that is not allowed has been overtaken."""
        if status in _MOVES[self.status]:
            self._log(f"{self.status.value} -> {status.value}: {why}")
            self.status = status
            self._changed.notify_all()

    def _log(self, text: str, level: int = logging.INFO) -> None:
        who = self.pid or self._command[0][0]
        logger.log(level, f"trainer process {who}: {text} ({time.monotonic() - self._since:.3f} s)")


def _call(hook: Callable[[str], None], text: str) -> None:
    try:
        hook(text)
    except Exception:
        logger.exception("a callback of the trainer process failed")


def _launch_error(argv: Sequence[str], cwd: str, stage: str, code: int) -> str:
    command, reason = argv[0], os.strerror(code)
    if stage == "cwd":
        return f"cannot run {command!r} in the working directory {cwd!r}: {reason}"
    if stage != "command":
        return f"cannot start {command!r}: {reason}"
    path = os.path.join(cwd, command)
    if code in (errno.ENOENT, errno.ENOTDIR):
        if os.path.exists(path) if os.sep in command else shutil.which(command):
            return f"the interpreter that {command!r} names in its first line does not exist"
        return f"command not found: {command!r} (working directory {cwd!r})"
    return f"cannot execute {command!r}: {'Is a directory' if os.path.isdir(path) else reason}"
