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

"""What a channel keeps, by two ends in one process that call each other."""

import pickle
import tracemalloc

import pytest

from nvflare.app_common.executors.client_api.job_owner import Owner
from nvflare.app_common.executors.client_api.session import limits
from nvflare.app_common.executors.client_api.session.channel import Channel
from nvflare.app_common.executors.client_api.session.letters import (
    METRICS,
    NO_ANSWER,
    NO_ROOM,
    MessageRefused,
    NotTaken,
)
from nvflare.fuel.utils.constants import Mode
from nvflare.fuel.utils.pipe.pipe import Message

GONE = Owner.here()._replace(start="0")


class DirectChannel(Channel):
    """Calls the other end for each letter, and more often if answers get lost."""

    def __init__(self, mode: Mode, name: str, **of_session):
        super().__init__(mode=mode, secret="secret", challenge="challenge", **of_session)
        self.name = name
        self.other = None
        self.lost_answers = 0  # of a letter

    def connect(self, other: "DirectChannel") -> None:
        self.other, self.peer = other, other.name

    def open(self, name: str) -> None: ...

    def close(self) -> None: ...

    def clear(self) -> None: ...

    def can_resend(self) -> bool:
        return False

    def export(self, export_mode: str): ...

    def _ask(self, letter, timeout, stop):
        for _ in range(self.lost_answers):
            self.other._answer_to(letter, self.name)
        return self.other._answer_to(letter, self.name) or NO_ANSWER

    def _tell(self, letter) -> None: ...

    def _pack(self, data) -> bytes:
        return pickle.dumps(data)

    def _unpack(self, topic: str, payload: bytes):
        return pickle.loads(payload)


@pytest.fixture
def ends():
    """The job's end, which has no room, and the trainer's."""
    job, trainer = DirectChannel(Mode.PASSIVE, "job"), DirectChannel(Mode.ACTIVE, "trainer")
    job.connect(trainer)
    trainer.connect(job)
    handshake = trainer.handshake_with("trainer")
    hello = handshake.hello()
    job.bind("trainer", handshake.seals(hello, is_trainer=False))
    trainer.bind("job", handshake.seals(hello, is_trainer=True))

    def refuse(msg: Message) -> None:
        raise NotTaken(NO_ROOM + " " * 10_000)  # a text of its own for each, so that what is kept of them shows

    job.on_message = refuse
    return job, trainer


def send_records(trainer: Channel, count: int = 1) -> None:
    for _ in range(count):
        with pytest.raises(MessageRefused, match=NO_ROOM):
            trainer.send(Message.new_request(METRICS, []))


def test_copy_of_a_refused_message_is_refused(ends):
    _, trainer = ends
    trainer.lost_answers = 1
    send_records(trainer)


def test_what_was_refused_does_not_pile_up(ends, monkeypatch):
    _, trainer = ends
    monkeypatch.setattr(limits, "REFUSALS", 50)
    tracemalloc.start()
    try:
        send_records(trainer, 2 * limits.REFUSALS)
        kept = tracemalloc.get_traced_memory()[0]
        send_records(trainer, 4 * limits.REFUSALS)
        assert tracemalloc.get_traced_memory()[0] < 1.3 * kept
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("owner, is_lost", [(Owner.here(), False), (GONE, True), ("", True)])
def test_silence_of_a_job_that_owns_the_trainer_means_nothing_while_its_process_lives(owner, is_lost):
    trainer = DirectChannel(Mode.ACTIVE, "trainer", owner=str(owner), heartbeat_timeout=30.0)
    assert trainer.find_death(29.0) == ""
    assert bool(trainer.find_death(31.0)) == is_lost
