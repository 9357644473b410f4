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

"""The processes of a tree, in the kernel's table: found by the tag in their environment, and signalled.

The process guard runs as a script, with this file beside it and before anything of nvflare's could be imported; the CJ
imports it like any other module. So only cheap imports here: they delay every launch.
"""

import os
import select
import signal
import time
from collections import namedtuple
from contextlib import suppress

# The limits of a guard, which cannot import limits.py; the others of this room are there. None can be set.
# Seconds in which processes are expected to vanish after SIGKILL.
KILL_LIMIT = 1.5
# Seconds between two scans: catches what was forked during a scan, and kernels without pidfd.
RESCAN_INTERVAL = 0.05

TAG_NAME = "NVFLARE_TRAINER_TAG"
HAS_PROC = os.path.exists("/proc/self/stat")

# state is the letter of /proc/PID/stat, of a living thread where the main thread alone has ended: `thread` is the one.
# start_time and cpu are in clock ticks, cpu includes reaped children.
Process = namedtuple("Process", "pid ppid group state start_time cpu thread")
DEAD = "ZX"


def _read(path):
    try:
        with open(f"/proc/{path}", "rb", buffering=0) as f:
            return f.read()
    except OSError:
        return b""  # gone, or another user's


def _stat(path):
    return _read(f"{path}/stat").rpartition(b")")[2].decode().split()  # the name before it may contain anything


def read_process(pid):
    """Returns the Process of a pid, None if there is none."""
    fields = _stat(pid)
    if not fields:
        return None
    state, thread = fields[0], pid
    if state in DEAD and int(fields[17]) > 1:
        with suppress(OSError):  # now it is gone
            state, thread = _living_thread(pid)
    ppid, group, start_time = (int(fields[index]) for index in (1, 2, 19))
    return Process(pid, ppid, group, state, start_time, sum(map(int, fields[11:15])), thread)


def _living_thread(pid):
    for thread in map(int, os.listdir(f"/proc/{pid}/task")):
        state = "".join(_stat(f"{pid}/task/{thread}")[:1])
        if state not in DEAD:
            return state, thread
    return "Z", pid


def list_processes():
    """Returns every Process that can be seen; none where there is no /proc."""
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()] if HAS_PROC else ()
    return [process for process in map(read_process, pids) if process]


def read_file(process, name):
    """Returns what a file of a Process in /proc says; nothing if it is gone or another user's."""
    return _read(f"{process.pid}/task/{process.thread}/{name}")


def find_tree(tag):
    """Finds the living processes that carry the tag, and their descendants, except the caller.

    A process that overwrote its environment is found through its parent, an orphan through its tag.

    Args:
        tag (str): value of TAG_NAME in the environment of the tree.

    Returns:
        A list of Process; empty where there is no /proc.
    """
    entry, children, found = f"{TAG_NAME}={tag}".encode(), {}, {}
    processes = list_processes()
    for process in processes:
        children.setdefault(process.ppid, []).append(process)
    pending = [process for process in processes if process.state not in DEAD and entry in read_file(process, "environ")]
    while pending:
        process = pending.pop()
        if process.pid not in found:
            found[process.pid] = process
            pending.extend(children.get(process.pid, ()))
    return [process for process in found.values() if process.state not in DEAD and process.pid != os.getpid()]


def open_pidfd(pid):
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None  # gone, or no pidfd on this platform


def send_signal(process, *signums):
    """Signals a Process, and never a later one with the same pid.

    Returns:
        A pidfd, for the caller to close, if the process was there and the platform has pidfds; else None.
    """
    pidfd = open_pidfd(process.pid)
    # The pidfd pins whatever has the pid now; the start time tells whether that is still the process of the scan.
    current = read_process(process.pid)
    if current and current.start_time == process.start_time:
        try:
            for signum in signums:
                if pidfd is None:
                    os.kill(process.pid, signum)
                else:
                    signal.pidfd_send_signal(pidfd, signum)
            return pidfd
        except OSError:
            pass  # just gone, or another user's
    if pidfd is not None:
        os.close(pidfd)
    return None


def signal_tree(tag, group, *signums):
    """Signals every process of a tree once; without /proc the process group, unless that is None: there is none.

    Returns:
        (pidfds, number of processes found); the caller closes the pidfds.
    """
    if not HAS_PROC:
        return [], int(_signal_group(group, *signums))
    tree = find_tree(tag)
    pidfds = [fd for fd in (send_signal(process, *signums) for process in tree) if fd is not None]
    if signal.SIGKILL in signums:
        # Who forks a successor and exits at once is ahead of every scan; its group is not, the kernel kills it as one.
        for found in {process.group for process in tree} - {os.getpgrp()}:
            _signal_group(found, *signums)
    return pidfds, len(tree)


def _signal_group(group, *signums):
    if group is not None:
        with suppress(OSError):  # it is gone, or another user's
            for signum in signums:
                os.killpg(group, signum)
            return True
    return False


def end_tree(tag, group, limit=KILL_LIMIT):
    """SIGKILLs a tree until nothing of it lives, what is forked meanwhile included.

    Args:
        tag (str): value of TAG_NAME in the environment of the tree.
        group (int): process group of the command, for platforms without /proc; None if there is none.
        limit (float): seconds.

    Returns:
        (number of processes found at first, whether none lives any more)
    """
    deadline = time.monotonic() + limit
    first = None
    while True:
        pidfds, count = signal_tree(tag, group, signal.SIGKILL)
        first = count if first is None else first
        poller = select.poll()
        for pidfd in pidfds:
            poller.register(pidfd, select.POLLIN)
        try:
            if count == 0 or not HAS_PROC:
                return first, True
            if time.monotonic() >= deadline:
                return first, False
            poller.poll(RESCAN_INTERVAL * 1000)  # returns as soon as one of them has died
        finally:
            for pidfd in pidfds:
                os.close(pidfd)
