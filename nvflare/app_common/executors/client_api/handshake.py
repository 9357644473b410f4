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

The trainer's HELLO carries an HMAC over all that it tells and over the CJ's challenge; the CJ's answer carries one over
the trainer's nonce. The secret itself never travels.
"""

import hashlib
import hmac
import json
import os
import secrets
import socket

import nvflare

PROTOCOL_VERSION = 1

_HELLO_TYPES = {"protocol": int, "nonce": str, "rank": str, "pid": int, "host": str, "nvflare": str, "proof": str}


class HandshakeError(Exception):
    """The trainer could not join the session; the text says why."""


def new_session_keys() -> dict:
    """Returns the random token, secret and challenge of a new session."""
    return {name: secrets.token_hex(16) for name in ("token", "secret", "challenge")}


def proof(secret: str, *parts) -> str:
    """Returns the HMAC-SHA256 (hex) of the parts, which shows that its maker knows the secret."""
    return hmac.new(secret.encode(), json.dumps(parts, sort_keys=True).encode(), hashlib.sha256).hexdigest()


def is_proof(candidate, secret: str, *parts) -> bool:
    return isinstance(candidate, str) and hmac.compare_digest(
        candidate.encode(errors="surrogatepass"), proof(secret, *parts).encode()
    )


def make_hello(secret: str, challenge: str) -> dict:
    """Returns the HELLO of this process for the session that set the challenge."""
    hello = {
        "protocol": PROTOCOL_VERSION,
        "nonce": secrets.token_hex(16),
        "rank": os.environ.get("RANK", "0"),
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "nvflare": nvflare.__version__,
    }
    return {**hello, "proof": proof(secret, hello, challenge)}


def find_hello_fault(hello, secret: str, challenge: str) -> str:
    """Returns why a HELLO is not acceptable, or "" if it is: made by somebody who knows the secret."""
    if not isinstance(hello, dict) or hello.get("protocol") != PROTOCOL_VERSION:
        return f"this job speaks protocol {PROTOCOL_VERSION}, the trainer does not"
    if {name: type(value) for name, value in hello.items()} != _HELLO_TYPES:
        return "malformed HELLO"
    if not is_proof(hello.get("proof"), secret, without_proof(hello), challenge):
        return "wrong proof: the trainer does not know the session's secret"
    return ""


def without_proof(hello: dict) -> dict:
    return {name: value for name, value in hello.items() if name != "proof"}


def make_welcome(secret: str, hello: dict) -> dict:
    return {"proof": proof(secret, "welcome", hello["nonce"])}


def check_answer(answer, secret: str, hello: dict) -> None:
    """Checks what the CJ answered to a HELLO.

    Raises:
        HandshakeError: the trainer was rejected, or the answer is not from the CJ that made the session.
    """
    if isinstance(answer, dict) and "reject" in answer:
        raise HandshakeError(f"the job rejected this trainer: {answer['reject']}")
    if not isinstance(answer, dict) or not is_proof(answer.get("proof"), secret, "welcome", hello["nonce"]):
        raise HandshakeError("the answer came from somebody who does not know the session's secret")
