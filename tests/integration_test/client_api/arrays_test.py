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

"""Large models between server, job and trainer: pulled by the job, handed over, served by it, and faults meanwhile.

What the server has got it tells itself: the type and the bits of what it has pulled.
"""

import os
import signal

import numpy as np
import pytest

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_constant import FilterKey, FLContextKey, ReturnCode
from nvflare.apis.signal import Signal
from nvflare.app_common.executors.client_api_executor import ClientAPIExecutor
from nvflare.fuel.utils.fobs.decomposers.via_downloader import LazyDownloadRef
from tests.integration_test.client_api.cell_harness import fetch_task
from tests.integration_test.client_api.external_jobs import round_trip, runner_with, start_fated, stats
from tests.unit_test.app_common.executors.client_api.process_watch import WITH_PROCESSES
from tests.unit_test.app_common.executors.job_harness import LARGE, LIMIT, MEDIUM, SMALL, assert_failed, model_of

pytestmark = WITH_PROCESSES

SIZES = [SMALL, MEDIUM, LARGE]
# How a trainer dies: what the cause must say.
DEATHS = {"exit_3": "exit code 3", "sigkill": "killed by SIGKILL", "sigkill_guard": "its process guard ended first"}

IN_PROCESS_SCRIPT = """
    import nvflare.client as flare

    flare.init()
    while flare.is_running():
        model = flare.receive()
        flare.send(flare.FLModel(params={name: value + 1 for name, value in model.params.items()}))
"""


@pytest.fixture
def site_cell(job_cell, no_process_left):
    return job_cell


def start_in_process(job, runner) -> None:
    executor = ClientAPIExecutor("in_process", task_script_path=job.script(IN_PROCESS_SCRIPT))
    job.start(executor, runner=runner(executor))


MODES = {"external_process": lambda job, runner: start_fated(job, runner=runner), "in_process": start_in_process}


class Listener(FLComponent):
    """A component of the job that keeps what it gets to see of results."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def handle_event(self, event_type, fl_ctx):
        if event_type == EventType.AFTER_TASK_EXECUTION:
            self.seen.append(model_of(fl_ctx.get_prop(FLContextKey.TASK_RESULT)).params["w"])


@pytest.mark.parametrize("start", MODES.values(), ids=MODES.keys())
class TestWhoSeesArrays:
    @pytest.mark.parametrize(
        "filters, task_type",
        [
            ({}, LazyDownloadRef),
            ({"task_data_filters": FilterKey.IN}, np.ndarray),
            ({"task_result_filters": FilterKey.OUT}, LazyDownloadRef),
        ],
        ids=["none", "of_tasks", "of_results"],
    )
    @pytest.mark.parametrize("size", SIZES)
    def test_filters(self, job, job_cell, start, filters, task_type, size):
        start(job, runner_with(**filters))
        for _ in range(2):
            task_array, result_array = round_trip(job, job_cell, size)
            assert isinstance(task_array, task_type) and isinstance(result_array, np.ndarray)
            assert (result_array == 4).all(), "whoever has it keeps it"

    def test_another_executor(self, job, job_cell, start):
        start(job, runner_with("another executor"))
        assert isinstance(round_trip(job, job_cell)[0], np.ndarray)

    def test_channel_is_as_it_was_after_the_job(self, job, job_cell, start):
        before = set(job_cell.decode_pass_through_channels)
        start(job, runner_with())
        round_trip(job, job_cell)
        job.end()
        assert job_cell.decode_pass_through_channels == before
        assert isinstance(model_of(fetch_task(job_cell, LARGE, 1.0)).params["w"], np.ndarray)

    def test_where_the_time_went(self, job, job_cell, site_log, start):
        start(job, runner_with())
        round_trip(job, job_cell)
        (line,) = [record.getMessage() for record in site_log.find("task 'train' (round 0)")]
        assert "pulled 13 MB in" in line and "served in" in line
        assert stats(job)["served_bytes"] > LARGE * 4


def start(job, site_log, phase: str, fault: str, **arguments) -> None:
    start_fated(job, phase, fault, runner=runner_with(), **{"shutdown_timeout": 0.1, **arguments})


class TestWhileATaskIsHandedOver:
    @pytest.mark.parametrize("fault", DEATHS)
    def test_death_of_the_trainer(self, job, job_cell, site_log, fault):
        start(job, site_log, "receiving", fault)
        assert_failed(job.execute("train", fetch_task(job_cell, LARGE, 3.0)), DEATHS[fault])
        round_trip(job, job_cell)

    def test_abort(self, job, job_cell, site_log):
        start(job, site_log, "receiving", "hang")
        abort_signal = Signal()
        running = job.submit("train", fetch_task(job_cell, LARGE, 3.0), abort_signal)
        site_log.wait_for("now: hang")
        abort_signal.trigger(True)
        assert running.result(LIMIT).get_return_code() == ReturnCode.TASK_ABORTED
        job.end()

    def test_end_of_the_job(self, job, job_cell, site_log):
        start(job, site_log, "receiving", "hang")
        running = job.submit("train", fetch_task(job_cell, LARGE, 3.0))
        site_log.wait_for("now: hang")
        job.end()
        assert_failed(running.result(LIMIT), "the job ends")


class TestAfterSend:
    """When `flare.send()` has returned nothing depends on the trainer any more."""

    @pytest.mark.parametrize("launch_once", [True, False])
    @pytest.mark.parametrize("fault", [*DEATHS, "sigstop", "exit_0"])
    @pytest.mark.parametrize("size", SIZES)
    def test_fate_of_the_trainer(self, job, job_cell, site_log, size, fault, launch_once):
        beats = {"heartbeat_interval": 0.2, "heartbeat_timeout": 1.0}
        start(job, site_log, "accepted", fault, launch_once=launch_once, **beats)
        round_trip(job, job_cell, size, after_task=lambda: site_log.wait_for(f"now: {fault}"))
        if launch_once:
            site_log.wait_for("-> lost")  # the next task gets a trainer that lives
        round_trip(job, job_cell, size)
        assert job.panics == []

    def test_memory_is_freed_with_the_result(self, job, job_cell, site_log):
        start(job, site_log, "", "")
        round_trip(job, job_cell)
        with open("/proc/self/maps") as f:
            assert "memfd:client_api" not in f.read()
        assert not [fd for fd in os.listdir("/proc/self/fd") if "memfd:client_api" in target_of(fd)]

    def test_trainer_that_is_idle_meanwhile(self, job, job_cell, site_log):
        start(job, site_log, "", "")
        killed = []

        def kill():
            killed.append(stats(job)["pid"])
            os.kill(killed[0], signal.SIGKILL)
            site_log.wait_for("-> lost")

        round_trip(job, job_cell, after_task=kill)
        round_trip(job, job_cell)
        assert stats(job)["launches"] == 2


def target_of(fd: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""


def test_server_that_loses_its_arrays(job, job_cell, site_log):
    """What is pulled may be gone: the task fails with the reason, and the next one works."""
    start(job, site_log, "", "")
    task = fetch_task(job_cell, LARGE, 3.0)
    model = model_of(task)
    lost = LazyDownloadRef(model.params["w"].fqcn, "no such arrays", "T0", model.params["w"].dot)
    task["DXO"]["data"]["w"] = lost
    assert_failed(job.execute("train", task), "the arrays of the task cannot be pulled")
    round_trip(job, job_cell)
