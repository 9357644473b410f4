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

"""The process between a client job process (CJ) and the user's command: the whole tree ends when it should.

The CJ starts this file as a script, with the environment of the command, in a new session. The guard starts the
command in a session of its own and stays its parent. Data flow:
- stdin is the lifeline: only the CJ holds its other end. A line "stop SECONDS" orders SIGTERM to all and SIGKILL that
  much later; end of file means that the CJ is gone, however it died, and orders the same with the grace period.
- the status pipe carries one line per event to the CJ: "pid N", "error STAGE ERRNO", "exit WAITSTATUS", "term COUNT",
  "kill COUNT", "gone".
- stdout and stderr go from the command straight to the CJ. The guard has the other end, too, and reads there when the
  CJ is gone, into nothing: a command that prints while it is told to end could neither save nor end in its own way.
On Linux the guard is a child subreaper, so that every orphan of the tree becomes its child, and the kernel kills the
command should the guard be killed. A tag in the environment finds the tree, for the guard and without it: see
process_table.py, the only import beside the standard library's cheap ones, which delay every launch.
"""

import os
import select
import signal
import sys
import time
from contextlib import suppress

from process_table import KILL_LIMIT, RESCAN_INTERVAL, TAG_NAME, end_tree, open_pidfd, signal_tree

# poll() counts milliseconds in 31 bits; a longer wait is taken up again.
MAX_POLL = 1_000_000

# Of output that nobody reads any more.
READ_BYTES = 65536
LIFELINE = 0
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def _load_prctl():
    """Returns prctl(option, value) -> 0 if it worked, or a function that never works."""
    with suppress(ImportError, OSError, AttributeError):
        import ctypes

        libc_prctl = ctypes.CDLL(None).prctl
        return lambda option, value: libc_prctl(option, ctypes.c_ulong(value), 0, 0, 0)
    return lambda option, value: -1


class Guard:
    """Starts one command and outlives its tree. Single-threaded: all events meet in `run`."""

    def __init__(self, status_fd, output_fd, grace, tag):
        self.status_fd = status_fd
        self.output_fd = output_fd
        self.grace = grace
        self.tag = tag
        self.leader = None  # pid of the command, also its process group
        self.deadline = None  # time of the next SIGKILL; None: nobody has ordered a stop
        self.pause = 0.0  # seconds from the last SIGKILL to the next; 0: there was none
        self.is_orphan = False  # the CJ is gone
        self.poller = select.poll()
        self.handlers = {}  # of each descriptor that is polled
        self.prctl = _load_prctl()
        self.is_subreaper = self.prctl(PR_SET_CHILD_SUBREAPER, 1) == 0

    def report(self, *words):
        with suppress(OSError):  # the CJ is gone; the lifeline says so
            os.write(self.status_fd, (" ".join(map(str, words)) + "\n").encode())

    def start(self, cwd, command):
        """Starts the command. Reports its pid, or the stage and errno of the failure; returns whether it runs."""
        errors, child_errors = os.pipe()
        self.leader = os.fork()
        if self.leader == 0:
            self._become(cwd, command, child_errors)
        os.close(child_errors)
        failure = os.read(errors, 100).decode()  # end of file when exec has closed the other end
        os.close(errors)
        if failure:
            os.waitpid(self.leader, 0)
        self.report("error" if failure else "pid", failure or self.leader)
        return not failure

    def _become(self, cwd, command, errors):
        guard, stage = os.getppid(), "start"
        try:
            os.setsid()
            self.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != guard:
                os._exit(127)  # the guard died before the line above
            for signum in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
                signal.signal(signum, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            os.dup2(os.open(os.devnull, os.O_RDONLY), LIFELINE)
            stage = "cwd"
            os.chdir(cwd)
            stage = "command"
            os.execvp(command[0], command)
        except OSError as e:
            os.write(errors, f"{stage} {e.errno}".encode())
        finally:
            os._exit(127)

    def run(self):
        """Serves events until no process of the tree remains."""
        wakeups = os.pipe()
        for fd in wakeups:
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(wakeups[1], warn_on_full_buffer=False)
        self._handle(LIFELINE, self._on_lifeline)
        self._handle(wakeups[0], self._on_signal)
        # A copy of the lifeline in a forked child of the CJ must not hide the CJ's death.
        cj = open_pidfd(os.getppid())
        if cj is not None:
            self._handle(cj, self._on_cj_end)
        while self._reap():
            rest = None if self.deadline is None else min(max(0.0, self.deadline - time.monotonic()), MAX_POLL)
            for fd, _ in self.poller.poll(None if rest is None else rest * 1000 + 1):
                if not self.handlers[fd](fd):
                    self.poller.unregister(fd)
            if self.deadline is not None and time.monotonic() >= self.deadline:
                self._kill()
        if not self.is_subreaper:
            end_tree(self.tag, self.leader)  # orphans went to init; the group's number may soon be another one's
        self.report("gone")

    def _handle(self, fd, handler):
        """Has a function called when a descriptor is readable, until it returns False."""
        self.handlers[fd] = handler
        self.poller.register(fd, select.POLLIN)

    def _reap(self):
        """Reaps every ended child; returns whether there are others. A subreaper without children has no tree."""
        while True:
            try:
                pid, wait_status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self.leader:
                self.report("exit", wait_status)

    def _on_lifeline(self, fd):
        orders = os.read(fd, 4096).decode().split("\n")[:-1]
        for order in orders:
            self._stop(float(order.split()[1]))
        return bool(orders) or self._on_cj_end(fd)

    def _on_cj_end(self, _fd):
        self.is_orphan = True
        self._handle(self.output_fd, self._on_output)
        self._stop(self.grace)
        return False

    def _on_output(self, fd):
        with suppress(BlockingIOError):  # a forked child of the CJ has read it
            return bool(os.read(fd, READ_BYTES))
        return True

    def _on_signal(self, fd):
        if signal.SIGTERM in os.read(fd, 512):
            self._stop(self.grace)
        if self.pause:
            self.deadline = time.monotonic()  # a child has died, and may have left another
        return True

    def _stop(self, grace):
        deadline = time.monotonic() + grace
        if self.deadline is None:
            # SIGCONT: a stopped process would never see the SIGTERM.
            pidfds, count = signal_tree(self.tag, self.leader, signal.SIGTERM, signal.SIGCONT)
            for pidfd in pidfds:
                os.close(pidfd)
            self.report("term", count)
            self.deadline = deadline
        self.deadline = min(self.deadline, deadline)

    def _kill(self):
        count, _ = end_tree(self.tag, self.leader, 0.0)
        if not self.pause:
            self.report("kill", count)
        # Again and again while there are children: for what was born in between, and what the kernel cannot end yet.
        self.pause = min(max(2 * self.pause, RESCAN_INTERVAL), KILL_LIMIT)
        self.deadline = time.monotonic() + self.pause


def _identity(path):
    with suppress(OSError):  # there is none
        status = os.lstat(path)
        return status.st_dev, status.st_ino, status.st_mtime_ns


def main(args):
    (status_fd, output_fd), grace = map(int, args[:2]), float(args[2])
    left_file, cwd, command = args[3], args[4], args[5:]
    for fd in (status_fd, output_fd):
        os.set_inheritable(fd, False)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for signum in (signal.SIGINT, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    for signum in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(signum, lambda *_: None)  # the wakeup fd tells
    guard = Guard(status_fd, output_fd, grace, os.environ[TAG_NAME])
    left = _identity(left_file)
    if guard.start(cwd, command):
        guard.run()
    if guard.is_orphan and left and left == _identity(left_file):  # and not what the next job has there
        with suppress(OSError):  # it is gone already
            os.remove(left_file)


if __name__ == "__main__":
    main(sys.argv[1:])
