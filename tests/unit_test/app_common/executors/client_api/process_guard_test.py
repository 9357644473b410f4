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

import os
import select
import signal
import subprocess
import sys
import uuid

import pytest

from nvflare.app_common.executors.client_api.arguments import MAX_SECONDS
from nvflare.app_common.executors.client_api.job_owner import Owner
from nvflare.app_common.executors.client_api.process import process_table
from nvflare.app_common.executors.client_api.process.orphans import GUARD
from tests.unit_test.app_common.executors.client_api.process_watch import CHILD

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

LIMIT = 60.0  # seconds that a wait for an event may take
IGNORES_TERM = ("sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1000; done")


def tagged_environment(tag):
    return {**os.environ, process_table.TAG_NAME: tag}


@pytest.fixture
def tag():
    value = uuid.uuid4().hex
    yield value
    assert process_table.find_tree(value) == []


@pytest.fixture
def sleeper(tag):
    with subprocess.Popen(["sleep", "1000"], env=tagged_environment(tag)) as process:
        yield process
        process.kill()


class Guard:
    """The guard as the client job process sees it: three pipes."""

    def __init__(self, tag, grace, *command, left_file=""):
        self.status_fd, child_status = os.pipe()
        output_fd, child_output = os.pipe()
        self.output = open(output_fd, "rb", buffering=0)
        argv = [
            sys.executable,
            "-EsS",
            str(GUARD),
            str(child_status),
            str(output_fd),
            str(grace),
            str(left_file),
            os.getcwd(),
            *command,
        ]
        self.process = subprocess.Popen(
            argv,
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=child_output,
            env=tagged_environment(tag),
            pass_fds=(child_status, output_fd),
            start_new_session=True,
        )
        os.close(child_status)
        os.close(child_output)
        self.pending = []

    def next_report(self):
        if not self.pending:
            assert select.select([self.status_fd], [], [], LIMIT)[0]
            self.pending = os.read(self.status_fd, 4096).decode().splitlines()
        return self.pending.pop(0).split()

    def wait_until_ready(self):
        assert self.output.readline() == b"ready\n"

    def close(self):
        self.process.stdin.close()
        self.output.close()
        self.process.wait(LIMIT)
        os.close(self.status_fd)


@pytest.fixture
def start_guard(tag):
    guards = []

    def start(grace, *command, **options):
        guards.append(Guard(tag, grace, *command, **options))
        return guards[-1]

    yield start
    for guard in guards:
        guard.close()


def test_reports_of_a_natural_end(start_guard):
    guard = start_guard(LIMIT, "sh", "-c", "exit 3")
    event, pid = guard.next_report()
    assert event == "pid" and int(pid) > 0
    assert guard.next_report() == ["exit", str(3 << 8)]
    assert guard.next_report() == ["gone"]


def test_report_of_a_failed_start(start_guard):
    assert start_guard(LIMIT, "no-such-command").next_report() == ["error", "command", "2"]


def test_end_of_the_lifeline_ends_the_tree(start_guard, tag):
    guard = start_guard(0.1, *IGNORES_TERM)
    assert guard.next_report()[0] == "pid"
    guard.wait_until_ready()
    guard.process.stdin.close()
    reports = [guard.next_report() for _ in range(4)]
    assert [report[0] for report in reports] == ["term", "kill", "exit", "gone"]
    assert reports[2][1] == str(int(signal.SIGKILL))


@pytest.mark.parametrize("is_replaced", [False, True], ids=["left", "replaced"])
def test_what_its_job_has_left_is_removed_and_not_what_the_next_one_has_there(start_guard, tmp_path, is_replaced):
    file, other = tmp_path / "file", tmp_path / "other"
    file.touch()
    guard = start_guard(0.1, *IGNORES_TERM, left_file=file)
    guard.next_report()
    guard.wait_until_ready()
    if is_replaced:
        other.touch()
        other.replace(file)
    guard.process.stdin.close()
    assert guard.process.wait(LIMIT) == 0
    assert file.exists() is is_replaced


@pytest.mark.parametrize("grace", [1000, MAX_SECONDS])
def test_an_earlier_deadline_wins(start_guard, grace):
    guard = start_guard(LIMIT, *IGNORES_TERM)
    guard.next_report()
    guard.wait_until_ready()
    guard.process.stdin.write(f"stop {grace}\n".encode())
    assert guard.next_report()[0] == "term"
    guard.process.stdin.write(b"stop 0\n")
    assert guard.next_report()[0] == "kill"


def test_interrupt_and_hangup_do_not_end_the_guard(start_guard):
    guard = start_guard(LIMIT, "sleep", "1000")
    guard.next_report()
    guard.process.send_signal(signal.SIGINT)
    guard.process.send_signal(signal.SIGHUP)
    guard.process.stdin.write(b"stop 1000\n")
    assert [guard.next_report()[0] for _ in range(3)] == ["term", "exit", "gone"]
    assert guard.process.wait(LIMIT) == 0


def test_tree_is_found_by_tag_and_by_parent(tag):
    # env -i takes the tag away from the inner shell's child; its parent still has it.
    argv = ["sh", "-c", "env -i sleep 1000 & echo $!; wait"]
    with subprocess.Popen(argv, env=tagged_environment(tag), stdout=subprocess.PIPE, text=True) as shell:
        child = int(shell.stdout.readline())
        assert {process.pid for process in process_table.find_tree(tag)} == {shell.pid, child}
        assert process_table.end_tree(tag, shell.pid) == (2, True)
        assert process_table.find_tree(tag) == []


def test_process_whose_main_thread_alone_has_ended_is_found(tag):
    argv = [sys.executable, CHILD, "end_main_thread=ready"]
    with subprocess.Popen(argv, env=tagged_environment(tag), stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline() == b"ready\n"
            (found,) = process_table.find_tree(tag)
            owner = Owner.here()._replace(pid=str(process.pid), start=str(found.start_time))
            assert found.pid == process.pid and not owner.is_gone
            assert process_table.end_tree(tag, process.pid) == (1, True)
            assert owner.is_gone
        finally:
            process.kill()


def test_a_reused_pid_is_not_signalled(sleeper):
    process = process_table.read_process(sleeper.pid)
    earlier = process._replace(start_time=process.start_time - 1)
    assert process_table.send_signal(earlier, signal.SIGKILL) is None
    assert process_table.read_process(sleeper.pid).state not in "ZX"


def test_no_process_has_this_pid(sleeper):
    process = process_table.read_process(sleeper.pid)
    sleeper.kill()
    sleeper.wait()
    assert process_table.read_process(sleeper.pid) is None
    assert process_table.send_signal(process, signal.SIGTERM) is None
