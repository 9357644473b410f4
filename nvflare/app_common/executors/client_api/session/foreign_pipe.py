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

"""The channel over a pipe that the job supplies, in place of the cellnet between the CJ and an attached trainer.

For compute nodes without a network: with nvflare's FilePipe as the component `client_api_pipe`, job and trainer meet in
a shared folder. All that the pipe carries is letters and their answers, whatever they say. Each session has a pipe of
its own, made anew from what the component exports, under a name with the session's random token.

Threads: one reads, and one sends whatever is in line, because a foreign `send` may block until the peer has read, and
cannot be woken. The reader never sends, or two readers would wait for each other. Heartbeats have a third one, for they
go on while a large model is written or read: that a `send` may overlap another nvflare's own PipeHandler expects, too.
"""

import json
import os
import threading
import time
from collections import deque
from contextlib import contextmanager
from typing import Any, Iterator, Optional, Tuple, Type

from nvflare.apis.signal import Signal
from nvflare.app_common.executors.client_api.backend_spec import ClientAPIBackendContext, TrainerError
from nvflare.app_common.executors.client_api.session import limits
from nvflare.app_common.executors.client_api.session.bootstrap import new_session
from nvflare.app_common.executors.client_api.session.channel import Channel
from nvflare.app_common.executors.client_api.session.handshake import HandshakeError
from nvflare.app_common.executors.client_api.session.letters import CHANNEL, NO_ANSWER, Answer, Letter
from nvflare.app_common.executors.client_api.waiting import TaskAborted, join_all, wait_until
from nvflare.fuel.utils import fobs
from nvflare.fuel.utils.attributes_exportable import ExportMode
from nvflare.fuel.utils.class_loader import load_class
from nvflare.fuel.utils.pipe.file_pipe import FilePipe
from nvflare.fuel.utils.pipe.pipe import Message, Pipe, Topic
from nvflare.security.logging import secure_format_exception

# The job's component that takes the place of the cellnet between job and trainer.
PIPE_COMPONENT = "client_api_pipe"
# The two things that the pipe carries.
_LETTER, _ANSWER = "LETTER", "ANSWER"


def foreign_session(context: ClientAPIBackendContext, config: dict, component: Pipe) -> Tuple["ForeignPipe", dict]:
    """Makes the channel of a new session.

    Args:
        context: the backend's.
        config: of the trainer's Client API, from job_formats.client_config().
        component: the job's pipe, of which only the description is used.

    Returns:
        The CJ's end, and what a trainer needs to join: no credentials of the site are in it.

    Raises:
        TrainerError: the component cannot be used.
    """
    with _border(TrainerError):
        own, peers = (_describe(component, mode) for mode in (ExportMode.SELF, ExportMode.PEER))
        return new_session(context, config, ForeignPipe, own, peers)


@contextmanager
def _border(error: Type[Exception]) -> Iterator[None]:
    """Raises an error that names the job's pipe for whatever that raises."""
    try:
        yield
    except Exception as e:
        raise error(f"component {PIPE_COMPONENT} cannot be used: {secure_format_exception(e)}") from e


def _describe(component: Pipe, export_mode: str) -> dict:
    pipe_class, pipe_args = component.export(export_mode)
    if isinstance(component, FilePipe) and "root_path" in pipe_args:
        pipe_args["root_path"] = os.path.abspath(pipe_args["root_path"])  # the trainer runs in another folder
    # Through JSON at both ends alike: nvflare exports enums, and its CellPipe does not take them back.
    return {"pipe_class": pipe_class, "pipe_args": json.loads(json.dumps(pipe_args))}


class ForeignPipe(Channel):
    way = "the job's pipe"

    def __init__(self, mode: str, pipe_class: str, pipe_args: dict, token: str, **of_session):
        """Initializes one end; nothing is opened.

        Args:
            mode: "PASSIVE" at the CJ, "ACTIVE" in the trainer.
            pipe_class: path of the job's kind of pipe.
            pipe_args: of its constructor.
            token: the session's random token.
            of_session: see Channel.
        """
        super().__init__(mode=mode, **of_session)
        self.name = self.peer = f"{CHANNEL}_{token}"  # both ends have one name
        self._pipe: Pipe = load_class(pipe_class)(**pipe_args)
        self._slowest = 0.0  # seconds until the pipe has sent a message, which may mean until the peer has read it
        self._changed = threading.Condition()  # guards what follows
        self._outbox = deque()  # messages of the pipe, each with the seconds in which it must have been read, or None
        self._answers = {}  # by the id of the message with the letter; None while it is awaited
        self._threads = [self._thread("reader", self._read_all), self._thread("sender", self._send_all)]

    @property
    def patience(self) -> float:
        """For the way there and back, over a shared folder whose listing may be seconds old."""
        return min(3 * self._slowest, limits.LONGEST_PATIENCE)

    def open(self, name: str = "") -> None:
        """Opens the pipe under the session's name.

        Raises:
            HandshakeError: it cannot be opened.
        """
        with _border(HandshakeError):
            if isinstance(self._pipe, FilePipe):
                self._prepare_folder()
            self._pipe.open(self.name)
        for thread in self._threads:
            thread.start()

    def _prepare_folder(self) -> None:
        if self._is_trainer:
            os.stat(os.path.join(self._pipe.root_path, self.name))  # the job's end has made it, and will remove it
        else:
            # One that had to make its folder removes that, and with it whatever else is in there by then.
            os.makedirs(self._pipe.root_path, exist_ok=True)

    def _after_beat(self) -> float:
        return self.heartbeat_interval  # the reader looks, which knows what it has yet to read

    def close(self) -> None:
        """Sends what is in line, closes the pipe and ends its threads. Idempotent."""
        patience = 0.0 if self.gone.triggered else self.patience
        self.gone.trigger("the pipe is closed")
        with self._changed:
            threads, self._threads = self._threads, []
            self._changed.notify_all()
        if threads:
            join_all(threads, limits.DRAIN_TIMEOUT + patience)
            try:
                self._pipe.close()
            except Exception as e:  # the border to a job's own pipe
                self.logger.error(f"the job's pipe did not close well: {secure_format_exception(e)}")
            join_all((*threads, self._pulse), limits.CLOSE_TIMEOUT)

    def clear(self) -> None:
        self._pipe.clear()

    def can_resend(self) -> bool:
        return False

    def _pack(self, data: Any) -> bytes:
        return fobs.dumps(data, fobs_ctx={"native": True})

    def _unpack(self, topic: str, payload: bytes) -> Any:
        return fobs.loads(payload)

    # Letters and answers as messages of the pipe

    def _ask(self, letter: Letter, timeout: Optional[float], stop: Signal) -> Answer:
        msg = Message.new_request(_LETTER, list(letter))
        with self._changed:
            self._answers[msg.msg_id] = None
            self._put_in_line(msg, timeout)
            try:
                wait_until(self._changed, lambda: self._answers[msg.msg_id], stop, timeout)
            except TaskAborted:
                pass
            return self._answers.pop(msg.msg_id) or NO_ANSWER

    def _tell(self, letter: Letter) -> None:
        self._send_over_pipe(Message.new_request(_LETTER, list(letter)))

    def _put_in_line(self, msg: Message, timeout: Optional[float] = None) -> None:
        with self._changed:
            self._outbox.append((msg, timeout))
            self._changed.notify_all()

    def _note_answer(self, msg_id: str, answer: Answer) -> None:
        with self._changed:
            if msg_id in self._answers:
                self._answers[msg_id] = answer
                self._changed.notify_all()

    def _read_all(self) -> None:
        while not self.gone.triggered:
            msg = self._read(min(limits.READ_SLICE, self._look()))
            if msg and msg.topic == _ANSWER:
                self._note_answer(msg.req_id, _answer_in(msg))
            elif msg and msg.topic == _LETTER:
                letter = _letter_in(msg)
                answer = self._answer_to(letter, self.name)
                if answer and letter.topic != Topic.HEARTBEAT:
                    self._put_in_line(Message.new_reply(_ANSWER, list(answer), msg.msg_id))

    def _send_all(self) -> None:
        while True:
            with self._changed:
                wait_until(self._changed, lambda: self._outbox or self.gone.triggered)
                if not self._outbox:
                    return
                msg, timeout = self._outbox.popleft()
            # A FilePipe measures by the wall clock, which may have been set forward: only what may be late has a limit.
            while not self._send_over_pipe(msg, timeout):
                if timeout is not None:
                    self._note_answer(msg.msg_id, NO_ANSWER)
                if timeout is not None or self.gone.wait(limits.RETRY_PAUSE):
                    break

    def _send_over_pipe(self, msg: Message, timeout: Optional[float] = None) -> bool:
        started = time.monotonic()
        is_sent = self._pipe.send(msg, timeout)
        self._slowest = max(self._slowest, time.monotonic() - started)
        return is_sent

    def _read(self, timeout: float) -> Optional[Message]:
        if not isinstance(self._pipe, FilePipe):
            return self._pipe.receive(timeout)
        msg = self._pipe.receive()  # at once; it would measure a timeout by the wall clock
        if msg is None:
            self.gone.wait(min(timeout, limits.FILE_INTERVAL))
        return msg


def _letter_in(msg: Message) -> Letter:
    """Returns the letter that a message of the pipe brings, or one that nobody has sealed."""
    parts = msg.data if isinstance(msg.data, list) else []
    return Letter(*parts) if [type(part) for part in parts] == [str, str, bytes, bytes] else Letter("", "", b"")


def _answer_in(msg: Message) -> Answer:
    parts = msg.data if isinstance(msg.data, list) else []
    return Answer(*parts) if [type(part) for part in parts] == [bytes, bytes] else NO_ANSWER
