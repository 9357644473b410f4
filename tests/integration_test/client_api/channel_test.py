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

"""The contract of a channel, over a cell and over a job's own pipe alike: who joins, what arrives, and how it ends."""

import os
import queue
import threading
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Optional

import numpy as np
import pytest

from nvflare.apis.dxo import DXO, DataKind
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.app_common.executors.client_api.arrays.exchange import Exchange
from nvflare.app_common.executors.client_api.backend_spec import TrainerError
from nvflare.app_common.executors.client_api.session import limits, trainer_agent
from nvflare.app_common.executors.client_api.session.channel import Channel
from nvflare.app_common.executors.client_api.session.foreign_pipe import ForeignPipe
from nvflare.app_common.executors.client_api.session.handshake import HandshakeError, new_session_keys
from nvflare.app_common.executors.client_api.session.letters import METRICS, TASK, MessageRefused
from nvflare.app_common.executors.client_api.session.trainer_agent import TrainerAgent
from nvflare.app_common.executors.client_api.session.trainer_pipe import TrainerPipe
from nvflare.app_common.executors.client_api.session.trainer_session import SessionState, TrainerSession
from nvflare.client.flare_agent import AgentClosed
from nvflare.fuel.utils.constants import Mode
from nvflare.fuel.utils.pipe.file_pipe import FilePipe
from nvflare.fuel.utils.pipe.pipe import Message, Topic
from tests.integration_test.client_api.raw_trainer import context_of
from tests.unit_test.app_common.executors.job_harness import LIMIT, make_task, model_of

LEASE = {"heartbeat_interval": 0.2, "heartbeat_timeout": 2.0}


class SlowPipe(FilePipe):
    """Its passive end takes three heartbeats of its own, from the peer's view, to write a task and to read a result."""

    heard = threading.Semaphore(0)

    def send(self, msg, timeout=None):
        self.tarry(msg)
        return super().send(msg, timeout)

    def receive(self, timeout=None):
        msg = super().receive(timeout)
        if msg and self.mode == Mode.ACTIVE and msg.data[0] == Topic.HEARTBEAT:
            self.heard.release()
        elif msg:
            self.tarry(msg)
        return msg

    def tarry(self, msg) -> None:
        if self.mode == Mode.PASSIVE and msg.data[0] == TASK:
            while self.heard.acquire(blocking=False):
                pass
            for _ in range(3):
                assert self.heard.acquire(timeout=LIMIT)


class LaggingPipe(FilePipe):
    """Its active end sees a message when it looks for the fourth time, as in a folder whose listing is old."""

    looks = 0

    def receive(self, timeout=None):
        if self.mode == Mode.ACTIVE and os.listdir(self.x_path):
            self.looks = (self.looks + 1) % 4
        return None if self.looks else super().receive(timeout)


@pytest.fixture(params=["cell", "pipe"])
def make(request, federation, tmp_path):
    """Makes an end of a session's channel."""
    keys = new_session_keys()

    def make_end(mode: Mode, **changes) -> Channel:
        of_session = {**keys, **LEASE, **changes}
        if request.param == "cell":
            cellnet = {"root_url": federation.url, "secure_mode": False, "workspace": ""}
            return TrainerPipe(mode.value, "site-1", **cellnet, **of_session)
        kind = {"pipe": FilePipe, "slow pipe": SlowPipe, "lagging pipe": LaggingPipe}[request.param]
        pipe_args = {"mode": mode.value, "root_path": str(tmp_path)}
        return ForeignPipe(mode.value, f"{kind.__module__}.{kind.__name__}", pipe_args, **of_session)

    return make_end


@pytest.fixture
def records():
    return []


@pytest.fixture
def on_record(records):
    """What the job does with a record; a test may change it."""
    return SimpleNamespace(call=records.append)


@pytest.fixture
def session(make, on_record):
    context = context_of(lambda record: on_record.call(record))
    session = TrainerSession(make(Mode.PASSIVE), "of the contract", context)
    session.pipe.heartbeat_timeout = 0  # what a test does not ask about does not end it
    session.open()
    yield session
    session.close()


@pytest.fixture
def join(make, session):
    """Opens trainers' ends, and closes them after the test."""
    with ExitStack() as ends:

        def join_session(**changes) -> Channel:
            with ExitStack() as undo:
                end = make(Mode.ACTIVE, **changes)
                undo.callback(end.close)
                end.open()
                end.greet()
                ends.push(undo.pop_all())
            return end

        yield join_session


@pytest.fixture
def agent(make, session):
    agent = TrainerAgent(make(Mode.ACTIVE))
    agent.start()
    yield agent
    agent.stop()


@pytest.fixture
def execute(session):
    """Executes a task on a thread of its own; gives where its result, or what it raised, will be."""
    threads = []

    def start(task: Optional[Shareable] = None) -> queue.Queue:
        outcome, task = queue.Queue(), task or Shareable({"number": 7})

        def run():
            try:
                outcome.put(session.execute("train", task, None, Signal()))
            except TrainerError as e:
                outcome.put(str(e))

        threads.append(threading.Thread(target=run, daemon=True))
        threads[-1].start()
        return outcome

    yield start
    for thread in threads:
        thread.join(LIMIT)


def record_of(number: int) -> DXO:
    return DXO(DataKind.ANALYTIC, {"number": number})


def test_task_its_records_and_its_result(session, join, execute, records):
    trainer = join()
    outcome = execute()
    request = trainer.receive(LIMIT)
    assert request.topic == TASK and request.data["number"] == 7
    for number in range(3):
        assert trainer.send(Message.new_request(METRICS, [record_of(number)]), LIMIT)
    assert [record.data["number"] for record in records] == [0, 1, 2]
    assert trainer.send(Message.new_reply(TASK, Shareable({"number": 8}), request.msg_id), LIMIT)
    assert outcome.get(timeout=LIMIT)["number"] == 8
    assert session.is_idle


def test_a_script_that_asks_late_for_its_task_is_not_slow_to_send(session, agent, execute, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(trainer_agent, "time", SimpleNamespace(monotonic=lambda: now[0]))
    outcome = execute(make_task())
    arrived = agent.pipe.inbox.get(timeout=LIMIT)
    now[0] = LIMIT
    agent.pipe.inbox.put(arrived)
    agent.get_task(LIMIT)
    agent.submit_result(FLModel(metrics={"number": 1}))
    outcome.get(timeout=LIMIT)
    assert session.traffic.legs[-1] == "sent in 0.000 s"


@pytest.mark.parametrize("make", ["slow pipe"], indirect=True)
def test_heartbeats_go_on_while_a_message_is_written_or_read(session, agent, execute):
    outcome = execute(make_task())
    agent.get_task(LIMIT)
    assert agent.submit_result(FLModel(metrics={"number": 1}))
    assert model_of(outcome.get(timeout=LIMIT)).metrics == {"number": 1}


@pytest.mark.parametrize("make", ["lagging pipe"], indirect=True)
def test_end_is_told_over_a_pipe_that_lags(session, agent, execute, monkeypatch):
    outcome = execute(make_task())
    agent.get_task(LIMIT)
    assert agent.submit_result(FLModel(metrics={"number": 1}))
    outcome.get(timeout=LIMIT)
    assert session.pipe.patience > 0.5  # three times two pauses between looks, at least
    monkeypatch.setattr(ForeignPipe, "patience", LIMIT)
    for name in ("END_TIMEOUT", "DRAIN_TIMEOUT"):
        monkeypatch.setattr(limits, name, 0.01)
    session.end("the job ends")
    session.close()
    with pytest.raises(AgentClosed, match="the job ends"):
        agent.get_task(LIMIT)
    assert not agent.is_job_lost


def test_message_that_the_job_cannot_use_is_refused_with_the_reason(session, join):
    trainer = join()
    with pytest.raises(MessageRefused, match="malformed METRICS"):
        trainer.send(Message.new_request(METRICS, "no list of records"), LIMIT)
    assert trainer.send(Message.new_request(METRICS, []), LIMIT)
    assert session.state is SessionState.READY


def test_message_that_fails_whoever_takes_it_is_not_taken(session, join, on_record):
    trainer = join()

    def fail(record):
        raise RuntimeError("can't start new thread")

    on_record.call = fail
    with pytest.raises(MessageRefused, match="could not be taken: RuntimeError: can't start new thread"):
        trainer.send(Message.new_request(METRICS, [record_of(0)]), LIMIT)
    assert session.state is SessionState.READY


def test_records_wait_in_the_trainer_while_the_job_has_no_room(session, make, on_record, records):
    """Its threads do not: they have heartbeats to take, and an end."""
    refused, has_room = threading.Semaphore(0), threading.Event()

    def take(record):
        if not has_room.is_set():
            refused.release()
            return False
        records.append(record)

    on_record.call = take
    agent = TrainerAgent(make(Mode.ACTIVE))
    agent.start()
    for number in range(3):
        assert agent.log(record_of(number))
    for _ in range(2):
        assert refused.acquire(timeout=LIMIT)
    assert session.stats()["state"] == SessionState.READY.value
    has_room.set()
    agent.stop()
    assert [record.data["number"] for record in records] == [0, 1, 2]


def test_result_that_the_job_refuses_leaves_the_task_to_another_one(session, agent, execute):
    take, outcome = session.pipe.on_message, execute(make_task())

    def refuse(msg: Message) -> None:
        session.pipe.on_message = take
        raise MessageRefused("no memory")

    agent.get_task(LIMIT)
    session.pipe.on_message = refuse
    with pytest.raises(MessageRefused, match="no memory"):
        agent.submit_result(FLModel(metrics={"number": 1}))
    assert agent.submit_result(FLModel(metrics={"number": 2}))
    assert model_of(outcome.get(timeout=LIMIT)).metrics == {"number": 2}


def test_script_gets_the_newest_task_alone(session, agent):
    for number in (1, 3, 2):  # the last one was overtaken
        assert session.pipe.send(Message.new_request(TASK, make_task(current_round=number), number), LIMIT)
    assert agent.get_task(LIMIT).data.current_round == 3
    assert agent.submit_result(FLModel(metrics={"number": 3}))
    assert agent.get_task(0) is None


@pytest.mark.parametrize("make", ["cell"], indirect=True)  # a job's pipe has limits of its own
def test_task_that_no_message_can_carry(session, join, execute):
    """nvflare counts the parts of a large message, sends it, and its other end closes the connection."""
    join()
    session.pipe.cell.core_cell.max_msg_size = 10
    assert "one message takes at most 10" in execute().get(timeout=LIMIT)
    assert session.state is SessionState.READY


@pytest.mark.parametrize("make", ["cell"], indirect=True)
def test_time_of_a_message_counts_from_its_first_piece(session, join):
    join()
    cell, send = session.pipe.cell.core_cell, session.pipe.cell.core_cell.send_request

    def send_slowly(*args, **options):
        threading.Event().wait(0.1)
        return send(*args, **options)

    cell.send_request, session.pipe.exchange = send_slowly, Exchange(can_share=False)
    model = {"w": np.ones(2 * 1024 * 1024)}  # 16 pieces, 4 at a time
    assert not session.pipe.send(Message.new_request(TASK, model), timeout=0.3)
    assert session.pipe.send(Message.new_request(TASK, model))


@pytest.mark.parametrize("make", ["cell"], indirect=True)
def test_task_whose_cell_is_closed_while_it_is_sent(session, join, execute):
    """As a session is that another one takes the place of."""
    join()
    cell, send = session.pipe.cell.core_cell, session.pipe.cell.core_cell.send_request

    def close_and_send(*args, **options):
        session.lose("the trainer has left")
        session.close()
        return send(*args, **options)

    cell.send_request = close_and_send
    assert execute().get(timeout=LIMIT) == "the trainer has left"


def test_end_while_a_trainer_joins(session, join):
    bind = session.pipe.bind

    def end_meanwhile(*args) -> None:
        bind(*args)
        session.end("the job ends")

    session.pipe.bind = end_meanwhile
    with pytest.raises(HandshakeError, match="the session is closing"):
        join()


def test_trainer_that_does_not_know_the_secret(session, join):
    with pytest.raises(HandshakeError, match="wrong proof"):
        join(secret="a guess")
    assert session.state is SessionState.WAITING
    join()
    assert session.state is SessionState.READY


def test_trainer_that_speaks_before_it_has_joined(make, session):
    stranger = make(Mode.ACTIVE)
    stranger.open()
    assert not stranger.send(Message.new_request(METRICS, []), 0.1)
    stranger.close()
    assert session.state is SessionState.WAITING


def test_end_is_told(session, join):
    trainer = join()
    session.end("there is no more task")
    message = trainer.receive(LIMIT)
    assert (message.topic, message.data) == (Topic.END, "there is no more task")
    session.close()
    assert session.state is SessionState.CLOSED


def test_trainer_that_leaves_fails_its_task_with_the_reason(join, execute):
    trainer = join()
    outcome = execute()
    trainer.receive(LIMIT)
    trainer.send(Message.new_request(Topic.END, "my own reason"), LIMIT)
    assert outcome.get(timeout=LIMIT) == "my own reason"


def test_silent_trainer_is_lost(session, join, execute):
    session.pipe.heartbeat_timeout = LEASE["heartbeat_timeout"]
    trainer = join()  # and not a single heartbeat
    outcome = execute()
    assert "no sign of life" in outcome.get(timeout=LIMIT)
    assert session.state is SessionState.LOST
    assert not trainer.send(Message.new_request(METRICS, []), 0.1)


@pytest.mark.parametrize("make", ["cell"], indirect=True)  # over a pipe one thread hears and judges
def test_trainer_that_is_heard_while_its_silence_is_judged(session, join):
    trainer, judged = join(), threading.Semaphore(0)

    def judge(silence: float) -> str:
        assert trainer.send(Message.new_request(METRICS, []), LIMIT)
        judged.release()
        return f"no sign of life for {silence} s"

    session.pipe.find_death, session.pipe.heartbeat_timeout = judge, LEASE["heartbeat_timeout"]
    for _ in range(2):
        assert judged.acquire(timeout=LIMIT)
    assert session.state is SessionState.READY


def test_job_that_is_gone_is_noticed(session, join):
    trainer = join()
    lost = queue.Queue()
    trainer.on_lost = lost.put
    trainer.watch()
    session.close()
    assert lost.get(timeout=LIMIT)
    assert not trainer.send(Message.new_request(METRICS, []), LIMIT)


def test_whoever_waits_for_the_peer_is_freed_by_its_loss(session, join, execute):
    join()  # and never takes anything: what is sent to it is answered by its channel alone
    outcome = execute()
    session.lose("its process has ended")
    assert outcome.get(timeout=LIMIT) == "its process has ended"
