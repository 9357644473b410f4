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

import threading
from types import SimpleNamespace

import pytest

from nvflare.apis.analytix import ANALYTIC_EVENT_TYPE, AnalyticsDataType
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FedEventHeader, FLMetaKey, ReturnCode
from nvflare.apis.fl_exception import UnsafeJobError
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from nvflare.apis.utils.analytix_utils import create_analytic_dxo
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.executors.client_api.backend_spec import (
    MAX_CAUSE_BYTES,
    ClientAPIBackendSpec,
    TaskAborted,
    TrainerError,
)
from nvflare.app_common.executors.client_api_executor import FED_ANALYTIC_EVENT_TYPE, ClientAPIExecutor, ExecutionMode
from nvflare.app_common.widgets.convert_to_fed_event import ConvertToFedEvent
from tests.unit_test.app_common.executors.job_harness import assert_failed, log_record, make_task

IN_PROCESS = ExecutionMode.IN_PROCESS


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
    """An executor with a backend of the test's own."""

    def __init__(self, backend: ClientAPIBackendSpec, **arguments):
        super().__init__(IN_PROCESS, task_script_path="train.py", **arguments)
        self.own_backend = backend

    def _create_in_process_backend(self):
        return self.own_backend


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
        leave.set()
        assert first.result().get_return_code() == ReturnCode.OK
        assert backend.calls.count("execute train") == 1

    @pytest.mark.parametrize("return_code", [ReturnCode.EXECUTION_EXCEPTION, ReturnCode.BAD_TASK_DATA])
    def test_failed_result_needs_no_metrics(self, job, return_code):
        result = Shareable()
        result.set_return_code(return_code)
        assert self.run(job, lambda *_: result, train_with_evaluation=True) is result


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


class TestAnalytics:
    def logging_backend(self, count: int) -> ScriptedBackend:
        """A backend whose every task logs so many scalars before it returns."""

        def log(*_):
            for number in range(count):
                backend.context.executor.relay_log_record(scalar("loss", float(number)))
            return Shareable()

        backend = ScriptedBackend(log)
        return backend

    def test_local_events_if_the_job_converts_them(self, job):
        executor = BackendExecutor(self.logging_backend(30))
        job.start(executor, converts_analytics=True)
        job.execute("train", make_task())
        assert executor._analytics_fire_fed_event is False
        assert job.log_records == [("loss", float(number), None) for number in range(30)]
        types = job.recorder.event_types
        assert types.count(ANALYTIC_EVENT_TYPE) == 30
        assert FED_ANALYTIC_EVENT_TYPE not in types

    @pytest.mark.parametrize(
        "components", [{}, {"other": ConvertToFedEvent(["another_event"])}], ids=["no converter", "for other events"]
    )
    def test_federated_events_if_nothing_converts_them(self, job_factory, cellnet, components):
        del cellnet.received[:]
        executor = BackendExecutor(self.logging_backend(30))
        job = job_factory("job-1", cell=cellnet.site_cell)
        job.start(executor, converts_analytics=False, components=components)
        job.execute("train", make_task())
        assert executor._analytics_fire_fed_event is True
        # At the server, once each and in order, before the task's result is.
        assert [log_record(event) for event in cellnet.received] == [("loss", float(n), None) for n in range(30)]
        types = job.recorder.event_types
        assert types.count(FED_ANALYTIC_EVENT_TYPE) == 30
        assert ANALYTIC_EVENT_TYPE not in types
        group = job.stats()["ClientAPIExecutor"]
        assert (group["metrics_sent"], group["metrics_dropped"]) == (30, 0)

    def test_converted_events_reach_the_server_in_order(self, job_factory, cellnet):
        del cellnet.received[:]
        converter = ConvertToFedEvent([ANALYTIC_EVENT_TYPE])
        job = job_factory("job-1", cell=cellnet.site_cell)
        job.start(BackendExecutor(self.logging_backend(30)), converter, components={"event_to_fed": converter})
        job.execute("train", make_task())
        assert [log_record(event) for event in cellnet.received] == [("loss", float(n), None) for n in range(30)]
        assert job.stats()["ClientAPIExecutor"]["metrics_sent"] == 30

    def test_both_paths_have_the_same_name_and_headers_at_the_server(self, job_factory, cellnet):
        headers = []
        for handlers in ([], [ConvertToFedEvent([ANALYTIC_EVENT_TYPE])]):
            del cellnet.received[:]
            job = job_factory("job-1", cell=cellnet.site_cell)
            components = {"event_to_fed": handler for handler in handlers}
            job.start(
                BackendExecutor(self.logging_backend(1)), *handlers, converts_analytics=False, components=components
            )
            job.execute("train", make_task())
            job.end()
            (event,) = cellnet.received
            headers.append([event.get_header(key) for key in (FedEventHeader.EVENT_TYPE, FedEventHeader.ORIGIN)])
        assert headers == [[FED_ANALYTIC_EVENT_TYPE, "site-1"]] * 2

    def test_timestamps_grow_strictly(self, job_factory, cellnet):
        # or the server's FedEventRunner drops events
        del cellnet.received[:]
        job = job_factory("job-1", cell=cellnet.site_cell)
        job.start(BackendExecutor(self.logging_backend(30)), converts_analytics=False)
        job.execute("train", make_task())
        stamps = [event.get_header(FedEventHeader.TIMESTAMP) for event in cellnet.received]
        assert stamps == sorted(set(stamps))
        assert len(stamps) == 30

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
        BackendExecutor(ScriptedBackend()).relay_log_record(scalar("loss", 1.0))


@pytest.mark.parametrize("mode, arguments", [("external_process", {"command": "python3 x.py"}), ("attach", {})])
def test_one_executor_of_a_mode_in_a_job(job, mode, arguments):
    """Two would write the same file for flare.init()."""
    executors = [ClientAPIExecutor(mode, **arguments) for _ in range(2)]
    tasks = dict(zip(("train", "validate"), executors))
    job.start(*executors, runner=SimpleNamespace(task_router=SimpleNamespace(task_table=tasks)))
    assert all(f"another {mode} executor runs in this job" in panic for panic in job.recorder.panics)
    assert_failed(job.execute("train", make_task()), "not running")
