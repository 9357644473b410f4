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

"""external_process: the contract of a backend, and what concerns only a script in a process tree of its own.

Real cells, real processes: the server runs in a process of its own, the job in this one, the trainer below it.
"""

import errno
import logging
import os
import stat
from concurrent import futures
from pathlib import Path

import pytest

from nvflare.app_common.executors.client_api.job_owner import Owner
from nvflare.app_common.executors.client_api_executor import ClientAPIExecutor
from nvflare.fuel.f3.cellnet.core_cell import CoreCell
from tests.integration_test.client_api.external_jobs import (
    assert_works,
    bootstrap_path,
    external,
    pipe_args,
    start,
    start_fated,
    stats,
)
from tests.unit_test.app_common.executors.client_api.backend_contract import (
    GATED_TRAIN,
    TRAIN,
    BackendContract,
    fateful_script,
)
from tests.unit_test.app_common.executors.client_api.log_watch import messages
from tests.unit_test.app_common.executors.client_api.process_watch import (
    MARKER,
    WITH_PROCESSES,
    marked_pids,
    no_more_threads,
)
from tests.unit_test.app_common.executors.job_harness import (
    JOB_ID,
    LIMIT,
    JobHarness,
    assert_failed,
    make_task,
    model_of,
)

pytestmark = WITH_PROCESSES


class TestExternalProcess(BackendContract):
    RETURNED = "exit code 0"
    EXITED = {0: "exit code 0", 3: "exit code 3"}
    TIMES = (
        *BackendContract.TIMES,
        "launch_timeout",
        "shutdown_timeout",
        "stop_grace_period",
        "heartbeat_interval",
        "heartbeat_timeout",
    )

    def executor(self, job, script, **arguments):
        return external(f"custom/{job.script(script)}", **arguments)

    # The pipe takes a task from the cell's thread, so only a process that stands still does not accept it.
    def test_task_wait_timeout(self, job, site_log):
        script = """
            import os, signal
            import nvflare.client as flare
            flare.init()
            print("it stops", flush=True)
            os.kill(os.getpid(), signal.SIGSTOP)
        """
        self.start(job, script, task_wait_timeout=0.5, shutdown_timeout=0.1)
        site_log.wait_for("it stops")  # before, it would have the task
        assert_failed(job.execute("train", make_task()), "task_wait_timeout", "0.5")

    # In a trainer process of nvflare 2.8, receive() raises at the end.
    def test_receive_returns_none_at_the_end(self, job):
        script = """
            from pathlib import Path
            import nvflare.client as flare
            flare.init()
            model = flare.receive()
            flare.send(flare.FLModel(params=model.params))
            try:
                flare.receive()
            except Exception as error:
                Path(__file__).with_name("got").write_text(type(error).__name__)
        """
        self.start(job, script)
        model_of(job.execute("train", make_task()))
        job.end()
        assert (job.custom_dir / "got").read_text() == "AgentClosed"

    # A trainer in the midst of a task gets SIGTERM at the end.
    def test_task_in_hand_is_gone_at_the_end(self, job, site_log):
        start_fated(job, "training", "hang")
        running = job.submit("train", make_task())
        site_log.wait_for("now: hang")
        job.end()
        assert_failed(running.result(), "the job ends")


class TestWork:
    @pytest.mark.parametrize("launch_once, processes", [(True, 1), (False, 3)])
    def test_one_trainer_for_the_job_or_one_per_task(self, job, launch_once, processes):
        script = """
            import os
            import nvflare.client as flare
            flare.init()
            while flare.is_running():
                model = flare.receive()
                flare.send(flare.FLModel(params=model.params, meta={"pid": os.getpid()}))
        """
        cells = set(CoreCell.ALL_CELLS)
        start(job, script, launch_once=launch_once)
        pids = {model_of(job.execute("train", make_task())).meta["pid"] for _ in range(3)}
        assert len(pids) == stats(job)["launches"] == processes
        assert stats(job).get("process", "no trainer") == ("running" if launch_once else "no trainer")
        job.end()
        assert set(CoreCell.ALL_CELLS) == cells

    def test_init_again_with_a_rank_is_the_same_trainer(self, job):
        """As a callback of Lightning's does, on top of the script's own."""
        script = """
            import nvflare.client as flare
            flare.init()
            flare.init(rank="0")
            while flare.is_running():
                model = flare.receive()
                flare.send(flare.FLModel(params={"w": model.params["w"] + 1}))
        """
        start(job, script)
        for number in range(2):
            assert (
                model_of(job.execute("train", make_task(value=10.0 * number))).params["w"] == 10.0 * number + 1
            ).all()
        assert stats(job)["launches"] == 1

    @pytest.mark.parametrize("launch_once", [True, False])
    def test_forked_child_has_no_connection(self, job, launch_once):
        script = """
            import multiprocessing
            import os
            import nvflare.client as flare

            def sockets():
                links = [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
                return [link for link in links if "socket:" in link]

            flare.init()
            while flare.is_running():
                model = flare.receive()
                with multiprocessing.get_context("fork").Pool(1) as pool:
                    meta = {"child": pool.apply(sockets), "trainer": sockets()}
                flare.send(flare.FLModel(params=model.params, meta=meta))
        """
        start(job, script, launch_once=launch_once)
        for _ in range(2):
            meta = model_of(job.execute("train", make_task())).meta
            assert meta["trainer"] and not meta["child"]

    @pytest.mark.parametrize("launch_once", [True, False])
    def test_code_after_send_runs_to_its_end(self, job, launch_once):
        script = """
            from pathlib import Path
            import nvflare.client as flare
            flare.init()
            model = flare.receive()
            flare.send(flare.FLModel(params=model.params))
            Path(__file__).with_name("go_on").read_text()
            Path(__file__).with_name("saved").write_text("the model")
        """
        go_on = job.gate("go_on")
        start(job, script, launch_once=launch_once)
        model_of(job.execute("train", make_task()))
        ending = job.in_background(job.end)
        go_on.open()
        ending.result(LIMIT)
        assert (job.custom_dir / "saved").read_text() == "the model"

    @pytest.mark.parametrize("launch_once", [True, False])
    def test_failure_after_the_last_result_is_a_warning_with_the_cause(self, job, site_log, launch_once):
        script = """
            import nvflare.client as flare
            flare.init()
            while flare.is_running():
                flare.send(flare.FLModel(params=flare.receive().params))
            raise RuntimeError("cannot save the model")
        """
        start(job, script, launch_once=launch_once)
        model_of(job.execute("train", make_task()))
        job.end()
        (warning,) = messages(site_log, logging.WARNING)
        assert "ended while it was closing: exit code 1" in warning
        assert site_log.find("RuntimeError: cannot save the model")

    def test_failure_between_two_tasks_is_a_warning_with_the_cause(self, job, site_log):
        start(job, fateful_script("after_send", "raise RuntimeError('no more memory')"))
        for number in (1, 2):
            model_of(job.execute("train", make_task()))
            site_log.wait_for("ended while it was ", number)
        told = site_log.find("ended while it was ")
        assert [record.levelname for record in told] == ["WARNING"] * 2
        assert all("exit code 1" in record.getMessage() for record in told)

    def test_script_that_does_not_end_in_time_is_a_warning(self, job, site_log):
        start(job, TRAIN + "    import signal\n    signal.pause()\n", shutdown_timeout=0.5)
        model_of(job.execute("train", make_task()))
        job.end()
        (warning,) = messages(site_log, logging.WARNING)
        assert "no exit by itself within 0.5 s (shutdown_timeout)" in warning

    def test_result_counts_although_there_are_no_threads_to_end_its_trainer(self, job):
        in_task, go_on = job.gate("in_task"), job.gate("go_on")
        start(job, GATED_TRAIN, launch_once=False)
        running = job.submit("train", make_task())
        in_task.wait()
        with no_more_threads():
            go_on.open()
            model_of(running.result(LIMIT))

    def test_code_after_shutdown_runs_to_its_end(self, job):
        script = """
            from pathlib import Path
            import nvflare.client as flare
            flare.init()
            model = flare.receive()
            flare.send(flare.FLModel(params=model.params))
            flare.shutdown()
            Path(__file__).with_name("has_left").write_text("")
            Path(__file__).with_name("go_on").read_text()
            Path(__file__).with_name("saved").write_text("the model")
        """
        has_left, go_on = job.gate("has_left"), job.gate("go_on")
        start(job, script)
        model_of(job.execute("train", make_task()))
        has_left.wait()
        ending = job.in_background(job.end)
        go_on.open()
        ending.result(LIMIT)
        assert (job.custom_dir / "saved").read_text() == "the model"

    def test_main_thread_that_ends_has_left_the_job(self, job):
        script = """
            import threading
            import nvflare.client as flare
            def train():
                model = flare.receive()
                has_task.set()
                has_left.wait()
                flare.send(flare.FLModel(params=model.params))
                flare.receive()
            has_task, has_left = threading.Event(), threading.Event()
            threading._register_atexit(has_left.set)  # the last of them: the first of these hooks runs last
            flare.init()
            threading.Thread(target=train).start()
            has_task.wait()
        """
        start(job, script)
        cause = assert_failed(job.execute("train", make_task()), "ended while it was busy: exit code 0")
        for fault in ("the result of task 'train' did not reach the job", "the session with the job has ended"):
            assert f"{fault}: this process has left it, as one does whose main thread has ended" in cause

    def test_after_shutdown_another_trainer_gets_the_next_task(self, job, site_log):
        script = """
            import signal
            import nvflare.client as flare
            flare.init()
            model = flare.receive()
            flare.send(flare.FLModel(params=model.params))
            flare.shutdown()
            print("it has left", flush=True)
            signal.pause()
        """
        start(job, script, shutdown_timeout=0.1)
        model_of(job.execute("train", make_task()))
        site_log.wait_for("it has left")  # before, it would get the task
        model_of(job.execute("train", make_task()))
        assert stats(job)["launches"] == 2

    LEAVING = """
        import atexit, signal, sys
        from pathlib import Path
        import nvflare.client as flare

        def wait():
            Path(__file__).with_name("go_on").read_text()

        flare.init()
        flare.send(flare.FLModel(params=flare.receive().params))
    """

    @pytest.mark.parametrize("end", ["wait()", "wait(); flare.shutdown(); signal.pause()", "atexit.register(wait)"])
    def test_task_that_meets_the_end_of_its_trainer_goes_to_a_new_one(self, job, site_log, end):
        go_on = job.gate("go_on")
        start(job, self.LEAVING + f"    {end}", shutdown_timeout=0.1)
        model_of(job.execute("train", make_task()))
        running = job.submit("train", make_task())
        site_log.wait_for("-> busy", 2)
        go_on.unlock()
        model_of(running.result(LIMIT))
        assert stats(job)["launches"] == 2

    def test_task_that_meets_the_failure_of_its_trainer_fails(self, job, site_log):
        go_on = job.gate("go_on")
        start(job, self.LEAVING + "    wait(); sys.exit(3)")
        model_of(job.execute("train", make_task()))
        running = job.submit("train", make_task())
        site_log.wait_for("-> busy", 2)
        go_on.open()
        assert_failed(running.result(LIMIT), "exit code 3")

    def test_shutdown_in_a_task_fails_it(self, job):
        script = """
            import signal
            import nvflare.client as flare
            flare.init()
            model = flare.receive()
            flare.shutdown()
            signal.pause()
        """
        start(job, script, shutdown_timeout=0.1)
        assert_failed(job.execute("train", make_task()), "the trainer has left")

    @pytest.mark.parametrize(
        "end", ["finally: flare.shutdown()", "except Exception: flare.shutdown(); raise", "finally: pass"]
    )
    def test_an_exception_tells_more_than_the_shutdown_that_it_causes(self, job, end):
        script = f"""
            import logging
            import nvflare.client as flare
            logging.basicConfig(level=logging.DEBUG)
            try:
                flare.init()
                flare.receive()
                raise RuntimeError("out of data")
            {end}
        """
        start(job, script)
        assert_failed(job.execute("train", make_task()), "out of data", "exit code 1")

    def test_a_burst_of_log_records(self, job):
        script = """
            import nvflare.client as flare
            flare.init()
            model = flare.receive()
            for step in range(1000):
                flare.log("loss", 0.5, flare.AnalyticsDataType.SCALAR, global_step=step)
            flare.send(flare.FLModel(params=model.params))
        """
        start(job, script)
        model_of(job.execute("train", make_task()))
        assert [record[2] for record in job.log_records] == list(range(1000))
        assert stats(job)["metrics_dropped"] == 0

    def test_records_logged_after_the_last_result(self, job):
        script = """
            import nvflare.client as flare
            flare.init()
            model = flare.receive()
            flare.send(flare.FLModel(params=model.params))
            flare.log("bye", "done", flare.AnalyticsDataType.TEXT)
        """
        start(job, script)
        model_of(job.execute("train", make_task()))
        job.end()
        assert ("bye", "done", None) in job.log_records

    def test_command_directory_environment_and_custom_code(self, job):
        script = """
            import os, sys
            import my_model
            import nvflare.client as flare
            flare.init()
            flare.receive()
            seen = {"argv": sys.argv, "cwd": os.getcwd(), "answer": my_model.ANSWER}
            flare.send(flare.FLModel(metrics=seen))
        """
        job.script("ANSWER = 42", "my_model.py")
        start(job, script, "--name 'two words' \"\" $HOME *")
        seen = model_of(job.execute("train", make_task())).metrics
        assert seen["argv"] == ["custom/script.py", "--name", "two words", "", "$HOME", "*"]
        assert seen["cwd"] == str(job.custom_dir.parent)
        assert seen["answer"] == 42

    def test_what_the_script_logs_is_in_the_log_once_as_the_site_has_it(self, job, site_log, monkeypatch):
        script = """
            import logging
            import nvflare.client as flare
            flare.init()
            print("I print")
            for name in ("my.trainer", "detailed", "quiet"):
                logger = logging.getLogger(name)
                logger.debug("I debug")
                logger.info("I inform")
                logger.warning("I warn")
        """
        for name, level in (("detailed", logging.DEBUG), ("quiet", logging.WARNING)):
            monkeypatch.setattr(logging.getLogger(name), "level", level)
        start(job, script)
        assert_failed(job.execute("train", make_task()))
        records = [(r.name.rpartition(".")[2], r.levelname, r.getMessage()) for r in site_log.find("I ")]
        assert [record for record in records if record[1] != "ERROR"] == [
            ("TrainerProcess", "INFO", "I print"),
            ("trainer", "INFO", "I inform"),
            ("trainer", "WARNING", "I warn"),
            ("detailed", "DEBUG", "I debug"),
            ("detailed", "INFO", "I inform"),
            ("detailed", "WARNING", "I warn"),
            ("quiet", "WARNING", "I warn"),
        ]

    # A job's id has neither: nvflare's Workspace refuses it.
    def test_path_with_spaces_and_other_letters(self, tmp_path, site_cell):
        job = JobHarness(tmp_path / "Müllers wörk spåce – файл", JOB_ID, site_cell)
        try:
            start(job, TRAIN)
            assert_works(job)
        finally:
            job.close()


class TestEnd:
    @pytest.mark.parametrize(
        "misdeed",
        [
            "signal.signal(signal.SIGTERM, signal.SIG_IGN)",
            "os.fork() or (os.setsid(), signal.signal(signal.SIGTERM, signal.SIG_IGN), signal.pause())",
            "[os.dup2(os.open(os.devnull, os.O_WRONLY), fd) for fd in (1, 2)]",
            "os.close(1)",
            "os.fork() or [os.write(1, b'\\xff' * 65536) for _ in itertools.count()]",
        ],
        ids=["ignores_sigterm", "grandchild_in_own_session", "redirects_output", "closes_output", "floods"],
    )
    def test_misbehaving_trainer_works_and_is_ended(self, job, misdeed):
        script = f"""
            import itertools, os, signal
            import nvflare.client as flare
            {misdeed}
            flare.init()
            model = flare.receive()
            print("works", flush=True)
            flare.send(flare.FLModel(params=dict(w=model.params["w"] + 1)))
            while True:
                signal.pause()
        """
        start(job, script, stop_grace_period=0.3, shutdown_timeout=0.1)
        assert_works(job)
        job.end()

    def test_bootstrap_file(self, job, site_log):
        joined = job.gate("joined")
        script = """
            from pathlib import Path
            import nvflare.client as flare
            flare.init()
            Path(__file__).with_name("joined").write_text("")
            flare.receive()
        """
        start(job, script)
        joined.wait()
        config = bootstrap_path(job)
        assert stat.S_IMODE(config.stat().st_mode) == 0o600
        secrets = [pipe_args(config)[name] for name in ("secret", "challenge")]
        assert pipe_args(config)["owner"] == str(Owner.here())
        pids = marked_pids(os.environ[MARKER]) - {os.getpid()}
        assert len(pids) == 2  # guard and trainer
        seen = "".join(Path(f"/proc/{pid}/{name}").read_text() for pid in pids for name in ("cmdline", "environ"))
        job.end()
        seen += "\n".join(record.getMessage() for record in site_log.records)
        assert [secret for secret in secrets if secret in seen] == []
        assert list(config.parent.iterdir()) == []


class TestLiveness:
    BEATS = {"heartbeat_interval": 0.2, "heartbeat_timeout": 1.0}

    def test_c_call_that_holds_the_interpreter(self, job):
        script = """
            import collections, itertools, time
            import nvflare.client as flare
            flare.init()
            flare.receive()
            steps, seconds = 10_000_000, 0.0
            while seconds < 3.0:
                started = time.monotonic()
                collections.deque(itertools.repeat(0, steps), maxlen=0)
                seconds = time.monotonic() - started
                steps = int(steps * max(2.0, 3.5 / seconds))
            flare.send(flare.FLModel(metrics={"seconds": seconds}))
        """
        start(job, script, **self.BEATS)
        seconds = model_of(job.execute("train", make_task())).metrics["seconds"]
        assert seconds >= 3 * self.BEATS["heartbeat_timeout"]

    @pytest.mark.parametrize("phase", ["before_init", "before_send"])
    def test_trainer_that_waits_without_using_the_cpu(self, job, phase):
        go_on = job.gate("go_on")
        waiting = "__import__('pathlib').Path(__file__).with_name('go_on').read_text()"
        start(job, fateful_script(phase, waiting), **self.BEATS)
        running = job.submit("train", make_task())
        with pytest.raises(futures.TimeoutError):
            running.result(2.5 * self.BEATS["heartbeat_timeout"])
        go_on.open()
        model_of(running.result(LIMIT))


class TestLaunch:
    @pytest.mark.parametrize(
        "command, text",
        [
            ("no-such-command x", "command not found: 'no-such-command'"),
            ("custom", "command not found"),
            ("./custom", "Is a directory"),
        ],
    )
    def test_command_that_cannot_be_run(self, job, command, text):
        job.start(ClientAPIExecutor("external_process", command=command))
        assert len(job.panics) == 1
        assert text in job.panics[0] and "external_process" in job.panics[0]
        assert list(bootstrap_path(job).parent.iterdir()) == []

    def test_command_that_cannot_be_run_for_a_task(self, job):
        job.start(ClientAPIExecutor("external_process", command="no-such-command", launch_once=False))
        for _ in range(3):
            assert_failed(job.execute("train", make_task()), "command not found")
        assert len(job.panics) == 1

    def test_launch_timeout(self, job):
        start(job, "import signal; print('loading', flush=True); signal.pause()", launch_timeout=1.0)
        assert_failed(job.execute("train", make_task()), "flare.init()", "launch_timeout", "1.0", "loading")

    def test_bootstrap_file_that_cannot_be_written(self, job):
        config = bootstrap_path(job).parent
        config.rmdir()
        config.write_text("no folder")
        start(job, TRAIN)
        assert len(job.panics) == 1
        assert str(config) in job.panics[0] and "Not a directory" in job.panics[0]

    def test_full_disk(self, job, monkeypatch):
        monkeypatch.setattr("json.dump", fail_with_full_disk)
        start(job, TRAIN)
        assert len(job.panics) == 1
        assert str(bootstrap_path(job)) in job.panics[0] and "No space left" in job.panics[0]
        assert list(bootstrap_path(job).parent.iterdir()) == []


def fail_with_full_disk(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
