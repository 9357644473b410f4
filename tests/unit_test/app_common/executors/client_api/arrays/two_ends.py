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

"""The two ends of an exchange of arrays, in one process, and what they may leave behind: nothing."""

import os
import threading
from types import SimpleNamespace

import pytest

from nvflare.app_common.executors.client_api.arrays.exchange import Exchange
from nvflare.app_common.executors.client_api.arrays.limits import INLINE_LIMIT

MANY = INLINE_LIMIT  # more bytes of them than what travels inside a message


def descriptors() -> list:
    """Returns what this process has open."""
    return sorted(os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if is_open(int(fd)))


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
        return True
    except OSError:
        return False


def mappings() -> int:
    """Returns how many of the maps of this process are of handed over memory."""
    with open("/proc/self/maps") as f:
        return sum("memfd:client_api" in line for line in f)


def in_use() -> tuple:
    """Returns what a round must not leave behind."""
    return descriptors(), mappings(), threading.active_count()


class Ends:
    """Two ends of an exchange, as a trainer and the job's process have them."""

    def __init__(self, can_share: bool = True):
        self.trainer = Exchange(can_share=can_share)
        self.job = Exchange(can_share=can_share)

    def to_job(self, data):
        return self.send(self.trainer, self.job, SimpleNamespace(data=data))

    def to_trainer(self, data):
        return self.send(self.job, self.trainer, SimpleNamespace(data=data))

    @staticmethod
    def send(sender: Exchange, receiver: Exchange, message):
        def take(piece: dict) -> bool:
            receiver.take_piece(piece)
            receiver.take_piece(piece)  # it was sent again
            return True

        with sender.pack(message) as packed:
            if packed.is_in_pieces:
                assert sender.send_pieces(packed, take)
            return receiver.unpack(packed.payload)


WAYS = {"inside": (100, True), "shared memory": (MANY, True), "pieces": (3 * MANY, False)}
ways = pytest.mark.parametrize("size, can_share", WAYS.values(), ids=WAYS.keys())
