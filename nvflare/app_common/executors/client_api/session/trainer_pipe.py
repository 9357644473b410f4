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

"""The pipe between the client job process (CJ) and a trainer.

A session has one TrainerPipe at the CJ (passive) and one in the trainer (active), each on a cell of its own. The
trainer proves with HELLO that it knows the session's secret, the CJ with its answer that it does, too; from then on
each message and each answer carries a seal (see seals.py), which is checked before anything is decoded. The name of the
trainer's cell is unique per process, so a second claimant cannot disturb the first.

A message is one request on the core cell, and its answer; where its arrays are meanwhile is the business of
arrays/exchange.py. When `send` has returned, the other end has all of it.
"""

import secrets
import threading
import time
from functools import partial
from typing import Any, Callable, Optional, Tuple

from nvflare.apis.dxo import DXO
from nvflare.apis.signal import Signal
from nvflare.app_common.executors.client_api.arrays.cells import NotConnected, connect, forget_cell
from nvflare.app_common.executors.client_api.arrays.exchange import Exchange, Packed
from nvflare.app_common.executors.client_api.arrays.memory import NotOnThisHost
from nvflare.app_common.executors.client_api.arrays.specs import ArrayRefused
from nvflare.app_common.executors.client_api.session.handshake import Handshake, HandshakeError, Strangers, pack, unpack
from nvflare.app_common.executors.client_api.session.seals import SealBroken, SealedChannel, SessionKey
from nvflare.app_common.executors.client_api.session.trainer_cell import occupy_standard_streams, use_few_threads
from nvflare.app_common.executors.client_api.waiting import AnySignal, WaitableSignal
from nvflare.fuel.f3.cellnet.defs import Encoding, MessageHeaderKey, ReturnCode
from nvflare.fuel.f3.cellnet.utils import decode_payload, encode_payload, make_reply
from nvflare.fuel.f3.message import Message as CellMessage
from nvflare.fuel.f3.streaming.stream_const import StreamHeaderKey
from nvflare.fuel.utils.constants import Mode
from nvflare.fuel.utils.pipe.cell_pipe import (
    _HEADER_MSG_ID,
    _HEADER_MSG_TYPE,
    _HEADER_REQ_ID,
    CellPipe,
    _from_cell_message,
    _to_cell_message,
)
from nvflare.fuel.utils.pipe.pipe import Message, Topic
from nvflare.security.logging import secure_format_exception

CHANNEL = "client_api"
# Topics beside those of nvflare's pipes.
HELLO, TASK, METRICS, PIECE = "HELLO", "TASK", "METRICS", "PIECE"

# Seconds until one inline message must have been acknowledged before it is sent again.
ACK_TIMEOUT = 1.0
# The same for a piece of a large message, of which several are on their way on what may be a slow link.
PIECE_ACK_TIMEOUT = 20.0
# Pause (seconds) before a message is sent again to a peer that could not be reached.
RETRY_PAUSE = 0.2
# Seconds in which the trainer must be connected and answered.
HANDSHAKE_TIMEOUT = 30.0
# Seconds in which a thread of the cell that was told to end must have done so.
CLOSE_TIMEOUT = 1.0
# Headers of a message: how its payload is encoded, and what shows that the peer has sent it; an answer has the latter.
ENCODING, SEAL = "client_api.encoding", "client_api.seal"
# What decides, beside the topic and the payload, what a message does.
_SEALED_HEADERS = (ENCODING, _HEADER_MSG_TYPE, _HEADER_MSG_ID, _HEADER_REQ_ID)
# How an answer begins that says that memory cannot be opened there; what follows is why.
_NOT_ON_THIS_HOST = "not on this host: "


class MessageRefused(Exception):
    """The peer has a message and cannot use it; says why."""


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
        is_attached: bool = False,
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
            is_attached (bool): whether somebody else owns the trainer's process.
        """
        is_trainer = mode == Mode.ACTIVE.value
        if is_trainer:
            occupy_standard_streams()
        unique = f"{token}-{secrets.token_hex(4)}" if is_trainer else token
        # Mode is a string enum whose f-string differs between Python versions, so its value is passed on.
        super().__init__(mode, site_name, unique, root_url, secure_mode, workspace)
        self.peer_fqcn = self.peer_fqcn.replace(unique, token) if is_trainer else None
        if is_trainer:
            use_few_threads(self.cell)
        self.secret = secret
        self.challenge = challenge
        self.heartbeat_interval = heartbeat_interval
        self.heartbeat_timeout = heartbeat_timeout
        self.is_attached = is_attached
        self.gone = WaitableSignal()  # the peer is gone: no send waits for it any more
        self.last_heard = 0.0  # on the monotonic clock; nvflare's `last_peer_active_time` is on the wall clock
        self.exchange = Exchange(carries_on=not is_trainer)
        self.on_hello: Optional[Callable[[bytes, str], bytes]] = None  # answers a HELLO: (hello, sender) -> answer
        self.on_metrics: Optional[Callable[[list], None]] = None  # takes a batch of metrics before it is acknowledged
        # Messages are taken one by one; metrics, and the pieces of a message, beside them.
        self._taking = {topic: threading.Lock() for topic in (METRICS, PIECE, TASK)}
        self._refused = {}  # why a message was, by its seal: it may be sent again
        self.strangers = Strangers(self.logger)
        self._seals: Optional[SealedChannel] = None  # once the session has its key

    @property
    def pass_through_on_send(self) -> bool:
        """nvflare's trainer sets this on every CellPipe; here `send` decides, for each message."""
        return False

    @pass_through_on_send.setter
    def pass_through_on_send(self, value: bool) -> None:
        pass

    @property
    def way(self) -> str:
        """How large arrays are handed over."""
        return self.exchange.way

    # Both ends

    def open(self, name: str = CHANNEL) -> None:
        """Connects the cell and waits until it is connected: a message that is sent earlier would be lost.

        Raises:
            HandshakeError: not connected within HANDSHAKE_TIMEOUT seconds.
        """
        try:
            connect(self.cell, partial(super().open, name))
        except NotConnected as e:
            raise HandshakeError(str(e)) from e

    def send(self, msg: Message, timeout: Optional[float] = None, abort_signal: Optional[Signal] = None) -> bool:
        """Sends a message and waits until the peer has it, arrays included.

        Args:
            msg: the message. Of the arrays in it this lets go as they are copied.
            timeout: seconds without progress; None: as long as the peer is there.
            abort_signal: ends the wait.

        Returns:
            Whether the peer has it.

        Raises:
            MessageRefused: the peer cannot use it: sent again it would be the same.
            ArrayRefused: an array in it cannot be sent.
        """
        if self._seals is None:
            return False
        if msg.topic == Topic.HEARTBEAT:
            request, _ = self._encode(msg, msg.data)
            self.cell.core_cell.fire_and_forget(self.channel, msg.topic, self.peer_fqcn, request, optional=True)
            return True
        stop = AnySignal(self.gone, abort_signal)
        with self.exchange.pack(msg) as packed:
            while True:
                if packed.is_in_pieces and not self._send_pieces(packed, timeout, stop):
                    return False
                try:
                    return self._send_whole(msg, packed.payload, timeout, stop)
                except NotOnThisHost as e:
                    packed = self.exchange.stop_sharing(packed, str(e))

    def _send_pieces(self, packed: Packed, timeout: Optional[float], stop: Signal) -> bool:
        def send(piece: dict) -> bool:
            return self._send_whole(Message.new_request(PIECE, None), piece, timeout, stop, PIECE_ACK_TIMEOUT)

        return self.exchange.send_pieces(packed, send)

    def _send_whole(
        self, msg: Message, payload: Any, timeout: Optional[float], stop: Signal, ack_timeout: float = ACK_TIMEOUT
    ) -> bool:
        request, seal = self._encode(msg, payload)
        deadline = None if timeout is None else time.monotonic() + timeout
        while not stop.triggered:
            remaining = ack_timeout if deadline is None else min(ack_timeout, deadline - time.monotonic())
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
            if self._is_accepted(reply, seal):
                return True
            self.logger.debug(f"{msg.topic} was not acknowledged: {reply.get_header(MessageHeaderKey.RETURN_CODE)}")
            if time.monotonic() - started < RETRY_PAUSE:
                self.gone.wait(RETRY_PAUSE)  # unreachable for now, and the network tells nobody when it is back
        return False

    def post(self, topic: str, data) -> None:
        """Puts an event of this process in line behind the messages that have already arrived."""
        self.received_msgs.put_nowait(
            _to_cell_message(Message.new_request(topic, data), {MessageHeaderKey.TOPIC: topic})
        )

    def close(self) -> None:
        self.gone.trigger("the pipe is closed")
        super().close()
        heartbeats = self.cell.core_cell.communicator.conn_manager.heartbeat_monitor
        if heartbeats.is_alive():
            heartbeats.join(CLOSE_TIMEOUT)  # nvflare has told it to end, and does not wait for that
        forget_cell(self.cell)

    def bind(self, peer: str, key: SessionKey) -> None:
        """Has the pipe take messages of this session only, and send them to the cell of this name."""
        self.peer_fqcn = peer
        self._seals = key.channel("messages", is_trainer=self.mode == Mode.ACTIVE)

    def handshake_with(self, trainer: str) -> Handshake:
        """Returns the handshake between the CJ and a trainer in the cell of this name."""
        job = self.peer_fqcn if self.mode == Mode.ACTIVE else self.cell.get_fqcn()
        return Handshake(self.secret, self.challenge, job, trainer)

    def _encode(self, msg: Message, payload: Any) -> Tuple[CellMessage, bytes]:
        # For the cells these are mere bytes: what they cannot decode they drop, and the sender would wait for nothing.
        request = _to_cell_message(msg)
        request.payload = payload
        encode_payload(request, ENCODING, fobs_ctx=self.cell.get_fobs_context({"native": True}))
        request.set_header(MessageHeaderKey.PAYLOAD_ENCODING, Encoding.BYTES)
        seal = self._seals.seal(head_of(msg.topic, request), request.payload)
        request.set_header(SEAL, seal)
        return request, seal

    def _is_accepted(self, reply: CellMessage, seal: bytes) -> bool:
        rc, fault = reply.get_header(MessageHeaderKey.RETURN_CODE), reply.get_header(MessageHeaderKey.ERROR)
        try:
            self._seals.check_answer(reply.get_header(SEAL), seal, repr((rc, fault)).encode())
        except SealBroken:
            return False  # nobody has answered, or it is not the peer
        self._note_life()
        if rc == ReturnCode.INVALID_REQUEST and fault:
            if fault.startswith(_NOT_ON_THIS_HOST):
                raise NotOnThisHost(fault.removeprefix(_NOT_ON_THIS_HOST))
            raise MessageRefused(fault)
        return rc == ReturnCode.OK

    def _answer(self, request: CellMessage, rc: str, fault: str = "") -> CellMessage:
        reply = make_reply(rc, fault)
        head = repr((rc, reply.get_header(MessageHeaderKey.ERROR))).encode()
        reply.set_header(SEAL, self._seals.seal_answer(request.get_header(SEAL), head))
        return reply

    def _note_life(self) -> None:
        self.last_heard = time.monotonic()

    def set_cell_cb(self, channel_name: str) -> None:
        super().set_cell_cb(channel_name)
        self.cell.core_cell.add_incoming_filter("*", "*", self._leave_packed)

    def _leave_packed(self, message: CellMessage) -> None:
        """Has the cell unpack nothing on its own: by a header it would unpack whatever anybody sends."""
        if message.get_header(MessageHeaderKey.PAYLOAD_ENCODING) == Encoding.FOBS:
            message.set_header(MessageHeaderKey.PAYLOAD_ENCODING, Encoding.BYTES)
        if message.get_header(StreamHeaderKey.CHANNEL) == self.channel:
            message.set_header(StreamHeaderKey.PAYLOAD_ENCODING, Encoding.BYTES)

    def _receive_message(self, request: CellMessage) -> CellMessage:
        sender = request.get_header(MessageHeaderKey.ORIGIN)
        topic = request.get_header(MessageHeaderKey.TOPIC)
        if topic == HELLO and self.on_hello:
            return make_reply(ReturnCode.OK, body=self.on_hello(request.payload, sender))
        if self.mode == Mode.PASSIVE and self.gone.triggered:
            return make_reply(ReturnCode.INVALID_SESSION)  # acknowledged it would be lost: nobody reads any more
        try:
            if self._seals is None:
                raise SealBroken("no trainer has joined this session")
            is_new = self._seals.check(request.get_header(SEAL), head_of(topic, request), request.payload)
        except SealBroken as e:
            self.strangers.refuse(f"a message {topic} of {sender}: {e}")
            return make_reply(ReturnCode.INVALID_REQUEST)
        if is_new:
            self._note_life()
        # A copy of a message that is still being taken waits for what becomes of that.
        with self._taking.get(topic, self._taking[TASK]):
            fault = self._take(topic, request) if is_new else self._refused.get(request.get_header(SEAL), "")
        return self._answer(request, ReturnCode.INVALID_REQUEST if fault else ReturnCode.OK, fault)

    def _take(self, topic: str, request: CellMessage) -> str:
        fault = self._find_fault(topic, request)
        if fault:
            self._refused[request.get_header(SEAL)] = fault
            if not fault.startswith(_NOT_ON_THIS_HOST):
                self.logger.warning(f"a message of {self.peer_fqcn} was refused: {fault}")
        elif topic == METRICS and self.on_metrics:
            self.on_metrics(_from_cell_message(request).data)
        elif topic != PIECE:
            self.received_msgs.put_nowait(request)
        return fault

    def _find_fault(self, topic: str, request: CellMessage) -> str:
        """Decodes a message; tells what is wrong with it."""
        try:
            decode_payload(request, ENCODING, fobs_ctx=self.cell.get_fobs_context())
            if topic == PIECE:
                self.exchange.take_piece(request.payload)
                return ""
            request.payload = self.exchange.unpack(request.payload)
            content = _from_cell_message(request).data
        except NotOnThisHost as e:
            return _NOT_ON_THIS_HOST + str(e)
        except ArrayRefused as e:
            return str(e)
        except Exception as e:  # of whatever decodes a class that the sender knows
            return f"it cannot be decoded: {secure_format_exception(e)}"
        is_content = _CONTENTS.get(topic)
        return f"malformed {topic}" if is_content and not is_content(content) else ""

    def _update_peer_active_time(self, msg: CellMessage, ch_name: str, msg_type: str) -> None:
        """Takes nothing that the cell gets for a sign of life: only what has a good seal is one, see `_note_life`."""

    # The trainer's end

    def greet(self) -> None:
        """Joins the session: shows that this process knows the secret, and has the CJ show the same.

        Raises:
            HandshakeError: the CJ rejected this trainer, did not answer, or is not the one that made the session.
        """
        handshake = self.handshake_with(self.cell.get_fqcn())
        hello = handshake.hello()
        self.bind(self.peer_fqcn, handshake.key(hello))  # a task may overtake the answer
        deadline = time.monotonic() + HANDSHAKE_TIMEOUT
        answer = None
        while answer is None:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise HandshakeError(f"no answer from the job in {HANDSHAKE_TIMEOUT} s")
            reply = self.cell.core_cell.send_request(
                channel=self.channel,
                target=self.peer_fqcn,
                topic=HELLO,
                request=CellMessage(payload=pack(hello)),
                timeout=min(ACK_TIMEOUT, remaining),
                optional=True,
            )
            answer = unpack(reply.payload)
            if answer is None and self.gone.wait(RETRY_PAUSE):
                raise HandshakeError(str(self.gone.value))
        handshake.check_answer(answer, hello)
        self._note_life()


_CONTENTS = {
    METRICS: lambda data: isinstance(data, list) and all(isinstance(record, DXO) for record in data),
}


def head_of(topic: str, request: CellMessage) -> bytes:
    return repr((topic, [request.get_header(name) for name in _SEALED_HEADERS])).encode()
