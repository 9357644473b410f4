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

"""What travels over a channel: letters, and the answers to them."""

from typing import NamedTuple, Optional

from nvflare.app_common.executors.client_api.session.seals import Payload
from nvflare.fuel.f3.cellnet.utils import buffer_len
from nvflare.fuel.utils.pipe.pipe import Topic

CHANNEL = "client_api"
# Topics beside nvflare's.
HELLO, TASK, METRICS, PIECE = "HELLO", "TASK", "METRICS", "PIECE"
# By these the other end ends the session.
ENDS = {Topic.END, Topic.ABORT, Topic.PEER_GONE}
# How an answer begins that says why memory cannot be opened there.
NOT_ON_THIS_HOST = "not on this host: "
# The answer to a message that is to come again, as a new one.
NO_ROOM = "there is no room for it yet"
# The answer to a task, or the word about one that was taken, for which the script of a trainer that ends has not asked.
UNTAKEN = "the script has ended without asking for it"


class MessageRefused(Exception):
    """The peer has a message and cannot use it; says why."""


class NotTaken(Exception):
    """A message is well, and is not taken as things are here; its text is the answer that tells how they are."""


class Letter(NamedTuple):
    """A message as it travels."""

    topic: str
    head: str  # what decides, beside topic and payload, what a message does
    payload: Payload
    seal: bytes = b""

    @property
    def size(self) -> int:
        """Bytes of the payload."""
        return buffer_len(self.payload)


def sealed_head(topic: str, head: str) -> bytes:
    """Returns what the seal of a letter is on, beside the payload."""
    return repr((topic, head)).encode()


class Answer(NamedTuple):
    """What the other end says to a letter."""

    content: bytes  # the words that answer a HELLO; else why the message is refused, empty if it is taken
    seal: Optional[bytes]


NO_ANSWER = Answer(b"", None)
