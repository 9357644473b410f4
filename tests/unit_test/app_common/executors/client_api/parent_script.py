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

"""A training script with children: in its task number N it starts some in the Nth of WAYS, and uses what they return.

It adds 1 to each model, and fails where a child does not do what it does in a script without nvflare.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading

import nvflare.client as flare
from nvflare.apis.analytix import AnalyticsDataType

# Seconds that a child may take.
LIMIT = 60


class Item:
    """What the script defines is sent to a worker, and comes back."""

    def __init__(self, value):
        self.value = value


class ChildIsDone(Exception):
    """Ends a forked child in the way that a script ends that has come to its end."""


def double(item):
    return Item(2 * item.value)


def use_pool(method, ends_by_itself=True):
    with multiprocessing.get_context(method).Pool(2) as pool:
        doubled = pool.map_async(double, [Item(1), Item(2)]).get(LIMIT)
        assert [type(item) for item in doubled] == [Item, Item]
        assert [item.value for item in doubled] == [2, 4]
        if ends_by_itself:
            pool.close()
            pool.join()


def fork_and(end, *args):
    """Returns the exit code of a forked child that ends in some way."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        end(*args)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def throw(error):
    raise error


def throw_without_output(error):
    sys.stdout.close()
    sys.stderr.close()
    raise error


def fork_and_end():
    assert fork_and(throw, ChildIsDone()) == 0
    assert fork_and(throw, RuntimeError("a child has failed")) == 1
    assert fork_and(sys.exit) == 0
    assert fork_and(sys.exit, 3) == 3
    assert fork_and(sys.exit, "no data for a child") == 1
    assert fork_and(os._exit, 4) == 4
    assert fork_and(throw_without_output, ChildIsDone()) == 0
    assert fork_and(throw_without_output, RuntimeError("a child has failed")) == 1
    assert fork_and(throw_without_output, SystemExit("no data for a child")) == 1


def fork_on_a_thread():
    codes = []
    thread = threading.Thread(target=lambda: codes.append(fork_and(os._exit, 5)))
    thread.start()
    thread.join()
    assert codes == [5]


def terminate_children():
    for _ in range(10):  # the signal meets a child that has just been forked
        child = multiprocessing.get_context("fork").Process(target=signal.pause)
        child.start()
        child.terminate()
        child.join()
        assert child.exitcode == -signal.SIGTERM


CALLS = {
    "init": flare.init,
    "receive": flare.receive,
    "is_running": flare.is_running,
    "send": lambda: flare.send(flare.FLModel(params={})),
    "log": lambda: flare.log("loss", 0.5, AnalyticsDataType.SCALAR),
}


def find_fault(call):
    try:
        return f"it returned {call()}"
    except RuntimeError as e:
        return str(e)


def use_flare():
    faults = {name: find_fault(call) for name, call in CALLS.items()}
    flare.shutdown()
    return os.getpid(), flare.get_site_name(), faults


def use_flare_in_child():
    with multiprocessing.get_context("fork").Pool(1) as pool:
        child, site, faults = pool.apply_async(use_flare).get(LIMIT)
        error = find_fault(lambda: pool.apply_async(flare.receive).get(LIMIT))
    assert site == flare.get_site_name()
    for name in CALLS:
        who = f"flare.{name}() was called in process {child}, which was forked from process {os.getpid()}"
        assert who in faults[name], faults[name]
    assert error == faults["receive"]


def run_command():
    assert subprocess.run([sys.executable, "-c", "print(6)"], stdout=subprocess.PIPE).stdout == b"6\n"


WAYS = {
    "a pool of forked workers": lambda: use_pool("fork"),
    "a pool of forked workers that are terminated": lambda: use_pool("fork", ends_by_itself=False),
    "os.fork": fork_and_end,
    "os.fork on a thread": fork_on_a_thread,
    "terminate": terminate_children,
    "flare in a child": use_flare_in_child,
    "a command": run_command,
    # The last two leave a helper to the process that has used them.
    "a pool of spawned workers": lambda: use_pool("spawn"),
    "a pool of a fork server's workers": lambda: use_pool("forkserver"),
}


def main():
    flare.init()
    while flare.is_running():
        model = flare.receive()
        way = list(WAYS)[model.current_round]
        WAYS[way]()
        flare.send(flare.FLModel(params={name: value + 1 for name, value in model.params.items()}, meta={"way": way}))


if __name__ == "__main__":
    try:
        main()
    except ChildIsDone:
        pass
