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

import json
import logging

import pytest

from nvflare.app_common.executors.client_api.session.handshake import (
    PROTOCOL_VERSION,
    Handshake,
    HandshakeError,
    Rejected,
    Strangers,
    new_session_keys,
    pack,
    printable,
    unpack,
)
from nvflare.app_common.executors.client_api.session.limits import (
    MAX_BYTES,
    MAX_TEXT,
    STRANGERS_INTERVAL,
    STRANGERS_LOGGED,
)

SECRET = "the secret"
OWN = Handshake(SECRET, "the challenge", "the job's cell", "the trainer's cell")
OTHERS = {
    "secret": Handshake("a guess", OWN.challenge, OWN.job_end, OWN.trainer_end),
    "challenge": Handshake(SECRET, "of another session", OWN.job_end, OWN.trainer_end),
    "job's cell": Handshake(SECRET, OWN.challenge, "of another job", OWN.trainer_end),
    "trainer's cell": Handshake(SECRET, OWN.challenge, OWN.job_end, "a stranger's"),
    "all": Handshake("", "", "", ""),
}


@pytest.fixture
def hello():
    return OWN.hello()


def test_keys_are_new_for_each_session():
    first, second = new_session_keys(), new_session_keys()
    values = [*first.values(), *second.values()]
    assert len(set(values)) == 6
    assert all(len(value) == 32 for value in values)


def test_good_hello(hello):
    assert OWN.find_fault(unpack(pack(hello))) == ""


def test_hello_is_new_each_time(hello):
    assert OWN.hello()["nonce"] != hello["nonce"]


def test_secret_is_not_told(hello):
    assert SECRET not in str(hello) + str(OWN.welcome(hello))


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_hello_of_somebody_else_or_by_somebody_else(other):
    assert "wrong proof" in OWN.find_fault(other.hello())


@pytest.mark.parametrize("name", ["nonce", "rank", "pid", "host", "nvflare"])
def test_whatever_a_hello_tells_is_proved(hello, name):
    assert "wrong proof" in OWN.find_fault({**hello, name: type(hello[name])(7)})


@pytest.mark.parametrize("proof", ["", "ä", "0" * 64])
def test_wrong_proof(hello, proof):
    assert "wrong proof" in OWN.find_fault({**hello, "proof": proof})


@pytest.mark.parametrize(
    "change",
    [
        {"proof": None},
        {"proof": "\ud800"},
        {"pid": "7"},
        {"pid": True},
        {"nonce": {"1": 2}},
        {"more": 1},
        {"host": "a\nb"},
        {"rank": "0" * (MAX_TEXT + 1)},
    ],
)
def test_malformed(hello, change):
    assert "malformed" in OWN.find_fault({**hello, **change})


@pytest.mark.parametrize("hello", [None, {}, {"protocol": PROTOCOL_VERSION + 1}])
def test_another_protocol(hello):
    assert f"protocol {PROTOCOL_VERSION}" in OWN.find_fault(hello)


@pytest.mark.parametrize(
    "data",
    [
        None,
        "{}",
        {},
        b"",
        b"[]",
        b"7",
        b"\xff",
        b"{",
        b"[" * MAX_BYTES,
        b'{"a":' * 700,
        pack({"a": "b" * MAX_BYTES}),
        "{}".encode("utf-16"),
    ],
)
def test_what_is_no_small_piece_of_json_is_not_unpacked(data):
    assert unpack(data) is None


def test_good_answer(hello):
    OWN.check_answer(unpack(pack(OWN.welcome(hello))), hello)


def test_rejection_is_told_with_its_reason_in_one_line(hello):
    with pytest.raises(Rejected, match="the session is busy.no forged line"):
        OWN.check_answer({"reject": "the session is busy\nno forged line"}, hello)


@pytest.mark.parametrize("answer", [None, {}, {"proof": None}, {"proof": "a guess"}, {"proof": "\ud800"}])
def test_answer_without_a_proof(hello, answer):
    with pytest.raises(HandshakeError, match="does not know the session's secret"):
        OWN.check_answer(answer, hello)


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_answer_of_somebody_else_or_to_somebody_else(hello, other):
    with pytest.raises(HandshakeError, match="does not know the session's secret"):
        OWN.check_answer(other.welcome(hello), hello)


def test_answer_to_another_hello(hello):
    with pytest.raises(HandshakeError, match="does not know the session's secret"):
        OWN.check_answer(OWN.welcome(OWN.hello()), hello)


def test_own_proof_sent_back_is_no_answer(hello):
    with pytest.raises(HandshakeError, match="does not know the session's secret"):
        OWN.check_answer({"proof": hello["proof"]}, hello)


def test_both_ends_derive_the_same_key_and_nobody_else_does(hello):
    trainer = OWN.seals(hello, is_trainer=True)
    assert OWN.seals(json.loads(pack(hello)), is_trainer=False).check(trainer.seal(b""), b"")


class TestStrangers:
    @pytest.fixture
    def lines(self, caplog):
        with caplog.at_level(logging.WARNING):
            yield lambda: [record.getMessage() for record in caplog.records]

    def test_all_are_counted_and_a_few_told(self, lines):
        now = 0.0
        strangers = Strangers(logging.getLogger("strangers"), clock=lambda: now)
        for _ in range(1000):
            strangers.refuse("a stranger")
        assert strangers.count == 1000
        assert lines() == ["refused a stranger"] * STRANGERS_LOGGED
        now += STRANGERS_INTERVAL
        for _ in range(1000):
            strangers.refuse("another")
        untold = 1000 - STRANGERS_LOGGED
        assert lines()[STRANGERS_LOGGED:] == [f"refused another (and {untold} others since the last line)"]

    @pytest.mark.parametrize("text", ["a\nb", "a\rb", "a\x1b[2Jb", "a\u2028b", "a\ud800b", "x" * 10_000])
    def test_no_stranger_forges_a_line(self, lines, text):
        Strangers(logging.getLogger("strangers")).refuse(text)
        (line,) = lines()
        assert line.isprintable() and len(line) < 2 * MAX_TEXT
        assert printable(text).isprintable()
