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

"""What is logged in this process, for a test to look at and to wait for."""

import logging
import threading

# Seconds that a wait may take.
LIMIT = 60.0


def messages(log, level: int) -> list:
    """What was logged at this level or above, in a LogWatch or pytest's caplog."""
    return [record.getMessage() for record in log.records if record.levelno >= level]


class LogWatch(logging.Handler):
    """Keeps what is logged, and lets a test wait for it."""

    def __init__(self):
        super().__init__()
        self.records = []
        self._logged = threading.Condition()

    def emit(self, record):
        with self._logged:
            self.records.append(record)
            self._logged.notify_all()

    def find(self, text: str) -> list:
        return [record for record in list(self.records) if text in record.getMessage()]

    def wait_for(self, text: str, count: int = 1) -> None:
        with self._logged:
            assert self._logged.wait_for(lambda: len(self.find(text)) >= count, LIMIT), text
