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

"""The seal on each message of a session, without a network."""

import threading

import pytest

from nvflare.app_common.executors.client_api.session.limits import WINDOW
from nvflare.app_common.executors.client_api.session.seals import SealBroken, Seals

PARTS = {"secret": "s", "challenge": "c", "nonce": "n", "job_end": "job", "trainer_end": "trainer"}
HEAD, PAYLOAD = b"the head", b"the payload"


def both_ends(**changes) -> tuple:
    return tuple(Seals(**{**PARTS, **changes}, is_trainer=is_trainer) for is_trainer in (True, False))


@pytest.fixture
def ends():
    return both_ends()


@pytest.mark.parametrize("payload", [None, b"", PAYLOAD, memoryview(PAYLOAD), [b"the ", bytearray(b"payload")], []])
def test_both_directions(ends, payload):
    for sender, receiver in (ends, ends[::-1]):
        assert receiver.check(sender.seal(HEAD, payload), HEAD, payload)


def test_buffers_arrive_as_one(ends):
    trainer, job = ends
    assert job.check(trainer.seal(HEAD, [b"the ", b"payload"]), HEAD, PAYLOAD)


def test_sent_again_it_is_good_and_not_new(ends):
    trainer, job = ends
    first, second = trainer.seal(HEAD, PAYLOAD), trainer.seal(HEAD, PAYLOAD)
    assert first != second
    assert [job.check(seal, HEAD, PAYLOAD) for seal in (first, first, second, first, second)] == [
        True,
        False,
        True,
        False,
        False,
    ]


def test_messages_may_overtake_each_other_in_the_window(ends):
    trainer, job = ends
    seals = [trainer.seal(HEAD) for _ in range(WINDOW + 1)]
    assert job.check(seals[-2], HEAD) and job.check(seals[0], HEAD) and not job.check(seals[0], HEAD)
    assert job.check(seals[-1], HEAD)
    with pytest.raises(SealBroken, match="too old"):
        job.check(seals[0], HEAD)
    assert job.check(seals[1], HEAD) and not job.check(seals[1], HEAD)


@pytest.mark.parametrize(
    "head, payload",
    [(b"another head", PAYLOAD), (HEAD, b"another"), (HEAD, None), (HEAD + PAYLOAD, None), (b"", HEAD + PAYLOAD)],
)
def test_changed_message(ends, head, payload):
    trainer, job = ends
    seal = trainer.seal(HEAD, PAYLOAD)
    with pytest.raises(SealBroken, match="not sealed by the peer"):
        job.check(seal, head, payload)
    assert job.check(seal, HEAD, PAYLOAD)  # what was refused is not taken


@pytest.mark.parametrize("name", sorted(PARTS))
def test_another_session(ends, name):
    stranger, _ = both_ends(**{name: "another"})
    with pytest.raises(SealBroken):
        ends[1].check(stranger.seal(HEAD), HEAD)


def test_own_message_sent_back(ends):
    trainer, _ = ends
    with pytest.raises(SealBroken):
        trainer.check(trainer.seal(HEAD), HEAD)


@pytest.mark.parametrize("seal", [None, "", b"", "x" * 40, b"x" * 39, b"x" * 41, 7, [b"x"], {}])
def test_no_seal(ends, seal):
    with pytest.raises(SealBroken, match="no seal"):
        ends[1].check(seal, HEAD)


def test_any_bit_of_a_seal_counts(ends):
    trainer, job = ends
    seal = trainer.seal(HEAD, PAYLOAD)
    for bit in range(len(seal) * 8):
        spoiled = bytearray(seal)
        spoiled[bit // 8] ^= 1 << bit % 8
        with pytest.raises(SealBroken):
            job.check(bytes(spoiled), HEAD, PAYLOAD)
    assert job.check(seal, HEAD, PAYLOAD)


def test_answer(ends):
    trainer, job = ends
    seal, another = trainer.seal(HEAD), trainer.seal(HEAD)
    answer = job.seal_answer(seal, b"ok")
    trainer.check_answer(answer, seal, b"ok")
    for bad in [
        (answer, another, b"ok"),
        (answer, seal, b"refused"),
        (trainer.seal_answer(seal, b"ok"), seal, b"ok"),
        (seal, seal, b"ok"),
        (None, seal, b"ok"),
    ]:
        with pytest.raises(SealBroken, match="answer"):
            trainer.check_answer(*bad)


def test_each_of_many_threads_gets_a_number_of_its_own(ends):
    trainer, job = ends
    news = []

    def send():
        for _ in range(200):
            news.append(job.check(trainer.seal(HEAD), HEAD))

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert news == [True] * 1600
