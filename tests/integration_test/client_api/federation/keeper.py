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

"""Ends what a federation has started once the test that holds it is gone: `keeper.py VARIABLE VALUE`.

The standard input is a lifeline: its end, be it that the test closes it or that the test process dies in whatever way,
has every process killed that was started with VARIABLE=VALUE in its environment. Prints how many there were.
"""

import os
import signal
import sys
import time


def marked(entry: bytes) -> list:
    found = []
    for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
        try:
            with open(f"/proc/{pid}/environ", "rb") as environ, open(f"/proc/{pid}/stat") as stat:
                if entry in environ.read().split(b"\0") and stat.read().rpartition(")")[2].split()[0] != "Z":
                    found.append(pid)
        except OSError:
            pass  # it has ended
    return found


def main(variable: str, value: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.stdin.read()
    entry, killed = f"{variable}={value}".encode(), set()
    while pids := marked(entry):
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        killed.update(pids)
        time.sleep(0.05)  # nobody but a parent hears of a process's end, and these are not our children
    print(len(killed))


if __name__ == "__main__":
    main(*sys.argv[1:])
