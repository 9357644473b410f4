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

"""Launches the training command, feeds it tasks over a session, and ends its process tree.

    initialize: bootstrap file -> process -> (the script calls flare.init()) -> session READY
    execute:    a READY session, launched anew if there is none; task -> result
    finalize:   END to the trainer, natural exit, SIGTERM, SIGKILL, nothing is left

One `_Trainer` is one process with its session and bootstrap file: TrainerProcess knows no protocol, TrainerSession
knows no process, and here the end of the one becomes the loss of the other, with the cause. Three threads meet here: a
task's, which launches, the job's event thread, which ends all, and one that ends the trainer of the task before.
"""

import math
import os
import threading
import time
from contextlib import ExitStack
from typing import Callable, Optional

from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from nvflare.app_common.executors.client_api.arrays.pull import Puller, TaskArrays
from nvflare.app_common.executors.client_api.arrays.traffic import leg, note_legs, pull_leg
from nvflare.app_common.executors.client_api.backend_spec import (
    ClientAPIBackendContext,
    ClientAPIBackendSpec,
    TrainerError,
)
from nvflare.app_common.executors.client_api.formats.job_formats import client_config
from nvflare.app_common.executors.client_api.formats.outside_text import told_by_script
from nvflare.app_common.executors.client_api.process.limits import MIN_CPU_SECONDS
from nvflare.app_common.executors.client_api.process.orphans import end_orphans
from nvflare.app_common.executors.client_api.process.process_tree import TreeUsage
from nvflare.app_common.executors.client_api.process.trainer_process import TrainerProcess
from nvflare.app_common.executors.client_api.session.bootstrap import cell_session, remove_stale_files, write_bootstrap
from nvflare.app_common.executors.client_api.session.private_files import remove
from nvflare.app_common.executors.client_api.session.trainer_session import SessionState, TrainerSession
from nvflare.app_common.executors.client_api.waiting import ABORT_CHECK_INTERVAL, TaskAborted, soonest_limit
from nvflare.client.constants import CLIENT_API_CONFIG
from nvflare.fuel.utils.log_utils import get_obj_logger

# So many trainers in a row that ended without a result end the job.
MAX_FAILURES = 3


class _Trainer:
    """One launch: a process, its session and its bootstrap file."""

    def __init__(
        self, context: ClientAPIBackendContext, config: dict, makes_tensors: bool, fl_ctx: FLContext, number: int
    ):
        self._context = context
        self._name = f"{fl_ctx.get_job_id()}/{number}"
        self._launched = time.monotonic()
        self.has_answered = False  # a task
        self._usage = TreeUsage(0.0, False)  # when the present silence of the trainer began, or was last looked into
        self._last_silence = math.inf
        self._look_at = 0.0  # the silence, in seconds, at which it is looked into
        self._bootstrap = os.path.join(
            fl_ctx.get_workspace().get_app_config_dir(fl_ctx.get_job_id()), CLIENT_API_CONFIG
        )
        self.launcher = TrainerProcess(context.command, context.shutdown_timeout, context.stop_grace_period)
        self.launcher.on_exit, self.launcher.left_file = self._handle_exit, self._bootstrap
        pipe, self._content = cell_session(context, config, fl_ctx, makes_tensors)
        self.session = TrainerSession(pipe, self._name, context, self._why_frozen)

    def launch(self, fl_ctx: FLContext) -> None:
        """Starts the process; on failure nothing of it is left.

        Raises:
            TrainerError: the bootstrap file cannot be written, or the cellnet not be reached.
            TrainerLaunchError: the command cannot be started.
            OSError, RuntimeError: there are no descriptors or threads left for the session.
        """
        with ExitStack() as undo:
            undo.callback(self.stop)
            write_bootstrap(self._bootstrap, self._content)
            self.launcher.launch_task(self._name, Shareable(), fl_ctx, Signal())
            # Only now: this takes less time than the script needs to get as far as flare.init().
            self.session.open()
            undo.pop_all()

    def wait_ready(self, abort_signal: Signal) -> None:
        """Waits until the script has called flare.init().

        Raises:
            TrainerError: it ended before, or did not do so within the launch timeout.
        """
        limit = soonest_limit(self._context, ("launch_timeout",))
        if not self.session.wait_ready(abort_signal, limit.remaining(self._launched)):
            tail = _indented(self.launcher.tree.output.tail())
            raise TrainerError(f"the trainer did not call flare.init() within {limit}{tail}")

    def stop(self, reason: str = "the trainer is stopped") -> None:
        """Ends the process and the session, and removes the bootstrap file. Bounded, idempotent.

        A trainer that waits for its next task is told to end and gets the shutdown timeout to do so, as one does that
        has left by flare.shutdown(); one that is in the middle of something gets SIGTERM at once.
        """
        at_once = Signal()
        if not self.session.is_idle and self.session.state is not SessionState.CLOSING:
            at_once.trigger(reason)
        self.session.end(reason)
        self.launcher.stop_task(self._name, FLContext(), at_once)
        self.session.close()
        remove(self._bootstrap)

    @property
    def has_left_a_task(self) -> bool:
        """Whether it has ended by itself and without a fault, as one that has answered, before it asked for a task."""
        has_left = self.launcher.tree.returncode == 0 or self.session.state is SessionState.CLOSING
        is_well = has_left and not self.launcher.tree.was_signalled
        return is_well and self.has_answered and self.session.has_untaken_task

    def stats(self) -> dict:
        process = self.launcher.check_run_status(self._name, FLContext())
        return {**self.session.stats(), "pid": self.launcher.tree.pid, "process": process}

    def _handle_exit(self, how: str) -> None:
        state = self.session.state
        when = f"while it was {state.value}"
        if state in (SessionState.CREATED, SessionState.WAITING):
            when = "before it called flare.init()"
        what = f"the trainer {self._context.command!r} ended {when}: {how}"
        if self._is_failure_untold(state):
            get_obj_logger(self).warning(what)  # what it wrote is in the log already
        self.session.lose(what + _indented(self.launcher.tree.output.tail()))

    def _is_failure_untold(self, state: SessionState) -> bool:
        """Whether the command has failed by itself, and no task is there that fails with the cause."""
        tree = self.launcher.tree
        has_failed = tree.returncode != 0 and not tree.was_signalled
        has_joined = state in (SessionState.READY, SessionState.BUSY, SessionState.CLOSING)
        return has_failed and has_joined and not self.session.owes_result

    def _why_frozen(self, silence: float) -> str:
        """Tells why a trainer that was silent for so many seconds must be frozen, or "" if it need not be.

        Late heartbeats alone prove nothing: a C call may hold the interpreter for minutes, and uses the CPU meanwhile.
        """
        usage, limit = self.launcher.tree.usage(), self._context.heartbeat_timeout
        if usage is None:
            return ""  # nothing is known but that the process lives
        if silence < self._last_silence:
            self._usage, self._look_at = usage, limit
        self._last_silence = silence
        if silence <= self._look_at:
            return ""
        why = frozen_because(usage, self._usage, bool(self.session.trainer), limit)
        if not why:
            self._usage, self._look_at = usage, silence + limit
        return why


def frozen_because(now: TreeUsage, before: TreeUsage, has_joined: bool, limit: float) -> str:
    """Tells why a trainer that is silent must be frozen, or "" if it need not be.

    Args:
        now: of its processes.
        before: the same, at least `limit` seconds ago, and silent since.
        has_joined: whether it has called flare.init().
        limit: seconds.
    """
    if now.cpu_seconds - before.cpu_seconds >= MIN_CPU_SECONDS:
        return ""  # even if a debugger has just stopped it
    if now.is_stopped:
        return f"the trainer is frozen: its processes have been stopped for {limit} s (SIGSTOP?)"
    if not has_joined:
        return ""  # before flare.init() nobody sends heartbeats, and a script may wait for its data or its peers
    return f"the trainer is frozen: no heartbeat and no use of the CPU for {limit} s (a deadlock?)"


class ExternalProcessBackend(ClientAPIBackendSpec):
    """Owns a trainer process: one for the whole job, or one per task."""

    def __init__(self):
        self.logger = get_obj_logger(self)
        self._context: Optional[ClientAPIBackendContext] = None
        self._config = {}  # of the trainer's Client API
        self._trainer: Optional[_Trainer] = None
        self._teardown: Optional[threading.Thread] = None  # of the trainer before
        self._turnover = threading.Lock()  # held while a trainer comes or goes: nobody sees a half-launched one
        self._puller: Optional[Puller] = None
        self._launches = 0
        self._failures = 0  # in a row
        self._is_ending = False

    def initialize(self, context: ClientAPIBackendContext, fl_ctx: FLContext) -> None:
        self._context = context
        self._puller = Puller(fl_ctx, is_handing_over=True)
        with ExitStack() as undo:
            undo.callback(self._puller.close)
            self._config = client_config(context, fl_ctx, self._puller.carries_tensors)
            remove_stale_files(fl_ctx)
            if count := end_orphans():
                self.logger.info(f"killed {count} processes, which a job that is gone has left")
            if context.launch_once:
                self._launch(fl_ctx)
            undo.pop_all()

    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        try:
            # The arrays of the task come while a trainer starts.
            with self._puller.start(shareable, abort_signal) as task:
                result = self._exchange(task_name, task, fl_ctx, abort_signal)
        except TrainerError as e:
            self._note_failure(str(e), fl_ctx)
            raise
        finally:
            # Of a trainer whose command has ended there may be ranks that go on.
            self._retire(lambda trainer: not self._context.launch_once or trainer.session.has_ended)
        self._failures = 0
        return result

    def _exchange(self, task_name: str, task: TaskArrays, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        for is_last_try in (False, True):
            start, launches = time.monotonic(), self._launches
            trainer = self._ready_trainer(fl_ctx, abort_signal)
            legs = [leg("launched", time.monotonic() - start)] if self._launches > launches else []
            try:
                result = trainer.session.execute(task_name, task.wait(), fl_ctx, abort_signal)
            except TrainerError as e:
                # A script of a few rounds may be at its end when the next task comes.
                if is_last_try or not trainer.has_left_a_task:
                    raise
                self.logger.info(f"task {task_name!r} goes to a new trainer: {e}")
            else:
                trainer.has_answered = True
                note_legs([*legs, *pull_leg(task.pulled), *trainer.session.traffic.legs], fl_ctx)
                return result

    def _ready_trainer(self, fl_ctx: FLContext, abort_signal: Signal) -> _Trainer:
        self._retire(lambda trainer: trainer.session.has_ended)
        while self._teardown and self._teardown.is_alive():
            if abort_signal.triggered:
                raise TaskAborted()
            self._teardown.join(ABORT_CHECK_INTERVAL)
        trainer = self._trainer or self._launch(fl_ctx)
        try:
            trainer.wait_ready(abort_signal)
        except TrainerError:
            self._retire()
            raise
        return trainer

    def _launch(self, fl_ctx: FLContext) -> _Trainer:
        with self._turnover:
            if self._is_ending:
                raise TrainerError("the job ends")
            self._launches += 1
            try:
                trainer = _Trainer(self._context, self._config, self._puller.makes_tensors, fl_ctx, self._launches)
                trainer.launch(fl_ctx)
            except (OSError, RuntimeError, ValueError) as e:
                raise TrainerError(f"command {self._context.command!r} cannot be launched: {e}") from e
            self._trainer = trainer
        self.logger.info(f"trainer {self._launches} is process {trainer.launcher.tree.pid}: {self._context.command}")
        return trainer

    def _retire(self, is_due: Callable[[_Trainer], bool] = lambda trainer: True) -> None:
        """Has the present trainer stopped, without waiting for that: the result of its task need not."""
        with self._turnover:
            if self._trainer and is_due(self._trainer):
                teardown = threading.Thread(target=self._trainer.stop, name="client_api_teardown", daemon=True)
                try:
                    teardown.start()
                    self._teardown = teardown
                except RuntimeError:  # there are no threads left; a result that has come counts all the same
                    self._trainer.stop()
                self._trainer = None

    def _note_failure(self, cause: str, fl_ctx: FLContext) -> None:
        self._failures += 1
        if self._failures == MAX_FAILURES and not self._is_ending:
            first_line = cause.splitlines()[0]
            self._context.executor.system_panic(
                f"{MAX_FAILURES} tasks in a row failed in external_process, the last one: {first_line}", fl_ctx
            )

    def stats(self) -> dict:
        trainer = self._trainer
        if trainer is None:
            return {"state": "no trainer", "launches": self._launches}
        return {**trainer.stats(), "launches": self._launches}

    def finalize(self, fl_ctx: FLContext) -> None:
        with self._turnover:  # a launch comes to its end first
            self._is_ending = True
            trainer, self._trainer = self._trainer, None
        if trainer:
            trainer.stop("the job ends")
        if self._teardown:
            self._teardown.join()
        if self._puller:
            self._puller.close()


def _indented(output: str) -> str:
    lines = told_by_script(output).splitlines()
    return "; its last output:" + "".join(f"\n  {line}" for line in lines) if lines else ""
