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

"""The trainer's end of a session: what nvflare's Client API uses in a trainer process to talk to the job.

`flare.init()` reads the bootstrap file, creates the pipe that it names, and then a FlareAgentWithFLModel. That is the
one place in nvflare 2.8 where a trainer can be made event-driven: `trainer_end` puts TrainerAgent there, in the
trainer's process only. Log records are sent in batches by a thread of their own, which exists once there is one.
"""

import logging
import queue
import sys
import threading
import time
import weakref
from contextlib import ExitStack, suppress
from functools import partial
from typing import Dict, List, Optional

from nvflare.apis.dxo import DXO
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.shareable import Shareable
from nvflare.apis.utils.analytix_utils import create_analytic_dxo
from nvflare.app_common.executors.client_api.arrays import exchange, progress
from nvflare.app_common.executors.client_api.arrays.traffic import TRAIN_SECONDS
from nvflare.app_common.executors.client_api.formats.difference import TrainerModelRegistry
from nvflare.app_common.executors.client_api.formats.log_lines import log_to_output
from nvflare.app_common.executors.client_api.formats.result_converter import ResultConverter
from nvflare.app_common.executors.client_api.formats.sendable import record_fields
from nvflare.app_common.executors.client_api.owner_process import OwnerProcess, one_context_per_rank
from nvflare.app_common.executors.client_api.server.ordered_sender import OrderedSender
from nvflare.app_common.executors.client_api.session import limits
from nvflare.app_common.executors.client_api.session.channel import Channel
from nvflare.app_common.executors.client_api.session.letters import (
    ENDS,
    METRICS,
    NO_ROOM,
    TASK,
    UNTAKEN,
    MessageRefused,
    NotTaken,
)
from nvflare.app_common.executors.client_api.waiting import WaitableSignal
from nvflare.client.flare_agent import RC, AgentClosed, CallStateError, Task, _TaskContext
from nvflare.client.flare_agent_with_fl_model import FlareAgentWithFLModel
from nvflare.fuel.utils.class_loader import load_class
from nvflare.fuel.utils.pipe.pipe import Message, Pipe, Topic


def trainer_end(end_class: str, log_levels: Optional[Dict[str, int]] = None, **arguments) -> Pipe:
    """Returns the trainer's end of the pipe; what the bootstrap file gives `flare.init()` for the pipe's class.

    It also has `flare.init()` use TrainerAgent in this process, which joins the session and waits for events where
    nvflare's agent polls, `flare.send()` send differences from what was received (`TrainerModelRegistry`), and
    `flare.log()` look at a record (`create_record`) before nvflare does. All that is replaced at run time is listed in
    docs/design/borrowed.md.

    Args:
        end_class: path of the pipe's class.
        log_levels: what of the script's logging the site takes, see `log_to_output`.
        arguments: of that class.

    Raises:
        ImportError: this nvflare has nothing of the kind to put ours in place of; its own agent could not join.
    """
    import nvflare.client.ex_process.api as api

    ours = {
        "FlareAgentWithFLModel": TrainerAgent,
        "ModelRegistry": TrainerModelRegistry,
        "create_analytic_dxo": create_record,
    }
    for name in ours:
        if not hasattr(api, name):
            raise ImportError(f"{api.__name__} of this nvflare has no {name}, which the trainer's has to replace")
    for name, replacement in ours.items():
        setattr(api, name, replacement)
    log_to_output(log_levels or {}, told=(__name__, exchange.__name__, progress.__name__))
    one_context_per_rank()
    return load_class(end_class)(**arguments)


def create_record(tag: str, **fields) -> DXO:
    """Does what nvflare's create_analytic_dxo does, for what a script logs; see `record_fields`."""
    return create_analytic_dxo(**record_fields(tag, **fields))


class TrainerAgent(FlareAgentWithFLModel):
    """The agent of `flare` in a trainer's process: one session with the job, from joining it to leaving it."""

    def __init__(self, pipe: Channel, **kwargs):
        to_nvflare = ResultConverter(kwargs.pop("to_nvflare_converter", None))
        super().__init__(pipe=pipe, to_nvflare_converter=to_nvflare, **{**kwargs, "heartbeat_timeout": 0})
        self.pipe_handler = None  # nvflare's, which polls: the channel brings what arrives
        pipe.on_message, pipe.on_lost = self._take, partial(self._end_session, is_lost=True)
        self._owner = OwnerProcess()
        self.is_job_lost = False  # the session has ended, and not because the job said so
        self._end = WaitableSignal()  # of the session; its value tells why
        self._is_leaving = False
        self._newest = 0  # number of a task that came
        self._records = OrderedSender(self._send_records, limits.RECORDS_BATCH)
        self._arrived_at = 0.0  # the newest task, on the monotonic clock

    def start(self) -> None:
        """Connects and joins the session.

        Raises:
            HandshakeError: the job cannot be reached or does not take this trainer.
        """
        with ExitStack() as undo:
            undo.callback(self.pipe.close)
            self.pipe.open()
            self.pipe.greet()
            self.pipe.watch()
            undo.pop_all()
        # Cells have threads that are no daemons, and Python joins such threads before it runs what atexit was given:
        # without this they would keep a script that is done. As concurrent.futures does for its own threads.
        # A resident trainer joins many jobs, and must not keep the agents of all.
        stop = weakref.WeakMethod(self.stop)
        threading._register_atexit(lambda: (stop() or (lambda **_: None))(is_exit=True))

    def _take(self, msg: Message) -> None:
        if msg.topic in ENDS:
            self._end_session(msg.data, is_lost=msg.topic == Topic.PEER_GONE)
        elif msg.topic == TASK and msg.msg_id > self._newest:
            self._put_in_place_of_older(msg)
            if self._is_leaving:  # looked at after the put: the task is either refused or found by stop()
                raise NotTaken(UNTAKEN)

    def _put_in_place_of_older(self, task: Message) -> None:
        # The job has one task at a time: those before are over, and one that overtook them must not be lost to them.
        self._newest, self._arrived_at = task.msg_id, time.monotonic()
        with suppress(queue.Empty):
            while True:
                self.pipe.inbox.get_nowait()
        self.pipe.inbox.put(task)
        if self.asked_to_stop:
            self.pipe.inbox.put(None)  # which may have been in there

    def _end_session(self, why: str, is_lost: bool) -> None:
        # Runs on a thread of the channel, which is closed by stop().
        if self._end.triggered:
            return
        if is_lost or self.pipe.is_attached:
            # A trainer that the job owns writes to the job's log, which has the end already; and a line of this thread
            # may break one that the script is printing.
            self.logger.info(f"{'the job is lost' if is_lost else 'the job has ended this session'}: {why}")
        self.asked_to_stop = True
        self.is_job_lost = is_lost
        self._end.trigger(why)
        if is_lost:
            self.pipe.gone.trigger(why)
        self.pipe.inbox.put(None)  # wakes get_task()

    def stop(self, reason: str = "the trainer has left", is_exit: bool = False) -> None:
        """Sends what was logged and leaves the session, with a reason that the job gets to read. Idempotent.

        Args:
            reason: such as that flare.shutdown() was called, after which the process may go on.
            is_exit: whether this process ends.

        Does nothing in a forked child, which has the hook that calls this at the exit, and the parent's connection.
        """
        if not self._owner.is_here:
            return
        if is_exit:
            # A failed script's traceback is printed by now; what nvflare tells of each connection is not to follow it.
            logging.getLogger("nvflare").setLevel(logging.WARNING)
        self._is_leaving = True
        self._records.close()
        dropped, self._records.dropped = self._records.dropped, 0  # told once
        if dropped:
            self.logger.warning(f"{dropped} log records did not reach the job")
        untaken = None if self.asked_to_stop else self.pipe.receive(0)
        if untaken:
            self.pipe.send(Message.new_reply(TASK, UNTAKEN, untaken.msg_id), self._goodbye_timeout)
        # The end of a process that the job watches tells more than a word of it, and an exception is about to be one.
        is_seen = not self.pipe.is_attached and (is_exit or sys.exc_info()[0] is not None)
        if not self.asked_to_stop and not is_seen:
            # Without a word the job would notice only by the missing heartbeats.
            with suppress(MessageRefused):  # the job has another trainer now
                self.pipe.send(Message.new_request(Topic.END, reason), self._goodbye_timeout)
        self.asked_to_stop = True
        self.pipe.inbox.put(None)
        self.pipe.close()

    @property
    def _goodbye_timeout(self) -> float:
        return limits.GOODBYE_TIMEOUT + self.pipe.patience

    @property
    def _why_it_ended(self) -> str:
        return self._end.value or "this process has left it, as one does whose main thread has ended"

    def get_task(self, timeout: Optional[float] = None) -> Optional[Task]:
        """Waits (`timeout` in seconds; None: no limit) for the next task; see FlareAgent.get_task.

        Raises:
            AgentClosed: the session has ended.
            CallStateError: the task before has no result yet.
        """
        if self.current_task:
            raise CallStateError("application called get_task while the current task is not processed")
        request = None if self.asked_to_stop else self.pipe.receive(timeout)
        if request is not None:
            return self._accept(request)
        if self.asked_to_stop:
            self.pipe.inbox.put(None)  # for whoever else waits
            raise AgentClosed(f"the session with the job has ended: {self._why_it_ended}")
        return None

    def _accept(self, request: Message) -> Task:
        shareable: Shareable = request.data
        name, task_id = shareable.get_header(FLContextKey.TASK_NAME), shareable.get_header(FLContextKey.TASK_ID)
        data = self.shareable_to_task_data(shareable)
        self.current_task = _TaskContext(task_id=task_id, task_name=name, msg_id=request.msg_id)
        return Task(task_name=name, task_id=task_id, data=data)

    def submit_result(self, result, rc=RC.OK) -> bool:
        """Sends the result of the current task; returns when the job has it, and tells whether it has.

        Raises:
            AgentClosed: the job is gone.
            ValueError: the result cannot be converted or sent; the task can still be answered by another one.
            ArrayRefused: an array in it cannot be sent, or there is no memory for them; as with any ValueError.
            MessageRefused: the job cannot use the result, and says why; as with any ValueError.
        """
        task = self.current_task
        if not task:
            self.logger.error("there is no current task to send a result for")
            return False
        trained = time.monotonic() - self._arrived_at
        self._records.flush()
        reply = Message.new_reply(TASK, self.task_result_to_shareable(result, rc), task.msg_id)
        reply.data.set_header(TRAIN_SECONDS, trained)
        sent = self.pipe.send(reply, abort_signal=self._end)
        self.current_task = None
        if not sent:
            fault = f"the result of task {task.task_name!r} did not reach the job: {self._why_it_ended}"
            if self.is_job_lost or not self.asked_to_stop:
                raise AgentClosed(fault)
            self.logger.error(fault)
        return sent

    def log(self, record: DXO) -> bool:
        """Takes one log record; it is sent soon, and before the result of the current task."""
        return self._records.put(record)

    def _send_records(self, batch: List[DXO]) -> bool:
        while True:
            message = Message.new_request(METRICS, batch)
            try:
                # A job that has told the end takes what is logged until it closes its end of the channel.
                return self.pipe.send(message, abort_signal=self._end) or (
                    self._end.triggered and self.pipe.send(message, self._goodbye_timeout)
                )
            except MessageRefused as e:
                if str(e) != NO_ROOM:
                    raise
            if self._end.wait(limits.ROOM_PAUSE):
                return False
