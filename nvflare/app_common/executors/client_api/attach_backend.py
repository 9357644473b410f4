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

"""Feeds a trainer that somebody else has started and owns: it joins the job, and may come and go.

The backend writes a rendezvous, the bootstrap file of a session, and says in the log what to type. A trainer that finds
it (see attach.py) joins the session; the rendezvous is removed then, and at the end. The backend never signals, starts
or waits for a process: the trainer's lease, its heartbeats, is all that it knows of it. With `allow_reconnect` a lost
trainer opens a new rendezvous, and the task in hand goes to the next trainer.
"""

import os
import shlex
import sys
import threading
import time
from typing import Optional

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from nvflare.app_common.executors.client_api.backend_spec import (
    ClientAPIBackendContext,
    ClientAPIBackendSpec,
    TrainerError,
    wait_until,
)
from nvflare.app_common.executors.client_api.bootstrap import (
    client_config,
    remove_bootstrap,
    session_bootstrap,
    session_pipe_args,
    write_bootstrap,
)
from nvflare.app_common.executors.client_api.pass_through import PassThrough
from nvflare.app_common.executors.client_api.rendezvous import RANKS_FILE, RENDEZVOUS_FILE, describe_owner
from nvflare.app_common.executors.client_api.trainer_pipe import TrainerPipe
from nvflare.app_common.executors.client_api.trainer_session import SessionState, TrainerSession
from nvflare.fuel.utils.constants import Mode
from nvflare.fuel.utils.log_utils import get_obj_logger

# So many wrong proofs end a rendezvous: somebody tries keys, and gets a new lock.
MAX_BAD_PROOFS = 5


class AttachBackend(ClientAPIBackendSpec):
    """Owns a session at a time, never a process."""

    def __init__(self):
        self.logger = get_obj_logger(self)
        self._context: Optional[ClientAPIBackendContext] = None
        self._config = {}  # of the trainer's Client API
        self._fl_ctx: Optional[FLContext] = None
        self._pass_through: Optional[PassThrough] = None
        self._changed = threading.Condition()  # guards the session, which a loss replaces
        self._session: Optional[TrainerSession] = None
        self._sessions = 0
        self._is_ending = False

    def initialize(self, context: ClientAPIBackendContext, fl_ctx: FLContext) -> None:
        self._context, self._fl_ctx = context, fl_ctx
        self._config = client_config(context, fl_ctx)
        self._pass_through = PassThrough(fl_ctx)
        try:
            write_bootstrap(self._path(RANKS_FILE), self._config)
            self._open_session()
        except Exception:
            self.finalize(fl_ctx)
            raise

    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        self._settle()
        deadline = None if self._context.attach_timeout is None else time.monotonic() + self._context.attach_timeout
        while True:
            session = self._session
            try:
                if not session.wait_ready(abort_signal, self._remaining(deadline)):
                    raise TrainerError(
                        f"no trainer came in {self._context.attach_timeout} s (attach_timeout); to start "
                        f"one: {self._command()}"
                    )
                result = session.execute(task_name, shareable, fl_ctx, abort_signal)
                self._pass_through.adapt(result)
                return result
            except TrainerError:
                if session.state is SessionState.CLOSED or not session.has_ended or not self._context.allow_reconnect:
                    raise
            self.logger.info(f"task {task_name!r} goes to the next trainer")
            with self._changed:
                wait_until(self._changed, lambda: self._session is not session or self._is_ending, abort_signal)
                if self._is_ending:
                    raise TrainerError("the job ends")
            # A lost trainer's time is not the next one's.
            deadline = None if deadline is None else time.monotonic() + self._context.attach_timeout

    @staticmethod
    def _remaining(deadline: Optional[float]) -> Optional[float]:
        return None if deadline is None else max(0.0, deadline - time.monotonic())

    def _open_session(self) -> None:
        """Opens a session for a trainer, and its rendezvous.

        Raises:
            TrainerError: the rendezvous cannot be written.
        """
        self._sessions += 1
        pipe_args = {
            **session_pipe_args(self._context, self._pass_through.of_results, self._fl_ctx),
            "is_attached": True,
        }
        session = TrainerSession(
            TrainerPipe(mode=Mode.PASSIVE.value, **pipe_args),
            f"{self._fl_ctx.get_job_id()}/{self._sessions}",
            self._context.task_wait_timeout,
            self._context.result_wait_timeout,
            self._context.executor.relay_log_record,
            on_state=lambda state: self._handle_state(session, state),
            on_bad_proof=lambda count: self._handle_bad_proof(session, count),
        )
        try:
            session.open()
            content = session_bootstrap(self._config, pipe_args, self._fl_ctx)
            write_bootstrap(self._path(RENDEZVOUS_FILE), {**content, **describe_owner()})
        except Exception:
            session.close()
            raise
        with self._changed:
            self._session = session
            self._changed.notify_all()
        self.logger.info(f"waiting for a trainer; to start one: {self._command()}")

    def _handle_state(self, session: TrainerSession, state: SessionState) -> None:
        if state in (SessionState.READY, SessionState.LOST) and session is self._session:
            remove_bootstrap(self._path(RENDEZVOUS_FILE))
        if state is SessionState.LOST and self._context.allow_reconnect:
            self._renew_later(session)

    def _handle_bad_proof(self, session: TrainerSession, count: int) -> None:
        if count == MAX_BAD_PROOFS and session.state is SessionState.WAITING:
            self.logger.warning(f"{count} wrong proofs: this rendezvous is closed, and a new one is opened")
            self._renew_later(session)

    def _renew_later(self, session: TrainerSession) -> None:
        # On a thread of its own: the one that brings the news belongs to the session that is to be closed.
        threading.Thread(target=self._renew, args=(session,), name="client_api_renew", daemon=True).start()

    def _renew(self, session: TrainerSession) -> None:
        session.close()
        if self._is_ending or session is not self._session:
            return
        try:
            self._open_session()
        except Exception as e:  # the top of a thread; tasks fail with this cause from now on
            self.logger.error(f"no new rendezvous can be opened: {e}")
            with self._changed:
                self._is_ending = True
                self._changed.notify_all()

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        if event_type == EventType.AFTER_SEND_TASK_RESULT:
            self._settle()

    def _settle(self) -> None:
        if self._session:
            self._session.settle()

    def stats(self) -> dict:
        session = self._session
        if session is None:
            return {"state": "no session"}
        trainer = {f"trainer_{name}": session.trainer.get(name, "") for name in ("pid", "host")}
        return {"state": session.state.value, "sessions": self._sessions, **trainer}

    def finalize(self, fl_ctx: FLContext) -> None:
        with self._changed:
            self._is_ending = True
            self._changed.notify_all()
        if self._session:
            self._session.end("the job ends")
            self._session.close()
        for name in (RENDEZVOUS_FILE, RANKS_FILE):
            remove_bootstrap(self._path(name))
        self._pass_through.close()

    def _path(self, name: str) -> str:
        return os.path.join(self._fl_ctx.get_workspace().get_app_config_dir(self._fl_ctx.get_job_id()), name)

    def _command(self) -> str:
        module = "nvflare.app_common.executors.client_api.attach"
        workspace, site = self._fl_ctx.get_workspace().get_root_dir(), self._fl_ctx.get_identity_name()
        options = ["--workspace", workspace, "--job", self._fl_ctx.get_job_id(), "--site", site]
        return f"{os.path.basename(sys.executable)} -m {module} {shlex.join(options)} -- SCRIPT.py [ARGS]"
