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

"""What the tasks and results of a session come to, in bytes and seconds, and where the time of a task went."""

import threading
from typing import List, Optional

from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import ReservedHeaderKey, Shareable
from nvflare.app_common.executors.client_api.arrays.parcels import array_bytes
from nvflare.app_common.executors.client_api.arrays.pull import Pulled

# Header of a result: seconds from the trainer having the task to its `flare.send()`; the session takes it out.
TRAIN_SECONDS = "client_api_train_seconds"
# Property of a task's context.
_LEGS = "__client_api_legs__"


def leg(what: str, seconds: float, size: int = 0) -> str:
    """Describes one part of a task, such as `pulled 512 MB in 1.1 s`."""
    took = f"{seconds:.1f} s" if seconds >= 0.1 else f"{seconds:.3f} s"
    return f"{what} {size / 1e6:.0f} MB in {took}" if size >= 1e6 else f"{what} {took}"


def pull_leg(pulled: Optional[Pulled]) -> List[str]:
    return [leg("pulled", pulled.seconds, pulled.size)] if pulled else []


def note_legs(legs: List[str], fl_ctx: FLContext) -> None:
    """Notes in the context of a task where its time went until its result was here."""
    fl_ctx.set_prop(_LEGS, legs, private=True, sticky=False)


def noted_legs(fl_ctx: FLContext) -> List[str]:
    return fl_ctx.get_prop(_LEGS, [])


class Traffic:
    """Counts what one trainer was handed over and has sent: bytes of arrays, and seconds."""

    def __init__(self):
        self._lock = threading.Lock()
        self._totals = {"sent_bytes": 0, "sent_seconds": 0.0, "received_bytes": 0, "received_seconds": 0.0}
        self.legs: List[str] = []  # of the last task

    def count_task(self, size: int, seconds: float) -> None:
        with self._lock:
            self._totals["sent_bytes"] += size
            self._totals["sent_seconds"] += seconds
            self.legs = [leg("handed over in", seconds)]

    def count_result(self, result: Shareable, seconds: float) -> None:
        """Counts a result, which came so many seconds after its task was taken."""
        trained = result.get(ReservedHeaderKey.HEADERS, {}).pop(TRAIN_SECONDS, seconds)
        trained = min(trained, seconds) if isinstance(trained, float) else seconds
        size = array_bytes(result)
        with self._lock:
            self._totals["received_bytes"] += size
            self._totals["received_seconds"] += seconds - trained
            self.legs += [leg("trained", trained), leg("sent in", seconds - trained)]

    def stats(self) -> dict:
        with self._lock:
            return {name: round(value, 3) for name, value in self._totals.items()}
