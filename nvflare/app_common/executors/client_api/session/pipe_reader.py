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

"""The reader that both ends of a session put on their pipe: one thread that waits for a message or the next heartbeat.

nvflare's PipeHandler has two threads that poll. This one blocks in `pipe.receive()` until something comes or the next
heartbeat is due, sends the heartbeat, and looks whether the peer has been silent for too long.
"""

import threading
import time
from typing import Callable, Optional

from nvflare.fuel.utils.pipe.pipe import Message, Pipe, Topic
from nvflare.fuel.utils.pipe.pipe_handler import PipeHandler


class TrainerPipeHandler(PipeHandler):
    """A PipeHandler with one thread, which waits for messages and sends heartbeats, and never polls."""

    def __init__(
        self,
        pipe: Pipe,
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
                pipe.send(self._make_event_message(Topic.HEARTBEAT, ""))
                next_beat = now + self.heartbeat_interval
            msg = pipe.receive(max(next_beat - time.monotonic(), 0.001))
            if self.asked_to_stop:
                break
            self._note_own_stall(time.monotonic() - next_beat)
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

    def _note_life(self, pipe: Pipe) -> None:
        # The pipe notes every message of the peer, also those that are none for this reader.
        self.last_heard = max(self.last_heard, pipe.last_heard)

    def _note_own_stall(self, late: float) -> None:
        # This thread woke much later than it asked for: the whole process stood still (a C call that held the GIL, or
        # SIGSTOP), its network threads with it, and the silence in that time says nothing about the peer.
        if late > self.heartbeat_interval:
            self.last_heard += late
