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

"""The end of a job while a trainer is launched, at work, or replaced: when END_RUN returns, nothing of it is left."""

import os
import shlex
import threading
from pathlib import Path

import pytest

from nvflare.app_common.executors.client_api.attach_backend import LAUNCHER_COMPONENT, PIPE_COMPONENT
from nvflare.app_common.executors.client_api.process.trainer_process import TrainerProcess
from nvflare.fuel.f3.cellnet.core_cell import CoreCell
from nvflare.fuel.utils.constants import Mode
from nvflare.fuel.utils.pipe.file_pipe import FilePipe
from tests.integration_test.client_api.attach_harness import attach_command, attached, fated, workspace
from tests.integration_test.client_api.external_jobs import bootstrap_path, start, start_fated
from tests.unit_test.app_common.executors.client_api.process_watch import (
    MARKER,
    WITH_PROCESSES,
    few_descriptors,
    marked_pids,
    no_more_threads,
)
from tests.unit_test.app_common.executors.job_harness import LIMIT, assert_failed, make_task

pytestmark = WITH_PROCESSES

# What is logged on a trainer's way, in this order; "" is before all of it.
MOMENTS = ["", "starting -> running", "created -> waiting", "waiting -> ready", "ready -> busy", "busy -> ready"]
TEARDOWN = ["ready -> closing", "running -> exited", "exited -> stopped", "closing -> closed"]


def find_all(own_folder: Path) -> dict:
    """All that a launch may leave in this process, in others and in the job's config folder."""
    links = {}
    for link in Path("/proc/self/fd").iterdir():
        try:
            links[link.name] = os.readlink(link)
        except OSError:
            pass  # the one that iterdir itself has used
    return {
        "processes": marked_pids(os.environ[MARKER]),
        "threads": {thread for thread in threading.enumerate() if not thread.name.startswith("task")},  # the test's own
        "cells": set(CoreCell.ALL_CELLS),
        "descriptors": links,
        "files": set(own_folder.iterdir()),
    }


@pytest.fixture
def assert_nothing_left(job):
    config_folder = bootstrap_path(job).parent
    before = find_all(config_folder)

    def check():
        assert find_all(config_folder) == before

    return check


class TestExternalProcess:
    @pytest.mark.parametrize("moment", MOMENTS + TEARDOWN)
    def test_one_trainer_per_task(self, job, site_log, assert_nothing_left, moment):
        start_fated(job, launch_once=False)
        running = job.submit("train", make_task())
        site_log.wait_for(moment)
        job.end()
        assert_nothing_left()
        running.result(LIMIT)

    @pytest.mark.parametrize("moment", MOMENTS)
    def test_one_trainer_for_the_job(self, job, site_log, assert_nothing_left, moment):
        start_fated(job)
        running = job.submit("train", make_task())
        site_log.wait_for(moment)
        job.end()
        assert_nothing_left()
        running.result(LIMIT)

    @pytest.mark.parametrize("moment", MOMENTS)
    def test_successor_of_a_lost_trainer(self, job, site_log, assert_nothing_left, moment):
        start_fated(job, "launching", "exit_3")
        assert_failed(job.execute("train", make_task()), "exit code 3")
        site_log.records.clear()
        running = job.submit("train", make_task())
        site_log.wait_for(moment)
        job.end()
        assert_nothing_left()
        running.result(LIMIT)


class TestAttach:
    @pytest.mark.parametrize("moment", ["-> lost", "lost -> closed", "created -> waiting"])
    def test_next_rendezvous(self, job, trainers, site_log, assert_nothing_left, moment):
        job.start(attached(allow_reconnect=True))
        site_log.wait_for("created -> waiting")
        site_log.records.clear()
        trainer = trainers(fated(job), "training", "exit_3")
        running = job.submit("train", make_task())
        site_log.wait_for(moment)
        job.end()
        trainer.stop()  # nobody else does
        assert_nothing_left()
        cause = assert_failed(running.result(LIMIT))
        assert "the job ends" in cause or "it exited with 3" in cause  # whichever the task learns first

    @pytest.mark.parametrize("moment", MOMENTS)
    def test_trainer_process_of_a_launcher(self, job, trainers, site_log, assert_nothing_left, moment):
        command = attach_command(workspace(job), fated(job), options=["--job", job.job_id])
        launcher = TrainerProcess(shlex.join(command), stop_grace_period=1.0)
        job.start(attached(), components={LAUNCHER_COMPONENT: launcher})
        running = job.submit("train", make_task())
        site_log.wait_for(moment)
        job.end()
        assert_nothing_left()
        running.result(LIMIT)

    @pytest.mark.parametrize("moment", ["created -> waiting", "waiting -> ready", "ready -> busy", "busy -> ready"])
    def test_pipe_of_the_job(self, job, trainers, site_log, assert_nothing_left, tmp_path, moment):
        pipe = FilePipe(mode=Mode.PASSIVE, root_path=str(tmp_path / "shared"))
        job.start(attached(), components={PIPE_COMPONENT: pipe})
        trainer = trainers(fated(job))
        running = job.submit("train", make_task())
        site_log.wait_for(moment)
        job.end()
        trainer.stop()
        assert_nothing_left()
        running.result(LIMIT)


class TestNothingToLaunchWith:
    @pytest.mark.parametrize("launch_once", [True, False])
    @pytest.mark.parametrize("left", range(1, 8, 2))
    def test_out_of_descriptors(self, job, assert_nothing_left, launch_once, left):
        with few_descriptors(left):
            start(job, "", launch_once=launch_once)
            if not launch_once:
                assert_failed(job.execute("train", make_task()), "Too many open files")
        assert launch_once == any("Too many open files" in panic for panic in job.panics)
        assert_nothing_left()

    @pytest.mark.parametrize("launch_once", [True, False])
    def test_out_of_threads(self, job, assert_nothing_left, launch_once):
        with no_more_threads():
            start(job, "", launch_once=launch_once)
            if not launch_once:
                assert_failed(job.execute("train", make_task()), "can't start new thread")
        assert launch_once == any("can't start new thread" in panic for panic in job.panics)
        assert_nothing_left()
