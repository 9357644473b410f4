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

"""What ClientAPIExecutor makes of a backend: its life, tasks and their failures, events, and analytics."""

import copy
import pickle
import threading
from types import SimpleNamespace
from unittest.mock import MagicMock, Mock

import pytest

from nvflare.apis.analytix import ANALYTIC_EVENT_TYPE, AnalyticsDataType
from nvflare.apis.event_type import EventType
from nvflare.apis.executor import Executor
from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_constant import EventScope, FedEventHeader, FLContextKey, FLMetaKey, ReservedKey, ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.fl_exception import UnsafeJobError
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from nvflare.apis.utils.analytix_utils import create_analytic_dxo
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.executors.client_api.backend_spec import ClientAPIBackendSpec, TrainerError
from nvflare.app_common.executors.client_api.formats.outside_text import MAX_CAUSE_BYTES
from nvflare.app_common.executors.client_api.script.trainer_api import unsubscribe_all
from nvflare.app_common.executors.client_api.server import limits
from nvflare.app_common.executors.client_api.waiting import TaskAborted
from nvflare.app_common.executors.client_api_executor import (
    ALL_EXECUTION_MODES,
    FED_ANALYTIC_EVENT_TYPE,
    ClientAPIExecutor,
    ExecutionMode,
)
from nvflare.app_common.executors.in_process_client_api_executor import InProcessClientAPIExecutor
from nvflare.app_common.widgets.convert_to_fed_event import ConvertToFedEvent
from nvflare.app_common.widgets.streaming import AnalyticsReceiver
from tests.unit_test.app_common.executors.client_api.backend_contract import TRAIN
from tests.unit_test.app_common.executors.job_harness import (
    EventRecorder,
    assert_failed,
    log_record,
    make_task,
    model_of,
)

IN_PROCESS = ExecutionMode.IN_PROCESS
REQUIRED = {IN_PROCESS: {}, ExecutionMode.EXTERNAL_PROCESS: {"command": "python3 train.py"}, ExecutionMode.ATTACH: {}}
SESSION_MODES = (ExecutionMode.EXTERNAL_PROCESS, ExecutionMode.ATTACH)


class ScriptedBackend(ClientAPIBackendSpec):
    """A backend whose methods do what the test says, and which notes how it is called."""

    def __init__(self, on_execute=None, on_initialize=None, on_event=None, on_finalize=None):
        self.calls = []
        self.context = None
        self.on_execute = on_execute or (lambda *_: Shareable())
        self.on_initialize = on_initialize
        self.on_event = on_event
        self.on_finalize = on_finalize

    def initialize(self, context, fl_ctx):
        self.calls.append("initialize")
        self.context = context
        if self.on_initialize:
            self.on_initialize()

    def execute(self, task_name, shareable, fl_ctx, abort_signal):
        self.calls.append(f"execute {task_name}")
        return self.on_execute(shareable, abort_signal)

    def handle_event(self, event_type, fl_ctx):
        self.calls.append(event_type)
        if self.on_event:
            self.on_event(event_type)

    def stats(self):
        return {"state": "scripted"}

    def finalize(self, fl_ctx):
        self.calls.append("finalize")
        if self.on_finalize:
            self.on_finalize()


class BackendExecutor(ClientAPIExecutor):
    """An executor with a backend of the test's own, in whatever mode."""

    def __init__(self, backend: ClientAPIBackendSpec, mode: str = IN_PROCESS, **arguments):
        super().__init__(mode, **REQUIRED[mode], **arguments)
        self.own_backend = backend

    def _create_in_process_backend(self):
        return self.own_backend

    _create_external_process_backend = _create_attach_backend = _create_in_process_backend


def raising(error: BaseException):
    def function(*_):
        raise error

    return function


def errors_in(caplog) -> list:
    return [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]


class TestStartAndEnd:
    def test_backend_lives_from_start_run_to_end_run(self, job):
        backend = ScriptedBackend()
        executor = BackendExecutor(backend, train_task_name="fit")
        job.start(executor)
        assert backend.calls == ["initialize"]
        assert backend.context.executor is executor
        assert backend.context.train_task_name == "fit"
        job.end()
        assert backend.calls[-1] == "finalize"

    def test_end_run_finalizes_once(self, job):
        backend = ScriptedBackend()
        job.start(BackendExecutor(backend))
        for _ in range(3):
            assert job.fire(EventType.END_RUN) == {}
        assert backend.calls.count("finalize") == 1

    def test_swapped_out_site_is_finalized(self, job):
        # The simulator ends the process of a site that has to make room, without an END_RUN.
        backend = ScriptedBackend()
        job.start(BackendExecutor(backend))
        job.fire(EventType.SWAP_OUT)
        assert backend.calls == ["initialize", "finalize"]

    def test_end_run_without_a_start_is_harmless(self, job):
        backend = ScriptedBackend(on_initialize=raising(TrainerError("no")))
        job.start(BackendExecutor(backend))
        assert job.fire(EventType.END_RUN) == {}

    def test_executor_can_run_again(self, job):
        backend = ScriptedBackend()
        job.start(BackendExecutor(backend))
        job.fire(EventType.END_RUN)
        job.fire(EventType.START_RUN)
        assert job.execute("train", make_task()).get_return_code() == ReturnCode.OK
        assert backend.calls.count("initialize") == 2

    @pytest.mark.parametrize(
        "error, text",
        [(TrainerError("no trainer here"), "no trainer here"), (KeyError("a defect"), "KeyError: 'a defect'")],
    )
    def test_failing_start_panics_with_mode_and_cause(self, job, caplog, error, text):
        backend = ScriptedBackend(on_initialize=raising(error))
        job.start(BackendExecutor(backend))
        (panic,) = job.panics
        assert IN_PROCESS in panic and text in panic
        assert any("Traceback" in message for message in errors_in(caplog)) == (not isinstance(error, TrainerError))
        assert_failed(job.execute("train", make_task()), "not running")
        job.end()
        assert backend.calls == ["initialize"]  # what failed to start is never finalized, nor hears of events

    def test_panic_is_cut(self, job):
        job.start(BackendExecutor(ScriptedBackend(on_initialize=raising(TrainerError("x" * 2 * MAX_CAUSE_BYTES)))))
        assert len(job.panics[0].encode()) <= MAX_CAUSE_BYTES

    def test_finalize_that_raises_does_not_reach_the_framework(self, job, caplog):
        job.start(BackendExecutor(ScriptedBackend(on_finalize=raising(RuntimeError("stuck")))))
        assert job.fire(EventType.END_RUN) == {}
        assert sum("stuck" in message for message in errors_in(caplog)) == 1


class NoEvents:
    """An engine that cannot even fire an event."""


def useless_engines() -> list:
    """Engines of unit tests: they know neither components nor cell, runner or workspace."""
    no_components = [
        Mock(get_all_components=components) for components in (None, Mock(side_effect=RuntimeError("none")))
    ]
    no_cell = Mock(get_cell=Mock(return_value=None))
    return [Mock(), MagicMock(), Mock(spec=["fire_event"]), no_cell, *no_components, NoEvents(), None]


def start_with(executor, engine) -> tuple:
    """Fires START_RUN with this engine in the context; returns the context and the reasons of all panics."""
    panics = []
    if isinstance(engine, Mock):
        engine.fire_event.side_effect = lambda event_type, fl_ctx: panics.append(
            fl_ctx.get_prop(FLContextKey.EVENT_DATA) if event_type == EventType.FATAL_SYSTEM_ERROR else None
        )
    fl_ctx = FLContext()
    fl_ctx.put(key=ReservedKey.ENGINE, value=engine, private=True, sticky=False)
    executor.handle_event(EventType.START_RUN, fl_ctx)
    return fl_ctx, [panic for panic in panics if panic is not None]


@pytest.mark.parametrize("engine", useless_engines(), ids=lambda engine: type(engine).__name__)
@pytest.mark.parametrize("mode", ALL_EXECUTION_MODES)
class TestStartWithAnyEngine:
    def test_working_backend_is_driven(self, mode, engine):
        backend = ScriptedBackend()
        executor = BackendExecutor(backend, mode)
        fl_ctx, panics = start_with(executor, engine)
        assert panics == []
        assert executor.execute("train", Shareable(), fl_ctx, Signal()).get_return_code() == ReturnCode.OK
        for event_type in (EventType.ABORT_TASK, EventType.ABOUT_TO_END_RUN, EventType.END_RUN):
            executor.handle_event(event_type, fl_ctx)
        assert backend.calls == [
            "initialize",
            "execute train",
            EventType.ABORT_TASK,
            EventType.ABOUT_TO_END_RUN,
            "finalize",
        ]

    def test_failing_backend_is_a_panic(self, mode, engine):
        executor = BackendExecutor(ScriptedBackend(on_initialize=raising(TrainerError("no trainer here"))), mode)
        self.assert_panic(executor, mode, engine, "no trainer here")

    @pytest.mark.parametrize(
        "error", [NotImplementedError("not here"), ValueError("not here"), TrainerError("not here")]
    )
    def test_factory_that_raises_is_a_panic(self, mode, engine, error):
        class Executor(ClientAPIExecutor):
            _create_in_process_backend = _create_external_process_backend = _create_attach_backend = raising(error)

        self.assert_panic(Executor(mode, **REQUIRED[mode]), mode, engine, "not here")

    def test_real_backend_is_a_panic(self, mode, engine):
        self.assert_panic(ClientAPIExecutor(mode, **REQUIRED[mode]), mode, engine, "")

    @staticmethod
    def assert_panic(executor, mode, engine, cause):
        fl_ctx, panics = start_with(executor, engine)
        if isinstance(engine, Mock):
            (panic,) = panics
            assert f"in mode {mode} cannot start: " in panic and cause in panic
        if not isinstance(engine, NoEvents):
            assert_failed(executor.execute("train", Shareable(), fl_ctx, Signal()), "not running")
        executor.handle_event(EventType.END_RUN, fl_ctx)


class TestOrderOfEvents:
    """What a subclass does in handle_event around the executor's own part."""

    def test_base_class_is_first_at_the_start_and_last_after_it(self, job, monkeypatch):
        backend = ScriptedBackend()
        monkeypatch.setattr(
            Executor, "handle_event", lambda self, event_type, _: backend.calls.append(event_type + "!")
        )
        job.start(BackendExecutor(backend))
        job.fire("own.event")
        job.fire(EventType.END_RUN)
        assert backend.calls == [
            EventType.ABOUT_TO_START_RUN + "!",
            EventType.START_RUN + "!",
            "initialize",
            "own.event",
            "own.event!",
            "finalize",
            EventType.END_RUN + "!",
        ]

    @pytest.mark.parametrize("event_type", [EventType.ABORT_TASK, EventType.ABOUT_TO_END_RUN, EventType.END_RUN])
    def test_events_before_the_start_do_nothing(self, event_type):
        backend = ScriptedBackend()
        BackendExecutor(backend).handle_event(event_type, FLContext())
        assert backend.calls == []


class TestScriptPath:
    """What a config may leave open is asked for at the start."""

    @pytest.mark.parametrize(
        "path, reason",
        [
            (None, "task_script_path is not set"),
            ("  ", "task_script_path is not set"),
            ("train.sh", "task_script_path must be the path of a .py file, but is 'train.sh'"),
            ("not_there.py", "task_script_path 'not_there.py' was not found in"),
            ("/not/there.py", "task_script_path '/not/there.py' was not found"),
        ],
    )
    def test_script_that_cannot_run_is_a_panic(self, job, path, reason):
        job.start(ClientAPIExecutor(IN_PROCESS, task_script_path=path))
        (panic,) = job.panics
        assert panic.startswith(f"ClientAPIExecutor in mode in_process cannot start: {reason}")
        assert_failed(job.execute("train", make_task()), "not running")


class TestDispatch:
    def run(self, job, on_execute, task_name="train", abort_signal=None, **arguments) -> Shareable:
        backend = ScriptedBackend(on_execute)
        job.start(BackendExecutor(backend, **arguments))
        return job.execute(task_name, make_task(current_round=3), abort_signal)

    def test_result_is_the_backends(self, job):
        result = Shareable({"own": "result"})
        assert self.run(job, lambda *_: result) is result
        assert result.get_return_code() == ReturnCode.OK
        assert result.get_header(AppConstants.CURRENT_ROUND) == 3

    def test_backend_gets_the_task_with_job_and_site(self, job):
        given = []
        self.run(job, lambda task, _: given.append(task) or Shareable())
        assert given[0].get_header(FLMetaKey.JOB_ID) == "job-1"
        assert given[0].get_header(FLMetaKey.SITE_NAME) == "site-1"
        assert given[0].get_header(AppConstants.CURRENT_ROUND) == 3

    def test_round_is_the_tasks_even_if_the_backend_changes_the_task(self, job):
        def spoil(task, _):
            task.set_header(AppConstants.CURRENT_ROUND, 99)
            return Shareable()

        assert self.run(job, spoil).get_header(AppConstants.CURRENT_ROUND) == 3

    @pytest.mark.parametrize("result", [None, {}, "model", 7])
    def test_result_that_is_no_shareable(self, job, result):
        assert_failed(self.run(job, lambda *_: result), "Shareable", str(type(result)))

    def test_trainer_error_is_the_cause(self, job, caplog):
        cause = assert_failed(self.run(job, raising(TrainerError("exit code 7"))), "train", IN_PROCESS, "exit code 7")
        assert "Traceback" not in cause
        assert sum(cause in message for message in errors_in(caplog)) == 1
        assert len(errors_in(caplog)) == 1

    def test_unexpected_exception_shows_where(self, job, caplog):
        cause = assert_failed(self.run(job, raising(ZeroDivisionError("a defect"))), "Traceback", "a defect")
        assert "in raising" in cause or "in function" in cause
        assert len(errors_in(caplog)) == 1

    @pytest.mark.parametrize(
        "text", ["x" * 10_000 + " the end", "head\n" + "é" * 10_000 + " the end", "a\n" * 9_999 + "the end"]
    )
    def test_long_cause_is_cut(self, job, text):
        cause = assert_failed(self.run(job, raising(TrainerError(text))), "[...]")
        assert cause.startswith("task 'train' failed (in_process): " + text[0])
        assert cause.endswith("the end")
        assert len(cause.encode()) > MAX_CAUSE_BYTES - 4

    @pytest.mark.parametrize("text", ["bad byte \udcff.", "\udcff" * 5_000])
    def test_cause_can_be_sent_whatever_the_script_wrote(self, job, text):
        assert_failed(self.run(job, raising(TrainerError(text)))).encode()

    def test_unsafe_job_error_is_passed_on(self, job):
        with pytest.raises(UnsafeJobError, match="unsafe"):
            self.run(job, raising(UnsafeJobError("unsafe")))
        job.recorder.panics.clear()
        # and the executor still serves
        assert_failed(self.again(job, raising(TrainerError("next"))), "next")

    @staticmethod
    def again(job, on_execute, abort_signal=None) -> Shareable:
        """One more task for the executor of `run`."""
        job.executor.own_backend.on_execute = on_execute
        return job.execute("train", make_task(), abort_signal)

    def test_task_aborted(self, job):
        signal = Signal()
        signal.trigger(True)
        result = self.run(job, raising(TaskAborted()), abort_signal=signal)
        assert result.get_return_code() == ReturnCode.TASK_ABORTED

    def test_failure_of_an_aborted_task_is_an_abort(self, job, caplog):
        signal = Signal()
        signal.trigger(True)
        result = self.run(job, raising(TrainerError("killed")), abort_signal=signal)
        assert result.get_return_code() == ReturnCode.TASK_ABORTED
        assert errors_in(caplog) == []

    def test_task_aborted_without_a_signal_is_a_failure(self, job):
        assert_failed(self.run(job, raising(TaskAborted())))

    def test_result_of_an_aborted_task_is_still_good(self, job):
        signal = Signal()
        signal.trigger(True)
        assert self.run(job, None, abort_signal=signal).get_return_code() == ReturnCode.OK

    def test_execute_before_start_run(self, job):
        executor = BackendExecutor(ScriptedBackend())
        job.start(BackendExecutor(ScriptedBackend()))
        with job.engine.new_context() as fl_ctx:
            assert_failed(executor.execute("train", make_task(), fl_ctx, Signal()), "not running")

    @pytest.mark.parametrize("result", [Shareable(), None, TrainerError("no"), UnsafeJobError("unsafe")], ids=repr)
    def test_backend_put_in_place_without_a_start(self, result):
        # As unit tests of others do, in a context that has no engine.
        executor = ClientAPIExecutor(IN_PROCESS)
        executor._backend = ScriptedBackend(raising(result) if isinstance(result, Exception) else lambda *_: result)
        if isinstance(result, UnsafeJobError):
            with pytest.raises(UnsafeJobError):
                executor.execute("train", make_task(), FLContext(), Signal())
            return
        reply = executor.execute("train", make_task(), FLContext(), Signal())
        is_good = isinstance(result, Shareable)
        assert reply.get_return_code() == (ReturnCode.OK if is_good else ReturnCode.EXECUTION_EXCEPTION)
        assert (reply is result) == is_good

    def test_execute_after_end_run(self, job):
        self.run(job, None)
        job.end()
        assert_failed(job.execute("train", make_task()), "not running")

    def test_calls_queue_and_each_gets_its_own_result(self, job):
        running, most = [], []

        def answer(task, _):
            running.append(1)
            most.append(len(running))
            running.pop()
            return Shareable({"round": task.get_header(AppConstants.CURRENT_ROUND)})

        job.start(BackendExecutor(ScriptedBackend(answer)))
        futures = [job.submit("train", make_task(current_round=number)) for number in range(8)]
        assert [future.result()["round"] for future in futures] == list(range(8))
        assert max(most) == 1

    def test_queued_call_hears_of_its_abort(self, job):
        entered, leave = threading.Event(), threading.Event()

        def block(*_):
            entered.set()
            leave.wait()
            return Shareable()

        backend = ScriptedBackend(block)
        job.start(BackendExecutor(backend))
        first = job.submit("train", make_task())
        entered.wait()
        signal = Signal()
        second = job.submit("train", make_task(), signal)
        signal.trigger(True)
        assert second.result().get_return_code() == ReturnCode.TASK_ABORTED
        assert not first.done()
        assert job.stats()["ClientAPIExecutor"]["current_task"] == "train"
        leave.set()
        assert first.result().get_return_code() == ReturnCode.OK
        assert backend.calls.count("execute train") == 1

    def test_abort_signal_is_in_the_context(self, job):
        signals = []
        backend = ScriptedBackend()
        backend.on_event = lambda _: None
        executor = BackendExecutor(backend)
        job.start(executor)
        signal = Signal()
        with job.engine.new_context() as fl_ctx:
            backend.on_execute = lambda *_: signals.append(fl_ctx.get_prop("abort_signal")) or Shareable()
            executor.execute("train", make_task(), fl_ctx, signal)
        assert signals == [signal]


class TestEvents:
    def test_events_are_relayed(self, job):
        backend = ScriptedBackend()
        job.start(BackendExecutor(backend))
        for event_type in (EventType.BEFORE_TASK_EXECUTION, EventType.ABORT_TASK, "own.event"):
            job.fire(event_type)
        assert backend.calls == ["initialize", EventType.BEFORE_TASK_EXECUTION, EventType.ABORT_TASK, "own.event"]

    def test_events_without_a_backend_are_harmless(self, job):
        job.start(BackendExecutor(ScriptedBackend(on_initialize=raising(TrainerError("no")))))
        assert job.fire(EventType.ABORT_TASK) == {}

    def test_exception_in_a_relayed_event_does_not_reach_the_framework(self, job, caplog):
        job.start(BackendExecutor(ScriptedBackend(on_event=raising(RuntimeError("bad handler")))))
        assert job.fire(EventType.ABORT_TASK) == {}
        assert sum("bad handler" in message for message in errors_in(caplog)) == 1

    def test_exception_in_the_handler_of_error_events_does_not_recurse(self, job, caplog):
        job.start(BackendExecutor(ScriptedBackend(on_event=raising(RuntimeError("bad handler")))))
        assert job.fire(EventType.ERROR_LOG_AVAILABLE) == {}
        assert sum("bad handler" in message for message in errors_in(caplog)) == 1

    def test_stats(self, job):
        outcomes = [lambda *_: Shareable(), raising(TrainerError("no")), lambda *_: Shareable()]
        job.start(BackendExecutor(ScriptedBackend(lambda *args: outcomes.pop()(*args))))
        for _ in range(3):
            job.execute("train", make_task())
        group = job.stats()["ClientAPIExecutor"]
        assert group["mode"] == IN_PROCESS
        assert (group["tasks_done"], group["tasks_failed"], group["current_task"]) == (2, 1, "")
        assert (group["metrics_sent"], group["metrics_dropped"]) == (0, 0)
        assert group["state"] == "scripted"

    def test_stats_name_the_current_task(self, job):
        seen = []
        backend = ScriptedBackend()
        backend.on_execute = lambda *_: seen.append(job.stats()["ClientAPIExecutor"]["current_task"]) or Shareable()
        job.start(BackendExecutor(backend))
        job.execute("validate", make_task())
        assert seen == ["validate"]


def scalar(tag: str, value: float):
    return create_analytic_dxo(tag, value, AnalyticsDataType.SCALAR)


class Receiver(AnalyticsReceiver):
    """A receiver at the site, which listens to the site's own and to federated events, as nvflare's do by default."""

    def __init__(self, events=None):
        super().__init__(events)
        self.saved = []

    def initialize(self, fl_ctx):
        pass

    def save(self, fl_ctx, shareable, record_origin):
        self.saved.append((record_origin, *log_record(shareable)))

    def finalize(self, fl_ctx):
        pass


class Deaf(FLComponent):
    """A component of the job's own that hears other events only."""

    def __init__(self):
        super().__init__()
        self.register_event_handler(EventType.START_RUN, self.hear)

    def hear(self, event_type, fl_ctx):
        pass


class RegisteredListener(Deaf):
    def __init__(self):
        super().__init__()
        self.register_event_handler(ANALYTIC_EVENT_TYPE, self.hear)


class OwnListener(FLComponent):
    def handle_event(self, event_type, fl_ctx):
        pass


@pytest.fixture
def deaf_recorder(monkeypatch):
    """The job of a test has no recorder of events, which would listen."""
    monkeypatch.setattr(EventRecorder, "handle_event", FLComponent.handle_event)


class TestAnalytics:
    def logging_backend(self, count: int) -> ScriptedBackend:
        """A backend whose every task logs so many scalars before it returns."""

        def log(*_):
            for number in range(count):
                backend.context.executor.relay_log_record(scalar("loss", float(number)))
            return Shareable()

        backend = ScriptedBackend(log)
        return backend

    EXPECTED = [("loss", float(number), None) for number in range(30)]

    @pytest.fixture
    def wire(self, job_factory, cellnet):
        """Starts a job whose site has a cell; returns it and the list of events that its server gets."""
        del cellnet.received[:]

        def start(mode, *handlers, components=None, count=30, are_named=True):
            job = job_factory("job-1", cell=cellnet.site_cell)
            executor = BackendExecutor(self.logging_backend(count), mode)
            named = {f"c{number}": handler for number, handler in enumerate(handlers) if are_named}
            job.start(executor, *handlers, converts_analytics=False, components=named | (components or {}))
            job.execute("train", make_task())
            return job

        return start, cellnet.received

    def test_nothing_leaves_the_site_unasked_in_process(self, wire):
        start, received = wire
        job = start(IN_PROCESS)
        assert job.log_records == self.EXPECTED
        assert FED_ANALYTIC_EVENT_TYPE not in job.recorder.event_types
        assert received == []

    @pytest.mark.parametrize("mode", SESSION_MODES)
    @pytest.mark.parametrize(
        "components", [{}, {"other": ConvertToFedEvent(["another_event"])}], ids=["no converter", "for other events"]
    )
    def test_records_go_to_the_server_too_if_nothing_converts_them(self, wire, mode, components):
        start, received = wire
        job = start(mode, components=components)
        # At the server, once each and in order, before the task's result is.
        assert [log_record(event) for event in received] == self.EXPECTED
        types = [t for t in job.recorder.event_types if t.endswith(ANALYTIC_EVENT_TYPE)]
        assert types == [ANALYTIC_EVENT_TYPE, FED_ANALYTIC_EVENT_TYPE] * 30
        group = job.stats()["ClientAPIExecutor"]
        assert (group["metrics_sent"], group["metrics_dropped"]) == (30, 0)

    @pytest.mark.parametrize("are_named", [True, False], ids=["of the config", "inside of another"])
    @pytest.mark.parametrize("mode", ALL_EXECUTION_MODES)
    def test_converted_records_reach_the_server_once_and_in_order(self, wire, mode, are_named):
        start, received = wire
        job = start(mode, ConvertToFedEvent([ANALYTIC_EVENT_TYPE]), are_named=are_named)
        assert [log_record(event) for event in received] == self.EXPECTED
        assert job.recorder.event_types.count(ANALYTIC_EVENT_TYPE) == 30
        assert job.stats()["ClientAPIExecutor"]["metrics_sent"] == 30

    @pytest.mark.parametrize("mode", SESSION_MODES)
    def test_both_paths_have_the_same_name_and_headers_at_the_server(self, wire, mode):
        start, received = wire
        for handlers in ([], [ConvertToFedEvent([ANALYTIC_EVENT_TYPE])]):
            start(mode, *handlers, count=1).end()
        headers = [
            [event.get_header(key) for key in (FedEventHeader.EVENT_TYPE, FedEventHeader.ORIGIN)] for event in received
        ]
        assert headers == [[FED_ANALYTIC_EVENT_TYPE, "site-1"]] * 2

    def test_timestamps_grow_strictly(self, wire):
        # or the server's FedEventRunner drops events
        start, received = wire
        start(SESSION_MODES[0])
        stamps = [event.get_header(FedEventHeader.TIMESTAMP) for event in received]
        assert stamps == sorted(set(stamps))
        assert len(stamps) == 30

    def test_record_without_an_answer_is_sent_once_more_with_its_timestamp(self, wire, cellnet, monkeypatch):
        # for which the server takes it once
        start, received = wire
        monkeypatch.setattr(limits, "ACK_TIMEOUT", 1.0)
        cellnet.unanswered = 1
        job = start(SESSION_MODES[0], count=1)
        assert [log_record(event) for event in received] == self.EXPECTED[:1] * 2
        assert len({event.get_header(FedEventHeader.TIMESTAMP) for event in received}) == 1
        group = job.stats()["ClientAPIExecutor"]
        assert (group["metrics_sent"], group["metrics_dropped"]) == (1, 0)

    def test_two_executors_of_a_job_send_each_record_once_and_in_order(self, job_factory, cellnet):
        del cellnet.received[:]
        executors = [BackendExecutor(self.logging_backend(30), mode) for mode in SESSION_MODES]
        job = job_factory("job-1", cell=cellnet.site_cell)
        job.start(*executors, converts_analytics=False)

        def run(executor):
            with job.engine.new_context() as fl_ctx:
                return executor.execute("train", make_task(), fl_ctx, Signal())

        for future in [job.in_background(run, executor) for executor in executors]:
            future.result()
        assert sorted(log_record(event) for event in cellnet.received) == sorted(2 * self.EXPECTED)
        stamps = [event.get_header(FedEventHeader.TIMESTAMP) for event in cellnet.received]
        assert stamps == sorted(set(stamps))

    @pytest.mark.parametrize("mode", ALL_EXECUTION_MODES)
    @pytest.mark.parametrize("converters", [[], [ConvertToFedEvent([ANALYTIC_EVENT_TYPE])]], ids=["", "converter"])
    def test_receiver_at_the_site_gets_each_record_once(self, wire, mode, converters):
        start, _ = wire
        receiver = Receiver()
        start(mode, receiver, *converters).end()
        assert receiver.saved == [("site-1", *record) for record in self.EXPECTED]

    @pytest.mark.parametrize("mode", ALL_EXECUTION_MODES)
    def test_receiver_that_starts_late_gets_what_was_logged_before(self, job, mode):
        backend, receiver = ScriptedBackend(), Receiver()
        backend.on_initialize = lambda: backend.context.executor.relay_log_record(scalar("at once", 1.0))
        job.start(BackendExecutor(backend, mode), receiver, components={"receiver": receiver})
        job.end()
        assert receiver.saved == [("site-1", "at once", 1.0, None)]

    @pytest.mark.parametrize(
        "mode, components, is_warned",
        [
            (IN_PROCESS, {}, True),
            (IN_PROCESS, {"other": ConvertToFedEvent(["another_event"])}, True),
            (IN_PROCESS, {"converter": ConvertToFedEvent([ANALYTIC_EVENT_TYPE])}, False),
            (IN_PROCESS, {"disabled": None}, True),
            (IN_PROCESS, {"own": Deaf()}, True),
            (IN_PROCESS, {"own": OwnListener()}, False),
            (IN_PROCESS, {"own": RegisteredListener()}, False),
            (ExecutionMode.EXTERNAL_PROCESS, {}, False),
            (ExecutionMode.ATTACH, {}, False),
        ],
    )
    @pytest.mark.parametrize("is_named", [True, False], ids=["of the config", "inside of another"])
    def test_records_that_reach_nobody_are_warned_about_once(
        self, wire, caplog, deaf_recorder, mode, components, is_warned, is_named
    ):
        start, _ = wire
        if is_named:
            start(mode, components=components)
        else:
            start(mode, *filter(None, components.values()), are_named=False)
        warnings = [record.getMessage() for record in caplog.records if "reaches nobody" in record.getMessage()]
        assert len(warnings) == is_warned
        assert all('ConvertToFedEvent(["analytix_log_stats"])' in warning for warning in warnings)

    def test_receiver_for_other_events_is_nobody(self, wire, caplog, deaf_recorder):
        start, _ = wire
        start(IN_PROCESS, Receiver([FED_ANALYTIC_EVENT_TYPE]), count=1)
        assert "reaches nobody" in caplog.text

    @pytest.mark.parametrize("is_federated", [False, True])
    def test_fire_log_analytics_fires_what_it_is_told_to(self, is_federated):
        engine, fired = Mock(), []
        engine.fire_event.side_effect = lambda event_type, fl_ctx: fired.append(
            (event_type, fl_ctx.get_prop(FLContextKey.EVENT_SCOPE))
        )
        fl_ctx = FLContext()
        fl_ctx.put(key=ReservedKey.ENGINE, value=engine, private=True, sticky=False)
        executor = BackendExecutor(ScriptedBackend())
        executor.set_analytics_fire_fed_event(is_federated)
        executor.fire_log_analytics(fl_ctx, scalar("loss", 1.0))
        federated, local = (FED_ANALYTIC_EVENT_TYPE, EventScope.FEDERATION), (ANALYTIC_EVENT_TYPE, EventScope.LOCAL)
        assert fired == [federated if is_federated else local]

    @pytest.mark.parametrize("mode", ALL_EXECUTION_MODES)
    def test_federated_events_alone_if_told_to(self, job_factory, cellnet, mode):
        del cellnet.received[:]
        executor = BackendExecutor(self.logging_backend(30), mode)
        executor.set_analytics_fire_fed_event(True)
        job = job_factory("job-1", cell=cellnet.site_cell)
        job.start(executor, converts_analytics=False)
        job.execute("train", make_task())
        assert [log_record(event) for event in cellnet.received] == self.EXPECTED
        assert ANALYTIC_EVENT_TYPE not in job.recorder.event_types

    def test_fire_log_analytics_fires_on_the_callers_thread(self, job):
        threads = []

        class Listener(ScriptedBackend):
            def handle_event(self, event_type, fl_ctx):
                threads.append(threading.current_thread())

        executor = BackendExecutor(Listener())
        job.start(executor)
        with job.engine.new_context() as fl_ctx:
            executor.fire_log_analytics(fl_ctx, scalar("loss", 1.0))
        assert job.log_records == [("loss", 1.0, None)]
        assert threads == [threading.current_thread()]

    def test_records_logged_after_the_last_result_are_delivered_at_the_end(self, job):
        backend = ScriptedBackend()
        backend.on_finalize = lambda: backend.context.executor.relay_log_record(scalar("last", 1.0))
        job.start(BackendExecutor(backend))
        job.end()
        assert job.log_records == [("last", 1.0, None)]

    def test_record_without_a_running_job_is_ignored(self):
        is_taken = BackendExecutor(ScriptedBackend()).relay_log_record(scalar("loss", 1.0))
        assert is_taken is True  # else a trainer would send it again


class TestTwoExecutors:
    @pytest.fixture
    def executors(self, job):
        executors = [BackendExecutor(ScriptedBackend(), mode) for mode in SESSION_MODES]
        tasks = dict(zip(("train", "validate"), executors))
        job.start(*executors, runner=SimpleNamespace(task_router=SimpleNamespace(task_table=tasks)))
        return executors

    @pytest.mark.parametrize("is_filtered", [True, False], ids=["", "a filter fails"])
    def test_each_has_its_own_results(self, job, executors, caplog, is_filtered):
        caplog.set_level("INFO")
        for task, executor in zip(("train", "validate"), executors):
            with job.engine.new_context() as fl_ctx:
                result = executor.execute(task, make_task(), fl_ctx, Signal())
                if is_filtered:
                    event_type = EventType.AFTER_TASK_RESULT_FILTER
                    executor.fire_event_with_data(event_type, fl_ctx, FLContextKey.TASK_RESULT, result)
                job.engine.fire_event(EventType.BEFORE_SEND_TASK_RESULT, fl_ctx)
                job.engine.fire_event(EventType.AFTER_SEND_TASK_RESULT, fl_ctx)
        told = [record.getMessage() for record in caplog.records if record.getMessage().startswith("task '")]
        assert told == ["task 'train' (round 0): ", "task 'validate' (round 0): "]
        assert errors_in(caplog) == []

    def test_each_has_its_own_statistics(self, job, executors):
        with job.engine.new_context() as fl_ctx:
            executors[1].execute("validate", make_task(), fl_ctx, Signal())
        stats = job.stats()
        done = {mode: stats[f"ClientAPIExecutor ({mode})"]["tasks_done"] for mode in SESSION_MODES}
        assert done == dict(zip(SESSION_MODES, (0, 1)))


@pytest.mark.parametrize("is_first", [True, False])
def test_in_process_beside_nvflares_own(job, is_first):
    """flare.init() finds one of them, whoever calls it."""
    job.script("")
    own = ClientAPIExecutor("in_process", task_script_path="script.py")
    nvflares = InProcessClientAPIExecutor(task_script_path="script.py")
    unsubscribe_all(nvflares)  # it subscribes when it is made
    executors = [own, nvflares][:: 1 if is_first else -1]
    tasks = dict(zip(("train", "validate"), executors))
    job.start(own, runner=SimpleNamespace(task_router=SimpleNamespace(task_table=tasks)))
    (panic,) = job.panics
    assert "nvflare's in-process executor runs in this job, too" in panic


@pytest.mark.parametrize("make_copy", [copy.deepcopy, lambda executor: pickle.loads(pickle.dumps(executor))])
def test_copy_before_the_job(job, make_copy):
    """As of a job that is varied, or goes to another process."""
    executor = ClientAPIExecutor("in_process", task_script_path=job.script(TRAIN))
    job.start(make_copy(executor))
    assert model_of(job.execute("train", make_task())).params["w"][0] == 1.0


@pytest.mark.parametrize("mode, arguments", [("external_process", {"command": "python3 x.py"}), ("attach", {})])
def test_one_executor_of_a_mode_in_a_job(job, mode, arguments):
    """Two would write the same file for flare.init()."""
    executors = [ClientAPIExecutor(mode, **arguments) for _ in range(2)]
    tasks = dict(zip(("train", "validate"), executors))
    job.start(*executors, runner=SimpleNamespace(task_router=SimpleNamespace(task_table=tasks)))
    panics = job.recorder.panics
    assert len(panics) == 2 and all(f"another {mode} executor runs in this job" in panic for panic in panics)
    assert_failed(job.execute("train", make_task()), "not running")
