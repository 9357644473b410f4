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

"""How large messages are, what all of them come to, and how far the arrays of one have been pulled."""

import math
import threading
import time
from functools import partial
from typing import Callable, Optional

from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from nvflare.app_common.executors.client_api.backend_spec import TaskAborted, wait_until
from nvflare.fuel.f3.streaming.download_service import Downloadable, ProduceRC
from nvflare.fuel.f3.streaming.stream_utils import stream_thread_pool
from nvflare.fuel.utils.fobs.decomposers.via_downloader import LazyDownloadRef
from nvflare.fuel.utils.log_utils import get_obj_logger

# Arrays of up to this many bytes in all travel inside one message.
INLINE_LIMIT = 1024 * 1024
# Seconds that the server has for pulling a result from the trainer.
PULL_TIMEOUT = 3600.0
# Seconds between two lines that tell how far a long transfer is.
PROGRESS_INTERVAL = 10.0


def array_bytes(data) -> float:
    """Returns how many bytes the arrays in a nested structure take; infinite if they have yet to be pulled."""
    if isinstance(data, dict):
        return sum(array_bytes(value) for value in data.values())
    if isinstance(data, (list, tuple)):
        return sum(array_bytes(value) for value in data)
    if isinstance(data, LazyDownloadRef):
        return math.inf  # unknown, but nobody makes one for a small array
    return getattr(data, "nbytes", 0) or 0


class Traffic:
    """Counts what one trainer was sent and has sent: bytes of arrays, and seconds."""

    def __init__(self):
        self._lock = threading.Lock()
        self._totals = {"sent_bytes": 0, "sent_seconds": 0.0, "received_bytes": 0, "received_seconds": 0.0}
        self._tasks_past_the_job = 0  # pulled by the trainer from the server: not even their size is known here
        self._unmeasured_results = 0  # pulled by the server from the trainer, which has yet to tell their size

    def count_task(self, task: Shareable, seconds: float) -> None:
        size = array_bytes(task)
        with self._lock:
            self._totals["sent_seconds"] += seconds
            if size == math.inf:
                self._tasks_past_the_job += 1
            else:
                self._totals["sent_bytes"] += size

    def count_result(self, result: Shareable) -> bool:
        """Tells whether the arrays are here, and not still with the trainer."""
        size = array_bytes(result)
        with self._lock:
            if size == math.inf:
                self._unmeasured_results += 1
                return False
            self._totals["received_bytes"] += size
            return True

    def count_delivery(self, size: int, seconds: float) -> None:
        """Counts what the trainer tells of a large result, once it is delivered; a small one takes no time."""
        with self._lock:
            self._totals["received_seconds"] += seconds
            if self._unmeasured_results:
                self._unmeasured_results -= 1
                self._totals["received_bytes"] += size

    def stats(self) -> dict:
        with self._lock:
            totals = {name: round(value, 3) for name, value in self._totals.items()}
            return {**totals, "tasks_past_the_job": self._tasks_past_the_job}


class _Ahead:
    """Produces each chunk before it is asked for, while the one before is on its way; nvflare begins when it is asked.

    For one receiver: a chunk depends on the state that it is asked for with, and not on who asks.
    """

    def __init__(self, produce: Callable[[dict, str], tuple]):
        self._produce = produce
        self._begin(None)

    def _begin(self, state: Optional[dict]) -> None:
        # A pair, so that a request which was sent again on another thread never gets the chunk of another state.
        self._next = state, stream_thread_pool.submit(self._produce, state, "")

    def __call__(self, state: Optional[dict], requester: str) -> tuple:
        (expected, future), self._next = self._next, (None, None)
        is_made = future and state == expected  # no future: nvflare is shutting down, or it is being asked twice
        rc, data, new_state = future.result() if is_made else self._produce(state, requester)
        if rc == ProduceRC.OK:
            self._begin(new_state)
        return rc, data, new_state


class Delivery:
    """Follows the arrays of one message while the receiver pulls them, to the last byte.

    nvflare's own callback for the end comes with the next tick of a 5 s monitor; what a Downloadable is told at once is
    `produce`, for each chunk, and `downloaded_to_all`.
    """

    def __init__(self, downloadables: list, total: float):
        """Begins to follow.

        Args:
            downloadables: what nvflare has made of the arrays.
            total: bytes.
        """
        self.logger = get_obj_logger(self)
        self._changed = threading.Condition()
        self._pending = len(downloadables)
        self._has_ended = False
        self._total = total
        self._pulled = 0
        self._start = self._last_word = time.monotonic()
        for downloadable in downloadables:
            downloadable.produce = partial(self._produce, _Ahead(downloadable.produce))
            downloadable.downloaded_to_all = partial(self._count, downloadable, downloadable.downloaded_to_all)

    def _produce(self, produce: Callable, state: dict, requester: str) -> tuple:
        rc, data, new_state = produce(state, requester)
        if data is not None:
            self._pulled += sum(len(chunk) for chunk in data) if isinstance(data, list) else len(data)
        now = time.monotonic()
        if now - self._last_word >= PROGRESS_INTERVAL:
            self._last_word = now
            megabytes = f"{self._pulled / 1e6:.0f} of {self._total / 1e6:.0f} MB"
            self.logger.info(f"{megabytes} have been pulled after {now - self._start:.0f} s")
        return rc, data, new_state

    def _count(self, downloadable: Downloadable, downloaded_to_all: Callable[[], None]) -> None:
        downloaded_to_all()
        downloadable.release()
        with self._changed:
            self._pending -= 1
            self._changed.notify_all()

    def end(self) -> None:
        """Notes that nobody pulls any more."""
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()

    def wait(self, stop: Signal) -> bool:
        """Waits until all is pulled, or will not be; tells whether it was."""
        with self._changed:
            try:
                wait_until(self._changed, lambda: not self._pending or self._has_ended, stop, PULL_TIMEOUT)
            except TaskAborted:
                pass
            return not self._pending
