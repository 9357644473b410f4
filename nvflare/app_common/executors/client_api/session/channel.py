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

"""One end of a session, whatever carries it: a cell (TrainerPipe), or a pipe that the job brings (ForeignPipe).

A message goes as a letter, and each letter but a heartbeat is answered. The trainer's first one is HELLO, by which both
ends prove that they know the session's secret (see handshake.py). From then on each letter and each answer carries a
seal (see seals.py), which is checked before anything is unpacked. A letter that got no answer is sent again as it is,
and taken once. When `send` has returned True the other end has the message, arrays included.

A channel has four hooks, which are set before `open()` and called on its threads: `on_hello` answers whoever wants to
join, `on_message` takes a message before it is answered, `find_death` judges the silence of the peer, and `on_lost` is
told why the peer is gone.
"""

import json
import queue
import threading
import time
from abc import abstractmethod
from collections import OrderedDict
from typing import Any, Callable, Iterator, Optional

from nvflare.apis.signal import Signal
from nvflare.app_common.executors.client_api.arrays.memory import NotOnThisHost
from nvflare.app_common.executors.client_api.arrays.specs import ArrayRefused
from nvflare.app_common.executors.client_api.job_owner import Owner
from nvflare.app_common.executors.client_api.session import limits
from nvflare.app_common.executors.client_api.session.handshake import Handshake, HandshakeError, Strangers, pack, unpack
from nvflare.app_common.executors.client_api.session.letters import (
    HELLO,
    METRICS,
    NOT_ON_THIS_HOST,
    PIECE,
    TASK,
    Answer,
    Letter,
    MessageRefused,
    NotTaken,
    sealed_head,
)
from nvflare.app_common.executors.client_api.session.seals import Payload, SealBroken, Seals
from nvflare.app_common.executors.client_api.waiting import AnySignal, WaitableSignal
from nvflare.fuel.utils.constants import Mode
from nvflare.fuel.utils.log_utils import get_obj_logger
from nvflare.fuel.utils.pipe.pipe import Message, Pipe, Topic
from nvflare.security.logging import secure_format_exception, secure_format_traceback


class Channel(Pipe):
    # Seconds until a letter is sent again; None: what carries it tells whether it has arrived.
    ack_timeout: Optional[float] = None
    # How large arrays are handed over.
    way = "inside of messages"
    # Seconds that a message and its answer may need beyond what they do over a network.
    patience = 0.0

    def __init__(
        self,
        *,
        secret: str,
        challenge: str,
        heartbeat_interval: float = 5.0,
        heartbeat_timeout: float = 30.0,
        is_attached: bool = False,
        owner: str = "",
        **of_pipe,
    ):
        """Initializes one end; nothing is connected before `open()`.

        Args:
            secret: the session's.
            challenge: the CJ's nonce.
            heartbeat_interval: seconds.
            heartbeat_timeout: seconds; 0 for no check.
            is_attached: whether somebody else owns the trainer's process.
            owner: the CJ as job_owner.Owner tells it, for a trainer whose process it owns.
            of_pipe: of the kind of Pipe that this is, too; its mode is "PASSIVE" at the CJ, "ACTIVE" in the trainer.
        """
        super().__init__(**of_pipe)
        self.logger = get_obj_logger(self)
        self.secret = secret
        self.challenge = challenge
        self.heartbeat_interval = heartbeat_interval
        self.heartbeat_timeout = heartbeat_timeout
        self.is_attached = is_attached
        self._owner = Owner.parse(owner) if owner else None
        self.inbox = queue.SimpleQueue()  # what `receive` returns
        self.on_hello: Optional[Callable[[bytes, str], bytes]] = None  # answers a HELLO: (hello, sender) -> answer
        self.on_message: Callable[[Message], None] = self.inbox.put  # may raise MessageRefused
        self.on_lost: Callable[[str], None] = lambda cause: None
        self.find_death: Callable[[float], str] = self._find_timeout  # seconds of silence -> why it is dead, or ""
        self.gone = WaitableSignal()  # the peer is gone: no send waits for it any more, nothing of it is taken
        self.name = self.peer = ""  # of this end, and of the other one once it is known
        self.last_heard = 0.0  # on the monotonic clock; nvflare's `last_peer_active_time` is on the wall clock
        self.strangers = Strangers(self.logger)
        # Messages are taken one by one; metrics, and the pieces of a message, beside them.
        self._taking = {topic: threading.Lock() for topic in (METRICS, PIECE, TASK)}
        self._refused = OrderedDict()  # why a message was, by its seal: it may be sent again
        self._seals: Optional[Seals] = None  # once the session has begun
        self._next_look = float("inf")
        self._pulse = self._thread("pulse", self._live)

    # What the kinds of channels differ in

    @abstractmethod
    def _ask(self, letter: Letter, timeout: Optional[float], stop: Signal) -> Answer:
        """Sends a letter and waits for its answer; NO_ANSWER if it does not come (`timeout` in seconds)."""

    @abstractmethod
    def _tell(self, letter: Letter) -> None:
        """Sends a letter to which no answer is wanted, and does not wait."""

    @abstractmethod
    def _pack(self, data: Any) -> Payload:
        """Encodes what a message says."""

    @abstractmethod
    def _unpack(self, topic: str, payload: Payload) -> Any:
        """Decodes it; may raise whatever it likes."""

    # To join

    def handshake_with(self, trainer: str) -> Handshake:
        """Returns the handshake between the CJ and a trainer at an end of this name."""
        return Handshake(self.secret, self.challenge, self.peer if self._is_trainer else self.name, trainer)

    def bind(self, peer: str, seals: Seals) -> None:
        """Has this end take messages of this session only, and send them to the end of this name."""
        self.peer = peer
        self._seals = seals
        self._note_life()

    def greet(self) -> None:
        """Joins the session: shows that this process knows the secret, and has the CJ show the same.

        Raises:
            HandshakeError: the CJ rejected this trainer, did not answer, or is not the one that made the session.
        """
        handshake = self.handshake_with(self.name)
        hello = handshake.hello()
        self.bind(self.peer, handshake.seals(hello, is_trainer=True))  # a task may overtake the answer
        letter = Letter(HELLO, "", pack(hello))
        for answer in self._ask_again(letter, limits.HANDSHAKE_TIMEOUT, self.gone, self.ack_timeout):
            words = unpack(answer.content)
            if words is not None:
                handshake.check_answer(words, hello)
                return
        raise HandshakeError(self.gone.value or f"no answer from the job in {limits.HANDSHAKE_TIMEOUT} s")

    @property
    def _is_trainer(self) -> bool:
        return self.mode == Mode.ACTIVE

    # To send

    def send(self, msg: Message, timeout: Optional[float] = None, abort_signal: Optional[Signal] = None) -> bool:
        """Sends a message and waits until the peer has it, arrays included.

        Args:
            msg: the message. Of the arrays in it this lets go as they are copied.
            timeout: seconds in all; None: as long as the peer is there.
            abort_signal: ends the wait.

        Returns:
            Whether the peer has it.

        Raises:
            MessageRefused: the peer cannot use it: sent again it would be the same.
            ArrayRefused: an array in it cannot be sent.
        """
        if self._seals is None:
            return False
        return self._send(msg, timeout, AnySignal(self.gone, abort_signal))

    def _send(self, msg: Message, timeout: Optional[float], stop: Signal) -> bool:
        return self._send_letter(self._sealed(msg, msg.data), timeout, stop, self.ack_timeout)

    def _sealed(self, msg: Message, data: Any) -> Letter:
        head, payload = json.dumps([msg.msg_type, msg.msg_id, msg.req_id]), self._pack(data)
        seal = self._seals.seal(sealed_head(msg.topic, head), payload)
        return Letter(msg.topic, head, payload, seal)

    def _send_letter(
        self, letter: Letter, timeout: Optional[float], stop: Signal, ack_timeout: Optional[float]
    ) -> bool:
        return any(self._is_accepted(answer, letter) for answer in self._ask_again(letter, timeout, stop, ack_timeout))

    def _ask_again(
        self, letter: Letter, timeout: Optional[float], stop: Signal, ack_timeout: Optional[float]
    ) -> Iterator[Answer]:
        """Sends a letter, again each time that this goes on, and gives what is answered, until the time is up."""
        deadline = None if timeout is None else time.monotonic() + timeout
        longest = limits.LONGEST_ACK_TIMEOUT + letter.size / limits.SLOWEST_LINK
        ack_timeout = ack_timeout and ack_timeout + letter.size / limits.USUAL_LINK
        while not stop.triggered:
            started = time.monotonic()
            steps = [ack_timeout, None if deadline is None else deadline - started]
            step = min((step for step in steps if step is not None), default=None)
            if step is not None and step <= 0:
                return
            yield self._ask(letter, step, stop)
            if time.monotonic() - started < limits.RETRY_PAUSE:
                self.gone.wait(limits.RETRY_PAUSE)
            elif ack_timeout:
                # An answer that comes later finds nobody: each time that comes to nothing there is more.
                ack_timeout = min(2 * ack_timeout, max(ack_timeout, longest))

    def _is_accepted(self, answer: Answer, letter: Letter) -> bool:
        try:
            self._seals.check_answer(answer.seal, letter.seal, answer.content)
        except SealBroken:
            return False  # nobody has answered, or it is not the peer
        self._note_life()
        if answer.content:
            raise MessageRefused(answer.content.decode(errors="replace"))
        return True

    # To take

    def receive(self, timeout: Optional[float] = None) -> Optional[Message]:
        """Waits (`timeout` in seconds; None: no limit) for what nobody else takes."""
        try:
            return self.inbox.get(timeout=None if timeout is None else max(timeout, 0.0))
        except queue.Empty:
            return None

    def _answer_to(self, letter: Letter, sender: str) -> Optional[Answer]:
        """Takes what has arrived, and returns the answer; None: whoever has sent it gets none that he could believe."""
        if letter.topic == HELLO and self.on_hello:
            return Answer(self.on_hello(letter.payload, sender), b"")
        if self.gone.triggered:
            return None  # answered it would be lost: nobody takes it any more
        try:
            if self._seals is None:
                raise SealBroken("no trainer has joined this session")
            is_new = self._seals.check(letter.seal, sealed_head(letter.topic, letter.head), letter.payload)
        except SealBroken as e:
            self.strangers.refuse(f"a message {letter.topic} of {sender}: {e}")
            return None
        if is_new:
            self._note_life()
        # A copy of a message that is still being taken waits for what becomes of that.
        with self._taking.get(letter.topic, self._taking[TASK]):
            if is_new:
                fault = self._take(letter)
                if fault:
                    self._refused[letter.seal] = fault
                    if len(self._refused) > limits.REFUSALS:
                        self._refused.popitem(last=False)
            content = self._refused.get(letter.seal, "").encode(errors="backslashreplace")
        return Answer(content, self._seals.seal_answer(letter.seal, content))

    def _take(self, letter: Letter) -> str:
        """Takes a message; returns what is wrong with it, or ""."""
        try:
            msg = self._opened(letter)
            if msg.topic not in (Topic.HEARTBEAT, PIECE):
                self.on_message(msg)
            return ""
        except NotTaken as e:
            return str(e)
        except NotOnThisHost as e:
            return NOT_ON_THIS_HOST + str(e)  # the peer sends it in another way
        except (ArrayRefused, MessageRefused) as e:
            self.logger.warning(f"a message of {self.peer} was refused: {e}")
            return str(e)
        except Exception as e:  # of whoever takes messages: what nobody has must not count as taken
            self.logger.error(f"a message of {self.peer} could not be taken: {secure_format_traceback()}")
            return f"it could not be taken: {secure_format_exception(e)}"

    def _opened(self, letter: Letter) -> Message:
        try:
            msg_type, msg_id, req_id = json.loads(letter.head)
            return Message(msg_type, letter.topic, self._unpack(letter.topic, letter.payload), msg_id, req_id)
        except (NotOnThisHost, ArrayRefused):
            raise
        except Exception as e:  # of whatever decodes a class that the sender knows
            raise MessageRefused(f"it cannot be decoded: {secure_format_exception(e)}") from e

    # To live

    def watch(self) -> None:
        """Begins to send heartbeats, and to notice that those of the peer do not come."""
        self.last_heard = self._next_look = time.monotonic()
        self._pulse.start()

    def _live(self) -> None:
        while not self.gone.triggered:
            if self._seals:
                self._tell(self._sealed(Message.new_request(Topic.HEARTBEAT, ""), ""))
            self.gone.wait(self._after_beat())

    def _after_beat(self) -> float:
        """Does what is due with each heartbeat; returns the seconds until the next one."""
        return self._look()

    def _look(self) -> float:
        """Judges the silence of the peer, if that is due; returns the seconds until it is due again."""
        now = time.monotonic()
        late = now - self._next_look
        if late < 0:
            return -late
        self._next_look = now + self.heartbeat_interval
        if late > self.heartbeat_interval:
            # This thread comes much later than it asked for: it was reading, or the whole process stood still (a C call
            # that held the GIL, or SIGSTOP), its network threads with it, and that silence tells nothing of the peer.
            self.last_heard = min(now, self.last_heard + late)
        silence = now - (heard := self.last_heard)
        if self.heartbeat_timeout and silence > self.heartbeat_interval and not self.gone.triggered:
            cause = self.find_death(silence)
            if cause and self.last_heard == heard:  # else it has joined, or spoken, while it was judged
                self._lose(cause)
        return self.heartbeat_interval

    def _find_timeout(self, silence: float) -> str:
        if silence <= self.heartbeat_timeout:
            return ""
        if self._owner and not self._owner.is_gone:
            return ""  # it stands still, or the network does; should it give this process up it ends it
        return f"no sign of life for {silence:.0f} s"

    def _thread(self, name: str, work: Callable[[], None]) -> threading.Thread:
        return threading.Thread(target=self._run, args=(work,), name=f"client_api_{name}", daemon=True)

    def _run(self, work: Callable[[], None]) -> None:
        """What each thread of a channel runs."""
        try:
            work()
        except Exception as e:  # the top of a thread, and the border to a job's own pipe
            if not self.gone.triggered:
                self._lose(f"the pipe has failed: {secure_format_exception(e)}")

    def _lose(self, cause: str) -> None:
        self.on_lost(cause)
        self.gone.trigger(cause)

    def _note_life(self) -> None:
        self.last_heard = time.monotonic()
