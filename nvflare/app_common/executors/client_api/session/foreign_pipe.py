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

"""A pipe that the job supplies, in place of the cellnet between the client job process (CJ) and an attached trainer.

For compute nodes without a network: with nvflare's FilePipe as the component `client_api_pipe`, job and trainer meet in
a shared folder. Everything travels as a plain pipe Message then: HELLO and its answer, tasks, results, log records, the
end. ForeignPipe puts on any Pipe what TrainerSession and TrainerAgent expect of a TrainerPipe, the seal on each message
included: what the pipe carries is two strings of bytes, the seal and what it is on. Each session has a pipe of its own,
made anew from what the component exports, under a name with the session's random token.

Threads: the session's reader receives; each send that has to be waited for has a thread, because a foreign `send` may
block until the peer has read, and cannot be woken; one more thread sends answers and heartbeats, and never the reader,
or two readers would wait for each other.
"""

import copy
import json
import threading
import time
from collections import deque
from typing import Callable, Optional, Tuple

from nvflare.apis.signal import Signal
from nvflare.app_common.executors.client_api.backend_spec import ClientAPIBackendContext
from nvflare.app_common.executors.client_api.session.bootstrap import with_pipe
from nvflare.app_common.executors.client_api.session.handshake import (
    Handshake,
    HandshakeError,
    Strangers,
    new_session_keys,
    pack,
    unpack,
)
from nvflare.app_common.executors.client_api.session.seals import SealBroken, SealedChannel, SessionKey
from nvflare.app_common.executors.client_api.session.trainer_pipe import CHANNEL, HANDSHAKE_TIMEOUT, HELLO, METRICS
from nvflare.app_common.executors.client_api.waiting import AnySignal, TaskAborted, WaitableSignal, wait_until
from nvflare.fuel.utils import fobs
from nvflare.fuel.utils.attributes_exportable import ExportMode
from nvflare.fuel.utils.class_loader import load_class
from nvflare.fuel.utils.constants import Mode
from nvflare.fuel.utils.log_utils import get_obj_logger
from nvflare.fuel.utils.pipe.file_pipe import FilePipe
from nvflare.fuel.utils.pipe.pipe import Message, Pipe, Topic
from nvflare.security.logging import secure_format_exception

# The trainer's answer to the end of the session: only then may the CJ remove what the pipe is made of.
BYE = "BYE"
# Seconds that the trainer tries to say it.
BYE_TIMEOUT = 1.0
# Seconds that the end of a session waits for a foreign `send` to notice that its pipe is closed.
CLOSE_TIMEOUT = 0.5
# Seconds after which the reader looks for an event of this process: a foreign pipe cannot be woken.
READ_SLICE = 0.25
# Seconds between two looks into the folder of a FilePipe, as it has them itself.
FILE_INTERVAL = 0.1


def foreign_session(context: ClientAPIBackendContext, config: dict, component: Pipe) -> Tuple["ForeignPipe", dict]:
    """Makes the pipe of a new session.

    Args:
        context: the backend's.
        config: of the trainer's Client API, from bootstrap.client_config().
        component: the job's pipe, of which only the description is used.

    Returns:
        The CJ's end, and what a trainer needs to join: no credentials of the site are in it.
    """
    common = {
        "heartbeat_interval": context.heartbeat_interval,
        "heartbeat_timeout": context.heartbeat_timeout,
        **new_session_keys(),
    }
    own, peers = (_describe(component, mode) for mode in (ExportMode.SELF, ExportMode.PEER))
    return ForeignPipe(Mode.PASSIVE.value, **own, **common), with_pipe(config, ForeignPipe, {**peers, **common})


def _describe(component: Pipe, export_mode: str) -> dict:
    pipe_class, pipe_args = component.export(export_mode)
    # Through JSON at both ends alike: nvflare exports enums, and its CellPipe does not take them back.
    return {"pipe_class": pipe_class, "pipe_args": json.loads(json.dumps(pipe_args))}


class ForeignPipe(Pipe):
    def __init__(
        self,
        mode: str,
        pipe_class: str,
        pipe_args: dict,
        token: str,
        secret: str,
        challenge: str,
        heartbeat_interval: float,
        heartbeat_timeout: float,
    ):
        """Initializes one end; nothing is opened.

        Args:
            mode (str): "PASSIVE" at the CJ, "ACTIVE" in the trainer.
            pipe_class (str): of the pipe that carries the messages.
            pipe_args (dict): its arguments.
            token (str): the session's random token, part of the pipe's name.
            secret (str): the session's secret.
            challenge (str): the CJ's nonce.
            heartbeat_interval (float): seconds.
            heartbeat_timeout (float): seconds.
        """
        super().__init__(mode)
        self.logger = get_obj_logger(self)
        self.secret = secret
        self.challenge = challenge
        self.heartbeat_interval = heartbeat_interval
        self.heartbeat_timeout = heartbeat_timeout
        self.channel = f"{CHANNEL}_{token}"
        self.root_url = ""  # no cellnet
        self.way = "the job's pipe"  # how large arrays are handed over
        self.is_attached = True
        self.peer_fqcn: Optional[str] = None  # anything once the peer has shown that it knows the secret
        self.gone = WaitableSignal()
        self.on_hello: Optional[Callable[[bytes, str], bytes]] = None
        self.on_metrics: Optional[Callable[[list], None]] = None
        self.strangers = Strangers(self.logger)
        self._seals: Optional[SealedChannel] = None  # once the session has its key
        self._pipe: Pipe = load_class(pipe_class)(**pipe_args)
        self._changed = threading.Condition()  # guards all below
        self._events = deque()  # of this process
        self._early = deque()  # messages that came during the handshake
        self._outbox = deque()  # answers
        self._transfers = []  # threads, each in one foreign `send`
        self._is_closed = False
        self._has_peer_left = False
        self.last_heard = 0.0  # on the monotonic clock
        self._sender = threading.Thread(target=self._send_answers, name="client_api_answers", daemon=True)

    def open(self, name: str = "") -> None:
        """Opens the pipe under the session's name."""
        self._pipe.open(self.channel)
        self._sender.start()

    def send(self, msg: Message, timeout: Optional[float] = None, abort_signal: Optional[Signal] = None) -> bool:
        """Sends a message and waits until the peer has it; see TrainerPipe.send."""
        if self._seals is None:
            return False
        if msg.topic == Topic.HEARTBEAT:
            return True  # has a thread of its own
        stop = AnySignal(self.gone, abort_signal)
        outcome, sealed = [], self._seal(msg)

        def transfer():
            is_sent = self._put(sealed, timeout)
            with self._changed:
                outcome.append(is_sent)
                self._changed.notify_all()

        thread = threading.Thread(target=transfer, name="client_api_transfer", daemon=True)
        thread.start()
        try:
            with self._changed:
                self._transfers = [thread, *(other for other in self._transfers if other.is_alive())]
                if not wait_until(self._changed, lambda: outcome, stop, timeout):
                    return False  # a FilePipe measures by the wall clock, which may have been set back
                if outcome[0] and msg.topic == Topic.END and self.on_hello:
                    wait_until(self._changed, lambda: self._has_peer_left, stop, timeout)
                return outcome[0]
        except TaskAborted:
            return False

    def receive(self, timeout: Optional[float] = None) -> Optional[Message]:
        """Waits for the next message (`timeout` in seconds); what is dealt with here is not returned."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._is_closed:
            if self._events:
                return self._events.popleft()
            remaining = READ_SLICE if deadline is None else deadline - time.monotonic()
            msg = self._early.popleft() if self._early else self._read(min(READ_SLICE, max(remaining, 0.001)))
            if msg:
                return self._take(msg)
            if remaining <= 0:
                return None
        return None

    def post(self, topic: str, data) -> None:
        """Puts an event of this process in line."""
        with self._changed:
            self._events.append(Message.new_request(topic, data))
            self._changed.notify_all()

    def bind(self, peer: str, key: SessionKey) -> None:
        """Has the pipe take messages of this session only."""
        self.peer_fqcn = peer
        self._seals = key.channel("messages", is_trainer=self.mode == Mode.ACTIVE)

    def handshake_with(self, trainer: str) -> Handshake:
        """Returns the handshake of the two ends, which have no names but the pipe's."""
        return Handshake(self.secret, self.challenge, self.channel, self.channel)

    def greet(self) -> None:
        """Joins the session; see TrainerPipe.greet."""
        deadline = time.monotonic() + HANDSHAKE_TIMEOUT
        handshake = self.handshake_with("")
        words = handshake.hello()
        hello = Message.new_request(HELLO, [b"", pack(words)])
        answer = self._put(hello, HANDSHAKE_TIMEOUT) and self._read_answer(hello, deadline)
        if not answer:
            raise HandshakeError(f"no answer from the job in {HANDSHAKE_TIMEOUT} s")
        handshake.check_answer(unpack(_halves(answer)[1]), words)
        self.last_heard = time.monotonic()
        self.bind("the job", handshake.key(words))

    def _read_answer(self, hello: Message, deadline: float) -> Optional[Message]:
        while time.monotonic() < deadline and not self.gone.triggered:
            msg = self._read(READ_SLICE)
            if msg and msg.topic == HELLO and msg.req_id == hello.msg_id:
                return msg
            if msg and msg.topic != HELLO:
                self._early.append(msg)  # a task may overtake the answer
        return None

    def close(self) -> None:
        """Closes the pipe and ends its threads. Idempotent."""
        self.gone.trigger("the pipe is closed")
        with self._changed:
            was_closed, self._is_closed = self._is_closed, True
            self._changed.notify_all()
        if not was_closed:
            self._pipe.close()
        for thread in (self._sender, *self._transfers):
            if thread.is_alive() and thread is not threading.current_thread():
                thread.join(CLOSE_TIMEOUT)

    def clear(self) -> None:
        self._pipe.clear()

    def can_resend(self) -> bool:
        return False

    def export(self, export_mode: str) -> Tuple[str, dict]:
        return self._pipe.export(export_mode)

    def _take(self, msg: Message) -> Optional[Message]:
        if msg.topic == HELLO:
            if self.on_hello:
                answer = self.on_hello(_halves(msg)[1], f"the sender of {msg.msg_id}")
                self._answer(Message.new_reply(HELLO, [b"", answer], msg.msg_id))
            return None
        try:
            if not self._open(msg):
                return None  # it was here before
        except SealBroken as e:
            self.strangers.refuse(f"a message {msg}: {e}")
            return None
        self.last_heard = time.monotonic()
        if msg.topic == METRICS and self.on_metrics:
            self.on_metrics(msg.data)
            return None
        if msg.topic == BYE:
            with self._changed:
                self._has_peer_left = True
                self._changed.notify_all()
            return None
        if msg.topic == Topic.END and not self.on_hello:
            self._put(self._seal(Message.new_request(BYE, "")), BYE_TIMEOUT)
        return msg

    def _answer(self, msg: Message) -> None:
        with self._changed:
            self._outbox.append(msg)
            self._changed.notify_all()

    def _send_answers(self) -> None:
        next_beat = time.monotonic()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._outbox or self._is_closed, max(0.0, next_beat - time.monotonic()))
                if self._is_closed:
                    return
                msg = self._outbox.popleft() if self._outbox else None
            if msg is None:
                next_beat = time.monotonic() + self.heartbeat_interval
                if self._seals is None:
                    continue
                msg = self._seal(Message.new_request(Topic.HEARTBEAT, ""))
            self._put(msg, self.heartbeat_timeout)

    def _seal(self, msg: Message) -> Message:
        payload = fobs.dumps(msg.data, fobs_ctx={"native": True})
        sealed = copy.copy(msg)
        sealed.data = [self._seals.seal(_head_of(msg), payload), payload]
        return sealed

    def _open(self, msg: Message) -> bool:
        """Unpacks a message if it is of the peer, and tells whether it is new.

        Raises:
            SealBroken: it is not of the peer.
        """
        if self._seals is None:
            raise SealBroken("nobody has joined this session")
        seal, payload = _halves(msg)
        is_new = self._seals.check(seal, _head_of(msg), payload)
        try:
            msg.data = fobs.loads(payload)
        except Exception as e:  # of whatever decodes a class that the sender knows
            self._note_failure(e)
            return False
        return is_new

    # The border to the foreign pipe, which may raise whatever it likes

    def _put(self, msg: Message, timeout: Optional[float]) -> bool:
        try:
            return bool(self._pipe.send(msg, timeout))
        except Exception as e:
            self._note_failure(e)
            return False

    def _read(self, timeout: float) -> Optional[Message]:
        try:
            if not isinstance(self._pipe, FilePipe):
                return self._pipe.receive(timeout)
            msg = self._pipe.receive()  # at once; it would measure a timeout by the wall clock
        except Exception as e:
            self._note_failure(e)
            return None
        if msg is None:
            with self._changed:
                self._changed.wait(min(timeout, FILE_INTERVAL))
        return msg

    def _note_failure(self, error: Exception) -> None:
        with self._changed:
            if self._is_closed or self.gone.triggered:
                return  # said already
            cause = f"the pipe has failed: {secure_format_exception(error)}"
            self.gone.trigger(cause)
        self.post(Topic.PEER_GONE, cause)


def _head_of(msg: Message) -> bytes:
    return repr((msg.topic, msg.msg_type, msg.msg_id, msg.req_id)).encode()


def _halves(msg: Message) -> tuple:
    """Returns the seal and the payload that came as a message's data, or twice None."""
    data = msg.data
    is_sealed = isinstance(data, list) and [type(half) for half in data] == [bytes, bytes]
    return tuple(data) if is_sealed else (None, None)
