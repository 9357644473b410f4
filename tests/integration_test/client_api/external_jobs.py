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
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Callable

import numpy as np

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FilterKey, FLContextKey, ReturnCode
from nvflare.apis.signal import Signal
from nvflare.app_common.executors.client_api_executor import ClientAPIExecutor
from nvflare.client.constants import CLIENT_API_CONFIG
from tests.integration_test.client_api.cell_harness import fetch_task, submit_result
from tests.unit_test.app_common.executors.job_harness import LARGE, SMALL, make_task, model_of

TRAINER_SCRIPT = Path(__file__).with_name("trainer_script.py")
RANKS_SCRIPT = Path(__file__).with_name("ranks_script.py")
RANKS = 2
STOP_GRACE_PERIOD = 1.0

# In the first round the result has an object of a class that the job does not know.
SENDS_UNKNOWN_CLASS = """
    import nvflare.client as flare
    from nvflare.fuel.utils import fobs

    class Own:
        def __init__(self):
            self.value = 1

    fobs.register_data_classes(Own)
    flare.init()
    while flare.is_running():
        model = flare.receive()
        meta = {"own": Own()} if model.current_round == 0 else {}
        try:
            flare.send(flare.FLModel(params={"w": model.params["w"] + 1}, meta=meta))
        except Exception as error:
            raise SystemExit(f"my result: {error}")
"""


def external(command: str, **arguments) -> ClientAPIExecutor:
    arguments = {"stop_grace_period": STOP_GRACE_PERIOD, **arguments}
    return ClientAPIExecutor("external_process", command=f"{sys.executable} -u {command}", **arguments)


def start(job, script: str, arguments: str = "", **executor_arguments):
    """Starts a job with a script that a test writes."""
    return job.start(external(f"custom/{job.script(script)} {arguments}", **executor_arguments))


def start_fated(job, phase: str = "", fault: str = "", runner=None, components=None, **arguments):
    """Starts a job whose trainer meets a fault in one of its phases, once."""
    shutil.copy(TRAINER_SCRIPT, job.custom_dir)
    executor = external(f"custom/{TRAINER_SCRIPT.name} {phase} {fault}", **arguments)
    return job.start(executor, runner=runner and runner(executor), components=components)


def renew_fate(job, fault: str = "") -> None:
    """Has a job's trainers meet a fault once more: the one that they were started with, or another."""
    if fault:
        (job.custom_dir / "fault").write_text(fault)
    (job.custom_dir / "faulted").unlink(missing_ok=True)


def start_ranks(job):
    """Starts a job whose ranks, under torchrun, spin in C code in their first task."""
    shutil.copy(RANKS_SCRIPT, job.custom_dir)
    torchrun = f"-m torch.distributed.run --standalone --nproc_per_node={RANKS}"
    return job.start(external(f"{torchrun} custom/{RANKS_SCRIPT.name}"))


def task_of(size: int = SMALL):
    return make_task(w=np.zeros(size, dtype=np.float32))


def assert_works(job, size: int = SMALL, added: float = 1.0) -> None:
    """Asserts that a task comes back with what the script adds to a model."""
    params = model_of(job.execute("train", task_of(size))).params
    assert params["w"].size == size and (params["w"] == added).all()


def stats(job) -> dict:
    return job.stats()["ClientAPIExecutor"]


def bootstrap_path(job) -> Path:
    return Path(job.workspace.get_app_config_dir(job.job_id)) / CLIENT_API_CONFIG


def pipe_args(config: Path) -> dict:
    return json.loads(config.read_text())["TASK_EXCHANGE"]["pipe"]["ARG"]


def runner_with(*others, **filters):
    """Returns what makes what a job's runner tells of an executor's surroundings.

    Args:
        others: executors of other tasks.
        filters: by chain, the direction that has one.
    """

    def make(executor):
        chains = {"task_data_filters": {}, "task_result_filters": {}}
        for chain, direction in filters.items():
            chains[chain][f"train{FilterKey.DELIMITER}{direction}"] = ["a filter"]
        tasks = {"train": executor, **{f"other{i}": other for i, other in enumerate(others)}}
        return SimpleNamespace(task_router=SimpleNamespace(task_table=tasks), **chains)

    return make


def round_trip(job, cell, size: int = LARGE, after_task: Callable[[], None] = lambda: None, **others) -> tuple:
    """Does one task of the server as nvflare does; returns the task's and the result's array as the job has seen them.

    Args:
        job: the job.
        cell: its cell.
        size: float32 values of the model.
        after_task: called when the job has the result, and the server does not.
        others: what the server finds in it beside the model.
    """
    task = fetch_task(cell, size, 3.0)
    task_array = model_of(task).params["w"]
    with job.engine.new_context() as fl_ctx:
        result = job.executor.execute("train", task, fl_ctx, Signal())
        assert result.get_return_code() == ReturnCode.OK, result
        result_array = model_of(result).params["w"]
        for event_type in (EventType.AFTER_TASK_EXECUTION, EventType.BEFORE_TASK_RESULT_FILTER):
            job.executor.fire_event_with_data(event_type, fl_ctx, FLContextKey.TASK_RESULT, result)
        after_task()
        job.executor.fire_event_with_data(EventType.AFTER_TASK_RESULT_FILTER, fl_ctx, FLContextKey.TASK_RESULT, result)
        job.engine.fire_event(EventType.BEFORE_SEND_TASK_RESULT, fl_ctx)
        assert submit_result(cell, result) == {**whole_model(size), **others}
        job.engine.fire_event(EventType.AFTER_SEND_TASK_RESULT, fl_ctx)
    return task_array, result_array


def whole_model(size: int = LARGE) -> dict:
    """What the server finds in the result of a round trip."""
    return {"type": "ndarray", "size": size, "low": 4.0, "high": 4.0}
