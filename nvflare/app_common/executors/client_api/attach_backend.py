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

import math
import shlex
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Optional, Tuple

from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from nvflare.app_common.executors.client_api.arrays.pull import Puller
from nvflare.app_common.executors.client_api.arrays.traffic import note_legs, pull_leg
from nvflare.app_common.executors.client_api.backend_spec import (
    ClientAPIBackendContext,
    ClientAPIBackendSpec,
    TrainerError,
)
from nvflare.app_common.executors.client_api.formats.job_formats import client_config
from nvflare.app_common.executors.client_api.process.foreign_launcher import LAUNCHER_COMPONENT, ForeignLauncher
from nvflare.app_common.executors.client_api.session.bootstrap import cell_session, remove_stale_files, write_bootstrap
from nvflare.app_common.executors.client_api.session.foreign_pipe import PIPE_COMPONENT, foreign_session
from nvflare.app_common.executors.client_api.session.private_files import remove
from nvflare.app_common.executors.client_api.session.rendezvous import RANKS_FILES, RENDEZVOUS_FILE
from nvflare.app_common.executors.client_api.session.trainer_session import SessionState, TrainerSession
from nvflare.app_common.executors.client_api.waiting import wait_until
from nvflare.fuel.utils.log_utils import get_obj_logger
from nvflare.fuel.utils.pipe.pipe import Pipe
from nvflare.security.logging import secure_format_exception

# So many HELLOs with a wrong proof, or none, end a rendezvous: somebody tries keys, and gets a new lock.
MAX_BAD_HELLOS = 5
# Seconds from one to the next: whoever does that for ever must leave the others time to join, and the log readable.
BAD_PROOFS_INTERVAL = 10.0
# So many trainers may be lost with one task.
MAX_LOSSES = 3


class AttachBackend(ClientAPIBackendSpec):
    """Owns a session at a time, never a process."""

    def __init__(self):
        self.logger = get_obj_logger(self)
        self._context: Optional[ClientAPIBackendContext] = None
        self._config = {}  # of the trainer's Client API
        self._fl_ctx: Optional[FLContext] = None
        self._foreign_pipe: Optional[Pipe] = None  # the job's own
        self._launcher: Optional[ForeignLauncher] = None  # of the job's own, if it has one
        self._puller: Optional[Puller] = None
        self._changed = threading.Condition()  # guards the session, the rendezvous file and the fault
        self._session: Optional[TrainerSession] = None  # None while the next one is being opened
        self._sessions = 0
        self._last_guess = -math.inf  # when wrong proofs have ended a rendezvous
        self._fault = ""  # why there will be no further session
        self._renewal = threading.Thread(target=self._renew_sessions, name="client_api_renew", daemon=True)

    def initialize(self, context: ClientAPIBackendContext, fl_ctx: FLContext) -> None:
        self._context, self._fl_ctx = context, fl_ctx
        self._foreign_pipe = fl_ctx.get_engine().get_component(PIPE_COMPONENT)
        if self._foreign_pipe is not None and not isinstance(self._foreign_pipe, Pipe):
            raise TrainerError(f"component {PIPE_COMPONENT} must be a Pipe, but is a {type(self._foreign_pipe)}")
        launcher = fl_ctx.get_engine().get_component(LAUNCHER_COMPONENT)
        self._launcher = ForeignLauncher(launcher, fl_ctx) if launcher is not None else None
        remove_stale_files(fl_ctx)
        with ExitStack() as undo:
            undo.callback(self.finalize, fl_ctx)
            # What a pipe of the job's carries it carries as nvflare does.
            self._puller = Puller(fl_ctx, is_handing_over=self._foreign_pipe is None)
            self._config = client_config(context, fl_ctx, self._puller.carries_tensors)
            self._open_session()
            self._renewal.start()
            undo.pop_all()

    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        cause = ""
        with self._puller.start(shareable, abort_signal) as task:
            for _ in range(MAX_LOSSES):
                session = self._ready_session(abort_signal)
                data = task.wait()
                try:
                    result = session.execute(task_name, data, fl_ctx, abort_signal)
                except TrainerError as e:
                    if not self._will_be_replaced(session):
                        raise
                    cause = str(e)
                    self.logger.warning(f"task {task_name!r} goes to the next trainer: {cause}")
                else:
                    note_legs([*pull_leg(task.pulled), *session.traffic.legs], fl_ctx)
                    return result
        raise TrainerError(f"{MAX_LOSSES} trainers in a row were lost with this task, the last one: {cause}")

    def _ready_session(self, abort_signal: Signal) -> TrainerSession:
        limit = self._context.attach_timeout
        with self._changed:
            has_come = wait_until(self._changed, lambda: self._hopeless() or self._is_ready(), abort_signal, limit)
            if fault := self._hopeless():
                raise TrainerError(fault)
            if not has_come:
                raise TrainerError(f"no trainer came in {limit} s (attach_timeout); to start one: {self._command()}")
            return self._session

    def _is_ready(self) -> bool:
        return self._session is not None and self._session.state is SessionState.READY

    def _hopeless(self) -> str:
        """Tells why no trainer will come any more, or "" if one may."""
        session = self._session
        if self._fault or session is None or self._will_be_replaced(session):
            return self._fault
        return session.cause if session.has_ended else ""

    def _will_be_replaced(self, session: TrainerSession) -> bool:
        is_replaced = self._session is not session
        return not self._fault and session.has_ended and (is_replaced or self._context.allow_reconnect)

    def _open_session(self) -> None:
        """Opens a session for a trainer, and its rendezvous.

        Raises:
            TrainerError: the rendezvous cannot be written, or the job has ended meanwhile.
        """
        self._sessions += 1
        pipe, content = self._make_pipe()
        name = f"{self._fl_ctx.get_job_id()}/{self._sessions}"
        session = TrainerSession(
            pipe, name, self._context, lambda silence: self._why_lost(session, silence), self._handle_change
        )
        with ExitStack() as undo:
            undo.callback(session.close)
            session.open()
            with self._changed:
                if self._fault:
                    raise TrainerError(self._fault)
                write_bootstrap(str(self._path), content)
                self._session = session
                self._changed.notify_all()
            undo.pop_all()
        if self._launcher:
            self._launcher.launch(lambda: session.state is SessionState.WAITING, self._give_up)
        else:
            self.logger.info(f"waiting for a trainer; to start one: {self._command()}")

    def _make_pipe(self) -> Tuple[Pipe, dict]:
        """Returns the job's end of a new session's pipe, and what a trainer needs to make the other end."""
        if self._foreign_pipe is not None:
            return foreign_session(self._context, self._config, self._foreign_pipe)
        makes_tensors = self._puller.makes_tensors
        return cell_session(self._context, self._config, self._fl_ctx, makes_tensors)

    def _why_lost(self, session: TrainerSession, silence: float) -> str:
        """Tells why a trainer that was silent for so many seconds counts as lost, or "" if it does not."""
        limit = self._context.heartbeat_timeout
        if not session.trainer or silence <= limit:
            return ""  # before one has joined nobody is there whom one could hear
        trainer = f"process {session.trainer.get('pid')} on {session.trainer.get('host')}"
        return f"the trainer, {trainer}, was lost: no sign of life for {silence:.0f} s (heartbeat_timeout {limit:g} s)"

    def _handle_change(self, session: TrainerSession) -> None:
        with self._changed:
            if session is self._session and session.state in (SessionState.READY, SessionState.LOST):
                remove(str(self._path))
            self._changed.notify_all()

    def _renew_sessions(self) -> None:
        """Closes each session that is over, and opens another one if a trainer may come: what a thread does."""
        is_renewed = True
        while is_renewed:
            with self._changed:
                wait_until(self._changed, lambda: self._fault or self._is_over(self._session))
                if self._fault:
                    return
                session = self._session
                is_guessed = session.withdraw("wrong proofs")
                if not is_guessed and session.state is not SessionState.LOST:
                    continue  # a trainer has joined at the last moment
                is_renewed = is_guessed or self._context.allow_reconnect
                if is_guessed:
                    self.logger.warning(
                        f"{session.bad_hellos} HELLOs without a good proof: a new rendezvous takes the place of this"
                    )
                    self._last_guess = time.monotonic()
                if is_renewed:
                    self._session = None
                    remove(str(self._path))
            session.close()
            if is_renewed:
                self._open_another()

    def _is_over(self, session: TrainerSession) -> bool:
        if session.state is SessionState.WAITING and session.bad_hellos >= MAX_BAD_HELLOS:
            return time.monotonic() - self._last_guess >= BAD_PROOFS_INTERVAL
        return session.state is SessionState.LOST

    def _open_another(self) -> None:
        try:
            self._open_session()
        except Exception as e:  # the top of a thread
            reason = str(e) if isinstance(e, TrainerError) else secure_format_exception(e)
            self._give_up(f"no new rendezvous can be opened: {reason}")

    def _give_up(self, fault: str) -> None:
        """Has all tasks fail with this cause from now on."""
        with self._changed:
            if not self._fault:
                self._fault = fault
                self.logger.error(fault)
            session = self._session
            self._changed.notify_all()
        if session:
            session.lose(fault)

    def stats(self) -> dict:
        session = self._session
        if session is None:
            return {"state": "no session", "sessions": self._sessions}
        trainer = {f"trainer_{name}": session.trainer.get(name, "") for name in ("pid", "host")}
        return {**session.stats(), "sessions": self._sessions, **trainer}

    def finalize(self, fl_ctx: FLContext) -> None:
        with self._changed:
            self._fault = self._fault or "the job ends"
            session = self._session
            for path in (self._path, *self._path.parent.glob(RANKS_FILES)):
                remove(str(path))
            self._changed.notify_all()
        if session:
            session.end("the job ends")
            session.close()
        if self._renewal.is_alive():
            # A session that is being opened comes to its end by itself: closing a cell of nvflare's that is about to
            # connect may take for ever.
            self._renewal.join()
        if self._launcher:
            self._launcher.close(knows_the_end=bool(session and session.trainer))
        if self._puller:
            self._puller.close()

    @property
    def _path(self) -> Path:
        """Of the rendezvous."""
        return Path(self._fl_ctx.get_workspace().get_app_config_dir(self._fl_ctx.get_job_id()), RENDEZVOUS_FILE)

    def _command(self) -> str:
        module = "nvflare.app_common.executors.client_api.attach"
        workspace, site = self._fl_ctx.get_workspace().get_root_dir(), self._fl_ctx.get_identity_name()
        options = ["--workspace", workspace, "--job", self._fl_ctx.get_job_id(), "--site", site]
        return f"{shlex.quote(sys.executable)} -m {module} {shlex.join(options)} -- SCRIPT.py [ARGS]"
