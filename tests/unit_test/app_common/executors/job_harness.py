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

"""A client job around an executor, of nvflare's own parts, without a federation.

JobHarness is what the client job process is to an executor: engine, contexts, workspace, events and tasks. Scripts that
a test writes meet the test at gates (named pipes), which work in one process or between two, and need no sleeping.
"""

import errno
import gc
import json
import os
import random
import select
import socket
import textwrap
import threading
import time
from argparse import Namespace
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable, Iterator, Optional
from urllib.parse import urlsplit

import numpy as np

from nvflare.apis.analytix import ANALYTIC_EVENT_TYPE, AnalyticsData, TrackConst
from nvflare.apis.dxo import from_shareable
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_constant import FLContextKey, ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import ReservedHeaderKey, Shareable, make_reply
from nvflare.apis.signal import Signal
from nvflare.apis.workspace import Workspace
from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.executors.client_api.backend_spec import FAILURE_CAUSE_HEADER
from nvflare.app_common.executors.client_api.formats.outside_text import MAX_CAUSE_BYTES
from nvflare.app_common.utils.fl_model_utils import FLModelUtils
from nvflare.app_common.widgets.convert_to_fed_event import ConvertToFedEvent
from nvflare.fuel.f3.cellnet.cell import Cell
from nvflare.fuel.f3.cellnet.core_cell import CoreCell
from nvflare.fuel.f3.cellnet.defs import CellChannel
from nvflare.fuel.f3.cellnet.utils import make_reply as make_cell_reply
from nvflare.private.fed.client.client_json_config import ClientJsonConfigurator
from nvflare.private.fed.client.client_run_manager import ClientRunManager
from nvflare.private.fed.client.client_runner import ClientRunnerConfig
from nvflare.widgets.fed_event import FED_EVENT_TOPIC
from nvflare.widgets.widget import WidgetID

PROJECT = Path(__file__).parents[4]
SITE_NAME = "site-1"
JOB_ID = "job-1"
LIMIT = 60.0  # seconds that a test waits for anything
POOL_THREADS = 32  # of nvflare's pools: as many as there are frames on their way at a time, and more
SMALL = 4
# Elements of an array that is too large to travel inside a message, and of one that is also too large to travel in the
# body of the message that it is pulled with.
MEDIUM = 512 * 1024
LARGE = 3 * 1024 * 1024


class EventRecorder(FLComponent):
    """Keeps every event of a job, in order, with what analytics events and panics say."""

    def __init__(self):
        super().__init__()
        self.event_types = []
        self.panics = []
        self.log_records = []  # (tag, value, step) of each analytics event
        self.logged = threading.Condition()

    def handle_event(self, event_type: str, fl_ctx: FLContext):
        self.event_types.append(event_type)
        data = fl_ctx.get_prop(FLContextKey.EVENT_DATA)
        if event_type == EventType.FATAL_SYSTEM_ERROR:
            self.panics.append(data)
        elif event_type.endswith(ANALYTIC_EVENT_TYPE):
            with self.logged:
                self.log_records.append(log_record(data))
                self.logged.notify_all()


class JobHarness:
    """One job of one site. It starts with START_RUN for the given executors and ends with END_RUN."""

    def __init__(self, root: Path, job_id: str, cell: Optional[Cell]):
        for folder in ("startup", "local"):
            (root / folder).mkdir(parents=True)
        self.workspace = Workspace(str(root), site_name=SITE_NAME)
        self.job_id = job_id
        self.custom_dir = Path(self.workspace.get_app_custom_dir(job_id))
        self.custom_dir.mkdir(parents=True)
        Path(self.workspace.get_app_config_dir(job_id)).mkdir()
        Path(self.workspace.get_job_meta_path(job_id)).write_text(json.dumps({"name": "test"}))
        self.recorder = EventRecorder()
        self.engine: Optional[ClientRunManager] = None
        self._cell = cell
        self.executor = None
        self._gates = []
        self._script_threads = set()
        self._callers = ThreadPoolExecutor(thread_name_prefix="task")

    def script(self, text: str, name: str = "script.py") -> str:
        """Writes a script to the app's custom folder and returns its name."""
        (self.custom_dir / name).write_text(textwrap.dedent(text))
        return name

    def read_config(self, name: str, text: str) -> ClientRunnerConfig:
        """Writes a client config to the app's folder, and reads it as a client does at the start of a job."""
        path = Path(self.workspace.get_app_config_dir(self.job_id), name)
        path.write_text(text)
        arguments = Namespace(
            sp_scheme="tcp",
            sp_target="localhost:1",
            client_name=SITE_NAME,
            job_id=self.job_id,
            workspace=self.workspace.get_root_dir(),
        )
        configurator = ClientJsonConfigurator(self.workspace, str(path), arguments, str(path.parent))
        configurator.configure()
        return configurator.runner_config

    def gate(self, name: str) -> "Gate":
        """A gate that a script passes with Path(__file__).with_name(name).read_text() or .write_text("")."""
        self._gates.append(Gate(self.custom_dir / name))
        return self._gates[-1]

    def start(
        self, *executors, converts_analytics: bool = True, components: Optional[dict] = None, runner: Any = None
    ) -> "JobHarness":
        """Fires START_RUN; `execute` works with the first executor.

        With converts_analytics the job has a ConvertToFedEvent component, and log records become local events; there is
        no server that it could send them to, so it hears no events.
        """
        self.executor = executors[0]
        components = dict(components or {})
        if converts_analytics:
            components["event_to_fed"] = ConvertToFedEvent([ANALYTIC_EVENT_TYPE])
        self.engine = ClientRunManager(
            client_name=SITE_NAME,
            job_id=self.job_id,
            workspace=self.workspace,
            client=SimpleNamespace(client_name=SITE_NAME, client_args={}),
            components=components,
            handlers=[*executors, self.recorder],
        )
        self.engine.cell = self._cell
        with self.engine.new_context() as fl_ctx:
            fl_ctx.set_prop(FLContextKey.WORKSPACE_OBJECT, self.workspace, private=True)
            fl_ctx.set_prop(FLContextKey.CURRENT_JOB_ID, self.job_id, private=True)
            if runner:
                fl_ctx.set_prop(FLContextKey.RUNNER, runner, private=True)
        self.fire(EventType.ABOUT_TO_START_RUN)
        before = set(threading.enumerate())
        self.fire(EventType.START_RUN)
        self._script_threads = set(threading.enumerate()) - before
        return self

    def fire(self, event_type: str) -> dict:
        """Fires an event; returns the exceptions that handlers raised, by the handler's name."""
        with self.engine.new_context() as fl_ctx:
            self.engine.fire_event(event_type, fl_ctx)
            return fl_ctx.get_prop(FLContextKey.EXCEPTIONS) or {}

    def execute(self, task_name: str, task: Shareable, abort_signal: Optional[Signal] = None) -> Shareable:
        with self.engine.new_context() as fl_ctx:
            return self.executor.execute(task_name, task, fl_ctx, abort_signal or Signal())

    def submit(self, task_name: str, task: Shareable, abort_signal: Optional[Signal] = None) -> Future:
        """Calls execute() on a thread of its own."""
        return self.in_background(self.execute, task_name, task, abort_signal)

    def in_background(self, function: Callable, *args) -> Future:
        return self._callers.submit(function, *args)

    def join_scripts(self) -> None:
        """Waits until the scripts that this job runs in this process have ended."""
        for thread in self._script_threads:
            thread.join()

    @staticmethod
    def collect_garbage() -> None:
        gc.collect()

    def stats(self) -> dict:
        """What an administrator's show_stats command gets."""
        return self.engine.get_widget(WidgetID.INFO_COLLECTOR).get_run_stats()

    @property
    def panics(self) -> list:
        return self.recorder.panics

    @property
    def log_records(self) -> list:
        return self.recorder.log_records

    def end(self) -> None:
        """Fires what ends a run; harmless when it was done before."""
        if self.engine:
            self.fire(EventType.ABOUT_TO_END_RUN)
            self.fire(EventType.END_RUN)

    def close(self) -> None:
        """Ends the job whatever the state of the test: no gate holds a script any more."""
        for gate in self._gates:
            gate.unlock()
        self.end()
        self._callers.shutdown()


class Gate:
    """A meeting point of a script and its test: who comes first waits for the other, the test up to LIMIT."""

    def __init__(self, path: Path):
        self._path = path
        os.mkfifo(path)

    def wait(self) -> None:
        with self._opened(os.O_RDONLY) as reading:
            poll = select.poll()
            poll.register(reading, select.POLLIN)
            assert poll.poll(LIMIT * 1000), f"no script has come to {self._path.name!r} in {LIMIT} s"

    def open(self) -> None:
        limit = time.monotonic() + LIMIT
        while True:
            try:
                with self._opened(os.O_WRONLY):
                    return
            except OSError as e:  # ENXIO: nobody reads
                assert (
                    e.errno == errno.ENXIO and time.monotonic() < limit
                ), f"no script waits at {self._path.name!r}: {e}"
                time.sleep(0.01)

    @contextmanager
    def _opened(self, flag: int) -> Iterator[int]:
        pipe = os.open(self._path, flag | os.O_NONBLOCK)
        try:
            yield pipe
        finally:
            os.close(pipe)

    def unlock(self) -> None:
        """Lets everyone pass from now on: a plain file takes the place of the pipe, and who waits at that goes on."""
        with self._opened(os.O_RDWR):
            plain_file = self._path.with_suffix(".unlocked")
            plain_file.touch()
            plain_file.replace(self._path)


class Cellnet:
    """The cells of a server and of a site's job, connected; the server notes which analytics events reach it."""

    def __init__(self):
        url = f"tcp://localhost:{free_port()}"
        self._cells = [
            Cell(fqcn, url, secure=False, credentials={}, create_internal_listener=False)
            for fqcn in ("server", f"server.{JOB_ID}", f"{SITE_NAME}.{JOB_ID}")
        ]
        self._cells[0].start()
        await_listener(url)
        for cell in self._cells[1:]:
            cell.start()
        self.site_cell = self._cells[-1]
        self.received = []  # the events as they have arrived
        self.unanswered = 0  # so many of those that come next get no answer
        self._cells[1].core_cell.register_request_cb(CellChannel.AUX_COMMUNICATION, FED_EVENT_TOPIC, self._on_event)

    def _on_event(self, message):
        self.received.append(message.payload)
        if self.unanswered:
            self.unanswered -= 1
            return None
        return make_cell_reply("ok", body=make_reply(ReturnCode.OK))

    def stop(self):
        for cell in reversed(self._cells):
            stop_cell(cell)


def stop_cell(cell: Cell) -> None:
    """Stops a cell for good: nvflare keeps every cell by its name, and later ones take short cuts to it."""
    cell.stop()
    # Kept, because nvflare leaves a listener's socket open, and its end by garbage collection is a warning.
    _stopped_cells.append(CoreCell.ALL_CELLS.pop(cell.get_fqcn()))


_stopped_cells = []


def free_port() -> int:
    """A port that no connection of anybody's can take meanwhile: the system gives those higher numbers."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("localhost", port))
            return port


def await_listener(url: str) -> None:
    """Waits until somebody listens: nvflare does not close the socket of a refused connection, which is a warning."""
    place = urlsplit(url)
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline:
        with suppress(ConnectionRefusedError), socket.create_connection((place.hostname, place.port)):
            return
        time.sleep(0.01)
    raise TimeoutError(f"nobody listens at {url}")


def warm_up_pools(*pools: Executor) -> None:
    """Has nvflare's pools start their threads, which stay: before anybody counts threads."""
    has_begun = threading.Event()
    for pool in pools:
        for _ in range(POOL_THREADS):
            pool.submit(has_begun.wait)
    has_begun.set()


def make_task(value: Any = 0.0, current_round: int = 0, **params) -> Shareable:
    """A task with the model {"w": array of 4 times the value}, or with the given parameters."""
    params = params or {"w": np.full(4, value)}
    task = FLModelUtils.to_shareable(FLModel(params=params, current_round=current_round, total_rounds=9))
    task.set_header(ReservedHeaderKey.TASK_ID, f"task-{current_round}")
    return task


def make_submit_model_task() -> Shareable:
    """A task as nvflare's cross-site evaluation sends it to ask for the site's best model."""
    task = Shareable()
    task.set_header(AppConstants.SUBMIT_MODEL_NAME, "best_model")
    return task


def model_of(result: Shareable) -> FLModel:
    """The model in a good result."""
    assert result.get_return_code() == ReturnCode.OK, result.get_header(FAILURE_CAUSE_HEADER)
    return FLModelUtils.from_shareable(result)


def log_record(event_data: Shareable) -> tuple:
    """The (tag, value, step) of an analytics event."""
    dxo = from_shareable(event_data)
    data = AnalyticsData.from_dxo(dxo, dxo.get_meta_prop(TrackConst.TRACKER_KEY))
    return data.tag, data.value, data.step


def assert_failed(result: Shareable, *texts: str) -> str:
    """Asserts that the result is a failure whose cause has all the texts; returns the cause."""
    assert result.get_return_code() == ReturnCode.EXECUTION_EXCEPTION
    cause = result.get_header(FAILURE_CAUSE_HEADER)
    for text in texts:
        assert text in cause
    assert len(cause.encode()) <= MAX_CAUSE_BYTES
    return cause
