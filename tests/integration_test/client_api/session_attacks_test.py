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
"""What somebody on the site's network can do to a session without its secret: nothing.

The attacker knows all names and all that travels, sends under the trainer's name or the job's, changes and repeats
messages. In the end the good trainer does a task.
"""

import json
import logging
import threading

import numpy as np
import pytest

from nvflare.apis.dxo import DXO, DataKind
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from nvflare.app_common.executors.client_api.arrays.exchange import Exchange
from nvflare.app_common.executors.client_api.session.handshake import (
    Handshake,
    HandshakeError,
    new_session_keys,
    pack,
    unpack,
)
from nvflare.app_common.executors.client_api.session.letters import CHANNEL, HELLO, METRICS, PIECE, TASK, MessageRefused
from nvflare.app_common.executors.client_api.session.trainer_pipe import HEAD, SEAL
from nvflare.app_common.executors.client_api.session.trainer_session import SessionState, TrainerSession
from nvflare.fuel.f3.cellnet.defs import CellChannel, Encoding, MessageHeaderKey, ReturnCode
from nvflare.fuel.f3.cellnet.utils import make_reply
from nvflare.fuel.f3.message import Message as CellMessage
from nvflare.fuel.f3.streaming.stream_const import STREAM_CHANNEL, STREAM_DATA_TOPIC, StreamDataType, StreamHeaderKey
from nvflare.fuel.utils import fobs
from nvflare.fuel.utils.constants import Mode
from nvflare.fuel.utils.fobs import Decomposer
from nvflare.fuel.utils.pipe.pipe import Message, Topic
from tests.integration_test.client_api.cell_harness import connected_cell
from tests.integration_test.client_api.raw_trainer import RawTrainer, context_of, pipe_of
from tests.unit_test.app_common.executors.job_harness import LARGE, LIMIT, stop_cell

TOPICS = [TASK, METRICS, PIECE, Topic.HEARTBEAT, Topic.END, Topic.ABORT, Topic.PEER_GONE, "NONSENSE"]
RECORDS = [DXO(DataKind.ANALYTIC, data={"number": 1})]


@pytest.fixture
def keys():
    return new_session_keys()


@pytest.fixture
def records():
    return []


@pytest.fixture
def session(federation, keys, records):
    """The job's end of a session, whose trainer is never missed."""
    session = TrainerSession(
        pipe_of(federation, Mode.PASSIVE, keys), "attacked", context_of(records.append), lambda silence: ""
    )
    session.open()
    yield session
    session.close()


@pytest.fixture
def trainer(federation, keys, session):
    pipe = pipe_of(federation, Mode.ACTIVE, keys)
    pipe.open()
    yield pipe
    session.end("the test is over")  # while it can hear of it
    pipe.close()


@pytest.fixture
def cell(job_cell):
    """The cell of another job on the same site."""
    return job_cell


@pytest.fixture
def attacker(cell, keys, session, trainer):
    """Sends under the trainer's name, and knows all but the secret."""
    known = {**keys, "secret": "a guess"}
    yield RawTrainer(cell, session.pipe.channel, session.pipe.cell.get_fqcn(), known, trainer.cell.get_fqcn())
    cell.core_cell.out_req_filter_reg.reg.clear()


def do_task(session, trainer, result=None, answer=None) -> Shareable:
    """Does a task and returns its result, which may be given, as well as who sends it."""
    results, result = [], result or Shareable({"good": True})

    def execute():
        results.append(session.execute("train", Shareable(), None, Signal()))

    running = threading.Thread(target=execute, daemon=True)
    running.start()
    while (request := trainer.receive(LIMIT)).topic != TASK:
        pass
    assert (answer or trainer.send)(Message.new_reply(TASK, result, request.msg_id), LIMIT)
    running.join(LIMIT)
    assert results[0]["good"]
    return results[0]


class TestUnderTheTrainersName:
    @pytest.mark.parametrize("topic", TOPICS)
    def test_nothing_is_taken(self, session, trainer, attacker, records, topic):
        trainer.greet()
        heard = session.pipe.last_heard
        data = RECORDS if topic == METRICS else Shareable()
        for msg in (Message.new_request(topic, data), Message.new_reply(topic, data, "some task")):
            for message in (attacker.message(msg), attacker.sealed(msg)):
                attacker.tell(topic, message)
        assert session.stats()["refused"] == 4
        assert session.state is SessionState.READY and not records
        assert session.pipe.last_heard == heard
        do_task(session, trainer)

    def test_result_of_a_task_in_hand(self, session, trainer, attacker):
        trainer.greet()
        send = trainer.send

        def forge_before(msg, *args, **options):
            forged = Message.new_reply(TASK, Shareable({"good": False}), msg.req_id)
            attacker.tell(TASK, attacker.sealed(forged))
            return send(msg, *args, **options)

        trainer.send = forge_before
        do_task(session, trainer)
        assert session.stats()["refused"] == 1

    def test_before_a_trainer_has_joined(self, session, trainer, attacker):
        attacker.tell(Topic.END, attacker.sealed(Message.new_request(Topic.END, "the end")))
        assert session.state is SessionState.WAITING
        trainer.greet()
        do_task(session, trainer)


class TestHello:
    def test_delivered_by_somebody_else_first(self, cell, session, trainer, keys):
        honest = session.pipe.handshake_with(trainer.cell.get_fqcn()).hello()
        thief = RawTrainer(cell, session.pipe.channel, session.pipe.cell.get_fqcn(), {**keys, "secret": "a guess"})
        assert "wrong proof" in thief.join(honest)["reject"]
        assert session.state is SessionState.WAITING
        trainer.greet()
        do_task(session, trainer)

    def test_repeated(self, session, trainer, attacker):
        hellos = recorded(session, HELLO)
        trainer.greet()
        for hello in list(hellos):
            attacker.tell(HELLO, hello)
        assert session.state is SessionState.READY
        do_task(session, trainer)

    def test_after_wrong_proofs_have_ended_the_rendezvous(self, session, trainer):
        assert session.withdraw("wrong proofs")
        with pytest.raises(HandshakeError, match="the session is closed"):
            trainer.greet()

    def test_at_the_last_moment_before_wrong_proofs_end_the_rendezvous(self, session, trainer):
        trainer.greet()
        assert not session.withdraw("wrong proofs")
        do_task(session, trainer)


def recorded(session, topic: str) -> list:
    """Returns a list that gets each message that arrives at the job's end."""
    messages = []

    def record(message: CellMessage) -> None:
        if message.get_header(MessageHeaderKey.TOPIC) == topic and message.payload is not None:
            names = [name for name in message.headers if name.startswith("client_api.")]
            encoding = {MessageHeaderKey.PAYLOAD_ENCODING: Encoding.BYTES}
            headers = {**{name: message.headers[name] for name in names}, **encoding}
            messages.append(CellMessage(headers, message.payload))

    session.pipe.cell.core_cell.add_incoming_filter("*", "*", record)
    return messages


class TestRepeatedAndChanged:
    def test_repeated_records_are_taken_once(self, session, trainer, attacker, records):
        trainer.greet()
        batches = recorded(session, METRICS)
        for number in range(3):
            assert trainer.send(Message.new_request(METRICS, RECORDS), LIMIT)
        for batch in list(batches):
            attacker.tell(METRICS, batch)
        assert len(records) == 3

    def test_repeated_heartbeat_is_no_sign_of_life(self, session, trainer, attacker):
        trainer.greet()
        beats = recorded(session, Topic.HEARTBEAT)
        trainer.send(Message.new_request(Topic.HEARTBEAT, ""))
        heard = session.pipe.last_heard
        (beat,) = beats
        attacker.tell(Topic.HEARTBEAT, beat)
        assert session.pipe.last_heard == heard

    def test_repeated_result_is_taken_once(self, session, trainer, attacker):
        trainer.greet()
        results = recorded(session, TASK)
        do_task(session, trainer)
        attacker.tell(TASK, results[0])
        do_task(session, trainer)

    @pytest.mark.parametrize("name", ["msg_type", "msg_id", "req_id"])
    def test_changed_head(self, session, trainer, name):
        def change(message):
            head = dict(zip(("msg_type", "msg_id", "req_id"), json.loads(message.get_header(HEAD))))
            message.set_header(HEAD, json.dumps(list({**head, name: "another"}.values())))

        self.assert_changed_message_does_not_count(session, trainer, change)

    @pytest.mark.parametrize("name", [HEAD, SEAL])
    def test_changed_header(self, session, trainer, name):
        self.assert_changed_message_does_not_count(
            session, trainer, lambda message: message.set_header(name, "another")
        )

    def test_changed_payload(self, session, trainer):
        def change(message):
            payload = b"".join(message.payload) if isinstance(message.payload, list) else bytes(message.payload)
            message.payload = payload[:-1] + bytes([payload[-1] ^ 1])

        self.assert_changed_message_does_not_count(session, trainer, change)

    def test_changed_topic(self, session, trainer):
        self.assert_changed_message_does_not_count(
            session, trainer, lambda message: message.set_header(MessageHeaderKey.TOPIC, METRICS)
        )

    def assert_changed_message_does_not_count(self, session, trainer, change) -> None:
        """It is refused as a stranger's, and the trainer, which has no good answer, sends it again."""
        trainer.greet()
        changed = []

        def change_once(message: CellMessage) -> None:
            if message.get_header(MessageHeaderKey.TOPIC) == TASK and not changed and message.get_header(SEAL):
                if message.get_header(MessageHeaderKey.MSG_TYPE) == "req":
                    changed.append(message)
                    change(message)

        session.pipe.cell.core_cell.add_incoming_filter("*", "*", change_once)
        do_task(session, trainer)
        assert changed and session.stats()["refused"] == 1


class TestLost:
    class Unheard(RawTrainer):
        """Takes what it is sent, and its acknowledgements are lost."""

        def _take(self, request: CellMessage) -> CellMessage:
            super()._take(request)
            return make_reply(ReturnCode.TIMEOUT)

    def test_acknowledgement_of_a_task_whose_result_came(self, session, cell, keys):
        trainer = self.Unheard(cell, session.pipe.channel, session.pipe.cell.get_fqcn(), keys)
        trainer.join()
        results = []
        running = threading.Thread(
            target=lambda: results.append(session.execute("train", Shareable(), None, Signal())), daemon=True
        )
        running.start()
        result = trainer.sealed(Message.new_reply(TASK, Shareable({"good": True}), trainer.take_task().msg_id))
        assert trainer.ask(TASK, result).get_header(MessageHeaderKey.RETURN_CODE) == ReturnCode.OK
        session.lose("it has died right after flare.send()")
        running.join(LIMIT)
        assert results[0].get("good"), results


class TestPieces:
    """The arrays of a large message between hosts come in pieces, and each of them is a message with a seal."""

    @pytest.fixture
    def distant(self, trainer):
        trainer.exchange = Exchange(can_share=False)
        trainer.greet()
        return trainer

    @staticmethod
    def do_large_task(session, trainer, value: float, between=lambda: None) -> None:
        """Does a task whose result comes in pieces; something else comes between them."""

        def answer(msg: Message, timeout: float) -> bool:
            def send(piece: dict) -> bool:
                arrived = trainer.send(Message.new_request(PIECE, piece), timeout)
                between()
                return arrived

            with trainer.exchange.pack(msg) as packed:
                assert trainer.exchange.send_pieces(packed, send)
                return trainer.send(Message(msg.msg_type, TASK, packed.payload, msg.msg_id, msg.req_id), timeout)

        good = np.full(LARGE, value, dtype=np.float32)
        result = do_task(session, trainer, Shareable({"good": True, "w": good}), answer)
        assert (result["w"] == value).all()

    def test_changed_piece(self, session, distant):
        changed = []

        def change_once(message: CellMessage) -> None:
            if message.get_header(MessageHeaderKey.TOPIC) == PIECE and message.get_header(SEAL) and not changed:
                payload = message.payload if isinstance(message.payload, list) else [message.payload]
                payload = bytearray(b"".join(payload))
                payload[-100] ^= 1
                message.payload = bytes(payload)
                changed.append(message)

        session.pipe.cell.core_cell.add_incoming_filter("*", "*", change_once)
        self.do_large_task(session, distant, 7.0)
        assert changed and session.stats()["refused"] == 1

    def test_repeated_piece_among_those_of_the_next_message(self, session, distant, attacker):
        pieces = recorded(session, PIECE)
        self.do_large_task(session, distant, 1.0)
        early = list(pieces)
        self.do_large_task(session, distant, 2.0, between=lambda: [attacker.tell(PIECE, piece) for piece in early[:2]])


class TestFalseJob:
    """Somebody answers in the place of the job, who knows all but the secret."""

    @pytest.fixture
    def false_job(self, federation, keys):
        """A job that proves itself, and then forgets the key."""
        fqcn = f"site-1_{keys['token']}_passive"
        cell = connected_cell(fqcn, federation.url)
        answers = []

        def answer(request: CellMessage) -> CellMessage:
            if request.get_header(MessageHeaderKey.TOPIC) != HELLO:
                return answers.pop(0) if answers else make_reply(ReturnCode.OK)
            trainer = request.get_header(MessageHeaderKey.ORIGIN)
            handshake = Handshake(keys["secret"], keys["challenge"], fqcn, trainer)
            return make_reply(ReturnCode.OK, body=pack(handshake.welcome(unpack(request.payload))))

        cell.core_cell.register_request_cb(channel=f"cell_pipe.{CHANNEL}", topic="*", cb=answer)
        yield answers
        stop_cell(cell)

    @pytest.fixture
    def deceived(self, federation, keys, false_job):
        pipe = pipe_of(federation, Mode.ACTIVE, keys)
        pipe.open()
        pipe.greet()
        yield pipe
        pipe.close()

    def test_acknowledgement_without_a_seal(self, deceived):
        assert not deceived.send(Message.new_request(METRICS, RECORDS), timeout=0.5)

    def test_acknowledgement_of_another_message(self, deceived, false_job):
        reply = make_reply(ReturnCode.OK)
        reply.set_header(SEAL, bytes(32))
        false_job.append(reply)
        assert not deceived.send(Message.new_request(METRICS, RECORDS), timeout=0.5)

    def test_refusal_without_a_seal(self, deceived, false_job):
        false_job.append(make_reply(ReturnCode.INVALID_REQUEST, "forged"))
        assert not deceived.send(Message.new_request(METRICS, RECORDS), timeout=0.5)

    def test_its_answers_are_no_signs_of_life(self, deceived):
        heard = deceived.last_heard
        deceived.send(Message.new_request(METRICS, RECORDS), timeout=0.5)
        assert deceived.last_heard == heard

    @pytest.mark.parametrize("topic", TOPICS)
    def test_its_messages_are_not_taken(self, deceived, cell, keys, topic):
        known = {**keys, "secret": "a guess"}
        attacker = RawTrainer(cell, deceived.channel, deceived.cell.get_fqcn(), known, deceived.peer)
        attacker.tell(topic, attacker.sealed(Message.new_request(topic, Shareable())))
        cell.core_cell.out_req_filter_reg.reg.clear()
        assert deceived.strangers.count == 1
        assert deceived.receive(0.05) is None


class Bomb:
    """A class that FOBS makes of a message's bytes, and that says so."""

    unpacked = []


class BombDecomposer(Decomposer):
    def supported_type(self):
        return Bomb

    def decompose(self, target, manager=None):
        return {}

    def recompose(self, data, manager=None):
        Bomb.unpacked.append(data)
        return Bomb()


@pytest.fixture
def bomb():
    fobs.register(BombDecomposer)
    Bomb.unpacked.clear()
    assert isinstance(fobs.loads(fobs.dumps(Bomb())), Bomb) and Bomb.unpacked.pop() == {}
    yield fobs.dumps(Bomb())
    assert Bomb.unpacked == []


class TestNothingIsUnpackedBeforeAProof:
    @pytest.mark.parametrize("channel", ["", "any other", CellChannel.CLIENT_MAIN])
    def test_of_a_stranger(self, session, trainer, cell, keys, bomb, channel):
        stranger = RawTrainer(cell, session.pipe.channel, session.pipe.cell.get_fqcn(), {**keys, "secret": ""})
        for topic in (HELLO, *TOPICS):
            stranger.ask(topic, CellMessage({MessageHeaderKey.PAYLOAD_ENCODING: Encoding.FOBS}, bomb), channel)
        trainer.greet()
        do_task(session, trainer)

    @pytest.mark.parametrize("size", [0, 1 << 46], ids=["small", "large"])
    @pytest.mark.parametrize("channel", ["", CellChannel.RETURN_ONLY, CellChannel.CLIENT_MAIN])
    @pytest.mark.parametrize("end", ["job", "trainer"])
    def test_in_a_stream(self, session, trainer, cell, keys, bomb, end, channel, size):
        """Nor is room made for it, as a cell does on its own, for as many bytes as its header announces."""
        trainer.greet()
        pipe = session.pipe if end == "job" else trainer
        stranger = RawTrainer(cell, session.pipe.channel, pipe.cell.get_fqcn(), {**keys, "secret": ""})
        headers = {
            StreamHeaderKey.CHANNEL: channel or pipe.channel,
            StreamHeaderKey.TOPIC: METRICS,
            StreamHeaderKey.STREAM_ID: 1,
            StreamHeaderKey.SEQUENCE: 0,
            StreamHeaderKey.SIZE: size,
            StreamHeaderKey.DATA_TYPE: StreamDataType.FINAL,
            StreamHeaderKey.PAYLOAD_ENCODING: Encoding.FOBS,
            MessageHeaderKey.PAYLOAD_ENCODING: Encoding.BYTES,
        }
        reply = stranger.ask(STREAM_DATA_TOPIC, CellMessage(headers, bomb), STREAM_CHANNEL)
        assert reply.get_header(MessageHeaderKey.RETURN_CODE) == ReturnCode.INVALID_REQUEST
        assert pipe.strangers.count == 1
        do_task(session, trainer)

    @pytest.mark.parametrize("name", [HEAD, SEAL])
    def test_in_a_header(self, session, trainer, cell, keys, site_log, name):
        trainer.greet()
        stranger = RawTrainer(cell, session.pipe.channel, session.pipe.cell.get_fqcn(), {**keys, "secret": ""})
        deep = []
        for _ in range(400):
            deep = [deep, deep[:0]]
        for content in (deep, 1, None, {"a": [1.5]}, b"bytes"):
            request = stranger.sealed(Message.new_request(METRICS, RECORDS))
            request.set_header(name, content)
            assert stranger.ask(METRICS, request).get_header(MessageHeaderKey.RETURN_CODE) == ReturnCode.INVALID_REQUEST
        assert [record for record in site_log.records if record.levelno >= logging.ERROR] == []
        do_task(session, trainer)

    def test_in_an_answer_to_a_hello(self, federation, keys, bomb):
        cell = connected_cell(f"site-1_{keys['token']}_passive", federation.url)
        cell.core_cell.register_request_cb(
            channel=f"cell_pipe.{CHANNEL}",
            topic="*",
            cb=lambda _: CellMessage({MessageHeaderKey.PAYLOAD_ENCODING: Encoding.FOBS}, bomb),
        )
        pipe = pipe_of(federation, Mode.ACTIVE, keys)
        pipe.open()
        threading.Timer(0.5, pipe.gone.trigger, ["the test is over"]).start()
        with pytest.raises(HandshakeError):
            pipe.greet()
        pipe.close()
        stop_cell(cell)

    def test_with_a_seal_it_is(self, session, trainer, bomb):
        trainer.greet()
        with pytest.raises(MessageRefused):
            trainer.send(Message.new_request(METRICS, Bomb()), LIMIT)
        assert Bomb.unpacked.pop() == {}
