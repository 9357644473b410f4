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

"""What every test here has: a watchdog, a proof that nothing is left behind, and a job to run an executor in."""

import builtins
import faulthandler
import gc
import logging
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Optional

import pytest

from nvflare.apis.fl_constant import SystemConfigs
from nvflare.fuel.data_event.data_bus import DataBus
from nvflare.fuel.f3.cellnet.cell import Cell
from nvflare.fuel.utils.config_service import ConfigService
from nvflare.private.fed.utils.fed_utils import nvflare_fobs_initialize
from tests.unit_test.app_common.executors.client_api.log_watch import LogWatch
from tests.unit_test.app_common.executors.job_harness import JOB_ID, PROJECT, Cellnet, JobHarness

# Seconds: a test that takes longer hangs. A marker `watchdog(seconds)` gives a test its own limit.
WATCHDOG_TIMEOUT = 180
# Seconds that threads which were told to end may take for it.
THREAD_END_TIMEOUT = 30

# A background job of a shell starts with SIGINT ignored, and the processes that tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config):
    config.addinivalue_line("markers", "watchdog(seconds): the limit after which the test is taken to hang")


def pytest_collection_finish():
    gc.freeze()  # the collected tests stay for the whole run: a test that collects garbage need not look at them


def watchdog_limit(item: pytest.Item) -> float:
    """Seconds after which a test is taken to hang."""
    marker = item.get_closest_marker("watchdog")
    return marker.args[0] if marker else WATCHDOG_TIMEOUT


@pytest.fixture(scope="session", autouse=True)
def empty_folder(tmp_path_factory):
    """Where all runs that tests start: each process of nvflare looks for a config in all folders below, many times."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("empty"))
        patch.setenv("PYTHONPATH", str(PROJECT), prepend=os.pathsep)  # a process that imports tests has to find them
        yield


@pytest.fixture(scope="session")
def real_stderr(request):
    """The terminal: what the watchdog writes must not end in pytest's capture."""
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        fd = os.dup(sys.stderr.fileno())
    yield fd
    os.close(fd)


@pytest.fixture(autouse=True)
def watchdog(request, real_stderr):
    """Dumps the stacks of all threads and ends the run when a test hangs."""
    faulthandler.dump_traceback_later(watchdog_limit(request.node), exit=True, file=real_stderr)
    yield
    faulthandler.cancel_dump_traceback_later()


def _threads() -> set:
    """All threads but those of nvflare's pools for streams: a process has these for good, and they grow as needed."""
    return {thread for thread in threading.enumerate() if not thread.name.startswith("stm_")}


def _children() -> set:
    """The process ids of this process's children."""
    result = set()
    for file in Path("/proc/self/task").glob("*/children"):
        try:
            result.update(int(pid) for pid in file.read_text().split())
        except OSError:
            pass  # of a thread that has just ended, such as the watchdog's of the test before
    return result


def _open_files() -> set:
    result = set()
    for link in Path("/proc/self/fd").iterdir():
        try:
            result.add((link.name, os.readlink(link)))
        except OSError:
            pass  # the one that iterdir itself has used
    return result


def _data_bus_content() -> dict:
    data_bus = DataBus()
    subscribers = {topic: list(callbacks) for topic, callbacks in data_bus.subscribers.items()}
    return {"subscribers": subscribers, "data": dict(data_bus.data_store)}


def _replaceable() -> dict:
    """What an in-process script changes in this process."""
    return {"argv": sys.argv, "print": builtins.print, "excepthook": threading.excepthook}


@pytest.fixture(autouse=True)
def nothing_left(watchdog):
    """Fails a test that leaves a thread, a process, an open file, or a trace on the DataBus or in the interpreter."""
    threads, children, files = _threads(), _children(), _open_files()
    data_bus, replaceable = _data_bus_content(), _replaceable()
    yield
    for thread in _threads() - threads:
        thread.join(THREAD_END_TIMEOUT)
    assert _threads() - threads == set()
    assert _data_bus_content() == data_bus
    assert _replaceable() == replaceable
    assert _children() - children == set()
    assert _open_files() - files == set()


@pytest.fixture
def site_cell():
    """The cell of a job's process; a module whose jobs need one overrides this with cellnet.site_cell."""
    return None


@pytest.fixture
def job_factory(nothing_left, tmp_path, site_cell):
    """Makes jobs that have not started yet; they are ended after the test."""
    harnesses = []

    def make(job_id: str, cell: Optional[Cell] = site_cell) -> JobHarness:
        harnesses.append(JobHarness(tmp_path / f"workspace-{len(harnesses)}", job_id, cell))
        return harnesses[-1]

    yield make
    for harness in harnesses:
        harness.close()


@pytest.fixture
def job(job_factory):
    """A job that has not started yet."""
    return job_factory(JOB_ID)


@pytest.fixture(scope="session")
def torch():
    """Imported late, by the processes whose tests need it: that takes them two seconds."""
    return pytest.importorskip("torch")


@pytest.fixture
def client_config():
    """Sets keys of the job's client config, as recipe.add_client_config does."""

    def set_keys(**keys):
        ConfigService.add_section(SystemConfigs.APPLICATION_CONF, keys, True)

    yield set_keys
    ConfigService.reset()


@pytest.fixture
def site_log():
    root, watch = logging.getLogger(), LogWatch()
    level = root.level
    root.addHandler(watch)
    root.setLevel(logging.INFO)
    yield watch
    root.setLevel(level)
    root.removeHandler(watch)


@pytest.fixture(scope="module")
def cellnet():
    """A server's cell and a site's cell, connected."""
    nvflare_fobs_initialize()
    net = Cellnet()
    yield net
    net.stop()
