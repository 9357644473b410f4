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

"""Finds the processes of a test by a mark in their environment, whoever their parents are, and waits for their end."""

import os
import select
import sys

import pytest

MARKER = "TRAINER_PROCESS_TEST"
# The marks of a module whose tests use this.
WITH_PROCESSES = [pytest.mark.watchdog(60), pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")]


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
