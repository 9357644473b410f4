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

"""Finds the processes of a test by a mark in their environment, whoever their parents are, and waits for their end.

And lets this process run out of what it needs to start others.
"""

import os
import resource
import select
import sys
import threading
from contextlib import contextmanager

import pytest

MARKER = "TRAINER_PROCESS_TEST"
CHILD = os.path.join(os.path.dirname(os.path.abspath(__file__)), "misbehaving_child.py")
# The marks of a module whose tests use this.
WITH_PROCESSES = [pytest.mark.watchdog(180), pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")]


def marked_pids(marker):
    entry, found = f"{MARKER}={marker}".encode(), set()
    for pid in (name for name in os.listdir("/proc") if name.isdigit()):
        try:
            with open(f"/proc/{pid}/environ", "rb") as f:
                if entry in f.read():
                    found.add(int(pid))
        except OSError:
            pass  # gone, or another user's
    return found


def wait_gone(pids, seconds):
    """Waits for processes that are not our children; returns those that still live."""
    pidfds = {}
    for pid in pids:
        try:
            pidfds[os.pidfd_open(pid)] = pid
        except ProcessLookupError:
            pass
    try:
        while pidfds:
            ready, _, _ = select.select(list(pidfds), [], [], seconds)
            if not ready:
                return set(pidfds.values())
            for fd in ready:
                os.close(fd)
                del pidfds[fd]
    finally:
        for fd in pidfds:
            os.close(fd)
    return set()


@contextmanager
def few_descriptors(left=2):
    """Leaves this process so many file descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unused = [os.open(os.devnull, os.O_RDONLY) for _ in range(left + 1)]  # the lowest ones that are free
    for fd in unused:
        os.close(fd)
    resource.setrlimit(resource.RLIMIT_NOFILE, (unused[-1], hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextmanager
def no_more_threads():
    """Has the system refuse this process further threads: there is no room for their stacks."""
    size = threading.stack_size(1 << 46)
    try:
        yield
    finally:
        threading.stack_size(size)


@contextmanager
def limited_files(size: int):
    """Has the system refuse this process files of more bytes, memory that is one included."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
