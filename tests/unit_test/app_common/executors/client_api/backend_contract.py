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

"""What every backend must do, whatever runs the script: inherit from BackendContract and say how to make the executor.

Scripts here use nothing but the Client API and files beside them, so that they run in a thread or in a process alike.
"""

import logging
import weakref
from pathlib import Path
from typing import Iterable

import numpy as np
import pytest

from nvflare.apis.dxo import DataKind, from_shareable
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.signal import Signal
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.executors.client_api.arguments import MAX_SECONDS
from nvflare.app_common.executors.client_api_executor import ClientAPIExecutor
from nvflare.fuel.utils import memory_utils
from nvflare.security.logging import SECURE_LOGGING_VAR_NAME
from tests.unit_test.app_common.executors.client_api.parent_script import WAYS
from tests.unit_test.app_common.executors.job_harness import (
    JobHarness,
    assert_failed,
    make_submit_model_task,
    make_task,
    model_of,
)

# Adds 1 to the model and reports what it was told; notes that it came to its end.
TRAIN = """
    from pathlib import Path
    import nvflare.client as flare
    from nvflare.client.api import get_task_name
    flare.init()
    while flare.is_running():
        model = flare.receive()
        seen = {
            "round": model.current_round,
            "task": get_task_name(),
            "kind": [flare.is_train(), flare.is_evaluate(), flare.is_submit_model()],
            "site": flare.get_site_name(),
            "job": flare.get_job_id(),
            "asked": flare.get_config()["TASK_EXCHANGE"]["train_with_eval"],
        }
        params = {name: value + 1 for name, value in (model.params or {"w": 41}).items()}
        if flare.is_evaluate():
            params = None
        flare.send(flare.FLModel(params=params, metrics={"loss": 0.5}, meta=seen))
    Path(__file__).with_name("ended").write_text("")
"""

# Each task: tells the test that it has the task, waits until it may go on, answers.
GATED_TRAIN = """
    from pathlib import Path
    import nvflare.client as flare
    flare.init()
    while flare.is_running():
        model = flare.receive()
        Path(__file__).with_name("in_task").write_text("")
        Path(__file__).with_name("go_on").read_text()
        flare.send(flare.FLModel(params={"w": model.params["w"] + 1}))
"""

# Reports how the memory was cleaned until now.
COUNTS_CLEANUPS = """
    import nvflare.client as flare
    from nvflare.fuel.utils import memory_utils
    cleanups = []
    memory_utils.cleanup_memory = lambda cuda_empty_cache: cleanups.append(cuda_empty_cache)
    flare.init()
    while flare.is_running():
        model = flare.receive()
        flare.send(flare.FLModel(metrics={"cleanups": list(cleanups)}))
"""

# A script that meets its fate in one of the phases of its life.
FATEFUL = """
    import sys

    def main():
        {before_init}
        import nvflare.client as flare
        flare.init()
        {before_receive}
        model = flare.receive()
        {before_send}
        flare.send(flare.FLModel(params=model.params))
        {after_send}

    main()
"""
# Logs what it must not say to the server, also on a thread that has no frame of its.
LOG_WORDS = (
    "import logging, threading; logging.error(words); logging.getLogger('nvflare.mine').critical(words); "
    "thread = threading.Thread(target=lambda: logging.error(words)); thread.start(); thread.join(); "
    "thread = threading.Thread(target=logging.error, args=[words]); thread.start(); thread.join(); "
)
PHASES = ("before_init", "before_receive", "before_send", "after_send")

# fate: (what the script does, what the cause must say besides the script's name)
FATES = {
    "raises": ("raise RuntimeError('out of data')", ("RuntimeError", "out of data", "in main")),
    "fails_to_import": ("import no_such_module", ("ModuleNotFoundError", "no_such_module")),
    "is_interrupted": ("raise KeyboardInterrupt", ("KeyboardInterrupt",)),
}


def fateful_script(phase: str, statement: str) -> str:
    return FATEFUL.format(**{name: statement if name == phase else "pass" for name in PHASES})


# task name: what the script is told of is_train(), is_evaluate() and is_submit_model()
KINDS = {
    "train": [True, False, False],
    "validate": [False, True, False],
    "submit_model": [False, False, True],
    "something_else": [False, False, False],
}
ARRAYS = {
    "float32": np.arange(6, dtype=np.float32).reshape(2, 3),
    "int64": np.array([1, 2]),
    "scalar": np.array(3.0),
}

PARENT = Path(__file__).with_name("parent_script.py").read_text()


def do_all_ways(job: JobHarness, ways: Iterable[str]) -> None:
    """Has the script PARENT do one task with children of each way."""
    for number, way in enumerate(ways):
        model = model_of(job.execute("train", make_task(current_round=number)))
        assert model.meta["way"] == way and (model.params["w"] == 1).all()


class PlainJob:
    """What a job with the script TRAIN gives to its tasks, one after the other, and how it ends."""

    def __init__(self, job: JobHarness):
        self.rounds = [job.execute("train", make_task(value=0.0, current_round=0))]
        self.stats = job.stats()["ClientAPIExecutor"]
        for number in range(1, 5):
            self.rounds.append(job.execute("train", make_task(value=10.0 * number, current_round=number)))
        self.of_kind = {
            name: job.execute(name, make_submit_model_task() if name == "submit_model" else make_task())
            for name in KINDS
        }
        self.of_arrays = job.execute("train", make_task(**ARRAYS))
        self.job_id = job.job_id
        job.end()
        self.has_heard_of_the_end = (job.custom_dir / "ended").exists()


class BackendContract:
    """The contract suite. A subclass is a test class of one execution mode."""

    # How the cause tells that the script returned, or called sys.exit with a code.
    RETURNED: str
    EXITED: dict
    HAS_OWN_PROCESS = True
    # The arguments that are seconds.
    TIMES = ("task_wait_timeout", "result_wait_timeout")

    def executor(self, job: JobHarness, script: str, **arguments) -> ClientAPIExecutor:
        """An executor of this mode that runs the script (a text)."""
        raise NotImplementedError

    def start(self, job: JobHarness, script: str, **arguments) -> JobHarness:
        return job.start(self.executor(job, script, **arguments))

    plain_jobs = {}  # by class

    @pytest.fixture
    def plain_job(self, job) -> PlainJob:
        """One job for all tests that only look at it: who comes first runs it."""
        if type(self) not in self.plain_jobs:
            self.start(job, TRAIN)
            self.plain_jobs[type(self)] = PlainJob(job)
        return self.plain_jobs[type(self)]

    # Processes that the script starts

    WAYS = list(WAYS)

    @pytest.mark.watchdog(180)
    def test_script_with_children(self, job):
        self.start(job, PARENT)
        do_all_ways(job, self.WAYS)
        job.end()
        job.collect_garbage()  # the script's: pools whose workers have failed

    # Tasks

    @pytest.mark.parametrize("task_name, kind", KINDS.items())
    def test_script_knows_the_kind_of_task(self, plain_job, task_name, kind):
        seen = model_of(plain_job.of_kind[task_name]).meta
        assert seen["task"] == task_name
        assert seen["kind"] == kind

    def test_task_names_are_the_jobs(self, job):
        self.start(job, TRAIN, train_task_name="fit", evaluate_task_name="score", submit_model_task_name="hand_in")
        kinds = [model_of(job.execute(name, make_task())).meta["kind"] for name in ("fit", "score", "hand_in", "train")]
        assert kinds == [[True, False, False], [False, True, False], [False, False, True], [False, False, False]]

    def test_each_task_gets_its_own_result(self, plain_job):
        assert len(plain_job.rounds) == 5
        for number, result in enumerate(plain_job.rounds):
            model = model_of(result)
            assert (model.params["w"] == 10.0 * number + 1).all()
            assert model.metrics == {"loss": 0.5}
            assert model.meta["round"] == number
            assert result.get_header(AppConstants.CURRENT_ROUND) == number

    def test_result_of_a_task_without_a_round_has_none(self, plain_job):
        result = plain_job.of_kind["submit_model"]
        assert model_of(result).meta["round"] is None
        assert result.get_header(AppConstants.CURRENT_ROUND) is None

    def test_script_knows_site_and_job(self, plain_job):
        seen = model_of(plain_job.rounds[0]).meta
        assert (seen["site"], seen["job"]) == ("site-1", plain_job.job_id)

    def test_validation_sends_metrics_alone(self, plain_job):
        model = model_of(plain_job.of_kind["validate"])
        assert model.metrics == {"loss": 0.5}
        assert model.params is None

    # Parameters

    @pytest.mark.parametrize(
        "transfer_type, data_kind, value", [("FULL", DataKind.WEIGHTS, 8.0), ("DIFF", DataKind.WEIGHT_DIFF, 1.0)]
    )
    def test_transfer_type_of_the_job(self, job, client_config, transfer_type, data_kind, value):
        client_config(params_transfer_type=transfer_type)
        self.start(job, TRAIN)
        for _ in range(2):
            dxo = from_shareable(job.execute("train", make_task(value=7.0)))
            assert dxo.data_kind == data_kind
            assert (dxo.data["w"] == value).all()

    @pytest.mark.parametrize(
        "key, value, allowed",
        [
            ("params_exchange_format", "onnx", "numpy"),
            ("server_expected_format", "", "numpy"),
            ("params_transfer_type", "HALF", "FULL, DIFF"),
            ("params_transfer_type", 7, "FULL, DIFF"),
        ],
    )
    def test_wrong_client_config_key_is_named(self, job, client_config, key, value, allowed):
        client_config(**{key: value})
        self.start(job, TRAIN)
        assert len(job.panics) == 1
        for text in (key, repr(value), allowed):
            assert text in job.panics[0]
        assert_failed(job.execute("train", make_task()))

    def test_script_is_not_asked_to_evaluate(self, plain_job):
        assert model_of(plain_job.rounds[0]).meta["asked"] is False

    def test_script_is_asked_to_evaluate_and_what_has_no_metrics_is_not_refused(self, job):
        script = """
            import nvflare.client as flare
            flare.init()
            model = flare.receive()
            asked = flare.get_config()["TASK_EXCHANGE"]["train_with_eval"]
            flare.send(flare.FLModel(params=model.params, meta={"asked": asked}))
        """
        self.start(job, script, train_with_evaluation=True)
        model = model_of(job.execute("train", make_task()))
        assert model.meta["asked"] is True and model.metrics is None

    # Memory

    def cuda_of_cleanups(self, job, monkeypatch, **arguments) -> list:
        """Of each of four tasks, whether the CUDA cache was emptied in each clean-up that there had been before it."""
        monkeypatch.setattr(memory_utils, "cleanup_memory", memory_utils.cleanup_memory)  # else a script's stays
        self.start(job, COUNTS_CLEANUPS, **arguments)
        return [model_of(job.execute("train", make_task())).metrics["cleanups"] for _ in range(4)]

    @pytest.mark.parametrize("rounds, cuda", [(0, True), (1, False), (2, True)])
    def test_memory_is_cleaned_every_so_many_rounds(self, job, monkeypatch, rounds, cuda):
        seen = self.cuda_of_cleanups(job, monkeypatch, memory_gc_rounds=rounds, cuda_empty_cache=cuda)
        assert seen == [[cuda] * (number // rounds if rounds else 0) for number in range(4)]

    def test_nvflares_variables_for_memory_count_before_in_a_process_of_its_own(self, job, monkeypatch):
        monkeypatch.setenv("NVFLARE_CLIENT_MEMORY_GC_ROUNDS", "1")
        monkeypatch.setenv("NVFLARE_CUDA_EMPTY_CACHE", "true")
        seen = self.cuda_of_cleanups(job, monkeypatch, memory_gc_rounds=2)
        every, cuda = (1, True) if self.HAS_OWN_PROCESS else (2, False)
        assert seen == [[cuda] * (number // every) for number in range(4)]

    # Analytics

    def test_log_records_come_in_order_and_before_the_result(self, job):
        script = """
            import nvflare.client as flare
            from nvflare.client.tracking import SummaryWriter
            flare.init()
            writer = SummaryWriter()
            while flare.is_running():
                model = flare.receive()
                for step in range(50):
                    writer.add_scalar("loss", step / 2, step)
                flare.log("note", "done", flare.AnalyticsDataType.TEXT)
                flare.send(flare.FLModel(params=model.params))
        """
        self.start(job, script)
        expected = [("loss", step / 2, step) for step in range(50)] + [("note", "done", None)]
        for number in (1, 2):
            model_of(job.execute("train", make_task()))
            assert job.log_records == expected * number

    def test_numpy_numbers_are_logged_by_every_writer(self, job):
        script = """
            import numpy as np
            import nvflare.client as flare
            from nvflare.client.tracking import MLflowWriter, SummaryWriter, WandBWriter
            flare.init()
            flare.receive()
            SummaryWriter().add_scalar("a", np.float32(0.5), np.int64(1))
            SummaryWriter().add_scalars("b", {"x": np.float16(0.5), "y": np.array(2)}, 2)
            MLflowWriter().log_metric("c", np.bool_(True), np.int32(3))
            MLflowWriter().log_metrics({"x": np.uint8(4)}, 4)
            MLflowWriter().log_param("d", np.str_("text"))
            WandBWriter().log({"p": np.float64(0.25)}, 5)
            flare.send(flare.FLModel(metrics={"loss": np.float16(0.5)}))
        """
        self.start(job, script)
        metrics = model_of(job.execute("train", make_task())).metrics
        assert metrics == {"loss": 0.5} and type(metrics["loss"]) is float
        records = job.log_records
        assert records == [
            ("a", 0.5, 1),
            ("b", {"x": 0.5, "y": 2}, 2),
            ("c", True, 3),
            ("metrics", {"x": 4}, 4),
            ("d", "text", None),
            ("metrics", {"p": 0.25}, 5),
        ]
        assert type(records[0][1]) is float and type(records[0][2]) is int

    def test_bad_log_record_is_an_error_in_the_script_and_the_others_come(self, job):
        script = r"""
            import nvflare.client as flare
            from nvflare.client.tracking import MLflowWriter
            flare.init()
            flare.receive()
            SCALAR, TEXT = flare.AnalyticsDataType.SCALAR, flare.AnalyticsDataType.TEXT
            told = []

            class Opaque:
                pass

            for number, (log, arguments) in enumerate([
                (flare.log, ("a", "no number", SCALAR)),
                (flare.log, ("a", 2**64, SCALAR)),
                (flare.log, ("a", "\ud800", TEXT)),
                (flare.log, ("\udfff", "text", TEXT)),
                (MLflowWriter().log_metrics, ({"b": {"c": Opaque()}},)),
                (MLflowWriter().log_metric, ("a", 1.0, -1)),
            ]):
                try:
                    log(*arguments)
                except (TypeError, ValueError) as e:
                    told.append(f"{type(e).__name__}: {e}")
                flare.log("good", number, SCALAR)
            flare.send(flare.FLModel(metrics={"told": told}))
        """
        self.start(job, script)
        assert model_of(job.execute("train", make_task())).metrics["told"] == [
            "TypeError: expect 'a' value to be an instance of float or int, but got '<class 'str'>'.",
            "ValueError: log record 'a.value' is an integer of 65 bits, which cannot be sent: at most 64 can",
            "ValueError: log record 'a.value' is no text that can be sent: it has a lone surrogate at 0",
            r"ValueError: log record '\udfff.tag' is no text that can be sent: it has a lone surrogate at 0",
            "ValueError: log record 'metrics.value.b.c' is of type __main__.Opaque, which cannot be sent: FOBS has no "
            "decomposer for it",
            "ValueError: expect step to be non-negative int, but got -1.",
        ]
        assert job.log_records == [("good", number, None) for number in range(6)]

    def test_parameters_and_tags_that_cannot_be_sent_are_logged_as_texts(self, job):
        script = """
            from pathlib import PurePosixPath
            import nvflare.client as flare
            from nvflare.client.tracking import MLflowWriter
            flare.init()
            flare.receive()
            path = PurePosixPath("data/train.csv")
            MLflowWriter().log_param("a", path)
            MLflowWriter().log_params({"b": path, "c": 1, "d": [path]})
            MLflowWriter().set_tags({"e": path, "f": "text"})
            flare.send(flare.FLModel(metrics={"loss": 0.5}))
        """
        self.start(job, script)
        model_of(job.execute("train", make_task()))
        path = "data/train.csv"
        assert job.log_records == [
            ("a", path, None),
            ("params", {"b": path, "c": 1, "d": f"[PurePosixPath('{path}')]"}, None),
            ("tags", {"e": path, "f": "text"}, None),
        ]

    # Values

    def test_result_that_cannot_be_sent_is_an_error_in_the_script_and_the_next_one_is_taken(self, job):
        script = r"""
            import numpy as np
            import nvflare.client as flare
            flare.init()
            told = []
            flare.receive()
            endless = []
            endless.append(endless)
            bad = "\ud800"
            for value in [2**70, bad, {bad: 1}, {"__fobs_type__": "x"}, bytearray(1), [{1: object()}], endless]:
                for fields in (
                    {"params": {"a": 1, "b": value}},
                    {"metrics": {"b": value}},
                    {"params": {"a": 1}, "metrics": {"b": value}},
                    {"metrics": {"a": 1}, "meta": {"b": value}},
                ):
                    try:
                        flare.send(flare.FLModel(**fields))
                    except ValueError as e:
                        told.append(str(e))
            while flare.is_running():
                flare.send(flare.FLModel(params={"w": flare.receive().params["w"] + 1}, meta={"told": told}))
        """
        self.start(job, script)
        for _ in range(2):
            model = model_of(job.execute("train", make_task()))
            assert model.params["w"].tolist() == [1.0] * 4
        kinds = ["parameter 'b", "metric 'b", "metric 'b", "meta property 'b"]
        texts = [
            "' is an integer of 71 bits",
            "' is no text that can be sent: it has a lone surrogate at 0",
            r".\ud800' has a name that is no text that can be sent: it has a lone surrogate at 0",
            ".__fobs_type__' has a name that FOBS keeps for itself",
            "' is of type bytearray, which cannot be sent: send bytes(...) of it",
            ".0.1' is of type object, which cannot be sent",
            ".0.0.0",
        ]
        told = model.meta["told"]
        for text, expected in zip(told, [kind + text for text in texts for kind in kinds]):
            assert text.startswith(expected)
        assert len(told) == len(texts) * len(kinds)

    # The end of a script

    @pytest.mark.parametrize("phase", PHASES[:3])
    @pytest.mark.parametrize("fate", FATES)
    def test_script_that_fails_fails_the_task_with_the_cause(self, job, phase, fate):
        statement, texts = FATES[fate]
        self.start(job, fateful_script(phase, statement))
        assert_failed(job.execute("train", make_task()), "script.py", *texts)

    @pytest.mark.parametrize("statement", ["raise RuntimeError(words)", "sys.exit(words)"])
    def test_what_a_script_says_stays_at_the_site_if_logging_is_secure(self, job, site_log, monkeypatch, statement):
        monkeypatch.setenv(SECURE_LOGGING_VAR_NAME, "true")
        say = "words = '-'.join(['patient', '17']); print('ERROR:root:' + words, flush=True); " + LOG_WORDS
        self.start(job, fateful_script("before_send", say + statement))
        cause = assert_failed(job.execute("train", make_task()))
        assert "patient-17" not in cause and "patient-17" not in str(job.stats())
        told = [record for record in site_log.find("patient-17") if record.levelno >= logging.ERROR]
        assert told == []

    @pytest.mark.parametrize("phase", PHASES[:3])
    def test_script_that_returns_fails_the_task_with_the_cause(self, job, phase):
        self.start(job, fateful_script(phase, "return"))
        assert_failed(job.execute("train", make_task()), "script.py", self.RETURNED)

    @pytest.mark.parametrize("phase", PHASES[:3])
    @pytest.mark.parametrize("code", [0, 3])
    def test_script_that_exits_fails_the_task_with_the_cause(self, job, phase, code):
        self.start(job, fateful_script(phase, f"sys.exit({code})"))
        assert_failed(job.execute("train", make_task()), "script.py", self.EXITED[code])

    @pytest.mark.parametrize("statement", ["return", "raise RuntimeError('done')", "sys.exit(0)", "sys.exit(3)"])
    def test_result_sent_just_before_the_end_is_good(self, job, statement):
        self.start(job, fateful_script("after_send", statement))
        assert (model_of(job.execute("train", make_task(value=4.0))).params["w"] == 4.0).all()

    def test_script_that_ended_between_two_tasks_is_found(self, job):
        self.start(job, fateful_script("before_receive", "raise RuntimeError('too early')"))
        for _ in range(2):
            assert_failed(job.execute("train", make_task()), "script.py", "too early")

    def test_script_that_never_uses_flare(self, job):
        self.start(job, "print('hello')")
        assert_failed(job.execute("train", make_task()), "script.py", self.RETURNED, "flare.init()")

    def test_failure_is_logged_once_as_an_error(self, job, caplog):
        self.start(job, fateful_script("before_send", "raise RuntimeError('out of data')"))
        cause = assert_failed(job.execute("train", make_task()))
        errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
        assert sum("out of data" in message for message in errors) == 1
        assert any(cause in message for message in errors)

    def test_very_long_error_is_cut_at_both_ends(self, job):
        self.start(job, fateful_script("before_send", "raise RuntimeError('x' * 100_000 + ' the end')"))
        assert_failed(job.execute("train", make_task()), "script.py", "the end")

    # Waits

    def test_result_wait_timeout(self, job):
        in_task, go_on = job.gate("in_task"), job.gate("go_on")
        self.start(job, GATED_TRAIN, result_wait_timeout=1.5)
        late = job.submit("train", make_task(value=10.0))
        in_task.wait()
        assert_failed(late.result(), "result_wait_timeout", "1.5")
        following = job.submit("train", make_task(value=20.0))
        go_on.open()  # now the result of the first task is sent
        in_task.wait()
        go_on.open()
        assert (model_of(following.result()).params["w"] == 21.0).all()

    def test_task_wait_timeout(self, job):
        script = """
            from pathlib import Path
            import nvflare.client as flare
            flare.init()
            Path(__file__).with_name("go_on").read_text()
        """
        job.gate("go_on")
        self.start(job, script, task_wait_timeout=0.5)
        assert_failed(job.execute("train", make_task()), "task_wait_timeout", "0.5")

    def test_result_wait_timeout_of_a_task_that_the_script_never_asks_for(self, job):
        script = """
            from pathlib import Path
            import nvflare.client as flare
            flare.init()
            Path(__file__).with_name("go_on").read_text()
        """
        job.gate("go_on")
        self.start(job, script, result_wait_timeout=0.5)
        assert_failed(job.execute("train", make_task()), "0.5 s (result_wait_timeout)")

    def test_sooner_timeout_is_the_one_that_counts(self, job):
        job.gate("in_task")
        self.start(job, GATED_TRAIN, task_wait_timeout=60.0, result_wait_timeout=0.5)
        assert_failed(job.execute("train", make_task()), "0.5 s (result_wait_timeout)")

    def test_longest_times(self, job):
        """Whatever counts them keeps them."""
        times = dict.fromkeys(self.TIMES, MAX_SECONDS)
        if "heartbeat_interval" in times:
            times["heartbeat_interval"] -= 1
        self.start(job, TRAIN, **times)
        for _ in range(2):
            model_of(job.execute("train", make_task()))
        job.end()

    def test_abort_in_mid_task_and_the_next_task(self, job):
        in_task, go_on = job.gate("in_task"), job.gate("go_on")
        self.start(job, GATED_TRAIN)
        signal = Signal()
        aborted = job.submit("train", make_task(value=10.0), signal)
        in_task.wait()
        signal.trigger(True)
        assert aborted.result().get_return_code() == ReturnCode.TASK_ABORTED
        following = job.submit("train", make_task(value=20.0))
        go_on.open()
        in_task.wait()
        go_on.open()
        assert (model_of(following.result()).params["w"] == 21.0).all()

    def test_abort_before_the_task_is_received(self, job):
        script = """
            from pathlib import Path
            import nvflare.client as flare
            flare.init()
            Path(__file__).with_name("go_on").read_text()
            while flare.is_running():
                model = flare.receive()
                flare.send(flare.FLModel(params={"w": model.params["w"] + 1}))
        """
        go_on = job.gate("go_on")
        self.start(job, script)
        signal = Signal()
        signal.trigger(True)
        aborted = job.execute("train", make_task(value=10.0), signal)
        assert aborted.get_return_code() == ReturnCode.TASK_ABORTED
        following = job.submit("train", make_task(value=20.0))
        go_on.open()
        assert (model_of(following.result()).params["w"] == 21.0).all()

    def test_tasks_that_come_at_the_same_time_queue(self, job):
        in_task, go_on = job.gate("in_task"), job.gate("go_on")
        self.start(job, GATED_TRAIN)
        futures = [job.submit("train", make_task(value=float(value))) for value in range(4)]
        for _ in futures:
            in_task.wait()
            go_on.open()
        assert [model_of(future.result()).params["w"][0] for future in futures] == [1.0, 2.0, 3.0, 4.0]

    # The end of the job

    def test_script_hears_of_the_end(self, plain_job):
        assert plain_job.has_heard_of_the_end

    def test_script_that_waits_for_its_first_task_hears_of_the_end(self, job):
        script = """
            from pathlib import Path
            import nvflare.client as flare
            flare.init()
            Path(__file__).with_name("joined").write_text("")
            if not flare.is_running():
                Path(__file__).with_name("ended").write_text("")
        """
        joined = job.gate("joined")
        self.start(job, script)
        joined.wait()
        job.end()
        assert (job.custom_dir / "ended").exists()

    def test_receive_returns_none_at_the_end(self, job, site_log):
        script = """
            from pathlib import Path
            import nvflare.client as flare
            flare.init()
            model = flare.receive()
            flare.send(flare.FLModel(params=model.params))
            Path(__file__).with_name("got").write_text(repr(flare.receive()))
        """
        self.start(job, script)
        model_of(job.execute("train", make_task()))
        job.end()
        assert (job.custom_dir / "got").read_text() == "None"
        assert [record.getMessage() for record in site_log.records if record.levelno > logging.INFO] == []

    def test_task_in_hand_is_gone_at_the_end(self, job):
        script = """
            from pathlib import Path
            import nvflare.client as flare
            flare.init()
            flare.receive()
            Path(__file__).with_name("in_task").write_text("")
            while flare.is_running():
                pass
            Path(__file__).with_name("got").write_text(repr(flare.receive()))
        """
        in_task = job.gate("in_task")
        self.start(job, script)
        running = job.submit("train", make_task())
        in_task.wait()
        job.end()
        assert_failed(running.result())
        assert (job.custom_dir / "got").read_text() == "None"

    def test_end_of_the_job_ends_a_running_task(self, job):
        in_task, go_on = job.gate("in_task"), job.gate("go_on")
        self.start(job, GATED_TRAIN)
        running = job.submit("train", make_task())
        in_task.wait()
        ending = job.in_background(job.end)
        assert_failed(running.result())
        go_on.unlock()  # a trainer of our own may be gone by now
        ending.result()

    def test_end_is_idempotent_and_events_after_it_are_harmless(self, job):
        self.start(job, TRAIN)
        for _ in range(2):
            assert job.fire(EventType.END_RUN) == {}
        assert job.fire(EventType.ABORT_TASK) == {}
        assert_failed(job.execute("train", make_task()))

    def test_models_are_collected_after_the_end(self, job):
        self.start(job, TRAIN)
        task = make_task()
        result = job.execute("train", task)
        arrays = [from_shareable(task).data["w"], model_of(result).params["w"]]
        models = [weakref.ref(array) for array in arrays]
        del task, result, arrays
        job.end()
        job.collect_garbage()
        assert [model() for model in models] == [None, None]

    def test_second_job_in_the_same_process(self, job, job_factory):
        self.start(job, TRAIN)
        model_of(job.execute("train", make_task()))
        job.end()
        second = self.start(job_factory("job-2"), TRAIN)
        seen = model_of(second.execute("train", make_task())).meta
        assert seen["job"] == "job-2"
        assert second.panics == []

    # Administration

    def test_stats(self, plain_job):
        group = plain_job.stats  # after its first task
        assert group["tasks_done"] == 1
        assert group["tasks_failed"] == 0
        assert group["current_task"] == ""
        assert group["state"]

    def test_stats_of_a_running_task(self, job):
        in_task, go_on = job.gate("in_task"), job.gate("go_on")
        self.start(job, GATED_TRAIN)
        running = job.submit("train", make_task())
        in_task.wait()
        assert job.stats()["ClientAPIExecutor"]["current_task"] == "train"
        go_on.open()
        running.result()

    def test_numpy_arrays_come_as_they_are(self, plain_job):
        params = model_of(plain_job.of_arrays).params
        assert params.keys() == ARRAYS.keys()
        for name, array in ARRAYS.items():
            np.testing.assert_array_equal(params[name], array + 1)
            assert params[name].dtype == array.dtype
