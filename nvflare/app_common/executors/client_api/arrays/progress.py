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

"""How long a transfer takes, and how far it is: a line in the log at most every PROGRESS_INTERVAL seconds."""

import logging
import threading
import time

from nvflare.app_common.executors.client_api.arrays import limits

logger = logging.getLogger(__name__)


class Progress:
    def __init__(self, what: str, total: int = 0):
        """Begins to count.

        Args:
            what: what is done to the bytes, for the log, such as "pulled".
            total: bytes; 0: not known.
        """
        self.done = 0  # bytes
        self.total = total
        self.last = time.monotonic()  # when the last of them came
        self._what = what
        self._start = self._last_word = self.last
        self._lock = threading.Lock()

    def add(self, size: int) -> None:
        with self._lock:
            self.done += size
            now = self.last = time.monotonic()
            if now - self._last_word < limits.PROGRESS_INTERVAL:
                return
            self._last_word = now
        of_all = f" of {self.total / 1e6:.0f}" if self.total else ""
        logger.info(f"{self.done / 1e6:.0f}{of_all} MB have been {self._what} after {now - self._start:.0f} s")

    @property
    def seconds(self) -> float:
        """Seconds from the beginning to the last bytes."""
        return self.last - self._start
