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

"""The pipe between the client job process (CJ) and a trainer, and the reader that both ends put on it.

A session has one TrainerPipe at the CJ (passive) and one in the trainer (active), each on a cell of its own. The
trainer proves with HELLO that it knows the session's secret, the CJ with its answer that it does, too; from then on the
CJ's end accepts messages from this one trainer. The name of the trainer's cell is unique per process, so a second
claimant cannot disturb the first.

How a message travels is decided here alone. A small one is one inline message and its reply on the core cell; a large
one goes over nvflare's streams, its arrays pulled by the receiver. `TrainerPipeHandler` is one thread that waits for
whichever comes first, a message or the next heartbeat.
"""

import hashlib
import hmac
import json
import os
import secrets
import socket
import threading
import time
from collections import deque
from typing import Callable, Optional

import nvflare
from nvflare.apis.signal import Signal
from nvflare.fuel.f3.cellnet.defs import MessageHeaderKey, ReturnCode
from nvflare.fuel.f3.cellnet.utils import encode_payload, make_reply
from nvflare.fuel.f3.endpoint import Endpoint, EndpointMonitor, EndpointState
from nvflare.fuel.f3.message import Message as CellMessage
from nvflare.fuel.utils.constants import Mode
from nvflare.fuel.utils.pipe.cell_pipe import CellPipe
from nvflare.fuel.utils.pipe.pipe import Message, Topic
from nvflare.fuel.utils.pipe.pipe_handler import PipeHandler

PROTOCOL_VERSION = 1
CHANNEL = "client_api"
# Topics beside those of nvflare's pipes.
HELLO, TASK, METRICS = "HELLO", "TASK", "METRICS"

# Arrays of up to this many bytes in all travel inside one message.
INLINE_LIMIT = 1024 * 1024
# Seconds until one inline message must have been acknowledged before it is sent again.
ACK_TIMEOUT = 2.0
# Pause (seconds) before a message is sent again to a peer that could not be reached.
RETRY_PAUSE = 0.2
# Seconds without any progress after which a large message has failed.
PROGRESS_TIMEOUT = 60.0
# Seconds in which the trainer must be connected and answered.
HANDSHAKE_TIMEOUT = 30.0
# A message that was sent again is recognised among this many predecessors.
_REMEMBERED_MESSAGES = 256


class HandshakeError(Exception):
    """The trainer could not join the session; the text says why."""


class Gone(Signal):
    """A signal that can be waited for."""

    def __init__(self):
        super().__init__()
        self._event = threading.Event()

    def trigger(self, value) -> None:
        super().trigger(value)
        self._event.set()

    def wait(self, timeout: float) -> bool:
        return self._event.wait(timeout)


class AnySignal(Signal):
    """Is triggered when one of several signals is."""

    def __init__(self, *signals: Optional[Signal]):
        super().__init__()
        self._signals = [signal for signal in signals if signal is not None]

    @property
    def triggered(self) -> bool:
        return any(signal.triggered for signal in self._signals)


def proof(secret: str, *parts) -> str:
    """Returns the HMAC-SHA256 (hex) of the parts, which shows that its maker knows the secret."""
    return hmac.new(secret.encode(), json.dumps(parts, sort_keys=True).encode(), hashlib.sha256).hexdigest()


def is_proof(candidate, secret: str, *parts) -> bool:
    return isinstance(candidate, str) and hmac.compare_digest(candidate.encode(), proof(secret, *parts).encode())


def make_hello(secret: str, challenge: str) -> dict:
    """Returns the HELLO of this process for the session that set the challenge."""
    hello = {
        "protocol": PROTOCOL_VERSION,
        "nonce": secrets.token_hex(16),
        "rank": os.environ.get("RANK", "0"),
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "nvflare": nvflare.__version__,
    }
    return {**hello, "proof": proof(secret, hello, challenge)}


class TrainerPipe(CellPipe):
    def __init__(
        self,
        mode: str,
        site_name: str,
        token: str,
        root_url: str,
        secure_mode: bool,
        workspace: str,
        secret: str = "",
        challenge: str = "",
        heartbeat_interval: float = 5.0,
        heartbeat_timeout: float = 30.0,
    ):
        """Initializes one end of the pipe; nothing is connected before `open()`.

        Args:
            mode (str): "PASSIVE" at the CJ, "ACTIVE" in the trainer.
            site_name (str): the site.
            token (str): the session's random token, part of the names of both cells.
            root_url (str): the cellnet to join; empty: through the client parent, as the scope properties say.
            secure_mode (bool): whether connections are TLS.
            workspace (str): the site's workspace, where the certificates are; not named `workspace_dir`, because
                nvflare would have the trainer log to the site's files by that name, besides to its output.
            secret (str): the session's secret.
            challenge (str): the CJ's nonce.
            heartbeat_interval (float): seconds.
            heartbeat_timeout (float): seconds; 0 for no check.
        """
        is_trainer = mode == Mode.ACTIVE.value
        unique = f"{token}-{secrets.token_hex(4)}" if is_trainer else token
        # Mode is a string enum whose f-string differs between Python versions, so its value is passed on.
        super().__init__(mode, site_name, unique, root_url, secure_mode, workspace)
        self.peer_fqcn = self.peer_fqcn.replace(unique, token) if is_trainer else None
        self.secret = secret
        self.challenge = challenge
        self.heartbeat_interval = heartbeat_interval
        self.heartbeat_timeout = heartbeat_timeout
        self.gone = Gone()  # the peer is gone: no send waits for it any more
        self.on_hello: Optional[Callable[[dict, str], dict]] = None  # answers a HELLO: (hello, sender) -> answer
        self.on_metrics: Optional[Callable[[list], None]] = None  # takes a batch of metrics before it is acknowledged
        self._seen = deque(maxlen=_REMEMBERED_MESSAGES)
        if is_trainer:
            from nvflare.app_common.executors.client_api.trainer_agent import use_trainer_agent

            use_trainer_agent()

    @property
    def pass_through_on_send(self) -> bool:
        """nvflare's trainer sets this on every CellPipe; here the transfer policy of `send` decides."""
        return False

    @pass_through_on_send.setter
    def pass_through_on_send(self, value: bool) -> None:
        pass

    # Both ends

    def open(self, name: str = CHANNEL) -> None:
        """Connects the cell and waits until it is connected: a message that is sent earlier would be lost.

        Raises:
            HandshakeError: not connected within HANDSHAKE_TIMEOUT seconds.
        """
        monitor = _ConnectionMonitor()
        self.cell.core_cell.communicator.register_monitor(monitor)
        super().open(name)
        if not monitor.connected.wait(HANDSHAKE_TIMEOUT):
            raise HandshakeError(f"cell {self.cell.get_fqcn()} was not connected in {HANDSHAKE_TIMEOUT} s")

    def send(self, msg: Message, timeout: Optional[float] = None, abort_signal: Optional[Signal] = None) -> bool:
        """Sends a message and waits until the peer has it, arrays included.

        Args:
            msg: the message.
            timeout: seconds; None: as long as the peer is there (and makes progress, for a large message).
            abort_signal: ends the wait.

        Returns:
            Whether the peer has it.
        """
        if self.peer_fqcn is None:
            return False
        if msg.topic == Topic.HEARTBEAT:
            self.cell.core_cell.fire_and_forget(
                self.channel, msg.topic, self.peer_fqcn, self._to_cell_message(msg), optional=True
            )
            return True
        stop = AnySignal(self.gone, abort_signal)
        deadline = None if timeout is None else time.monotonic() + timeout
        if array_bytes(msg.data) <= INLINE_LIMIT:
            return self._send_inline(msg, deadline, stop)
        return self._send_large(msg, timeout, stop)

    def _send_inline(self, msg: Message, deadline: Optional[float], stop: Signal) -> bool:
        request = self._to_cell_message(msg)
        encode_payload(request, fobs_ctx=self.cell.get_fobs_context({"native": True}))
        while not stop.triggered:
            remaining = ACK_TIMEOUT if deadline is None else min(ACK_TIMEOUT, deadline - time.monotonic())
            if remaining <= 0:
                break
            started = time.monotonic()
            reply = self.cell.core_cell.send_request(
                channel=self.channel,
                target=self.peer_fqcn,
                topic=msg.topic,
                request=CellMessage(dict(request.headers), request.payload),
                timeout=remaining,
                optional=True,
            )
            rc = reply.get_header(MessageHeaderKey.RETURN_CODE)
            if rc == ReturnCode.OK:
                return True
            self.logger.debug(f"{msg} was not acknowledged: {rc}")
            if time.monotonic() - started < RETRY_PAUSE:
                self.gone.wait(RETRY_PAUSE)  # unreachable for now, and the network tells nobody when it is back
        return False

    def _send_large(self, msg: Message, timeout: Optional[float], stop: Signal) -> bool:
        request = self._to_cell_message(msg)
        request.set_header(MessageHeaderKey.MSG_ROOT_ID, msg.msg_id)
        reply = self.cell.send_request(
            channel=self.channel,
            topic=msg.topic,
            target=self.peer_fqcn,
            request=request,
            timeout=timeout or float(threading.TIMEOUT_MAX),
            optional=True,
            abort_signal=stop,
        )
        return reply.get_header(MessageHeaderKey.RETURN_CODE) == ReturnCode.OK

    def receive(self, timeout: Optional[float] = None) -> Optional[Message]:
        """Waits for the next message (`timeout` in seconds); one that was sent again is delivered once."""
        msg = super().receive(timeout)
        if msg is None or msg.msg_id in self._seen:
            return None
        self._seen.append(msg.msg_id)
        return msg

    def post(self, topic: str, data) -> None:
        """Puts an event of this process in line behind the messages that have already arrived."""
        self.received_msgs.put_nowait(self._to_cell_message(Message.new_request(topic, data), topic=topic))

    def close(self) -> None:
        self.gone.trigger("the pipe is closed")
        super().close()
        with CellPipe._lock:  # nvflare keeps the cells of closed pipes for ever, and a job may have one per task
            CellPipe._cells_info.pop(self.cell.get_fqcn(), None)

    @staticmethod
    def _to_cell_message(msg: Message, topic: Optional[str] = None) -> CellMessage:
        from nvflare.fuel.utils.pipe.cell_pipe import _to_cell_message

        return _to_cell_message(msg, {MessageHeaderKey.TOPIC: topic} if topic else None)

    # The CJ's end

    def _receive_message(self, request: CellMessage) -> CellMessage:
        sender = request.get_header(MessageHeaderKey.ORIGIN)
        topic = request.get_header(MessageHeaderKey.TOPIC)
        if topic == HELLO and self.on_hello:
            return make_reply(ReturnCode.OK, body=self.on_hello(request.payload, sender))
        if sender != self.peer_fqcn:
            self.logger.warning(f"a message of {sender} was refused: it is not the trainer of this session")
            return make_reply(ReturnCode.INVALID_REQUEST, "not the peer of this session")
        if topic == METRICS and self.on_metrics:
            self.on_metrics(request.payload)
            return make_reply(ReturnCode.OK)
        return super()._receive_message(request)

    # The trainer's end

    def greet(self) -> None:
        """Joins the session: shows that this process knows the secret, and has the CJ show the same.

        Raises:
            HandshakeError: the CJ rejected this trainer, did not answer, or is not the one that made the session.
        """
        hello = make_hello(self.secret, self.challenge)
        deadline = time.monotonic() + HANDSHAKE_TIMEOUT
        answer = None
        while not isinstance(answer, dict):
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise HandshakeError(f"no answer from the job in {HANDSHAKE_TIMEOUT} s")
            reply = self.cell.core_cell.send_request(
                channel=self.channel,
                target=self.peer_fqcn,
                topic=HELLO,
                request=CellMessage(payload=hello),
                timeout=min(ACK_TIMEOUT, remaining),
                optional=True,
            )
            answer = reply.payload
            if reply.get_header(MessageHeaderKey.RETURN_CODE) == ReturnCode.TARGET_UNREACHABLE:
                self.gone.wait(RETRY_PAUSE)  # as in _send_inline
        if "reject" in answer:
            raise HandshakeError(f"the job rejected this trainer: {answer['reject']}")
        if not is_proof(answer.get("proof"), self.secret, "welcome", hello["nonce"]):
            raise HandshakeError("the answer came from somebody who does not know the session's secret")


class _ConnectionMonitor(EndpointMonitor):
    """Tells when a cell is connected to the cellnet."""

    def __init__(self):
        self.connected = threading.Event()

    def state_change(self, endpoint: Endpoint) -> None:
        if endpoint.state == EndpointState.READY:
            self.connected.set()


def array_bytes(data) -> int:
    """Returns how many bytes the arrays in a nested structure take."""
    if isinstance(data, dict):
        return sum(array_bytes(value) for value in data.values())
    if isinstance(data, (list, tuple)):
        return sum(array_bytes(value) for value in data)
    return getattr(data, "nbytes", 0) or 0


class TrainerPipeHandler(PipeHandler):
    """A PipeHandler with one thread, which waits for messages and sends heartbeats, and never polls."""

    def __init__(
        self,
        pipe: TrainerPipe,
        heartbeat_interval: float,
        heartbeat_timeout: float,
        find_death: Optional[Callable[[float], str]] = None,
    ):
        """Initializes the handler; no thread is started before `start()`.

        Args:
            pipe: the pipe.
            heartbeat_interval: seconds.
            heartbeat_timeout: seconds of silence after which the peer counts as gone; 0 for no check.
            find_death: asked at each heartbeat while the peer is silent, with the seconds of its silence; returns why
                the peer is dead, or "". Default: after the heartbeat timeout it is.
        """
        super().__init__(pipe, heartbeat_interval=heartbeat_interval, heartbeat_timeout=heartbeat_timeout)
        self.heartbeat_sender = None  # the reader sends them
        self.last_heard = time.monotonic()
        self._find_death = find_death or self._find_timeout
        self._arrived = threading.Condition()

    def get_next(self, timeout: Optional[float] = None) -> Optional[Message]:
        """Waits (`timeout` in seconds; None: no limit) for a message; returns None if the handler is stopped first."""
        with self._arrived:
            self._arrived.wait_for(lambda: self.messages or self.asked_to_stop, timeout)
            return self.messages.popleft() if self.messages and not self.asked_to_stop else None

    def stop(self, close_pipe: bool = True) -> None:
        pipe, reader = self.pipe, self.reader
        super().stop(close_pipe)
        with self._arrived:
            self._arrived.notify_all()
        if pipe:
            pipe.post(Topic.HEARTBEAT, None)  # wakes the reader
        if reader and reader.is_alive() and reader is not threading.current_thread():
            reader.join()

    def _add_message(self, msg: Message) -> None:
        super()._add_message(msg)
        with self._arrived:
            self._arrived.notify_all()

    def _try_read(self) -> None:
        pipe = self.pipe
        next_beat = self.last_heard = time.monotonic()
        while not self.asked_to_stop:
            now = time.monotonic()
            if now >= next_beat:
                self._note_own_stall(now - next_beat)
                pipe.send(self._make_event_message(Topic.HEARTBEAT, ""))
                next_beat = now + self.heartbeat_interval
            msg = pipe.receive(max(next_beat - time.monotonic(), 0.001))
            if self.asked_to_stop:
                break
            if msg and msg.topic != Topic.HEARTBEAT:
                self._add_message(msg)
            if msg and msg.topic in (Topic.END, Topic.ABORT, Topic.PEER_GONE):
                break
            self._note_life(pipe)
            cause = self._check_silence()
            if cause:
                self._add_message(self._make_event_message(Topic.PEER_GONE, cause))
                break

    def _check_silence(self) -> str:
        silence = time.monotonic() - self.last_heard
        return self._find_death(silence) if self.heartbeat_timeout and silence > self.heartbeat_interval else ""

    def _find_timeout(self, silence: float) -> str:
        return f"no sign of life for {silence:.0f} s" if silence > self.heartbeat_timeout else ""

    def _note_life(self, pipe: TrainerPipe) -> None:
        # The cell notes every message of the peer, also those that are no pipe messages, on the wall clock.
        age = time.time() - pipe.get_last_peer_active_time()
        self.last_heard = max(self.last_heard, time.monotonic() - max(age, 0.0))

    def _note_own_stall(self, late: float) -> None:
        # This thread woke much later than it asked for: the whole process stood still (a C call that held the GIL, or
        # SIGSTOP), its network threads with it, and the silence in that time says nothing about the peer.
        if late > self.heartbeat_interval:
            self.last_heard += late
