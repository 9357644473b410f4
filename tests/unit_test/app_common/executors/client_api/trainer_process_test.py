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

import faulthandler
import logging
import logging.handlers
import os
import queue
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import uuid

import pytest

from nvflare.apis.fl_component import FLComponent
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from nvflare.app_common.abstract.launcher import LauncherRunStatus
from nvflare.app_common.executors.client_api.external_process_backend import frozen_because
from nvflare.app_common.executors.client_api.process.limits import (
    LINE_COST,
    LOG_BURST,
    MAX_LINE_BYTES,
    TAIL_BYTES,
    TAIL_LINES,
)
from nvflare.app_common.executors.client_api.process.orphans import end_orphans
from nvflare.app_common.executors.client_api.process.output_lines import OutputLines
from nvflare.app_common.executors.client_api.process.process_table import read_process
from nvflare.app_common.executors.client_api.process.process_tree import (
    ProcessStatus,
    TrainerLaunchError,
    TreeUsage,
    describe_exit,
)
from nvflare.app_common.executors.client_api.process.trainer_process import TrainerProcess, split_command
from tests.unit_test.app_common.executors.client_api.process_watch import (
    CHILD,
    MARKER,
    few_descriptors,
    marked_pids,
    no_more_threads,
    wait_gone,
)

LIMIT = 30.0  # seconds that a wait for an event may take
# Runs a command where there is no /proc.
NO_PROC = ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs none /proc && exec "$@"', "sh"]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def child(*actions):
    return [sys.executable, CHILD, *actions]


def in_thread(function, *args):
    thread = threading.Thread(target=function, args=args)
    thread.start()
    return thread


@pytest.fixture(autouse=True)
def watchdog():
    faulthandler.dump_traceback_later(4 * LIMIT, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture
def marker(monkeypatch):
    """Marks every process of the test; afterwards none, no thread and no file descriptor of it may be left."""
    value = uuid.uuid4().hex
    monkeypatch.setenv(MARKER, value)
    fds, threads = os.listdir("/proc/self/fd"), set(threading.enumerate())
    yield value
    assert marked_pids(value) == set()
    assert set(threading.enumerate()) - threads == set()
    assert len(os.listdir("/proc/self/fd")) == len(fds)


class Trainer(TrainerProcess):
    """A TrainerProcess of a job, driven as a Launcher, whose output and exits fill queues."""

    def __init__(self, job):
        self.lines, self.exits = queue.Queue(), queue.Queue()
        self.new_context = job.engine.new_context
        super().__init__("", stop_grace_period=LIMIT)
        self.on_exit = self.exits.put
        handler = logging.handlers.QueueHandler(self.lines)
        self.logger = logging.Logger(type(self).__name__)
        self.logger.addHandler(handler)

    def launch(self, argv):
        self.command = shlex.join(argv)
        with self.new_context() as fl_ctx:
            return self.launch_task("train", Shareable(), fl_ctx, Signal())

    def run(self, *actions):
        return self.launch(child(*actions))

    def stop(self, shutdown_timeout=30.0, stop_grace_period=LIMIT, abort_signal=Signal()):
        self.shutdown_timeout, self.stop_grace_period = shutdown_timeout, stop_grace_period
        with self.new_context() as fl_ctx:
            self.stop_task("train", fl_ctx, abort_signal)

    def run_status(self):
        with self.new_context() as fl_ctx:
            return self.check_run_status("train", fl_ctx)

    def next_line(self):
        return self.lines.get(timeout=LIMIT).getMessage()

    def await_line(self, text):
        while True:
            line = self.next_line()
            if text in line:
                return line

    def await_exit(self):
        return self.exits.get(timeout=LIMIT)

    @property
    def pid(self):
        return self.tree.pid

    @property
    def guard_pid(self):
        return read_process(self.pid).ppid


@pytest.fixture
def trainer(job, marker):
    process = Trainer(job.start(FLComponent()))
    yield process
    process.stop(0.0, 0.0)
    assert process.run_status() == LauncherRunStatus.NOT_RUNNING


class TestNaturalEnd:
    @pytest.mark.parametrize(
        "action, text, code",
        [("exit=0", "exit code 0", 0), ("exit=3", "exit code 3", 3), ("raise=no luck", "exit code 1", 1)],
    )
    def test_exit_is_told_with_its_cause(self, trainer, action, text, code):
        trainer.run("say=last words", action)
        assert trainer.await_exit() == text
        assert trainer.tree.returncode == code
        assert trainer.tree.output.tail().startswith("last words")
        assert trainer.tree.wait_exit(LIMIT) and trainer.tree.status is ProcessStatus.EXITED

    def test_tail_holds_the_traceback_when_the_exit_is_told(self, trainer):
        tails = queue.Queue()
        trainer.on_exit = lambda text: tails.put(trainer.tree.output.tail())
        trainer.run("raise=no luck")
        assert tails.get(timeout=LIMIT).endswith("RuntimeError: no luck")

    def test_sigkill_of_the_command(self, trainer):
        trainer.run("say=ready", "hang")
        trainer.await_line("ready")
        os.kill(trainer.pid, signal.SIGKILL)
        assert trainer.await_exit() == "killed by SIGKILL"
        assert trainer.tree.returncode == -signal.SIGKILL

    def test_closing_the_output_is_not_an_exit(self, trainer):
        trainer.run("say=ready", "close_output", "hang")
        trainer.await_line("ready")
        assert not trainer.tree.wait_exit(0.2)
        trainer.stop(0.0)
        assert trainer.await_exit() == "killed by SIGTERM"

    def test_relaunch_after_an_exit(self, trainer):
        for code in (3, 4):
            trainer.run("grandchild", f"exit={code}")
            assert trainer.await_exit() == f"exit code {code}"
            trainer.stop_grace_period = 0.0  # what the first one left is ended before the second starts

    def test_launch_while_running_changes_nothing(self, trainer):
        trainer.run("hang")
        pid = trainer.pid
        assert trainer.run("exit=0") is True
        assert trainer.pid == pid


class TestStop:
    def test_natural_exit_within_shutdown_timeout(self, trainer):
        trainer.run("say=ready", "write=bye\\n", "exit=0")
        trainer.stop(LIMIT, 0.0)
        assert (trainer.await_exit(), trainer.tree.status) == ("exit code 0", ProcessStatus.STOPPED)

    @pytest.mark.parametrize("actions", [("ignore_sigterm", "say=ready", "hang"), ("say=ready", "spin")])
    def test_sigkill_for_who_does_not_heed_sigterm(self, trainer, actions):
        trainer.run(*actions)
        trainer.await_line("ready")
        if "spin" in actions:
            trainer.await_line("spinning")
        trainer.stop(0.0, 0.2)
        assert trainer.await_exit() == "killed by SIGKILL"

    @pytest.mark.parametrize("actions", [("grandchild",), ("daemon",), ("grandchild", "daemon")])
    def test_descendants_are_ended_after_the_exit_of_the_command(self, trainer, marker, actions):
        trainer.run(*actions, "exit=0")
        assert trainer.await_exit() == "exit code 0"
        trainer.await_line("grandchild")
        assert len(marked_pids(marker)) > 1
        trainer.stop(LIMIT, 0.1)
        assert marked_pids(marker) == set()

    @pytest.mark.parametrize("step", ["fork", "setsid"])
    def test_who_is_never_there_for_long_is_caught(self, trainer, marker, step):
        trainer.run(f"storm={step}")
        trainer.await_line("storm")
        assert trainer.await_exit() == "exit code 0"
        trainer.stop(LIMIT, 0.1)
        assert marked_pids(marker) == set()

    def test_frozen_command_gets_its_sigterm(self, trainer):
        trainer.run("say=ready", "freeze", "hang")
        trainer.await_line("ready")
        trainer.stop(0.0)
        assert trainer.await_exit() == "killed by SIGTERM"

    @pytest.mark.parametrize("end, text", [("exit=3", "exit code 3"), ("hang", "killed by SIGTERM")])
    def test_clean_up_by_a_trap(self, trainer, end, text):
        # As the guide advises in place of a launcher's clean_up_script.
        clean_up, command = shlex.join(child("say=cleaned up")), shlex.join(child("say=ready", end))
        trainer.launch(["bash", "-c", f"trap {shlex.quote(clean_up)} EXIT; {command}"])
        trainer.await_line("ready")
        if end == "hang":
            trainer.stop(0.0)
        assert trainer.await_exit() == text
        trainer.await_line("cleaned up")

    def test_twice_and_before_start(self, trainer):
        trainer.stop()
        assert trainer.run_status() == LauncherRunStatus.NOT_RUNNING
        trainer.run("hang")
        trainer.stop(0.0)
        trainer.stop(0.0)
        assert trainer.exits.qsize() == 1

    def test_concurrent_with_the_exit_and_with_itself(self, trainer):
        trainer.run("say=ready", "hang")
        trainer.await_line("ready")
        stops = [in_thread(trainer.stop, LIMIT, LIMIT) for _ in range(3)]
        os.kill(trainer.pid, signal.SIGKILL)
        for stop in stops:
            stop.join(LIMIT)
        assert trainer.tree.status is ProcessStatus.STOPPED
        assert trainer.exits.qsize() == 1

    def test_every_rung_is_logged(self, trainer, caplog):
        caplog.set_level(logging.INFO)
        trainer.run("ignore_sigterm", "say=ready", "hang")
        trainer.await_line("ready")
        trainer.stop(0.0, 0.1)
        texts = [r.getMessage() for r in caplog.records if str(trainer.pid) in r.getMessage()]
        rungs = ("starting -> running", "no exit by itself", "SIGTERM to 1", "SIGKILL to 1", "-> exited", "-> stopped")
        assert [rung for text in texts for rung in rungs if rung in text] == list(rungs)


class TestDeathOfAnOwner:
    def test_guard_killed(self, trainer, marker):
        trainer.run("ignore_sigterm", "grandchild", "daemon", "say=ready", "hang")
        trainer.await_line("ready")
        os.kill(trainer.guard_pid, signal.SIGKILL)
        assert trainer.await_exit() == "its process guard ended first: killed by SIGKILL"
        assert marked_pids(marker) == set()

    def test_guard_terminated_ends_the_tree(self, trainer, marker):
        trainer.run("grandchild", "say=ready", "hang")
        trainer.await_line("ready")
        os.kill(trainer.guard_pid, signal.SIGTERM)
        assert trainer.await_exit() == "killed by SIGTERM"

    def test_guard_stopped_by_a_signal(self, trainer):
        trainer.run("ignore_sigterm", "grandchild", "say=ready", "hang")
        trainer.await_line("ready")
        os.kill(trainer.guard_pid, signal.SIGSTOP)
        trainer.stop(0.0, 0.1)
        assert trainer.await_exit() == "killed by SIGKILL"

    # A client job process (CJ) that launches what its arguments say.
    CJ = """
        import os
        import sys
        import threading
        from nvflare.app_common.executors.client_api.process.process_tree import OwnedTree

        def say(line):
            print(line, flush=True)

        OwnedTree(sys.argv[2:], os.curdir, float(sys.argv[1]), say, say).start(os.environ)
        threading.Event().wait()
    """

    def start_cj(self, grace, *actions):
        command = [sys.executable, "-c", textwrap.dedent(self.CJ), str(grace), *child(*actions)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    @pytest.mark.parametrize("is_guard_stopped", [False, True])
    def test_cj_killed(self, marker, is_guard_stopped):
        with self.start_cj(0.5, "ignore_sigterm", "grandchild", "daemon", "say=ready", "hang") as cj:
            try:
                lines = [cj.stdout.readline() for _ in range(3)]  # in any order
                assert "ready\n" in lines
                tree = marked_pids(marker) - {cj.pid}
                assert len(tree) == 4  # guard, command, grandchild, daemon
                if is_guard_stopped:
                    (guard,) = [pid for pid in tree if read_process(pid).ppid == cj.pid]
                    os.kill(guard, signal.SIGSTOP)
            finally:
                cj.kill()
        if is_guard_stopped:
            assert wait_gone(tree, 0.0) == tree
            end_orphans()  # as the next job does
        assert wait_gone(tree, LIMIT) == set()

    def test_command_can_print_while_it_is_terminated_after_the_cj_was_killed(self, marker, tmp_path):
        with self.start_cj(LIMIT, f"save_at_sigterm={tmp_path / 'saved'}", "say=ready", "hang") as cj:
            try:
                assert cj.stdout.readline() == "ready\n"
                tree = marked_pids(marker) - {cj.pid}
            finally:
                cj.kill()
        assert wait_gone(tree, LIMIT) == set()
        assert os.listdir(tmp_path) == ["saved"]


class TestLaunchFailures:
    @pytest.mark.parametrize(
        "argv, error, text",
        [
            (["no-such-command", "x"], TrainerLaunchError, "command not found: 'no-such-command'"),
            (["./no/such/script.sh"], TrainerLaunchError, "command not found: './no/such/script.sh'"),
            ([os.path.dirname(CHILD)], TrainerLaunchError, "Is a directory"),
            ([CHILD], TrainerLaunchError, "Permission denied"),
            ([], ValueError, "command must not be blank"),
            (["null\0byte"], TrainerLaunchError, "null byte"),
        ],
    )
    def test_typed_error_at_once(self, trainer, argv, error, text):
        with pytest.raises(error) as caught:
            trainer.launch(argv)
        assert text in str(caught.value)
        assert trainer.exits.empty()

    def test_working_directory(self, job, trainer):
        app_dir = job.custom_dir.parent
        shutil.rmtree(app_dir)
        with pytest.raises(TrainerLaunchError, match=f"'{app_dir}': No such file or directory"):
            trainer.run("hang")

    def test_missing_interpreter(self, trainer, tmp_path):
        script = tmp_path / "train"
        script.write_text("#!/no/such/interpreter\n")
        script.chmod(0o700)
        with pytest.raises(TrainerLaunchError, match="interpreter"):
            trainer.launch([str(script)])

    def test_out_of_descriptors(self, trainer):
        with few_descriptors(), pytest.raises(TrainerLaunchError, match="Too many open files"):
            trainer.run("hang")

    def test_out_of_threads(self, trainer, marker):
        with no_more_threads(), pytest.raises(TrainerLaunchError, match="can't start new thread"):
            trainer.run("hang")

    def test_a_good_start_after_a_failed_one(self, trainer):
        with pytest.raises(TrainerLaunchError):
            trainer.launch(["no-such-command"])
        trainer.run("exit=0")
        assert trainer.await_exit() == "exit code 0"


class TestWithoutProc:
    """As on macOS, where nothing is known of a tree but its process group."""

    CODE = """
        import os
        import sys
        from nvflare.app_common.executors.client_api.process.process_tree import OwnedTree, TrainerLaunchError

        def start(*argv):
            tree = OwnedTree(argv, os.curdir, 60.0, print, print)
            tree.start(os.environ)
            return tree

        killed = []
        sys.addaudithook(lambda event, args: event == "os.killpg" and killed.append(args))
        try:
            start("no-such-command")
        except TrainerLaunchError as e:
            print(e)
        start("true").stop(60.0, 60.0)
        tree = start("sleep", "1000")
        print("usage", tree.usage())
        tree.stop(0.0, 60.0)
        print("killed", killed)
    """

    def test_group_is_ended_by_its_guard_and_not_by_its_number_later(self):
        if not shutil.which("unshare") or subprocess.run([*NO_PROC, "true"], stderr=subprocess.DEVNULL).returncode:
            pytest.skip("no mounts here")
        command = [*NO_PROC, sys.executable, "-c", textwrap.dedent(self.CODE)]
        lines = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=LIMIT).stdout.splitlines()
        assert lines[0].startswith("command not found: 'no-such-command'")
        assert lines[1:] == ["exit code 0", "usage None", "killed by SIGTERM", "killed []"]


class TestLauncher:
    def test_run_status(self, trainer):
        trainer.run("say=ready", "hang")
        assert trainer.run_status() == LauncherRunStatus.RUNNING
        os.kill(trainer.pid, signal.SIGKILL)
        trainer.await_exit()
        assert trainer.run_status() == LauncherRunStatus.COMPLETE_FAILED
        trainer.run("exit=0")
        trainer.await_exit()
        assert trainer.run_status() == LauncherRunStatus.COMPLETE_SUCCESS
        trainer.stop()
        assert trainer.run_status() == LauncherRunStatus.NOT_RUNNING

    def test_killed_guard_is_no_success(self, trainer):
        trainer.run("hang")
        os.kill(trainer.guard_pid, signal.SIGKILL)
        trainer.await_exit()
        assert trainer.run_status() == LauncherRunStatus.COMPLETE_FAILED

    def test_an_aborted_task_is_not_waited_for(self, trainer):
        trainer.run("say=ready", "hang")
        trainer.await_line("ready")
        abort_signal = Signal()
        abort_signal.trigger(True)
        trainer.stop(100 * LIMIT, LIMIT, abort_signal)
        assert trainer.await_exit() == "killed by SIGTERM"


class TestCommand:
    def test_environment_of_the_command(self, job, trainer, monkeypatch):
        monkeypatch.setenv("COLOR", "green")
        trainer.run("show_environment")
        line = trainer.await_line("cwd=")
        # Python itself ignores SIGPIPE and SIGXFSZ.
        assert line == f"cwd={job.custom_dir.parent} fds=['0', '1', '2'] ignored=['SIGPIPE', 'SIGXFSZ'] color=green end"

    def test_arguments_are_passed_as_they_are(self, trainer):
        trainer.launch(split_command(f"{sys.executable} {CHILD} 'say=two words; $HOME *'"))
        assert trainer.await_line("two") == "two words; $HOME *"

    @pytest.mark.parametrize("command", ["", "  ", "'open"])
    def test_bad_command_line(self, command):
        with pytest.raises(ValueError):
            split_command(command)


@pytest.mark.parametrize(
    "now, has_joined, why",
    [
        (TreeUsage(40.0, False), True, ""),  # a C call that holds the interpreter
        (TreeUsage(40.0, True), True, ""),  # the same, stopped for a moment by a debugger
        (TreeUsage(10.0, True), True, "have been stopped for 30.0 s"),
        (TreeUsage(10.0, True), False, "have been stopped for 30.0 s"),
        (TreeUsage(10.0, False), True, "no heartbeat and no use of the CPU for 30.0 s"),
        (TreeUsage(10.0, False), False, ""),  # a script that waits for its data
    ],
)
def test_who_is_frozen(now, has_joined, why):
    told = frozen_because(now, TreeUsage(10.0, False), has_joined, 30.0)
    assert why in told and bool(why) == bool(told)


class TestUsage:
    def test_frozen_and_busy(self, trainer):
        trainer.run("say=ready", "freeze", "spin")
        trainer.await_line("ready")
        while not trainer.tree.usage().is_stopped:
            pass  # soon: the line is written just before the signal
        frozen = trainer.tree.usage().cpu_seconds
        os.kill(trainer.pid, signal.SIGCONT)
        trainer.await_line("spinning")
        assert not trainer.tree.usage().is_stopped
        while trainer.tree.usage().cpu_seconds <= frozen:
            pass  # soon: a clock tick is 10 ms


class TestOutput:
    def test_invalid_bytes_and_progress_bars(self, trainer):
        trainer.run(r"write=a\xffb\n10%\r20%\r\n   \r\x1b[A\rrest", "exit=0")
        trainer.await_exit()
        trainer.stop()
        assert [trainer.next_line() for _ in range(4)] == ["a\ufffdb", "10%", "20%", "rest"]
        assert trainer.lines.empty()

    def test_flood_is_bounded_and_the_end_is_kept(self, trainer):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        trainer.run("flood=2", "exit=0")
        assert trainer.await_exit() == "exit code 0"
        assert "flooded" in trainer.tree.output.tail().splitlines()[-1]
        trainer.stop()
        lines = [trainer.next_line() for _ in range(trainer.lines.qsize())]
        assert max(map(len, lines)) <= MAX_LINE_BYTES
        assert any("lines dropped" in line for line in lines)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024  # KB

    def test_a_log_that_fails_does_not_stop_the_watch(self, trainer):
        trainer.logger.addFilter(lambda record: 1 / 0)
        trainer.run("say=x", "exit=3")
        assert trainer.await_exit() == "exit code 3"

    def test_goes_to_the_log_with_its_level(self, trainer):
        trainer.run("say=ERROR:bad", "say=hello")
        trainer.await_exit()
        levels = {record.getMessage(): record.levelno for record in (trainer.lines.get(timeout=LIMIT) for _ in "12")}
        assert (levels["bad"], levels["hello"]) == (logging.ERROR, logging.INFO)


class TestOutputLines:
    def test_lines_across_reads(self):
        output = OutputLines()
        assert output.feed(b"one\ntw", 0.0) == ["one"]
        assert output.feed(b"o\n\nthree", 0.0) == ["two"]
        assert output.flush() == ["three"]
        assert output.flush() == []

    def test_no_line_passes_for_another(self):
        output = OutputLines()
        outside = "\x1b[2J\x1b]0;title\x07a\x85b\u2028c\u202ed\x1b[31mred\x1b[0m\x08\x00\te\N{SNOWMAN}\n"
        logged = "a\\x85b\\u2028c\\u202edred\\x08\\x00\te\N{SNOWMAN}"
        assert output.feed(outside.encode(), 0.0) == [logged]
        assert output.feed(b"\x1b\x0c rest", 0.0) == []
        assert output.tail().splitlines()[-2:] == ["\\x1b", " rest"], "a form feed ends a line of the tail"
        assert output.flush() == ["\\x1b\\x0c rest"]

    def test_brackets_cost_what_the_log_takes_for_them(self):
        output = OutputLines(rate=1000.0, burst=10_000.0)
        assert len(output.feed((b"[" * 2000 + b"\n") * 3, 0.0)) == 1
        assert output.is_dropping

    def test_long_lines_are_cut(self):
        output = OutputLines()
        lines = output.feed(b"x" * (2 * MAX_LINE_BYTES + 1), 0.0)
        assert [len(line) for line in lines] == [MAX_LINE_BYTES, MAX_LINE_BYTES, 1]

    @pytest.mark.parametrize("character", ["\u00e9", "\u20ac", "\U0001f600"])
    @pytest.mark.parametrize("end", ["", "\n"])
    def test_no_character_is_cut(self, character, end):
        output, text = OutputLines(), "x" + character * MAX_LINE_BYTES
        data = (text + end).encode()
        lines = [line for part in (data[:10_000], data[10_000:]) for line in output.feed(part, 0.0)]
        assert "".join(lines + output.flush()) == text
        assert max(len(line.encode()) for line in lines) <= MAX_LINE_BYTES

    def test_drops_and_says_so_when_the_rate_allows(self):
        output = OutputLines(rate=1000.0, burst=2.0 * LINE_COST)
        assert output.feed(b"1\n2\n3\n4\n", 0.0) == ["1", "2"]
        assert output.is_dropping
        assert output.feed(b"5\n", 0.0) == []
        notice, line = output.feed(b"6\n", 10.0)
        assert "3 lines dropped" in notice and line == "6"
        assert not output.is_dropping
        assert output.tail() == "1\n2\n3\n4\n5\n6"

    def test_flood_in_bounded_memory(self):
        output = OutputLines()
        logged = sum(len(line) for _ in range(1000) for line in output.feed(b"\xff" * 65536, 0.0))
        assert logged <= LOG_BURST + 65536
        assert len(output.tail()) <= TAIL_BYTES

    def test_tail_is_bounded_in_lines(self):
        output = OutputLines()
        output.feed(b"".join(b"%d\n" % i for i in range(1000)), 0.0)
        assert output.tail().splitlines() == [str(i) for i in range(1000 - TAIL_LINES, 1000)]


@pytest.mark.parametrize(
    "code, text", [(0, "exit code 0"), (3, "exit code 3"), (-9, "killed by SIGKILL"), (-40, "killed by signal 40")]
)
def test_describe_exit(code, text):
    assert describe_exit(code) == text
