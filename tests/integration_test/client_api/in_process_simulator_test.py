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

"""Whole jobs in nvflare's simulator: ClientAPIExecutor in mode in_process between nvflare's own controllers and script.

Each job runs once and its tests look at what it left: the log, the model, the validation results, the log records.
"""

import re
from pathlib import Path

import pytest

from nvflare.app_common.executors.client_api_executor import ClientAPIExecutor
from nvflare.app_common.widgets.convert_to_fed_event import ConvertToFedEvent
from tests.integration_test.client_api.simulation import SimulatedJob, complaints
from tests.integration_test.client_api.simulator_parts import LogKeeper

pytestmark = pytest.mark.watchdog(400)

# Adds 1 to the model in every round, logs, keeps its model for cross-site validation; a model's score is its sum.
SCRIPT = """
    import sys
    from pathlib import Path
    import numpy as np
    import nvflare.client as flare
    from nvflare.apis.analytix import AnalyticsDataType
    from nvflare.client.tracking import SummaryWriter

    scalars, fail_in_round = int(sys.argv[1]), int(sys.argv[2])
    flare.init()
    writer = SummaryWriter()
    own_model = Path("own_model.npy").resolve()
    while flare.is_running():
        model = flare.receive()
        if flare.is_train():
            if model.current_round == fail_in_round:
                raise RuntimeError("out of data")
            before = model.params["numpy_key"]
            for step in range(scalars):
                writer.add_scalar("loss", float(step), model.current_round * scalars + step)
            if fail_in_round >= 0:
                flare.log("image", np.full((2, 3), 7.0), AnalyticsDataType.IMAGE, global_step=scalars)
            np.save(own_model, before + 1)
            flare.send(flare.FLModel(params={"numpy_key": before + 1}, metrics={"sum": float(before.sum())}))
        elif flare.is_evaluate():
            flare.send(flare.FLModel(metrics={"sum": float(model.params["numpy_key"].sum())}))
        elif flare.is_submit_model():
            flare.send(flare.FLModel(params={"numpy_key": np.load(own_model)}))
"""


def make_job(root: Path, sites: int, scalars: int = 0, fail_in_round: int = -1) -> SimulatedJob:
    job = SimulatedJob(root, SCRIPT, sites)
    job.fed_job.to_server(LogKeeper(), id="log_keeper")
    executor = ClientAPIExecutor(
        "in_process",
        task_script_path="train.py",
        task_script_args=f"{scalars} {fail_in_round}",
        train_with_evaluation=True,
    )
    job.fed_job.to_clients(executor)
    job.fed_job.to_clients(ConvertToFedEvent(["analytix_log_stats"]), id="event_to_fed")
    return job


@pytest.fixture(scope="module")
def four_sites(tmp_path_factory):
    return make_job(tmp_path_factory.mktemp("four_sites"), 4, scalars=10).run(threads=2)


@pytest.fixture(scope="module")
def cross_site(tmp_path_factory):
    job = make_job(tmp_path_factory.mktemp("cross_site"), 2, scalars=500)
    job.add_cross_site_validation()
    return job.run()


@pytest.fixture(scope="module")
def failing(tmp_path_factory):
    return make_job(tmp_path_factory.mktemp("failing"), 1, scalars=3, fail_in_round=1).run()


class TestFourSitesOnTwoThreads:
    """The simulator swaps sites in and out: each task is the first one of a new process."""

    def test_model_is_trained(self, four_sites):
        assert four_sites.exit_code == 0
        assert four_sites.global_model().tolist() == [2.0, 2.0, 2.0]

    def test_every_scalar_is_at_the_server_in_order(self, four_sites):
        records = four_sites.log_records()
        for number in range(1, 5):
            steps = [step for site, _, _, step in records if site == f"site-{number}"]
            assert steps == list(range(20))

    def test_log_is_quiet(self, four_sites):
        assert complaints(four_sites.log) == []


class TestCrossSiteValidation:
    def test_model_is_trained(self, cross_site):
        assert cross_site.exit_code == 0
        assert cross_site.global_model().tolist() == [2.0, 2.0, 2.0]

    def test_every_scalar_is_at_the_server_in_order(self, cross_site):
        records = cross_site.log_records()
        for site in ("site-1", "site-2"):
            expected = [[site, "loss", float(step % 500), step] for step in range(1000)]
            assert [record for record in records if record[0] == site] == expected

    def test_every_site_validates_every_model(self, cross_site):
        results = cross_site.cross_site_results()
        assert results.keys() == {"site-1", "site-2"}
        for site in results:
            assert results[site] == {name: {"sum": 6.0} for name in ("SRV_server", "site-1", "site-2")}

    def test_log_is_quiet(self, cross_site):
        assert complaints(cross_site.log) == []


class TestFailingScript:
    def test_log_has_the_cause_once(self, failing):
        assert failing.log.count("RuntimeError: out of data") == 1
        assert failing.log.count("train.py raised RuntimeError at line") == 1

    def test_it_is_the_sites_only_complaint(self, failing):
        (complaint,) = [line for line in complaints(failing.site_log("site-1")) if "Traceback" not in line]
        said = (
            r"ClientAPIExecutor - ERROR - \[.*\] - task 'train' failed \(in_process\): .*train.py raised RuntimeError"
        )
        assert re.search(said, complaint) and complaint in failing.site_log("site-1", "error_log.txt")

    def test_what_was_logged_before_is_at_the_server(self, failing):
        assert [step for *_, step in failing.log_records()] == [0, 1, 2, 3]

    def test_array_that_was_logged_is_at_the_server(self, failing):
        assert failing.log_records()[-1] == ["site-1", "image", [[7.0] * 3] * 2, 3]

    def test_model_of_the_last_good_round_is_kept(self, failing):
        assert failing.global_model().tolist() == [1.0, 1.0, 1.0]
