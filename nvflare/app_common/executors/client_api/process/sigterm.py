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

"""SIGTERM, by which schedulers stop a trainer, ends its script in a way that the job hears of, and a child at once.

For the process of attach, which no guard watches. A child that its script forks has nobody to tell, and whoever
terminates a worker wants no script to end.
"""

import os
import signal
import threading


class Terminated(SystemExit):
    """SIGTERM has come; unhandled, it ends the process with the exit code by which a shell reports that."""


def raise_on_sigterm() -> None:
    """Has SIGTERM raise Terminated in the main thread, unless somebody else handles it."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _terminate)


def _terminate(*_) -> None:
    raise Terminated(128 + signal.SIGTERM)


_mask_before_fork = threading.local()


def _hold() -> None:
    # A signal that comes to a forked child before it has the handler that it should have would be lost.
    is_ours = signal.getsignal(signal.SIGTERM) is _terminate
    _mask_before_fork.value = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM} if is_ours else ())


def _release() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _mask_before_fork.value)


def _release_in_child() -> None:
    if signal.getsignal(signal.SIGTERM) is _terminate:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _release()


os.register_at_fork(before=_hold, after_in_parent=_release, after_in_child=_release_in_child)
