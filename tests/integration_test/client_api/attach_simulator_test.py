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

"""Whole jobs in nvflare's simulator: ClientAPIExecutor in mode attach between nvflare's controllers and trainers that
are started by hand, before the job or after it, over the cellnet or over a shared folder.
"""

import re
import shlex
import sys
import textwrap
from pathlib import Path
from typing import Optional

import pytest

from nvflare.app_common.executors.client_api.attach import ExitCode
from nvflare.app_common.executors.client_api.attach_backend import PIPE_COMPONENT
from nvflare.app_common.executors.client_api_executor import ClientAPIExecutor
from nvflare.fuel.utils.constants import Mode
from nvflare.fuel.utils.pipe.file_pipe import FilePipe
from tests.integration_test.client_api.attach_harness import Trainer, attach_command
from tests.integration_test.client_api.simulation import SimulatedJob, Simulation, complaints
from tests.integration_test.client_api.simulator_parts import LogKeeper
from tests.unit_test.app_common.executors.markers import needs_torch

pytestmark = pytest.mark.watchdog(600)

ROUNDS = 2
SCALARS = 200  # logged in one task

TRAIN = f"""
    import nvflare.client as flare
    from nvflare.client.tracking import SummaryWriter
    flare.init()
    writer = SummaryWriter()
    while flare.is_running():
        model = flare.receive()
        for step in range({SCALARS}):
            writer.add_scalar("loss", float(step), model.current_round * {SCALARS} + step)
        flare.send(flare.FLModel(params={{"numpy_key": model.params["numpy_key"] + 1}}))
    print("at the end")
"""

# Every rank loops on flare.is_running(); rank 0 receives, broadcasts and sends.
TRAIN_DISTRIBUTED = f"""
    import torch
    import torch.distributed as dist
    import nvflare.client as flare
    from nvflare.client.tracking import SummaryWriter

    dist.init_process_group("gloo")
    rank = dist.get_rank()
    flare.init(rank=str(rank))
    while flare.is_running():
        weights = torch.zeros(3, dtype=torch.float64)
        if rank == 0:
            model = flare.receive()
            weights = torch.from_numpy(model.params["numpy_key"]).clone()
        dist.broadcast(weights, src=0)
        step = torch.full((3,), 0.5, dtype=torch.float64)
        dist.all_reduce(step)
        if rank == 0:
            for number in range({SCALARS}):
                SummaryWriter().add_scalar("loss", float(number), model.current_round * {SCALARS} + number)
            flare.send(flare.FLModel(params={{"numpy_key": (weights + step).numpy()}}))
"""


def start_job(root: Path, pipe: Optional[FilePipe] = None) -> Simulation:
    """Starts a job at one site."""
    root.mkdir()
    job = SimulatedJob(root, rounds=ROUNDS)
    job.fed_job.to_server(LogKeeper(), id="log_keeper")
    job.fed_job.to_clients(ClientAPIExecutor("attach", attach_timeout=60.0))
    if pipe:
        job.fed_job.to_clients(pipe, id=PIPE_COMPONENT)
    return job.start()


def command_of(job: Simulation) -> list:
    """The command that the log tells to type, up to the script."""
    return shlex.split(re.search(r"to start one: (.* -- )SCRIPT.py", job.wait_for("to start one: "))[1])


def assert_good(job: Simulation) -> None:
    assert job.exit_code == 0, job.log
    assert job.global_model().tolist() == [2.0, 2.0, 2.0]
    assert [step for _, _, _, step in job.log_records()] == list(range(ROUNDS * SCALARS))
    assert job.left_files() == []
    assert complaints(job.log) == []


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "train.py"
    path.write_text(textwrap.dedent(TRAIN))
    return path


def test_resident_trainer_that_was_there_first_serves_two_jobs(tmp_path, script):
    """One over the cellnet, one over a shared folder."""
    folder = tmp_path / "shared"
    trainer = Trainer(*attach_command(tmp_path, script, options=["--follow"]), cwd="/")
    try:
        trainer.output.wait_for("waiting for a job")
        assert_good(start_job(tmp_path / "first").finish())
        assert_good(start_job(tmp_path / "second", FilePipe(Mode.PASSIVE, str(folder))).finish())
        trainer.output.wait_for("at the end", 2)
        assert list(folder.rglob("*")) == []
    finally:
        trainer.stop()


def test_trainer_that_comes_later_by_the_command_of_the_log(tmp_path, script):
    job = start_job(tmp_path / "job")
    try:
        trainer = Trainer(sys.executable, *command_of(job)[1:], str(script), cwd="/")
        try:
            assert_good(job.finish())
            assert trainer.exit_code() == ExitCode.ENDED
        finally:
            trainer.stop()
    finally:
        job.stop()


@needs_torch
def test_ranks_of_torchrun_join_as_one_trainer(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(textwrap.dedent(TRAIN_DISTRIBUTED))
    job = start_job(tmp_path / "job")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m"]
    ranks = Trainer(*launcher, *command_of(job)[2:], str(script), cwd="/")
    try:
        assert_good(job.finish())
    finally:
        job.stop()
        ranks.stop()
