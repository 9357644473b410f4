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

"""attach with a launcher of the job's own: it brings the trainers, and what goes wrong with it is the tasks' cause."""

import json
import os
import re
import shutil
import signal
import sys
import threading
from pathlib import Path

import pytest

from nvflare.apis.fl_component import FLComponent
from nvflare.app_common.abstract.launcher import Launcher, LauncherRunStatus
from nvflare.app_common.executors.attach_executor import AttachExecutor
from nvflare.app_common.executors.client_api.process import limits
from nvflare.app_common.executors.client_api.process.foreign_launcher import LAUNCHER_COMPONENT
from nvflare.app_common.launchers.subprocess_launcher import SubprocessLauncher
from tests.integration_test.client_api.attach_harness import RUNNER, SHORT_LEASE, assert_works, attached, workspace
from tests.integration_test.client_api.external_jobs import TRAINER_SCRIPT
from tests.unit_test.app_common.executors.client_api.process_watch import WITH_PROCESSES, marked_pids
from tests.unit_test.app_common.executors.job_harness import JOB_ID, LIMIT, PROJECT, SITE_NAME, assert_failed, make_task

pytestmark = WITH_PROCESSES


def start(job, launcher, **arguments):
    job.start(attached(**{**SHORT_LEASE, **arguments}), components={LAUNCHER_COMPONENT: launcher})


def subprocess_launcher(job, script=TRAINER_SCRIPT, **arguments) -> SubprocessLauncher:
    """nvflare's own, with the command that a person would type."""
    command = f"{sys.executable} -u -m {RUNNER} --workspace {workspace(job)} --job {JOB_ID} --site {SITE_NAME}"
    return SubprocessLauncher(f"{command} -- {script}", shutdown_timeout=LIMIT, **arguments)


@pytest.mark.filterwarnings("ignore:.*FileIO:pytest.PytestUnraisableExceptionWarning")  # nvflare closes no output
class TestSubprocessLauncher:
    @pytest.mark.parametrize("launch_once", [True, False])
    def test_works(self, job, launch_once):
        start(job, subprocess_launcher(job, launch_once=launch_once))
        for _ in range(2):
            assert_works(job)

    def test_that_of_the_readme(self, job, client_config, monkeypatch):
        """As nvflare makes it from the job's config, where it fills in the variables."""
        shutil.copy(TRAINER_SCRIPT, job.custom_dir / "train.py")
        monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
        shown = re.search(r"```json\n(.*?)```", (PROJECT / "README.md").read_text(), re.DOTALL)[1]
        executor = {"path": f"{AttachExecutor.__module__}.AttachExecutor", "args": {"attach_timeout": LIMIT}}
        text = {
            "format_version": 2,
            "executors": [{"tasks": ["train"], "executor": executor}],
            "components": [json.loads(shown)],
            "task_data_filters": [],
            "task_result_filters": [],
        }
        config = job.read_config("config_fed_client.json", json.dumps(text))
        job.start(*config.task_router.task_table.values(), components=config.components)
        assert_works(job)

    def test_lost_trainer_is_launched_again(self, job, site_log, no_process_left):
        start(job, subprocess_launcher(job, launch_once=False), allow_reconnect=True)
        assert_works(job)
        for pid in marked_pids(no_process_left) - {os.getpid()}:
            os.kill(pid, signal.SIGKILL)
        site_log.wait_for("-> lost")
        assert_works(job)

    def test_command_that_fails(self, job, site_log):
        start(job, SubprocessLauncher(f"{sys.executable} -c 'raise SystemExit(3)'", launch_once=False))
        assert_failed(job.execute("train", make_task()), "SubprocessLauncher", "says that its trainer failed")
        assert_failed(job.execute("train", make_task()), "says that its trainer failed")
        assert len(site_log.find("says that its trainer failed")) == 3  # when it was seen, and by each task


class Scripted(Launcher):
    """Does what a test says."""

    def __init__(self, launch=lambda: True, stop=lambda: None):
        super().__init__()
        self.launch, self.stop = launch, stop

    def launch_task(self, *args) -> bool:
        return self.launch()

    def stop_task(self, *args) -> None:
        self.stop()

    def check_run_status(self, *args) -> str:
        return LauncherRunStatus.NOT_RUNNING


def fail():
    raise RuntimeError("no nodes")


@pytest.mark.parametrize(
    "launch, cause", [(lambda: False, "has launched no trainer"), (fail, "RuntimeError: no nodes")]
)
def test_launcher_that_fails(job, launch, cause):
    start(job, Scripted(launch))
    assert_failed(job.execute("train", make_task()), "the job's launcher Scripted (client_api_launcher)", cause)


def test_launcher_that_cannot_stop(job, site_log):
    start(job, Scripted(stop=fail))
    job.end()
    assert site_log.find("Scripted did not stop well: RuntimeError: no nodes")


def test_launcher_that_hangs(job, site_log, monkeypatch):
    monkeypatch.setattr(limits, "LAUNCHER_STOP_TIMEOUT", 0.2)
    go_on = threading.Event()
    start(job, Scripted(launch=lambda: go_on.wait(LIMIT)))
    job.end()
    assert site_log.find("Scripted did not stop within 0.2 s")
    go_on.set()


def test_another_component(job):
    start(job, FLComponent())
    assert f"component {LAUNCHER_COMPONENT} must be a Launcher" in job.panics[0]
