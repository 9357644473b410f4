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

"""Trainers that somebody else starts: processes of the attach runner, whose output a test can wait for."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Optional

from nvflare.app_common.executors.client_api.session.rendezvous import RENDEZVOUS_FILE
from nvflare.app_common.executors.client_api_executor import ClientAPIExecutor
from tests.integration_test.client_api.external_jobs import (  # noqa: F401 - of both modes
    TRAINER_SCRIPT,
    assert_works,
    stats,
    task_of,
)
from tests.unit_test.app_common.executors.job_harness import LARGE, LIMIT, SMALL

RUNNER = "nvflare.app_common.executors.client_api.attach"
# A task in whose midst something is to happen: (phase, elements of its array).
TASK_PHASES = {"receiving": LARGE, "training": SMALL, "sending": LARGE}
SHORT_LEASE = {"heartbeat_interval": 0.2, "heartbeat_timeout": 1.0}


class Output:
    """The lines of a process, which a test can wait for."""

    def __init__(self, process: subprocess.Popen):
        self._lines = []
        self._changed = threading.Condition()
        self._has_ended = False
        self._reader = threading.Thread(target=self._read, args=(process.stdout,), daemon=True)
        self._reader.start()

    def _read(self, stream) -> None:
        with stream:
            for line in stream:
                with self._changed:
                    self._lines.append(line)
                    self._changed.notify_all()
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()

    def text(self) -> str:
        return "".join(self._lines)

    def wait_for(self, text: str, count: int = 1) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self.text().count(text) >= count or self._has_ended, LIMIT)
        assert self.text().count(text) >= count, f"no {text!r} in:\n{self.text()}"

    def join(self) -> None:
        self._reader.join(LIMIT)


class Trainer:
    """A process of its own: not a child of the job, and nobody but the test ends it."""

    def __init__(self, *command: str, cwd: Optional[Path] = None, **environment: str):
        env = {**os.environ, **environment, "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=cwd,
            env=env,
            start_new_session=True,
        )
        self.output = Output(self.process)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def freeze(self) -> None:
        """Stops the process, and returns when it has stopped."""
        self.signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)

    def type(self, text: str) -> None:
        """Writes a line to the standard input of the process."""
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()

    def is_alive(self) -> bool:
        return self.process.poll() is None

    def exit_code(self, limit: float = LIMIT) -> int:
        """Waits for the end of the process."""
        code = self.process.wait(limit)
        self.output.join()
        return code

    def stop(self) -> None:
        if self.is_alive():
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(LIMIT)
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass  # it has not read all
        self.output.join()


def attach_command(workspace, script, *args: str, wait: float = LIMIT, options=()) -> list:
    """The command that a person types to attach a script."""
    command = [sys.executable, "-m", RUNNER, "--workspace", str(workspace), "--wait", str(wait), *options]
    return [*command, "--", str(script), *args]


def attached(**arguments) -> ClientAPIExecutor:
    return ClientAPIExecutor("attach", **{"attach_timeout": LIMIT, **arguments})


def workspace(job) -> str:
    return job.workspace.get_root_dir()


def rendezvous(job) -> Path:
    return Path(job.workspace.get_app_config_dir(job.job_id), RENDEZVOUS_FILE)


def left_files(job) -> list:
    return [path for path in rendezvous(job).parent.iterdir() if "client_api" in path.name]


def fated(job) -> Path:
    return Path(shutil.copy(TRAINER_SCRIPT, job.custom_dir))
