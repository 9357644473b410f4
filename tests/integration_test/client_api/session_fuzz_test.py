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

"""Messages to a session, made up at random: no stranger gets in, and no trainer can break it."""

import threading

import pytest

from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from nvflare.app_common.executors.client_api.session.handshake import Handshake, new_session_keys, pack, unpack
from nvflare.app_common.executors.client_api.session.letters import HELLO, METRICS, PIECE, TASK
from nvflare.app_common.executors.client_api.session.trainer_session import SessionState, TrainerSession
from nvflare.fuel.f3.cellnet.defs import MessageHeaderKey, ReturnCode
from nvflare.fuel.f3.message import Message as CellMessage
from nvflare.fuel.utils import fobs
from nvflare.fuel.utils.constants import Mode
from nvflare.fuel.utils.pipe.pipe import Message, Topic
from tests.integration_test.client_api.raw_trainer import RawTrainer, context_of, pipe_of
from tests.unit_test.app_common.executors.client_api.fuzzing import (
    FUZZ_WATCHDOG,
    fuzzed,
    packed,
    spoiled,
    st,
    wire_data,
)
from tests.unit_test.app_common.executors.job_harness import LIMIT

pytestmark = FUZZ_WATCHDOG


@pytest.fixture(scope="module")
def stranger(federation):
    cell = federation.join("stranger")
    yield cell
    federation.leave(cell)


@pytest.fixture
def open_session(federation):
    keys = new_session_keys()
    session = TrainerSession(
        pipe_of(federation, Mode.PASSIVE, keys),
        "fuzzed",
        context_of(lambda record: None),
        find_death=lambda silence: "",  # it may be open for long
    )
    session.open()
    yield session, keys
    session.end("the test is over")
    session.close()


def ask(cell, session: TrainerSession, topic: str, payload) -> str:
    """Sends a message to the job's end of a session; returns the answer's return code and payload."""
    reply = cell.core_cell.send_request(
        session.pipe.channel, topic, session.pipe.cell.get_fqcn(), CellMessage(payload=payload), timeout=LIMIT
    )
    return reply.get_header(MessageHeaderKey.RETURN_CODE), reply.payload


TOPICS = [HELLO, TASK, METRICS, PIECE, Topic.HEARTBEAT, Topic.END, Topic.ABORT, Topic.PEER_GONE, "NONSENSE"]


class TestSession:
    def test_stranger(self, open_session, stranger):
        session, keys = open_session
        good = Handshake(keys["secret"], keys["challenge"], session.pipe.cell.get_fqcn(), "another cell").hello()
        hellos = st.just(pack(good)) | spoiled(good).map(packed) | st.binary(max_size=5000)

        @fuzzed(share=0.3, topic=st.sampled_from(TOPICS), payload=wire_data | hellos)
        def try_one(topic, payload):
            code, answer = ask(stranger, session, topic, payload)
            if topic == HELLO:
                assert code == ReturnCode.OK and unpack(answer)["reject"]
            else:
                assert code == ReturnCode.INVALID_REQUEST
            assert session.state is SessionState.WAITING and not session.trainer

        try_one()

    def test_trainer_that_talks_nonsense(self, open_session, stranger):
        """It is in the session, and still cannot break it: the next good result counts."""
        session, keys = open_session
        job = session.pipe.cell.get_fqcn()
        trainer = RawTrainer(stranger, session.pipe.channel, job, keys)
        trainer.join()
        good = Shareable({"good": True})

        def say(topic, payload):
            msg = Message.new_reply(topic, payload, "no such request")
            raw = payload if isinstance(payload, bytes) else fobs.dumps(payload)[:-1]
            for message in (CellMessage(payload=payload), trainer.sealed(msg), trainer.sealed(msg, raw)):
                trainer.ask(topic, message)

        @fuzzed(share=0.1, topic=st.sampled_from([TASK, METRICS, PIECE, "NONSENSE", HELLO]), payload=wire_data)
        def try_one(topic, payload):
            say(topic, payload)
            assert session.state is SessionState.READY
            results = []
            task = Shareable()
            running = threading.Thread(
                target=lambda: results.append(session.execute("train", task, None, Signal())), daemon=True
            )
            running.start()
            request = trainer.take_task()
            say(topic, payload)
            result = trainer.sealed(Message.new_reply(TASK, good, request.msg_id))
            assert trainer.ask(TASK, result).get_header(MessageHeaderKey.RETURN_CODE) == ReturnCode.OK
            running.join(LIMIT)
            assert results and results[0]["good"]

        try_one()
