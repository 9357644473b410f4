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

"""The proofs of a handshake, without a network."""

import pytest

from nvflare.app_common.executors.client_api.handshake import (
    PROTOCOL_VERSION,
    HandshakeError,
    check_answer,
    find_hello_fault,
    make_hello,
    make_welcome,
    new_session_keys,
)

SECRET, CHALLENGE = "the secret", "the challenge"


@pytest.fixture
def hello():
    return make_hello(SECRET, CHALLENGE)


def test_keys_are_new_for_each_session():
    first, second = new_session_keys(), new_session_keys()
    values = [*first.values(), *second.values()]
    assert len(set(values)) == 6
    assert all(len(value) == 32 for value in values)


def test_good_hello(hello):
    assert find_hello_fault(hello, SECRET, CHALLENGE) == ""


def test_hello_is_new_each_time(hello):
    assert make_hello(SECRET, CHALLENGE)["nonce"] != hello["nonce"]


def test_secret_is_not_told(hello):
    assert SECRET not in str(hello) + str(make_welcome(SECRET, hello))


@pytest.mark.parametrize("secret, challenge", [("a guess", CHALLENGE), (SECRET, "of another session"), ("", "")])
def test_hello_of_somebody_else(hello, secret, challenge):
    assert "wrong proof" in find_hello_fault(make_hello(secret, challenge), SECRET, CHALLENGE)


@pytest.mark.parametrize("name", ["nonce", "rank", "pid", "host", "nvflare"])
def test_whatever_a_hello_tells_is_proved(hello, name):
    assert "wrong proof" in find_hello_fault({**hello, name: type(hello[name])(7)}, SECRET, CHALLENGE)


@pytest.mark.parametrize("proof", ["", "ä", "\ud800", "0" * 64])
def test_wrong_proof(hello, proof):
    assert "wrong proof" in find_hello_fault({**hello, "proof": proof}, SECRET, CHALLENGE)


@pytest.mark.parametrize("change", [{"proof": None}, {"proof": b"x"}, {"pid": "7"}, {"nonce": {1: 2}}, {"more": 1}])
def test_malformed(hello, change):
    assert "malformed" in find_hello_fault({**hello, **change}, SECRET, CHALLENGE)


@pytest.mark.parametrize("hello", [None, "hello", [], {}, {"protocol": PROTOCOL_VERSION + 1}])
def test_another_protocol(hello):
    assert f"protocol {PROTOCOL_VERSION}" in find_hello_fault(hello, SECRET, CHALLENGE)


def test_good_answer(hello):
    check_answer(make_welcome(SECRET, hello), SECRET, hello)


def test_rejection_is_told_with_its_reason(hello):
    with pytest.raises(HandshakeError, match="the session is busy"):
        check_answer({"reject": "the session is busy"}, SECRET, hello)


@pytest.mark.parametrize("answer", [None, "welcome", {}, {"proof": None}, {"proof": "a guess"}])
def test_answer_without_a_proof(hello, answer):
    with pytest.raises(HandshakeError, match="does not know the session's secret"):
        check_answer(answer, SECRET, hello)


def test_answer_to_another_hello(hello):
    with pytest.raises(HandshakeError, match="does not know the session's secret"):
        check_answer(make_welcome(SECRET, make_hello(SECRET, CHALLENGE)), SECRET, hello)


def test_own_proof_sent_back_is_no_answer(hello):
    with pytest.raises(HandshakeError, match="does not know the session's secret"):
        check_answer({"proof": hello["proof"]}, SECRET, hello)
