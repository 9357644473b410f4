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

"""in_process: the contract of a backend, and what concerns only a script that runs on a thread of this process."""

import builtins
import logging
import os
import sys
import threading

import pytest

from nvflare.app_common.executors.client_api import in_process_backend
from nvflare.app_common.executors.client_api.formats.outside_text import MAX_CAUSE_BYTES
from nvflare.app_common.executors.client_api_executor import ClientAPIExecutor
from tests.unit_test.app_common.executors.client_api.backend_contract import (
    GATED_TRAIN,
    TRAIN,
    WAYS,
    BackendContract,
    fateful_script,
)
from tests.unit_test.app_common.executors.client_api.log_watch import messages
from tests.unit_test.app_common.executors.job_harness import LIMIT, assert_failed, make_task, model_of

# The script's thread dies by an exception, which pytest, too, hears of.
a_thread_dies = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


def in_process(job, script: str, **arguments) -> ClientAPIExecutor:
    return ClientAPIExecutor("in_process", task_script_path=job.script(script), **arguments)


class TestInProcess(BackendContract):
    HAS_OWN_PROCESS = False
    RETURNED = "returned"
    EXITED = {0: "sys.exit(0)", 3: "sys.exit(3)"}
    # The others leave helpers to the process of the job, here that of the tests; see fresh_interpreter_test.py.
    WAYS = [way for way in WAYS if "spawn" not in way and "server" not in way]

    def executor(self, job, script, **arguments):
        return in_process(job, script, **arguments)

    @pytest.mark.parametrize("published", ["None", "'a model'"])
    def test_what_is_published_in_the_place_of_a_result_fails_the_task_at_once(self, job, published):
        script = f"""
            import nvflare.client as flare
            from nvflare.client.in_process.api import TOPIC_LOCAL_RESULT
            from nvflare.fuel.data_event.data_bus import DataBus
            flare.init()
            while flare.is_running():
                flare.receive()
                DataBus().publish([TOPIC_LOCAL_RESULT], {published})
        """
        self.start(job, script)
        for _ in range(2):
            assert_failed(job.execute("train", make_task()), "the result must be a Shareable, but is")


class TestCommandOfAScript:
    # As Lightning's ddp starts the ranks of a script.
    def test_it_is_told_that_it_cannot_call_flare(self, job):
        script = """
            import os
            import subprocess
            import sys
            import nvflare.client as flare

            command = [sys.executable, __file__]
            if "LOCAL_RANK" not in os.environ:
                env = dict(os.environ, LOCAL_RANK="1")
                child = subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            flare.init()
            model = flare.receive()
            flare.send(flare.FLModel(params=model.params, meta={"code": child.returncode, "output": child.stdout}))
        """
        before = dict(os.environ)
        job.start(in_process(job, script))
        child = model_of(job.execute("train", make_task())).meta
        assert child["code"] == 1
        assert 'set execution_mode="external_process"' in child["output"]
        job.end()
        assert os.environ == before


class TestTheEndOfAScript:
    @pytest.mark.parametrize("statement", ["raise RuntimeError('x')", "import no_such_module", "sys.exit(3)"])
    @pytest.mark.parametrize("phase", ["before_init", "before_receive", "before_send"])
    def test_cause_names_the_line(self, job, phase, statement):
        script = fateful_script(phase, statement)
        line = script.strip("\n").count("\n", 0, script.strip("\n").index(statement)) + 1
        job.start(in_process(job, script.strip("\n")))
        assert_failed(job.execute("train", make_task()), "script.py", f"at line {line}")

    def test_exit_with_a_message(self, job):
        job.start(in_process(job, "import sys\nsys.exit('no data here')"))
        assert_failed(job.execute("train", make_task()), "no data here", "at line 2")

    def test_syntax_error(self, job):
        job.start(in_process(job, "import nvflare.client as flare\nflare.init(\n"))
        assert_failed(job.execute("train", make_task()), "SyntaxError", "script.py")

    def test_hint_is_given_only_if_flare_was_never_used(self, job):
        job.start(in_process(job, fateful_script("before_receive", "return")))
        assert "flare.init()" not in assert_failed(job.execute("train", make_task()))

    def test_failure_between_two_tasks_is_told_by_the_next_task_alone(self, job, caplog):
        caplog.set_level(logging.INFO)
        self.start_and_wait_for_the_end(job, "raise RuntimeError('too early')")
        assert_failed(job.execute("train", make_task()), "too early")
        job.end()
        assert len(messages(caplog, logging.ERROR)) == 1

    def test_failure_after_the_last_task_is_told_by_the_end_of_the_job(self, job, caplog):
        caplog.set_level(logging.INFO)
        self.start_and_wait_for_the_end(job, "raise RuntimeError('too early')")
        assert messages(caplog, logging.ERROR) == []
        job.end()
        (error,) = messages(caplog, logging.ERROR)
        assert "too early" in error

    def test_script_that_is_done_before_the_job_is_no_error(self, job, caplog):
        caplog.set_level(logging.INFO)
        self.start_and_wait_for_the_end(job, "return")
        job.end()
        assert messages(caplog, logging.ERROR) == []

    @staticmethod
    def start_and_wait_for_the_end(job, fate):
        ended = threading.Event()

        class Listener(logging.Handler):
            def emit(self, record):
                if "ended while no task was running" in record.getMessage():
                    ended.set()

        logging.getLogger().addHandler(listener := Listener())
        try:
            job.start(in_process(job, fateful_script("before_receive", fate)))
            assert ended.wait(30)
        finally:
            logging.getLogger().removeHandler(listener)

    def test_script_that_stops_when_told_is_no_error(self, job, caplog):
        job.start(in_process(job, TRAIN))
        model_of(job.execute("train", make_task()))
        job.end()
        assert messages(caplog, logging.WARNING) == []

    @a_thread_dies
    @pytest.mark.parametrize("main_does", ["thread.join()", "Path(__file__).with_name('go_on').read_text()"])
    def test_thread_that_trains_dies(self, job, main_does):
        script = f"""
            import threading
            from pathlib import Path
            import nvflare.client as flare

            def train():
                model = flare.receive()
                raise RuntimeError("died in a thread")

            flare.init()
            thread = threading.Thread(target=train, name="trainer-1")
            thread.start()
            {main_does}
        """
        job.gate("go_on")
        job.start(in_process(job, script))
        texts = ("script.py", "trainer-1", "RuntimeError", "died in a thread", "at line 8")
        for _ in range(2):
            assert_failed(job.execute("train", make_task()), *texts)

    @a_thread_dies
    @pytest.mark.parametrize("code", ["", "0"])
    def test_thread_that_ends_itself_has_not_died(self, job, code):
        script = f"""
            import sys
            import threading
            import nvflare.client as flare

            def look():
                flare.is_running()
                sys.exit({code})

            flare.init()
            while flare.is_running():
                thread = threading.Thread(target=look)
                thread.start()
                thread.join()
                flare.send(flare.FLModel(params=flare.receive().params))
        """
        job.start(in_process(job, script))
        for _ in range(2):
            model_of(job.execute("train", make_task()))

    @a_thread_dies
    def test_thread_that_helps_dies_and_the_training_goes_on(self, job):
        script = """
            import threading
            import nvflare.client as flare

            def load_data():
                raise RuntimeError("no more data")

            flare.init()
            while flare.is_running():
                model = flare.receive()
                helper = threading.Thread(target=load_data)
                helper.start()
                helper.join()
                flare.send(flare.FLModel(params=model.params))
        """
        job.start(in_process(job, script))
        for _ in range(2):
            model_of(job.execute("train", make_task()))

    def test_main_returns_while_a_thread_trains(self, job):
        script = """
            import threading
            import nvflare.client as flare

            def train():
                while flare.is_running():
                    model = flare.receive()
                    started.wait()
                    flare.send(flare.FLModel(params=model.params))

            flare.init()
            started = threading.Event()
            started.set()
            flare.is_running()
            threading.Thread(target=train).start()
        """
        job.start(in_process(job, script))
        for _ in range(2):
            model_of(job.execute("train", make_task()))

    def test_shutdown_by_the_script(self, job):
        script = """
            import nvflare.client as flare
            flare.init()
            model = flare.receive()
            flare.send(flare.FLModel(params=model.params))
            flare.shutdown()
            assert not flare.is_running()
        """
        job.start(in_process(job, script))
        model_of(job.execute("train", make_task()))
        assert_failed(job.execute("train", make_task()), "flare.shutdown()")

    def test_shutdown_without_an_answer(self, job):
        script = """
            import nvflare.client as flare
            flare.init()
            flare.receive()
            flare.shutdown()
        """
        job.start(in_process(job, script))
        assert_failed(job.execute("train", make_task()), "flare.shutdown()")

    def test_init_as_context_manager(self, job, job_factory):
        script = """
            import nvflare.client as flare
            with flare.init() as context:
                model = flare.receive()
                flare.send(flare.FLModel(params=model.params))
        """
        for harness in (job, job_factory("job-2")):
            harness.start(in_process(harness, script))
            model_of(harness.execute("train", make_task()))
            assert_failed(harness.execute("train", make_task()))
            harness.end()

    def test_script_that_ignores_the_end_is_left_behind(self, job, monkeypatch, caplog):
        monkeypatch.setattr(in_process_backend, "SCRIPT_STOP_TIMEOUT", 0.2)
        in_task, go_on = job.gate("in_task"), job.gate("go_on")
        job.start(in_process(job, GATED_TRAIN))
        running = job.submit("train", make_task())
        in_task.wait()
        job.end()  # returns although the script still works
        assert_failed(running.result())
        warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert any("script.py did not stop within 0.2 s" in warning for warning in warnings)
        go_on.open()  # what it sends now goes nowhere; `nothing_left` waits for its thread

    @pytest.mark.parametrize("statement", ["pass", "flare.is_running()"])
    def test_end_of_the_job_waits_for_a_script_that_owes_no_result(self, job, monkeypatch, site_log, statement):
        monkeypatch.setattr(in_process_backend, "SCRIPT_STOP_TIMEOUT", 0.2)
        script = f"""
            from pathlib import Path
            import nvflare.client as flare
            flare.init()
            model = flare.receive()
            flare.send(flare.FLModel(params=model.params))
            {statement}
            Path(__file__).with_name("go_on").read_text()
            Path(__file__).with_name("saved").write_text("")
        """
        go_on = job.gate("go_on")
        job.start(in_process(job, script))
        model_of(job.execute("train", make_task()))
        ending = job.in_background(job.end)
        site_log.wait_for("script.py goes on after its last task")
        go_on.open()
        ending.result(LIMIT)
        assert job.custom_dir.joinpath("saved").exists()
        assert messages(site_log, logging.WARNING) == []

    def test_failure_of_a_script_that_was_told_to_stop_is_a_warning(self, job, caplog):
        script = """
            import nvflare.client as flare
            flare.init()
            while flare.is_running():
                flare.send(flare.FLModel(params=flare.receive().params))
            raise RuntimeError("cannot save the model")
        """
        job.start(in_process(job, script))
        model_of(job.execute("train", make_task()))
        job.end()
        (warning,) = messages(caplog, logging.WARNING)
        assert "script.py raised RuntimeError at line 6" in warning and "cannot save the model" in warning

    def test_script_left_behind_does_not_disturb_the_next_job(self, job, job_factory, monkeypatch):
        monkeypatch.setattr(in_process_backend, "SCRIPT_STOP_TIMEOUT", 0.2)
        in_task, go_on = job.gate("in_task"), job.gate("go_on")
        job.start(in_process(job, GATED_TRAIN))
        running = job.submit("train", make_task(value=10.0))
        in_task.wait()
        job.end()
        running.result()

        following = job_factory("job-2")
        following_in_task, following_go_on = following.gate("in_task"), following.gate("go_on")
        following.start(in_process(following, GATED_TRAIN))
        result = following.submit("train", make_task(value=20.0))
        following_in_task.wait()
        go_on.open()  # the old script sends, and ends
        job.join_scripts()
        following_go_on.open()
        assert (model_of(result.result()).params["w"] == 21.0).all()


class TestWhatAScriptSees:
    def test_arguments_are_split_like_a_command(self, job):
        script = """
            import sys
            import nvflare.client as flare
            flare.init()
            flare.receive()
            flare.send(flare.FLModel(metrics={"argv": sys.argv}))
        """
        arguments = """--name "two words" --empty '' --path=/a\\ b -x"""
        job.start(in_process(job, script, task_script_args=arguments))
        argv = model_of(job.execute("train", make_task())).metrics["argv"]
        assert argv == [str(job.custom_dir / "script.py"), "--name", "two words", "--empty", "", "--path=/a b", "-x"]

    @pytest.mark.parametrize("statement", ["return", "raise RuntimeError()", "import no_such_module", "sys.exit(3)"])
    @pytest.mark.parametrize("phase", ["before_init", "before_send"])
    def test_interpreter_is_restored_when_the_script_ends(self, job, phase, statement):
        before = (sys.argv, builtins.print, threading.excepthook)
        job.start(in_process(job, fateful_script(phase, statement), task_script_args="--own"))
        assert_failed(job.execute("train", make_task()))
        job.join_scripts()
        assert (sys.argv, builtins.print, threading.excepthook) == before

    def test_print_goes_to_the_log(self, job, caplog):
        script = """
            print("to", "the", "log", sep="-", end="!", flush=True)
            print()
        """
        with caplog.at_level(logging.INFO):
            job.start(in_process(job, script))
            assert_failed(job.execute("train", make_task()))
        records = [(record.name.rpartition(".")[2], record.levelname, record.getMessage()) for record in caplog.records]
        assert ("TaskScriptRunner", "INFO", "to-the-log") in records

    def test_print_to_a_file_goes_to_the_file(self, job, capsys):
        script = """
            import sys
            from pathlib import Path
            with open(Path(__file__).with_name("out.txt"), "w") as file:
                print("to", "file", sep="-", end="!", file=file)
            print("to stderr", file=sys.stderr)
        """
        job.start(in_process(job, script))
        assert_failed(job.execute("train", make_task()))
        assert (job.custom_dir / "out.txt").read_text() == "to-file!"
        assert "to stderr\n" in capsys.readouterr().err

    def test_script_in_a_folder_below(self, job):
        (job.custom_dir / "deep" / "down").mkdir(parents=True)
        job.script(TRAIN, "deep/down/train.py")
        job.start(ClientAPIExecutor("in_process", task_script_path="down/train.py"))
        model_of(job.execute("train", make_task()))

    def test_script_with_an_absolute_path(self, job, tmp_path):
        job.script(TRAIN, str(tmp_path / "train.py"))
        job.start(ClientAPIExecutor("in_process", task_script_path=str(tmp_path / "train.py")))
        model_of(job.execute("train", make_task()))

    def test_sent_model_is_kept_with_clear_cache_false(self, job):
        script = """
            import nvflare.client as flare
            from nvflare.client.api import clear
            flare.init()
            best = 0
            while flare.is_running():
                model = flare.receive()
                sent = flare.FLModel(params={"w": model.params["w"] + best})
                flare.send(sent, clear_cache=False)
                best += sent.params["w"][0] + model.params["w"][0]
                clear()
        """
        job.start(in_process(job, script))
        values = [model_of(job.execute("train", make_task(value=1.0))).params["w"][0] for _ in range(3)]
        assert values == [1.0, 3.0, 7.0]

    def test_send_before_receive_is_the_scripts_error(self, job):
        script = """
            import nvflare.client as flare
            flare.init()
            flare.send(flare.FLModel(metrics={"loss": 1.0}))
        """
        job.start(in_process(job, script))
        assert_failed(job.execute("train", make_task()), '"receive" needs to be called before sending model')

    def test_second_result_for_a_task_is_dropped(self, job, caplog):
        script = """
            import nvflare.client as flare
            flare.init()
            while flare.is_running():
                model = flare.receive()
                flare.send(flare.FLModel(params=dict(model.params)), clear_cache=False)
                flare.send(flare.FLModel(params={"w": model.params["w"] * 0 - 1}))
        """
        job.start(in_process(job, script))
        for value in (1.0, 2.0, 3.0):
            assert model_of(job.execute("train", make_task(value=value))).params["w"][0] == value
        warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert sum("a result was dropped" in warning for warning in warnings) >= 2  # the last one may be on its way

    def test_receive_with_a_timeout(self, job):
        script = """
            from pathlib import Path
            import nvflare.client as flare
            flare.init()
            first = flare.receive(timeout=0.05)
            Path(__file__).with_name("in_task").write_text("")
            model = flare.receive(timeout=60)
            flare.send(flare.FLModel(metrics={"first": repr(first), "value": float(model.params["w"][0])}))
        """
        in_task = job.gate("in_task")
        job.start(in_process(job, script))
        in_task.wait()
        assert model_of(job.execute("train", make_task(value=2.0))).metrics == {"first": "None", "value": 2.0}

    def test_task_with_bad_data_fails_with_the_cause(self, job):
        job.start(in_process(job, TRAIN))
        task = make_task()
        task["DXO"] = "spoiled"
        assert_failed(job.execute("train", task), "script.py", "raised")


class TestStart:
    @pytest.mark.parametrize("path", ["missing.py", "/nowhere/missing.py"])
    def test_missing_script_is_named(self, job, path):
        job.start(ClientAPIExecutor("in_process", task_script_path=path))
        assert len(job.panics) == 1
        assert path in job.panics[0] and "in_process" in job.panics[0]
        assert_failed(job.execute("train", make_task()), "not running")

    def test_two_in_process_executors_in_one_job(self, job):
        first, second = in_process(job, TRAIN), in_process(job, TRAIN)
        job.start(first, second)
        assert len(job.panics) == 1
        assert "another in_process executor" in job.panics[0]
        model_of(job.execute("train", make_task()))  # the first one is unharmed

    def test_panic_is_short(self, job):
        job.start(ClientAPIExecutor("in_process", task_script_path="x" * 2 * MAX_CAUSE_BYTES + ".py"))
        assert len(job.panics[0].encode()) <= MAX_CAUSE_BYTES
