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

"""What comes from outside, made up at random: it is refused, and nothing breaks.

`make test` tries a fixed sample of each kind; `make chaos` sets FUZZ_EXAMPLES for many more, other ones each time.
"""

import copy
import json
import os
import shutil
import threading

import pytest
from client_api.cell_harness import LIMIT
from client_api.migration_parts import JOBS
from client_api.raw_trainer import RawTrainer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from nvflare.app_common.executors.client_api.handshake import Handshake, HandshakeError, new_session_keys, pack, unpack
from nvflare.app_common.executors.client_api.migrate import NOT_MIGRATED, OK, main
from nvflare.app_common.executors.client_api.rendezvous import (
    RANKS_FILE,
    RENDEZVOUS_FILE,
    Claim,
    RendezvousRefused,
    describe_owner,
    find_ranks_file,
)
from nvflare.app_common.executors.client_api.trainer_pipe import DELIVERED, HELLO, METRICS, TASK, TrainerPipe
from nvflare.app_common.executors.client_api.trainer_session import SessionState, TrainerSession
from nvflare.fuel.f3.cellnet.defs import MessageHeaderKey, ReturnCode
from nvflare.fuel.f3.message import Message as CellMessage
from nvflare.fuel.utils import fobs
from nvflare.fuel.utils.constants import Mode
from nvflare.fuel.utils.pipe.pipe import Message, Topic

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", 0))
KEYS = new_session_keys()

pytestmark = pytest.mark.watchdog(3600 if EXAMPLES else 120)

texts = st.text(st.characters(), max_size=40)  # lone surrogates too
scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts
json_data = st.recursive(
    scalars, lambda data: st.lists(data, max_size=4) | st.dictionaries(texts, data, max_size=4), max_leaves=12
)
plain_texts = st.text(max_size=40)
wire_data = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | plain_texts | st.binary(max_size=80),
    lambda data: st.lists(data, max_size=4) | st.dictionaries(plain_texts, data, max_size=4),
    max_leaves=12,
)


def fuzzed(share: float = 1.0, sample: int = 100, **strategies):
    """Tries a test with random inputs: `sample` of them, always the same, or this share of FUZZ_EXAMPLES."""

    def decorate(test):
        options = {"max_examples": max(1, int(EXAMPLES * share)) if EXAMPLES else sample, "derandomize": not EXAMPLES}
        checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
        return settings(**options, deadline=None, database=None, suppress_health_check=checks)(
            given(**strategies)(test)
        )

    return decorate


@st.composite
def spoiled(draw, good: dict, names=texts, values=json_data):
    """A good dictionary in which one thing is missing, added or another."""
    bad = copy.deepcopy(good)
    how = draw(st.sampled_from(["drop", "add", "change"]))
    name = draw(names.filter(lambda text: text not in good) if how == "add" else st.sampled_from(sorted(good)))
    bad.pop(name, None)
    if how != "drop":
        bad[name] = draw(values.filter(lambda value: value != good.get(name)))
    return bad


def packed(data) -> bytes:
    return json.dumps(data).encode()


class TestHandshake:
    handshake = Handshake(KEYS["secret"], KEYS["challenge"], "job", "trainer")
    hello = handshake.hello()

    @fuzzed(data=st.binary(max_size=5000) | json_data.map(packed) | spoiled(hello).map(packed))
    def test_hello_is_refused(self, data):
        assert self.handshake.find_fault(unpack(data))

    @fuzzed(data=st.binary(max_size=5000) | json_data.map(packed) | spoiled(handshake.welcome(hello)).map(packed))
    def test_answer_is_refused(self, data):
        answer = unpack(data)
        if answer and answer.get("proof") == self.handshake.welcome(self.hello)["proof"] and "reject" not in answer:
            return  # something was added to a good answer
        with pytest.raises(HandshakeError):
            self.handshake.check_answer(answer, self.hello)


class TestFiles:
    """What a trainer finds in a workspace."""

    good = {"TASK_EXCHANGE": {"pipe": {"ARG": {"secret": "s"}}}, **describe_owner()}
    contents = st.binary(max_size=200) | (json_data | spoiled(good)).map(lambda data: json.dumps(data).encode())

    def put(self, tmp_path, name: str, content: bytes):
        path = tmp_path / "job-1" / "app_site-1" / "config" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(0o600)
        path.write_bytes(content)
        return path

    @fuzzed(share=0.5, content=contents)
    def test_rendezvous(self, tmp_path, content):
        path = self.put(tmp_path, RENDEZVOUS_FILE, content)
        try:
            claim = Claim(path)
        except RendezvousRefused as e:
            assert str(path) in str(e)
        else:  # what was spoiled does not matter
            claim.close()
            assert isinstance(claim.content["TASK_EXCHANGE"]["pipe"]["ARG"]["secret"], str)

    @fuzzed(share=0.5, content=contents)
    def test_ranks_file(self, tmp_path, content):
        path = self.put(tmp_path, RANKS_FILE, content)
        assert find_ranks_file(str(tmp_path)) in (None, path)

    @pytest.mark.parametrize("content", [b"[" * 100_000, b'{"TASK_EXCHANGE":' * 100_000, b"\xff" * 10, b""])
    def test_hostile_rendezvous(self, tmp_path, content):
        with pytest.raises(RendezvousRefused):
            Claim(self.put(tmp_path, RENDEZVOUS_FILE, content))
        self.put(tmp_path, RANKS_FILE, content)
        assert find_ranks_file(str(tmp_path)) is None


def pipe_of(federation, mode: Mode, keys: dict) -> TrainerPipe:
    return TrainerPipe(
        mode.value, "site-1", keys["token"], federation.url, False, "", keys["secret"], keys["challenge"]
    )


@pytest.fixture(scope="module")
def stranger(federation):
    return federation.join("stranger")


@pytest.fixture
def open_session(federation):
    keys = new_session_keys()
    session = TrainerSession(
        pipe_of(federation, Mode.PASSIVE, keys),
        "fuzzed",
        None,
        LIMIT,
        on_metrics=lambda record: None,
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


TOPICS = [HELLO, TASK, METRICS, DELIVERED, Topic.HEARTBEAT, Topic.END, Topic.ABORT, Topic.PEER_GONE, "NONSENSE"]


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

        @fuzzed(share=0.1, topic=st.sampled_from([TASK, METRICS, DELIVERED, "NONSENSE", HELLO]), payload=wire_data)
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


TOKENS = [
    "",
    *"{}[]\"',\n#:=\\\t|",
    "null",
    "5",
    "1e9",
    "${x}",
    "{app_script}",
    "include ",
    "+=",
    "- ",
    "&a ",
    "*a ",
    "é",
    "args",
]
edits = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 60), st.sampled_from(TOKENS)),
    min_size=1,
    max_size=4,
)


class TestMigration:
    """Job configs with mistakes in them: migrated or refused, never written in halves."""

    configs = sorted(path for path in JOBS.glob("*/config_fed_client.*"))

    @fuzzed(share=0.1, sample=40, config=st.sampled_from(configs), changes=edits)
    def test_config(self, tmp_path, config, changes):
        text = config.read_text()
        for place, length, token in changes:
            at = int(place * len(text))
            text = text[:at] + token + text[at + length :]
        spoiled_job = tmp_path / "job"
        shutil.rmtree(spoiled_job, ignore_errors=True)
        spoiled_job.mkdir()
        path = spoiled_job / config.name
        path.write_text(text)
        code = main([str(spoiled_job), "--in-place"])
        migrated = path.read_text()
        assert code == OK or (code == NOT_MIGRATED and migrated == text)
        assert [entry.name for entry in spoiled_job.iterdir()] == [path.name]
        assert main([str(spoiled_job), "--in-place"]) == code and path.read_text() == migrated
