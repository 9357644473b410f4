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

"""A training script that meets its fate on command: `trainer_script.py PHASE FAULT` (or nothing, and it just works).

It adds 1 to each model. The fault happens once: the file `faulted` beside the script tells a later process so; who
removes that file has it happen again, or the fault whose name is in the file `fault` (see renew_fate). A fault
while arrays are handed over happens on the main thread like all the others, inside flare.receive() or flare.send().
SIGUSR1 sets it off at any time.
"""

import os
import signal
import sys
import threading
from pathlib import Path

import nvflare.client as flare
from nvflare.app_common.executors.client_api.arrays.memory import SharedMemory

PHASE, FAULT = sys.argv[1:3] if len(sys.argv) > 2 else ("", "")
MARKER = Path(__file__).with_name("faulted")
ANOTHER = Path(__file__).with_name("fault")
# Seconds that the arrays are held up, so that they do not get through before the fault.
HOLD_UP = 3.0
has_joined = threading.Event()


def hang():
    while True:
        signal.pause()


def fail():
    raise RuntimeError("out of data")


def kill_guard():
    os.kill(os.getppid(), signal.SIGKILL)
    hang()  # until the kernel ends this process, too


FAULTS = {
    "exit_0": lambda: sys.exit(0),
    "exit_3": lambda: sys.exit(3),
    "exception": fail,
    "sigkill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "sigkill_guard": kill_guard,
    "sigstop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "hang": hang,
}


def reach(phase):
    if phase == PHASE and not MARKER.exists():
        meet_fate()


def meet_fate(*_):
    fault = ANOTHER.read_text() if ANOTHER.exists() else FAULT
    MARKER.touch()
    print(f"now: {fault}", flush=True)
    FAULTS[fault]()


def hold_up(transfer, step):
    """Has a step in the hand-over of arrays set off the fault."""
    original = getattr(transfer, step)

    def held_up(*args):
        if not MARKER.exists():
            has_joined.wait()
            os.kill(os.getpid(), signal.SIGUSR1)
            threading.Event().wait(HOLD_UP)
        return original(*args)

    setattr(transfer, step, held_up)


def main():
    signal.signal(signal.SIGUSR1, meet_fate)
    reach("launching")
    # Before it joins: the first task may be there as soon as it has.
    if PHASE == "receiving":
        hold_up(SharedMemory, "reserve_all")
    elif PHASE == "sending":
        hold_up(SharedMemory, "seal")
    flare.init()
    has_joined.set()
    print("waits for tasks", flush=True)
    while flare.is_running():
        model = flare.receive()
        reach("training")
        flare.send(flare.FLModel(params={name: value + 1 for name, value in model.params.items()}))
        reach("accepted")
        print("waits for the next task", flush=True)


if __name__ == "__main__":
    main()
