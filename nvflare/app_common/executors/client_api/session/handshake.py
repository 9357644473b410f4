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

"""How trainer and job prove to each other that they know the session's secret, which is only in the bootstrap file.

The trainer's HELLO carries an HMAC over all that it tells, over the CJ's challenge and over the names of both ends; the
CJ's answer carries one over the trainer's nonce. The secret itself never travels. Both sides derive the key of the
session from it (see seals.py), so that each message from then on shows who has sent it.

What is said before a proof is JSON in a few bytes, flat, of plain types, and nothing else is unpacked.
"""

import hashlib
import hmac
import json
import os
import secrets
import socket
import threading
import time
from dataclasses import dataclass
from logging import Logger
from typing import Callable, Optional

import nvflare
from nvflare.app_common.executors.client_api.session import limits
from nvflare.app_common.executors.client_api.session.seals import Seals

PROTOCOL_VERSION = 3

_HELLO_TYPES = {"protocol": int, "nonce": str, "rank": str, "pid": int, "host": str, "nvflare": str, "proof": str}


class HandshakeError(Exception):
    """The trainer could not join the session; the text says why. It may be able to later."""


class Rejected(HandshakeError):
    """The job does not take this trainer into this session."""


def new_session_keys() -> dict:
    """Returns the random token, secret and challenge of a new session."""
    return {name: secrets.token_hex(16) for name in ("token", "secret", "challenge")}


def pack(words: dict) -> bytes:
    return json.dumps(words).encode()


def unpack(data) -> Optional[dict]:
    """Returns what the other side says, as nobody in particular yet; None if that is nothing that it might say."""
    if not isinstance(data, (bytes, bytearray, memoryview)) or len(data) > limits.MAX_BYTES:
        return None
    try:
        words = json.loads(bytes(data).decode())
    except (ValueError, RecursionError):
        return None
    return words if isinstance(words, dict) else None


def printable(text) -> str:
    """Returns a text that comes from outside in a form that is one line in a log, and not a long one."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(text)[: limits.MAX_TEXT])


@dataclass(frozen=True)
class Handshake:
    """Between the two ends of one session."""

    secret: str
    challenge: str  # the CJ's nonce
    job_end: str  # names of both ends, such as their cells'
    trainer_end: str

    def hello(self) -> dict:
        """Returns the HELLO of this process."""
        hello = {
            "protocol": PROTOCOL_VERSION,
            "nonce": secrets.token_hex(16),
            "rank": os.environ.get("RANK", "0"),
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "nvflare": nvflare.__version__,
        }
        return {**hello, "proof": self._proof("hello", hello)}

    def find_fault(self, hello: Optional[dict]) -> str:
        """Returns why a HELLO is not acceptable, or "" if it is: made by somebody who knows the secret."""
        if hello is None or hello.get("protocol") != PROTOCOL_VERSION:
            return f"this job speaks protocol {PROTOCOL_VERSION}, the trainer does not"
        are_short = (
            len(value) <= limits.MAX_TEXT and value.isprintable() for value in hello.values() if type(value) is str
        )
        if {name: type(value) for name, value in hello.items()} != _HELLO_TYPES or not all(are_short):
            return "malformed HELLO"
        if not self._is_proof(hello["proof"], "hello", without_proof(hello)):
            return "wrong proof: the trainer does not know the session's secret, or this was said by another one"
        return ""

    def welcome(self, hello: dict) -> dict:
        return {"proof": self._proof("welcome", without_proof(hello))}

    def check_answer(self, answer: Optional[dict], hello: dict) -> None:
        """Checks what the CJ answered to a HELLO.

        Raises:
            Rejected: the job does not take this trainer.
            HandshakeError: the answer is not from the CJ that made the session.
        """
        if answer is not None and "reject" in answer:
            raise Rejected(f"the job rejected this trainer: {printable(answer['reject'])}")
        if answer is None or not self._is_proof(answer.get("proof"), "welcome", without_proof(hello)):
            raise HandshakeError("the answer came from somebody who does not know the session's secret")

    def seals(self, hello: dict, is_trainer: bool) -> Seals:
        """Returns one end of the session that this HELLO has begun."""
        return Seals(self.secret, self.challenge, hello["nonce"], self.job_end, self.trainer_end, is_trainer)

    def _proof(self, kind: str, words: dict) -> str:
        parts = json.dumps([kind, words, self.challenge, self.job_end, self.trainer_end], sort_keys=True)
        return hmac.new(self.secret.encode(), parts.encode(), hashlib.sha256).hexdigest()

    def _is_proof(self, candidate, kind: str, words: dict) -> bool:
        expected = self._proof(kind, words).encode()
        return isinstance(candidate, str) and hmac.compare_digest(candidate.encode(errors="surrogatepass"), expected)


def without_proof(hello: dict) -> dict:
    return {name: value for name, value in hello.items() if name != "proof"}


class Strangers:
    """Counts whoever is refused at one end of a session, and logs that at a bounded rate."""

    def __init__(self, logger: Logger, clock: Callable[[], float] = time.monotonic):
        self.count = 0
        self._logger = logger
        self._clock = clock
        self._lock = threading.Lock()
        self._told = 0
        self._next_word = -float("inf")  # once a few have been told one by one

    def refuse(self, what: str) -> None:
        """Notes what was refused, and why."""
        with self._lock:
            self.count += 1
            now = self._clock()
            if self.count > limits.STRANGERS_LOGGED and now < self._next_word:
                return
            untold, self._told = self.count - self._told - 1, self.count
            self._next_word = now + limits.STRANGERS_INTERVAL
        others = f" (and {untold} others since the last line)" if untold else ""
        self._logger.warning(f"refused {printable(what)}{others}")
