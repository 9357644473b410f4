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

"""The CJ's end of a session with one trainer: its state, the handshake, and the exchange of tasks and results.

A session is one trainer, whoever owns its process, and has one state. Two kinds of threads meet here: the executor's
task thread, which sends a task and waits for its result, and those of the channel, which bring the trainer's HELLO, its
log records, results and the end. The state is under one condition, and so is the wait for a result; that for a task to
be taken is in the channel.
"""

import itertools
import threading
import time
import uuid
from dataclasses import dataclass
from enum import Enum
from typing import Callable, Optional, Union

from nvflare.apis.dxo import DXO
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from nvflare.app_common.executors.client_api.arrays.parcels import Placed, array_bytes
from nvflare.app_common.executors.client_api.arrays.specs import ArrayRefused
from nvflare.app_common.executors.client_api.arrays.traffic import Traffic
from nvflare.app_common.executors.client_api.backend_spec import ClientAPIBackendContext, TrainerError
from nvflare.app_common.executors.client_api.formats.outside_text import clip_cause, told_by_script
from nvflare.app_common.executors.client_api.session import limits
from nvflare.app_common.executors.client_api.session.channel import Channel
from nvflare.app_common.executors.client_api.session.handshake import (
    Handshake,
    HandshakeError,
    pack,
    unpack,
    without_proof,
)
from nvflare.app_common.executors.client_api.session.letters import (
    ENDS,
    METRICS,
    NO_ROOM,
    TASK,
    UNTAKEN,
    MessageRefused,
    NotTaken,
)
from nvflare.app_common.executors.client_api.waiting import UNTIL_RESULT, UNTIL_TAKEN, soonest_limit, wait_until
from nvflare.app_common.executors.task_exchanger import TaskExchanger
from nvflare.fuel.utils.pipe.pipe import Message, Topic


class SessionState(Enum):
    CREATED = "created"
    WAITING = "waiting"  # for the trainer's HELLO
    READY = "ready"
    BUSY = "busy"  # with a task
    CLOSING = "closing"  # the trainer is told to end, or has said so itself
    CLOSED = "closed"
    LOST = "lost"


_ENDED = {SessionState.CLOSING, SessionState.CLOSED, SessionState.LOST}
_MOVES = {
    SessionState.CREATED: {SessionState.WAITING, SessionState.LOST, SessionState.CLOSED},
    SessionState.WAITING: {SessionState.READY} | _ENDED,
    SessionState.READY: {SessionState.BUSY} | _ENDED,
    SessionState.BUSY: {SessionState.READY} | _ENDED,
    SessionState.CLOSING: {SessionState.CLOSED},
    SessionState.LOST: {SessionState.CLOSED},
    SessionState.CLOSED: set(),
}


@dataclass
class _TaskInHand:
    msg_id: int
    reply: Optional[Message] = None
    is_over: bool = False  # nobody waits for a result any more
    is_answered: bool = False  # by a result, in time or not: the trainer is not busy with it
    is_untaken: bool = False  # the script has not asked for it, and the trainer ends or has ended


class TrainerSession(TaskExchanger):
    def __init__(
        self,
        pipe: Channel,
        name: str,
        context: ClientAPIBackendContext,
        find_death: Optional[Callable[[float], str]] = None,
        on_change: Callable[["TrainerSession"], None] = lambda session: None,
    ):
        """Initializes a session; it is not open for a trainer before `open()`.

        Args:
            pipe (Channel): the CJ's end, not opened; it is the session's from now on.
            name (str): of the session, for the log.
            context (ClientAPIBackendContext): the backend's: its limits count, and its executor gets the log records.
            find_death (Callable, optional): asked while the trainer is silent, with the seconds of its silence; returns
                why it is dead, or "". Default: after the heartbeat timeout it is.
            on_change (Callable, optional): told of each new state and each wrong proof, on the thread that brings it;
                must return soon.
        """
        super().__init__(pipe_id="", heartbeat_timeout=None)
        self._name = name
        self.pipe = pipe
        self.pipe.on_hello, self.pipe.on_message, self.pipe.on_lost = self._handle_hello, self._take, self.lose
        self.pipe.find_death = find_death or self.pipe.find_death
        self.state = SessionState.CREATED
        self.cause = ""  # why the session has ended, once it has
        self.trainer = {}  # what the trainer told of itself in its HELLO
        self.traffic = Traffic()
        self.bad_hellos = 0  # by somebody who does not know the secret, or speaks another protocol
        self._context = context
        self._on_change = on_change
        self._changed = threading.Condition()
        self._since = time.monotonic()
        self._task: Optional[_TaskInHand] = None  # the last one
        self._numbers = itertools.count(1)  # of tasks

    def open(self) -> None:
        """Connects the pipe and begins to wait for a trainer.

        Raises:
            TrainerError: the cellnet cannot be reached.
        """
        self._move(SessionState.WAITING, "open for a trainer")
        try:
            self.pipe.open()
        except HandshakeError as e:
            raise TrainerError(str(e)) from e
        self.pipe.watch()

    def wait_ready(self, abort_signal: Optional[Signal] = None, timeout: Optional[float] = None) -> bool:
        """Waits (`timeout` in seconds; None: no limit) for a trainer that has joined; tells whether there is one.

        Raises:
            TrainerError: the session has ended, with the cause.
            TaskAborted: the abort signal was triggered.
        """
        with self._changed:
            waiting = {SessionState.CREATED, SessionState.WAITING}
            wait_until(self._changed, lambda: self.state not in waiting, abort_signal, timeout)
            self._raise_if_ended()
            return self.state not in waiting

    def _do_execute(
        self, task_name: str, task: Union[Shareable, Placed], fl_ctx: FLContext, abort_signal: Signal
    ) -> Shareable:
        shareable = task.parcel.content if isinstance(task, Placed) else task
        task_id = shareable.get_header(FLContextKey.TASK_ID) or str(uuid.uuid4())
        shareable.set_header(FLContextKey.TASK_ID, task_id)
        shareable.set_header(FLContextKey.TASK_NAME, task_name)
        # Messages with tasks are numbered: one may overtake another, which is over then.
        request = Message.new_request(TASK, task, next(self._numbers))
        with self._changed:
            self._raise_if_ended()
            in_hand = self._task = _TaskInHand(request.msg_id)
        self._move(SessionState.BUSY, f"task {task_name!r} {task_id}")
        try:
            return self._exchange(request, in_hand, abort_signal)
        finally:
            with self._changed:
                in_hand.is_over, in_hand.reply = True, None
            self._move(SessionState.READY, "the task is over")

    def _exchange(self, request: Message, task: _TaskInHand, abort_signal: Signal) -> Shareable:
        size, start = array_bytes(request.data), time.monotonic()
        limit = soonest_limit(self._context, UNTIL_TAKEN)
        was_sent = self._hand_over(request, task, limit.seconds, abort_signal)
        taken = time.monotonic()
        self.traffic.count_task(size, taken - start)
        with self._changed:
            # A trainer that is lost may have sent the result before, and only its word that it has the task is missing.
            if not was_sent and not task.reply and not abort_signal.triggered:
                task.is_untaken = self.has_ended
                self._raise_if_ended()
                raise TrainerError(f"the trainer did not accept the task in {limit}")
            limit = soonest_limit(self._context, UNTIL_RESULT)
            in_time = wait_until(
                self._changed, lambda: task.reply or self.has_ended, abort_signal, limit.remaining(start)
            )
            if task.reply is None:
                self._raise_if_ended()
            if not in_time:
                raise TrainerError(f"the trainer sent no result in {limit}")
            result = task.reply.data
        if not isinstance(result, Shareable):
            raise TrainerError(f"the result must be a Shareable, but is {type(result)}")
        self.traffic.count_result(result, time.monotonic() - taken)
        return result

    def _hand_over(self, request: Message, task: _TaskInHand, timeout: Optional[float], abort_signal: Signal) -> bool:
        try:
            return self.pipe.send(request, timeout, abort_signal)
        except ArrayRefused as e:
            raise TrainerError(f"the task cannot be handed over: {e}") from e
        except MessageRefused as e:
            if str(e) == UNTAKEN:
                task.is_untaken = True
                return True  # how the trainer ends is about to be known
            raise TrainerError(f"the trainer cannot take the task: {told_by_script(str(e))}") from e

    def stats(self) -> dict:
        """What an administrator should see: state, sign of life, traffic."""
        return {
            "state": self.state.value,
            "heartbeat_age": round(time.monotonic() - self.pipe.last_heard, 1),
            "refused": self.pipe.strangers.count,
            **self.traffic.stats(),
            "hand_over": self.pipe.way,
        }

    def end(self, reason: str) -> None:
        """Tells the trainer that there is no more task: its `flare.is_running()` is then false."""
        if self._move(SessionState.CLOSING, reason, cause=reason) and self.trainer:
            self.pipe.send(Message.new_request(Topic.END, reason), limits.END_TIMEOUT + self.pipe.patience)

    def lose(self, cause: str) -> None:
        """Ends the session because its trainer is gone; what the trainer had sent before still counts."""
        self._move(SessionState.LOST, "the trainer is gone", cause=cause)
        self.pipe.gone.trigger(cause)  # also if it was told to end

    def withdraw(self, reason: str) -> bool:
        """Lets no trainer join any more, and tells whether none has. The session is then still to be closed."""
        return self._move(SessionState.CLOSED, reason, cause=reason, only_from=SessionState.WAITING)

    def close(self) -> None:
        """Releases the pipe and its threads. Idempotent."""
        self._move(SessionState.CLOSED, "closed", cause="the session is closed")
        self.pipe.close()

    # Called by the channel's threads

    def _handle_hello(self, data: bytes, sender: str) -> bytes:
        hello, handshake = unpack(data), self.pipe.handshake_with(str(sender))
        reason = self._reject_reason(hello, handshake)
        if reason:
            self.pipe.strangers.refuse(f"{sender} in session {self._name}: {reason}")
            return pack({"reject": reason})
        return pack(handshake.welcome(hello))

    def _reject_reason(self, hello: Optional[dict], handshake: Handshake) -> str:
        fault, sender = handshake.find_fault(hello), handshake.trainer_end
        if fault:
            with self._changed:
                self.bad_hellos += 1
            self._on_change(self)
            return fault
        claim = without_proof(hello)
        with self._changed:
            if self.trainer == claim and self.pipe.peer == sender and not self.has_ended:
                return ""  # the answer was lost, and the trainer asks again
            if self.trainer:
                joined = f"process {self.trainer.get('pid')} on {self.trainer.get('host')} has joined this session"
                return f"{joined}; others of the same trainer are ranks: RANK, or the rank of flare.init(), is not 0"
            if self.state != SessionState.WAITING:
                return f"the session is {self.state.value}"
            self.pipe.bind(sender, handshake.seals(hello, is_trainer=False))
            self.trainer = claim
        is_joined = self._move(SessionState.READY, f"process {claim['pid']} on {claim['host']} has joined")
        return "" if is_joined else f"the session is {self.state.value}"

    def _take(self, msg: Message) -> None:
        if msg.topic in ENDS:
            cause = clip_cause(told_by_script(str(msg.data)))
            if not self.pipe.is_attached:  # the process may go on, and gets the time that it has to end
                self._move(SessionState.CLOSING, "the trainer has left", cause=cause)
            self.lose(cause)
        elif msg.topic == METRICS:
            if not isinstance(msg.data, list) or not all(isinstance(record, DXO) for record in msg.data):
                raise MessageRefused(f"malformed {METRICS}")
            if not self._context.executor.relay_log_record(*msg.data, can_wait=False):
                raise NotTaken(NO_ROOM)
        else:
            self._take_reply(msg)

    def _take_reply(self, msg: Message) -> None:
        with self._changed:
            task = self._task
            is_of_task = task is not None and msg.req_id == task.msg_id
            if is_of_task and msg.data == UNTAKEN:
                task.is_untaken = True
                return
            if is_of_task and self.owes_result:
                task.reply = msg
                self._changed.notify_all()
            else:
                self.logger.warning(f"session {self._name}: dropped a result: its task is over or not of here")
            if is_of_task:
                task.is_answered = True

    # State

    @property
    def has_ended(self) -> bool:
        return self.state in _ENDED

    @property
    def is_idle(self) -> bool:
        """Whether the trainer waits for its next task."""
        return self.state is SessionState.READY and (self._task is None or self._task.is_answered)

    @property
    def owes_result(self) -> bool:
        """Whether a task still waits for the trainer's result."""
        return self._task is not None and not self._task.is_over and not self._task.is_answered

    @property
    def has_untaken_task(self) -> bool:
        """Whether the trainer has ended, or ends, without its script having asked for the last task."""
        return self._task is not None and self._task.is_untaken

    def _raise_if_ended(self) -> None:
        if self.has_ended:
            raise TrainerError(self.cause)

    def _move(self, state: SessionState, why: str, cause: str = "", only_from: Optional[SessionState] = None) -> bool:
        """Changes the state if that is an allowed move, and tells whether it was."""
        with self._changed:
            if state not in _MOVES[self.state] or only_from not in (None, self.state):
                return False
            old, self.state = self.state, state
            self.cause = self.cause or cause
            if state is SessionState.LOST:
                self.pipe.gone.trigger(cause)  # in one step: whoever waits for the one finds the other
            now = time.monotonic()
            elapsed, self._since = now - self._since, now
            self._changed.notify_all()
        self.logger.info(f"session {self._name}: {old.value} -> {state.value} after {elapsed:.2f} s: {why}")
        self._on_change(self)
        return True
