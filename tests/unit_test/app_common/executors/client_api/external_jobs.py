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

"""Jobs with a trainer in a process tree of its own."""

import json
import logging
import shutil
import sys
import threading
from pathlib import Path

import numpy as np
from job_harness import make_task, model_of

from nvflare.app_common.executors.client_api_executor import ClientAPIExecutor
from nvflare.client.constants import CLIENT_API_CONFIG

TRAINER_SCRIPT = Path(__file__).with_name("trainer_script.py")
STOP_GRACE_PERIOD = 1.0
# Seconds that a wait for an event may take.
LIMIT = 30.0
SMALL = 4
# Elements of an array that is too large to travel inside a message.
LARGE = 512 * 1024


class LogWatch(logging.Handler):
    """Keeps what is logged, and lets a test wait for it."""

    def __init__(self):
        super().__init__()
        self.records = []
        self._logged = threading.Condition()

    def emit(self, record):
        with self._logged:
            self.records.append(record)
            self._logged.notify_all()

    def find(self, text: str) -> list:
        return [record for record in list(self.records) if text in record.getMessage()]

    def wait_for(self, text: str, count: int = 1) -> None:
        with self._logged:
            assert self._logged.wait_for(lambda: len(self.find(text)) >= count, LIMIT), text


def external(command: str, **arguments) -> ClientAPIExecutor:
    arguments = {"stop_grace_period": STOP_GRACE_PERIOD, **arguments}
    return ClientAPIExecutor("external_process", command=f"{sys.executable} -u {command}", **arguments)


def start(job, script: str, arguments: str = "", **executor_arguments):
    """Starts a job with a script that a test writes."""
    return job.start(external(f"custom/{job.script(script)} {arguments}", **executor_arguments))


def start_fated(job, phase: str = "", fault: str = "", **arguments):
    """Starts a job whose trainer meets a fault in one of its phases, once."""
    shutil.copy(TRAINER_SCRIPT, job.custom_dir)
    return job.start(external(f"custom/{TRAINER_SCRIPT.name} {phase} {fault}", **arguments))


def task_of(size: int):
    return make_task(w=np.zeros(size, dtype=np.float32))


def assert_works(job, size: int = SMALL) -> None:
    params = model_of(job.execute("train", task_of(size))).params
    assert params["w"].size == size and (params["w"] == 1.0).all()


def stats(job) -> dict:
    return job.stats()["ClientAPIExecutor"]


def bootstrap_path(job) -> Path:
    return Path(job.workspace.get_app_config_dir(job.job_id)) / CLIENT_API_CONFIG


def pipe_args(config: Path) -> dict:
    return json.loads(config.read_text())["TASK_EXCHANGE"]["pipe"]["ARG"]
