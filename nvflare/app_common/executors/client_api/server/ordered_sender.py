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

"""Sends log records in order, on a thread of its own: those of a trainer to its job, those of a job to the server."""

import threading
from collections import deque
from itertools import islice
from typing import Any, Callable, Optional

from nvflare.apis.signal import Signal
from nvflare.app_common.executors.client_api.server import limits
from nvflare.app_common.executors.client_api.waiting import TaskAborted, wait_until
from nvflare.fuel.utils.log_utils import get_obj_logger
from nvflare.security.logging import secure_format_exception


class OrderedSender:
    """An ordered queue of records with one sending thread, which exists only once there is a record."""

    def __init__(self, send: Callable[[list], bool], batch_size: int = 1, is_held: bool = False, pause: float = 0.0):
        """Initializes the sender; no thread is started yet.

        Args:
            send: sends a batch, on the sender's thread, and tells whether there is somebody who takes records. Where it
                raises, one of the batch is at fault: that one is dropped, the others are sent.
            batch_size: so many records are sent at a time, if there are.
            is_held: keep all until `release`, or `flush`.
            pause: seconds that the first records after a while wait, unless somebody waits for them.
        """
        self.logger = get_obj_logger(self)
        self.dropped = 0  # not sent, and never will be
        self._send = send
        self._batch_size = batch_size
        self._changed = threading.Condition()  # guards all below
        self._records = deque()  # those at the left are in the thread's hands
        self._done = 0  # records that are here no more, sent or dropped
        self._is_held = is_held
        self._pause = pause
        self._is_awaited = False  # somebody waits for the records
        self._is_closed = False
        self._thread: Optional[threading.Thread] = None

    def put(self, *records: Any, can_wait: bool = True) -> bool:
        """Takes records, all of them or none, and tells whether it does.

        Args:
            records: in their order.
            can_wait: while MAX_PENDING_RECORDS are pending; else none is taken then.
        """
        with self._changed:
            has_room = wait_until(
                self._changed,
                lambda: self._is_closed or len(self._records) < limits.MAX_PENDING_RECORDS,
                timeout=None if can_wait else 0.0,
            )
            if self._is_closed:
                self.dropped += len(records)
            if self._is_closed or not has_room:
                return False
            if self._thread is None:
                thread = threading.Thread(target=self._send_all, name="client_api_records", daemon=True)
                thread.start()  # may fail: then nothing was taken
                self._thread = thread
            self._records.extend(records)
            self._changed.notify_all()
            return True

    def release(self) -> None:
        with self._changed:
            self._is_held = False
            self._changed.notify_all()

    def flush(self, timeout: float = limits.FLUSH_TIMEOUT, abort_signal: Optional[Signal] = None) -> bool:
        """Waits (at most `timeout` seconds) until all records taken so far are sent; tells whether they are."""
        self.release()
        with self._changed:
            wanted = self._done + len(self._records)  # and none of those that a script logs meanwhile, which may go on
            self._is_awaited = True
            self._changed.notify_all()
            try:
                is_sent = wait_until(self._changed, lambda: self._done >= wanted, abort_signal, timeout)
            except TaskAborted:
                return False
            finally:
                self._is_awaited = False
            if not is_sent:
                self.logger.warning(
                    f"{wanted - self._done} log records still wait for their delivery after {timeout} s"
                )
            return is_sent

    def close(self, timeout: float = limits.FLUSH_TIMEOUT, patience: float = 0.0) -> None:
        """Sends what is pending and ends the thread. Idempotent.

        Args:
            timeout: seconds; what is not sent by then is dropped.
            patience: seconds in which the thread must have come back from its last `send`.
        """
        self.flush(timeout)
        with self._changed:
            self._close()
        if self._thread:
            self._thread.join(patience)

    def _close(self) -> None:
        self._is_closed = True
        self.dropped += len(self._records)
        self._remove(len(self._records))

    def _remove(self, count: int) -> None:
        for _ in range(count):
            self._records.popleft()
        self._done += count
        self._changed.notify_all()

    def _send_all(self) -> None:
        is_idle = True
        while True:
            with self._changed:
                is_idle = is_idle or not self._records
                wait_until(self._changed, lambda: self._is_closed or (self._records and not self._is_held))
                if is_idle:
                    wait_until(self._changed, lambda: self._is_closed or self._is_awaited, timeout=self._pause)
                    is_idle = False
                if self._is_closed:
                    return
                batch = list(islice(self._records, self._batch_size))
            is_taken = self._send_batch(batch)
            with self._changed:
                if not is_taken:
                    self._close()
                elif self._records:  # else it was closed meanwhile
                    self._remove(len(batch))

    def _send_batch(self, batch: list) -> bool:
        try:
            return self._send(batch)
        except Exception as e:  # the top of a thread: one bad record must not end it
            if len(batch) > 1:
                return all(self._send_batch([record]) for record in batch)
            self.logger.error(f"a log record was dropped: {secure_format_exception(e)}")
            self.count_dropped()
            return True

    def count_dropped(self) -> None:
        with self._changed:
            self.dropped += 1
