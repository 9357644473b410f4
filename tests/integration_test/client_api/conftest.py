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

"""What tests of a session have: a federation, a job in it, its log, and trainers that somebody else owns."""

import os
import shutil
import signal
import subprocess
import sys
import uuid
from collections import Counter
from pathlib import Path

import pytest

from tests.integration_test.client_api import job_process
from tests.integration_test.client_api.attach_harness import Trainer, attach_command, workspace
from tests.integration_test.client_api.cell_harness import Federation, warm_up
from tests.unit_test.app_common.executors.client_api.process_watch import MARKER, marked_pids, wait_gone
from tests.unit_test.app_common.executors.conftest import (  # noqa: F401 - what every test has
    WATCHDOG_TIMEOUT,
    cellnet,
    client_config,
    empty_folder,
    job,
    job_factory,
    nothing_left,
    real_stderr,
    site_log,
    torch,
    watchdog,
    watchdog_limit,
)
from tests.unit_test.app_common.executors.job_harness import LIMIT, PROJECT, SITE_NAME


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Side by side, files with jobs, which mostly wait, alternate with files that keep a core busy.

    Those with jobs have watchdogs of their own. Of both, those come first whose watchdogs allow the longest time in
    all: whatever is last runs alone.
    """
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return
    here = Path(__file__).parent
    limits = Counter()
    for item in items:
        limits[item.path] += watchdog_limit(item) if here in item.path.parents else 0
    with_jobs = {item.path for item in items if watchdog_limit(item) > WATCHDOG_TIMEOUT}
    files = [file for file, _ in limits.most_common()]
    groups = ([f for f in files if f in with_jobs], [f for f in files if f not in with_jobs])
    rank = {file: number for group in groups for number, file in enumerate(group)}
    items.sort(key=lambda item: rank[item.path])


@pytest.fixture(scope="session")
def federation():
    federation = Federation()
    yield federation
    federation.stop()


@pytest.fixture(scope="module")
def job_cell(federation):
    cell = federation.join(f"{SITE_NAME}.{uuid.uuid4().hex}")  # a process can give a cell's name only twice
    warm_up(cell)
    yield cell
    federation.leave(cell)


@pytest.fixture
def site_cell(job_cell, no_process_left):
    """The cell of a job's process, which leaves no process behind."""
    return job_cell


@pytest.fixture
def no_process_left(monkeypatch):
    """Marks every process of a test and fails it if one is left."""
    mark = uuid.uuid4().hex
    monkeypatch.setenv(MARKER, mark)
    yield mark
    assert marked_pids(mark) == set()


def is_guard(pid: int) -> bool:
    return b"process_guard.py" in Path(f"/proc/{pid}/cmdline").read_bytes()


@pytest.fixture
def killed_job_process(federation, no_process_left, tmp_path):
    """Kills a client job process in a phase of a task (see job_process.py), and tells what it leaves: the pids."""

    def kill(phase: str, with_guard: bool = False) -> set:
        command = [sys.executable, "-m", job_process.__name__, str(tmp_path), federation.url, phase]
        streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, **streams) as process:
            while process.stdout.readline() != "now\n":
                assert process.poll() is None
            tree = marked_pids(no_process_left) - {process.pid, os.getpid()}
            guards = [pid for pid in tree if with_guard and is_guard(pid)]
            for guard in guards:
                os.kill(guard, signal.SIGSTOP)  # it must not hear of the other's death
            process.kill()
        for guard in guards:
            os.kill(guard, signal.SIGKILL)
        assert wait_gone(set(guards), LIMIT) == set()
        return tree

    yield kill
    assert list(tmp_path.rglob("*client_api*.json*")) == []


@pytest.fixture
def processes(nothing_left, no_process_left):  # noqa: F811
    """Starts processes; those that are left are killed after the test."""
    started = []

    def start(*command: str, **options) -> Trainer:
        started.append(Trainer(*command, **options))
        return started[-1]

    yield start
    for process in started:
        process.stop()


@pytest.fixture
def trainers(job, processes):  # noqa: F811
    """Starts trainers that attach a script to a job."""

    def start(script="", *args, a_job=job, command=()) -> Trainer:
        return processes(*(command or attach_command(workspace(a_job), script, *args)))

    yield start
    job.end()  # while they can hear of it


@pytest.fixture(scope="session")
def nvflare_2_9():
    """A folder with nvflare 2.9.0 alone, for PYTHONPATH: the packages that it needs are those of 2.8."""
    folder = PROJECT / ".venv-2.9.0"
    if not folder.is_dir():
        made = f"{folder}.{os.getpid()}"
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", made, "nvflare==2.9.0"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            pytest.skip(f"nvflare 2.9.0 is not to be had: {done.stderr[-300:]}")
        try:
            os.rename(made, folder)
        except OSError:  # another worker was first
            shutil.rmtree(made)
    return folder
