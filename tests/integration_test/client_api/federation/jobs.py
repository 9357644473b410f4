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

"""The job that the federation's tests run: FedAvg whose every model is checked, with an app of its own at each site."""

import json
import os
import select
import time
from pathlib import Path
from typing import Dict, List

import numpy as np
from checking_aggregator import ACCEPTED_FILE, VIOLATIONS_FILE, CheckingAggregator
from zeros_persistor import MODEL_FILE, ZerosPersistor

from nvflare.app_common.executors.client_api_executor import ClientAPIExecutor
from nvflare.app_common.widgets.convert_to_fed_event import ConvertToFedEvent
from nvflare.app_common.workflows.fedavg import FedAvg
from nvflare.job_config.api import FedJob
from tests.integration_test.client_api.simulator_parts import LogKeeper
from tests.unit_test.app_common.executors.job_harness import Gate

JOB_FOLDER = Path(__file__).parent / "job"
TRAINER = JOB_FOLDER / "phased_trainer.py"
RANKED_TRAINER = JOB_FOLDER / "ranked_trainer.py"  # for torchrun
SCRIPTS = (TRAINER, RANKED_TRAINER, JOB_FOLDER / "model_checksum.py")
REACH_TIMEOUT = 60.0  # seconds
SMALL = 4
LARGE = 3 * 1024 * 1024  # elements: 12 MB, which do not travel inside a message, nor in the body of one


def executor(mode: str, folder: Path, **arguments) -> ClientAPIExecutor:
    """An executor for the phased trainer, which is told and tells by this folder."""
    own = {
        "in_process": {"task_script_path": TRAINER.name, "task_script_args": str(folder)},
        "external_process": {"command": f"python3 -u custom/{TRAINER.name} {folder}", "stop_grace_period": 2.0},
        "attach": {"attach_timeout": 60.0},
    }
    return ClientAPIExecutor(mode, **{**own[mode], **arguments})


def make_job(
    name: str, executors: Dict[str, ClientAPIExecutor], rounds: int = 3, size: int = SMALL, filtered=(), **fedavg
) -> FedJob:
    """Makes a job in which each site has an executor of its own.

    Args:
        name: unique in its federation.
        executors: by site.
        rounds: their number.
        size: elements of the model.
        filtered: sites whose privacy filters change what they send.
        fedavg: further arguments of nvflare's workflow.
    """
    job = FedJob(name=name, min_clients=len(executors))
    job.to_server(ZerosPersistor(size), id="persistor")
    aggregator = CheckingAggregator(size, list(filtered))
    job.to_server(FedAvg(num_clients=len(executors), num_rounds=rounds, aggregator=aggregator, **fedavg))
    job.to_server(LogKeeper(), id="log_keeper")
    for site, site_executor in executors.items():
        job.to(site_executor, site)
        job.to(ConvertToFedEvent(["analytix_log_stats"]), site, id="event_to_fed")
        for file in SCRIPTS:
            job.add_file_to(str(file), site)
    return job


class Stage:
    """The folder by which a test and the trainers of its job meet; see job/phased_trainer.py."""

    def __init__(self, folder: Path):
        folder.mkdir()
        self.folder = folder
        os.mkfifo(folder / "signpost")
        # For writing, too, so that there is no end of file between two writers.
        self._signpost = os.open(folder / "signpost", os.O_RDWR | os.O_NONBLOCK)
        self._unread = b""
        self._gates: Dict[str, Gate] = {}
        self.reached: List[str] = []  # "SITE PHASE ROUND", in this order

    def hold(self, site: str, phase: str, number: int = 0) -> str:
        """Has a site's trainer wait when it comes to this phase of this round; returns the name for `release`."""
        name = f"{site}-{phase}-{number}"
        self._gates[name] = Gate(self.folder / name)
        return name

    def release(self, name: str) -> None:
        self._gates.pop(name).unlock()

    def fate(self, site: str, fault: str, number: int) -> None:
        """Has a site's trainer fail in this round: by an `exception` or an `exit`."""
        (self.folder / f"{site}-{fault}-{number}").touch()

    def wait_for(self, site: str, phase: str, number: int = 0, timeout: float = REACH_TIMEOUT) -> None:
        """Waits (seconds) until a site's trainer has come to this phase of this round."""
        line, deadline = f"{site} {phase} {number}", time.monotonic() + timeout
        while line not in self.reached:
            readable, _, _ = select.select([self._signpost], [], [], max(0.0, deadline - time.monotonic()))
            assert readable, f"{line!r} was not reached in {timeout} s, only {self.reached}"
            *lines, self._unread = (self._unread + os.read(self._signpost, 65536)).split(b"\n")
            self.reached += [line.decode() for line in lines]

    def close(self) -> None:
        for name in list(self._gates):
            self.release(name)
        os.close(self._signpost)


def read_lines(path: Path) -> List[dict]:
    """The records of a file with a JSON record per line; none if there is no such file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def accepted(server_dir: Path) -> List[tuple]:
    """The (round, site) of each result that counts, sorted."""
    return sorted((entry["round"], entry["site"]) for entry in read_lines(server_dir / ACCEPTED_FILE))


def violations(server_dir: Path) -> List[dict]:
    return read_lines(server_dir / VIOLATIONS_FILE)


def trained_model(server_dir: Path) -> np.ndarray:
    return np.load(server_dir / MODEL_FILE)


def scalars(server_dir: Path, site: str) -> List[int]:
    """The steps that a site has logged, in their order of arrival."""
    return [step for origin, _, _, step in read_lines(server_dir / "log_records.jsonl") if origin == site]
