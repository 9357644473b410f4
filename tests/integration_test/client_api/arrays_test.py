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

import logging
import os
import signal
import threading
import uuid
from pathlib import Path

import numpy as np
import pytest

from nvflare.apis.dxo import DXO, DataKind, from_shareable
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_constant import FilterKey, FLContextKey, ReturnCode
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from nvflare.app_common.executors.client_api.arrays.limits import CHUNK_TRIES
from nvflare.app_common.executors.client_api.arrays.pull import Puller
from nvflare.app_common.executors.client_api.arrays.serve import ResultServer
from nvflare.app_common.executors.client_api_executor import ClientAPIExecutor
from nvflare.fuel.f3.cellnet.cell import Cell
from nvflare.fuel.f3.cellnet.defs import ReturnCode as CellReturnCode
from nvflare.fuel.f3.cellnet.utils import make_reply
from nvflare.fuel.f3.message import Message
from nvflare.fuel.f3.streaming.download_service import OBJ_DOWNLOADER_CHANNEL, OBJ_DOWNLOADER_TOPIC
from nvflare.fuel.utils.config_service import ConfigService
from nvflare.fuel.utils.fobs.decomposers.via_downloader import LazyDownloadRef
from tests.integration_test.client_api.attach_harness import SHORT_LEASE, attached, fated
from tests.integration_test.client_api.cell_harness import fetch_task
from tests.integration_test.client_api.external_jobs import (
    assert_works,
    external,
    renew_fate,
    round_trip,
    runner_with,
    start_fated,
    stats,
    task_of,
)
from tests.unit_test.app_common.executors.client_api.process_watch import WITH_PROCESSES, limited_files
from tests.unit_test.app_common.executors.job_harness import (
    LARGE,
    LIMIT,
    MEDIUM,
    SMALL,
    assert_failed,
    model_of,
    warm_up_pools,
)

pytestmark = WITH_PROCESSES

# Sizes of the tasks of one job.
TWICE_EACH = [SMALL, SMALL, MEDIUM, MEDIUM, LARGE, LARGE]
HUGE = 6 * 1024 * 1024  # 24 MB: memory for it is reserved in more than one step
# How a trainer dies: what the cause must say.
DEATHS = {"exit_3": "exit code 3", "sigkill": "killed by SIGKILL", "sigkill_guard": "its process guard ended first"}

IN_PROCESS_SCRIPT = """
    import nvflare.client as flare

    flare.init()
    while flare.is_running():
        model = flare.receive()
        flare.send(flare.FLModel(params={name: value + 1 for name, value in model.params.items()}))
"""


IN_PLACE = """
    import nvflare.client as flare

    flare.init()
    while flare.is_running():
        params = flare.receive().params
        for array in params.values():
            array += 1
        flare.send(flare.FLModel(params=dict(params)))
        for array in params.values():
            array += 1  # it goes on with the next epoch
"""

WITH_SMALL_ONES = """
    import numpy as np
    import nvflare.client as flare

    flare.init()
    while flare.is_running():
        small = {"b": np.arange(3, dtype=np.float16), "n": np.array(7, dtype=">i4"), "t": np.zeros((1, 0), bool)}
        flare.send(flare.FLModel(params={"w": flare.receive().params["w"] + 1, **small}))
"""

# Tries a result for which no host has the memory, and sends another one when it is refused.
TOO_LARGE = """
    import numpy as np
    import nvflare.client as flare

    flare.init()
    while flare.is_running():
        model = flare.receive()
        try:
            flare.send(flare.FLModel(params={"w": np.broadcast_to(np.float32(0), (10**12,))}))
        except ValueError as e:
            print("refused:", e)
        flare.send(flare.FLModel(params={"w": model.params["w"] + 1}))
"""

# Has the system give it no more address space once it has joined.
SMALL_SPACE = """
    import resource
    from pathlib import Path
    import nvflare.client as flare

    flare.init()
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + 1024 * 1024, -1))
    print("has little space", flush=True)
    while flare.is_running():
        model = flare.receive()
        flare.send(flare.FLModel(params={"w": model.params["w"] + 1}))
"""


@pytest.fixture
def site_cell(job_cell, no_process_left):
    return job_cell


def start_in_process(job, runner, components=None) -> None:
    executor = ClientAPIExecutor("in_process", task_script_path=job.script(IN_PROCESS_SCRIPT))
    job.start(executor, runner=runner(executor), components=components)


def start_external(job, runner, components=None) -> None:
    start_fated(job, runner=runner, components=components)


MODES = {"external_process": start_external, "in_process": start_in_process}


RESULT_EVENTS = (
    EventType.AFTER_TASK_EXECUTION,
    EventType.BEFORE_TASK_RESULT_FILTER,
    EventType.AFTER_TASK_RESULT_FILTER,
)


class Listener(FLComponent):
    """A component of the job that keeps what it gets to see of results, until they are sent."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def handle_event(self, event_type, fl_ctx):
        if event_type in RESULT_EVENTS:
            self.seen.append(model_of(fl_ctx.get_prop(FLContextKey.TASK_RESULT)).params["w"])


class TaskLooker(FLComponent):
    """A component that looks at tasks before the executor has them."""

    def handle_event(self, event_type, fl_ctx):
        if event_type == EventType.BEFORE_TASK_EXECUTION:
            print(model_of(fl_ctx.get_prop(FLContextKey.TASK_DATA)).params["w"].mean())


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
    def test_filters(self, job, job_cell, start, filters, task_type):
        start(job, runner_with(**filters))
        for size in TWICE_EACH:
            task_array, result_array = round_trip(job, job_cell, size)
            assert isinstance(task_array, task_type) and isinstance(result_array, np.ndarray)
            assert (result_array == 4).all(), "whoever has it keeps it"

    def test_another_executor(self, job, job_cell, start):
        start(job, runner_with("another executor"))
        assert isinstance(round_trip(job, job_cell)[0], np.ndarray)

    def test_component_sees_results(self, job, job_cell, start):
        start(job, runner_with())
        listener = Listener()
        job.engine.add_handler(listener)
        for size in TWICE_EACH:
            round_trip(job, job_cell, size)
        assert [array.size for array in listener.seen] == [size for size in TWICE_EACH for _ in RESULT_EVENTS]
        while listener.seen:  # as long as it has them, their memory is there
            array = listener.seen.pop()
            assert isinstance(array, np.ndarray) and (array == 4).all()

    def test_component_that_looks_at_tasks(self, job, job_cell, start):
        start(job, runner_with(), components={"looker": TaskLooker()})
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
    def test_fate_of_the_trainer(self, job, job_cell, site_log, fault, launch_once):
        beats = {"heartbeat_interval": 0.2, "heartbeat_timeout": 1.0}
        start(job, site_log, "accepted", fault, launch_once=launch_once, **beats)
        for number, size in enumerate((SMALL, HUGE), start=1):
            renew_fate(job)
            round_trip(job, job_cell, size, after_task=lambda: site_log.wait_for(f"now: {fault}", number))
            if launch_once:
                site_log.wait_for("-> lost", number)  # the next task gets a trainer that lives
        round_trip(job, job_cell, SMALL)
        assert job.panics == []

    def test_memory_is_freed_with_the_result(self, job, job_cell, site_log):
        start(job, site_log, "", "")
        round_trip(job, job_cell)
        assert no_memory_in_use()

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


class TestAfterSendInAttach:
    """The same of a trainer that somebody else owns."""

    @pytest.mark.parametrize("fault", ["sigkill", "sigstop", "exit_0"])
    def test_fate_of_the_trainer(self, job, job_cell, trainers, fault):
        executor = attached(**SHORT_LEASE, allow_reconnect=True)
        job.start(executor, runner=runner_with()(executor))
        for size in (SMALL, HUGE):
            renew_fate(job)
            doomed = trainers(fated(job), "accepted", fault)
            round_trip(job, job_cell, size, after_task=lambda: doomed.output.wait_for(f"now: {fault}"))
        trainers(fated(job))
        round_trip(job, job_cell, SMALL)
        assert job.panics == [] and no_memory_in_use()


def test_no_more_than_16_mib_travel_inside_a_result(job):
    mib = 1024 * 1024
    arrays = {"too large": np.zeros(mib + 1, np.uint8), **{f"w{n}": np.zeros(mib, np.uint8) for n in range(20)}}
    start_in_process(job, runner_with())
    result, server = DXO(DataKind.WEIGHTS, arrays).to_shareable(), ResultServer()
    with job.engine.new_context() as fl_ctx:
        server.refer(result, fl_ctx)
    left_out = [name for name, array in from_shareable(result).data.items() if isinstance(array, LazyDownloadRef)]
    assert left_out == ["too large", "w16", "w17", "w18", "w19"]
    server.close()


class TestScripts:
    @pytest.mark.parametrize("filters", [{}, {"task_data_filters": FilterKey.IN}], ids=["pulled", "brought"])
    def test_training_in_place(self, job, job_cell, filters):
        """What the script is given is its own, and so is what it has sent once `flare.send()` has returned."""
        executor = external(f"custom/{job.script(IN_PLACE)}")
        job.start(executor, runner=runner_with(**filters)(executor))
        seen = [round_trip(job, job_cell, size) for size in TWICE_EACH]
        for task_array, result_array in seen:
            assert (result_array == 4).all()
            assert not filters or (task_array == 3).all()

    def test_large_and_small_arrays(self, job, job_cell):
        """The small ones travel inside the result, the others are pulled."""
        executor = external(f"custom/{job.script(WITH_SMALL_ONES)}")
        job.start(executor, runner=runner_with()(executor))
        for size in (LARGE, SMALL):
            round_trip(job, job_cell, size, b=["float16", [0.0, 1.0, 2.0]], n=[">i4", 7], t=["bool", [[]]])

    def test_tasks_of_changing_size(self, job, job_cell, site_log):
        """Whether arrays were short the last time is not what decides whether they come."""
        start(job, site_log, "", "")
        for size in (SMALL, SMALL, LARGE, SMALL, SMALL, MEDIUM, LARGE):
            round_trip(job, job_cell, size)

    def test_100_rounds(self, job):
        executor = external(f"custom/{job.script(IN_PLACE)}")
        job.start(executor, runner=runner_with()(executor))
        for _ in range(5):
            assert_works(job, MEDIUM)
        before = {pid: in_use_of(pid) for pid in ("self", stats(job)["pid"])}
        for _ in range(100):
            assert_works(job, MEDIUM)
        for pid, then in before.items():
            more = {kind: now - then[kind] for kind, now in in_use_of(pid).items()}
            assert max(more.values()) < 20, f"nvflare's pools may grow, and nothing grows with each round: {more}"


def in_use_of(pid) -> dict:
    """What a process must not have more of with each round."""
    maps = Path(f"/proc/{pid}/maps").read_text().count("memfd:client_api")
    return {"maps": maps, **{kind: len(os.listdir(f"/proc/{pid}/{kind}")) for kind in ("fd", "task")}}


class TestLackOfMemory:
    def test_for_a_result(self, job, site_log):
        """The script gets an error, and the task is still its."""
        job.start(external(f"custom/{job.script(TOO_LARGE)}"))
        assert_works(job)
        site_log.wait_for("refused: the arrays need 4000000 MB of memory")

    @pytest.mark.parametrize("filters", [{}, {"task_data_filters": FilterKey.IN}], ids=["pulled", "brought"])
    def test_for_a_task_in_the_job(self, job, job_cell, filters):
        start_fated(job, runner=runner_with(**filters))
        round_trip(job, job_cell)
        task = fetch_task(job_cell, LARGE, 3.0)
        with limited_files(4 << 20):
            assert_failed(job.execute("train", task), "of memory cannot be reserved for arrays: File too large")
        round_trip(job, job_cell)
        assert job.panics == [] and stats(job)["launches"] == 1

    def test_for_a_task_in_the_trainer(self, job, site_log):
        job.start(external(f"custom/{job.script(SMALL_SPACE)}"))
        assert_works(job)
        site_log.wait_for("has little space")
        assert_failed(job.execute("train", task_of(LARGE)), "the trainer cannot take the task", "cannot be mapped")
        assert_works(job)
        assert stats(job)["launches"] == 1


def no_memory_in_use() -> bool:
    with open("/proc/self/maps") as f:
        is_mapped = "memfd:client_api" in f.read()
    return not is_mapped and not [fd for fd in os.listdir("/proc/self/fd") if "memfd:client_api" in target_of(fd)]


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


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_array_with_fields_is_refused_by_name(job, job_cell, size):
    start_in_process(job, runner_with())
    task = fetch_task(job_cell, size, 3.0, dtype="f4, i4")
    assert_failed(
        job.execute("train", task), "the arrays of the task cannot be taken: DXO.data.w: an array with fields"
    )
    round_trip(job, job_cell)


class SilentServer:
    """A cell that answers who asks it for arrays only when it is allowed to."""

    def __init__(self, cell: Cell):
        self.name = cell.get_fqcn()
        self.asked, self.may_answer = threading.Event(), threading.Event()
        warm_up_pools(cell.core_cell.communicator.conn_manager.frame_mgr_executor)
        # By the keyword a Cell tells that it is a channel of streams.
        cell.register_request_cb(channel=OBJ_DOWNLOADER_CHANNEL, topic=OBJ_DOWNLOADER_TOPIC, cb=self._answer)

    def _answer(self, request: Message) -> Message:
        self.asked.set()
        self.may_answer.wait()
        return make_reply(CellReturnCode.OK, body={"w": bytes(LARGE)})

    def task(self, job_cell: Cell) -> Shareable:
        """A task of the server whose array is at this cell."""
        task = fetch_task(job_cell, LARGE, 3.0)
        task["DXO"]["data"]["w"] = LazyDownloadRef(self.name, "any", "T0", model_of(task).params["w"].dot)
        return task


@pytest.fixture(scope="module")
def silent_server(federation, job_cell):  # that one has warmed up what all cells share
    cell = federation.join(f"silent-{uuid.uuid4().hex}")
    server = SilentServer(cell)
    yield server
    server.may_answer.set()
    federation.leave(cell)


def test_server_that_stands_still(silent_server, job, job_cell, site_log, client_config):
    ConfigService.reset()  # it keeps what it was once asked for
    client_config(np_streaming_per_request_timeout=0.5)
    start(job, site_log, "", "")
    cause = f"the arrays of the task cannot be pulled from {silent_server.name}: timeout"
    assert_failed(job.execute("train", silent_server.task(job_cell)), cause)
    assert len(site_log.find(f"no byte of the arrays of the task has come from {silent_server.name} in")) == CHUNK_TRIES
    round_trip(job, job_cell)


def test_server_that_answers_when_the_task_is_over(silent_server, job, job_cell, site_log, caplog):
    """As may be with the last answer of any task: the log tells of no trouble."""
    caplog.set_level(logging.DEBUG, Puller.__module__)
    start(job, site_log, "", "")
    silent_server.asked.clear()
    abort_signal = Signal()
    running = job.submit("train", silent_server.task(job_cell), abort_signal)
    assert silent_server.asked.wait(LIMIT)
    abort_signal.trigger(True)
    assert running.result(LIMIT).get_return_code() == ReturnCode.TASK_ABORTED
    silent_server.may_answer.set()
    site_log.wait_for("let go of a chunk that nobody waits for any more")
    assert [record.getMessage() for record in site_log.records if record.levelno >= logging.ERROR] == []
    round_trip(job, job_cell)


def test_server_that_takes_nothing_of_a_result(job, job_cell, site_log):
    start(job, site_log, "", "")
    with job.engine.new_context() as fl_ctx:
        result = job.executor.execute("train", fetch_task(job_cell, LARGE, 3.0), fl_ctx, Signal())
        event_type = EventType.AFTER_TASK_RESULT_FILTER
        job.executor.fire_event_with_data(event_type, fl_ctx, FLContextKey.TASK_RESULT, result)
        for event_type in (EventType.BEFORE_SEND_TASK_RESULT, EventType.AFTER_SEND_TASK_RESULT):
            job.engine.fire_event(event_type, fl_ctx)
    (line,) = site_log.find("task 'train' (round 0)")
    assert "served 0 of 13 MB in" in line.getMessage()
