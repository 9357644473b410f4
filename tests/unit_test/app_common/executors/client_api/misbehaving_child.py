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

"""A trainer that misbehaves on command: each argument is an action, "name" or "name=value", done in order.

Used as `python misbehaving_child.py ignore_sigterm grandchild say=ready hang`.
"""

import ctypes
import itertools
import os
import signal
import sys
import threading
import time


def say(text):
    os.write(1, f"{text}\n".encode())  # at once and in one piece, other than print() when Python is unbuffered


def write(escaped):
    """Writes raw bytes, given as a Python bytes literal without its quotes."""
    os.write(1, escaped.encode().decode("unicode_escape").encode("latin-1"))


def ignore_sigterm(_):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def save_at_sigterm(path):
    """Says more than a pipe takes before it saves, as a script that writes a checkpoint may."""

    def save(*_):
        for _ in range(100):
            say("saving" * 1000)
        open(path, "w").close()
        os._exit(0)

    signal.signal(signal.SIGTERM, save)


def exit_with(code):
    sys.exit(int(code))


def fail(text):
    raise RuntimeError(text)


def hang(_):
    while True:
        signal.pause()


def grandchild(_):
    """Leaves a process in a session of its own that holds stdout and ignores SIGTERM."""
    if os.fork() == 0:
        os.setsid()
        ignore_sigterm(None)
        say(f"grandchild {os.getpid()}")
        hang(None)


def daemon(_):
    """Leaves a grandchild whose parent is gone."""
    pid = os.fork()
    if pid == 0:
        grandchild(None)
        os._exit(0)
    os.waitpid(pid, 0)


def storm(step):
    """Forks a successor and exits, every 2 ms and in a session of its own if so told, for ever."""
    say("storm")
    while os.fork() == 0:
        if step == "setsid":
            os.setsid()
        time.sleep(0.002)
    os._exit(0)


def spin(_):
    """Holds the GIL in C code for ever; a SIGTERM handler in Python never gets its turn."""
    signal.signal(signal.SIGTERM, lambda *_: say("SIGTERM"))
    say("spinning")
    sum(itertools.repeat(0))


def freeze(_):
    os.kill(os.getpid(), signal.SIGSTOP)


def end_main_thread(text):
    """Says something in another thread once the main one has ended, and goes on there for ever."""

    def go_on():
        state = ""
        while state != "Z":  # soon
            with open(f"/proc/self/task/{os.getpid()}/stat") as f:
                state = f.read().rpartition(")")[2].split()[0]
        say(text)
        hang(None)

    threading.Thread(target=go_on).start()
    ctypes.CDLL(None).pthread_exit(None)


def close_output(_):
    os.close(1)
    os.close(2)


def flood(seconds):
    """Writes as fast as it can, neither a newline nor valid UTF-8."""
    chunk, end, size = b"\xff" * 65536, time.monotonic() + float(seconds), 0
    while time.monotonic() < end:
        size += os.write(1, chunk)
    say(f"\nflooded {size}")


def show_environment(_):
    inherited = [fd for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")]
    ignored = [s.name for s in signal.Signals if signal.getsignal(s) is signal.SIG_IGN]
    say(f"cwd={os.getcwd()} fds={sorted(inherited)} ignored={ignored} color={os.environ.get('COLOR')} end")


ACTIONS = {
    "say": say,
    "write": write,
    "ignore_sigterm": ignore_sigterm,
    "save_at_sigterm": save_at_sigterm,
    "exit": exit_with,
    "raise": fail,
    "hang": hang,
    "grandchild": grandchild,
    "daemon": daemon,
    "storm": storm,
    "spin": spin,
    "freeze": freeze,
    "end_main_thread": end_main_thread,
    "close_output": close_output,
    "flood": flood,
    "show_environment": show_environment,
}

if __name__ == "__main__":
    for argument in sys.argv[1:]:
        name, _, value = argument.partition("=")
        ACTIONS[name](value)
