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

"""Whole jobs in a real federation, sites being processes of their own: trainers that they launch, and such that attach.

The federation is started once, each job runs once in it, and its tests look at what it left.
"""

import json
import re
import shutil
import subprocess
import sys
import textwrap
from contextlib import contextmanager

import numpy as np
import pytest

from nvflare.app_common.executors.attach_executor import AttachExecutor
from nvflare.app_common.executors.client_api_executor import ClientAPIExecutor
from nvflare.app_common.np.np_model_persistor import NPModelPersistor
from nvflare.app_common.workflows.fedavg import FedAvg
from nvflare.job_config.api import FedJob
from tests.integration_test.client_api.poc_federation import PocFederation, Signpost
from tests.integration_test.client_api.simulation import complaints
from tests.integration_test.client_api.simulator_parts import EAGER, LogKeeper, hurry

pytestmark = pytest.mark.watchdog(600)

SITES = ["site-1", "site-2"]
ROUNDS = 3
SCALARS = 4  # logged per round
LARGE = 4 * 1024 * 1024  # bytes of a model that does not travel inside a message
SIGNPOST_TIMEOUT = 60  # seconds

# Adds 1 to the model in every round and logs. Its arguments are a label, and for round 1 the site where it fails or
# "pause" and a signpost.
TRAIN = """
    import logging
    import os
    import signal
    import sys
    from pathlib import Path
    import nvflare.client as flare
    from nvflare.client.tracking import SummaryWriter

    label, deed = sys.argv[1], sys.argv[2:]
    flare.init()
    writer = SummaryWriter()
    while flare.is_running():
        model = flare.receive()
        if deed and model.current_round == 1:
            if deed[0] == flare.get_site_name():
                raise RuntimeError("out of data")
            if deed[0] == "pause":
                with open(deed[1], "w") as signpost:
                    signpost.write(f"{os.getpid()}\\n")
                while True:
                    signal.pause()
        for step in range(4):
            writer.add_scalar("loss", float(step), model.current_round * 4 + step)
        print(f"{label}: printed in round {model.current_round}")
        logging.getLogger("mine").warning(f"logged in round {model.current_round}")
        flare.send(flare.FLModel(params={"numpy_key": model.params["numpy_key"] + 1}, metrics={"sum": 1.0}))
        print(f"{label}: after send in round {model.current_round}")
    print(f"{label}: at the end")
"""
# Code of a site's administrator: a filter that fails on anything that is not an array, and doubles it.
SITE_FILTER = """
    import numpy as np
    from nvflare.apis.dxo import DataKind
    from nvflare.apis.dxo_filter import DXOFilter

    class Double(DXOFilter):
        def __init__(self):
            super().__init__([DataKind.WEIGHTS], [DataKind.WEIGHTS])

        def process_dxo(self, dxo, shareable, fl_ctx):
            for name, array in dxo.data.items():
                if type(array) is not np.ndarray:
                    raise TypeError(f"{name} is a {type(array)}")
                dxo.data[name] = array * 2
            return dxo
"""
RUN = """
    set -e
    echo "the shell got $# arguments"
    python3 -u custom/train.py "$@"
"""
ATTACH = "nvflare.app_common.executors.client_api.attach"
ALLOWED = f"{AttachExecutor.__module__}.{AttachExecutor.__name__}"
ATTACHED_ROUNDS = 2
WAIT = 90  # seconds, of a trainer for a job and of a job for a trainer
# Adds 1 to the model in every round; nobody sends it to the sites.
ATTACHED_TRAIN = """
    import nvflare.client as flare

    flare.init()
    while flare.is_running():
        model = flare.receive()
        flare.send(flare.FLModel(params={"numpy_key": model.params["numpy_key"] + 1}, metrics={"sum": 1.0}))
    print("at the end")
"""


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    with PocFederation(tmp_path_factory.mktemp("federation"), allowed=[ALLOWED]) as federation:
        yield federation


def make_job(
    federation: PocFederation, name: str, command: str, rounds: int = ROUNDS, persistor=None, **executor_args
) -> FedJob:
    custom = federation.root / name
    custom.mkdir()
    job = FedJob(name=name, min_clients=len(SITES))
    job.to_server(persistor or NPModelPersistor(model=[0.0, 0.0, 0.0]), id="persistor")
    job.to_server(FedAvg(num_clients=len(SITES), num_rounds=rounds, persistor_id="persistor"))
    hurry(job)
    job.to_server(LogKeeper(), id="log_keeper")
    job.to_clients(ClientAPIExecutor("external_process", command=command, **executor_args))
    for file_name, text in (("train.py", TRAIN), ("run.sh", RUN)):
        (custom / file_name).write_text(textwrap.dedent(text))
        job.add_file_to_clients(str(custom / file_name))
    return job


@pytest.fixture(scope="module")
def launched_once(federation):
    return federation.run(make_job(federation, "launched_once", "python3 -u custom/train.py launched_once"))


@pytest.fixture(scope="module")
def launched_per_task(federation):
    """A shell script for each task."""
    command = 'bash custom/run.sh "an argument with spaces"'
    return federation.run(make_job(federation, "launched_per_task", command, rounds=2, launch_once=False))


@contextmanager
def site_filters(federation: PocFederation):
    """Has each site filter the tasks and the results of every job, by a privacy scope of its administrator."""
    filters = {
        f"task_{chain}_filters": [{"path": "site_filter.Double", "args": {}, "direction": direction}]
        for chain, direction in (("data", "in"), ("result", "out"))
    }
    scope = {"name": "public", "properties": {}, **filters}
    content = {"format_version": 2, "scopes": [scope], "default_scope": scope["name"]}
    folders = [federation.startup_kit(site) / "local" for site in SITES]
    for folder in folders:
        (folder / "custom").mkdir()
        (folder / "custom" / "site_filter.py").write_text(textwrap.dedent(SITE_FILTER))
        (folder / "privacy.json").write_text(json.dumps(content))
    yield
    for folder in folders:
        (folder / "privacy.json").unlink()
        shutil.rmtree(folder / "custom")


@pytest.fixture(scope="module")
def filtered_by_site(federation):
    model = federation.root / "large.npy"
    np.save(model, np.zeros(LARGE // 8))
    persistor = NPModelPersistor(source_ckpt_file_full_name=str(model))
    command = "python3 -u custom/train.py filtered_by_site"
    with site_filters(federation):
        return federation.run(make_job(federation, "filtered_by_site", command, rounds=2, persistor=persistor))


@pytest.fixture(scope="module")
def failing(federation):
    return federation.run(make_job(federation, "failing", "python3 -u custom/train.py failing site-1"))


@pytest.fixture(scope="module")
def aborted(federation):
    signpost = Signpost(federation.root / "signpost")

    def abort(poc_job, session):
        poc_job.trainers = [int(line) for line in signpost.wait_lines(len(SITES), SIGNPOST_TIMEOUT)]
        poc_job.running = poc_job.processes()
        session.abort_job(poc_job.job_id)

    job = make_job(federation, "aborted", f"python3 -u custom/train.py aborted pause {signpost.path}")
    return federation.run(job, abort)


@pytest.fixture(scope="module", params=["launched_once", "launched_per_task", "filtered_by_site", "failing"])
def ended(request):
    """Every job that the server ends."""
    return request.getfixturevalue(request.param)


def global_model(job) -> list:
    return np.load(job.server_dir / "models" / "server.npy").tolist()


def log_records(job, site: str) -> list:
    records = [json.loads(line) for line in (job.server_dir / "log_records.jsonl").read_text().splitlines()]
    return [record[1:] for record in records if record[0] == site]


def unexpected(log: str) -> list:
    """The complaints in a site's log, except what the script logs on purpose."""
    return [line for line in complaints(log) if "logged in round" not in line]


class TestEveryEndedJob:
    def test_no_process_is_left(self, ended):
        assert ended.left_processes == []

    def test_no_bootstrap_file_is_left(self, ended):
        assert ended.left_bootstraps == []


class OrderlyJob:
    """What holds for every job that runs to its end; a subclass has it as the fixture `job`."""

    label = ""
    rounds = ROUNDS
    trainers = 1  # one after the other, at each site

    def test_model_is_trained(self, job):
        assert job.status == "FINISHED:COMPLETED"
        assert global_model(job) == [float(self.rounds)] * 3

    @pytest.mark.parametrize("site", SITES)
    def test_every_scalar_is_at_the_server_in_order(self, job, site):
        assert log_records(job, site) == [
            ["loss", float(step % SCALARS), step] for step in range(self.rounds * SCALARS)
        ]

    @pytest.mark.parametrize("site", SITES)
    def test_output_is_in_the_log_once_and_at_its_level(self, job, site):
        log = job.log(site)
        for number in range(self.rounds):
            assert log.count(f" - INFO - {self.label}: printed in round {number}\n") == 1
            assert log.count(f" - INFO - {self.label}: after send in round {number}\n") == 1
            assert len(re.findall(f" - WARNING - .*logged in round {number}\n", log)) == 1
            assert log.count(f"logged in round {number}") == 1
        assert log.count(f"{self.label}: at the end\n") == self.trainers
        assert "has ended this session" not in log  # which would come between what the script prints

    @pytest.mark.parametrize("site", SITES)
    def test_log_is_quiet(self, job, site):
        assert unexpected(job.log(site)) == []


class TestLaunchedOnce(OrderlyJob):
    label = "launched_once"

    @pytest.fixture
    def job(self, launched_once):
        return launched_once


class TestShellScriptLaunchedPerTask(OrderlyJob):
    label = "an argument with spaces"
    rounds = trainers = 2

    @pytest.fixture
    def job(self, launched_per_task):
        return launched_per_task

    @pytest.mark.parametrize("site", SITES)
    def test_arguments_are_split_as_a_shell_would(self, job, site):
        assert job.log(site).count("the shell got 1 arguments") == self.trainers


class TestPrivacyScope:
    def test_filters_of_the_site_see_large_arrays(self, filtered_by_site):
        assert filtered_by_site.status == "FINISHED:COMPLETED"
        expected = 0.0
        for _ in range(2):
            expected = (expected * 2 + 1) * 2  # doubled on the way in, trained, doubled on the way out
        model = np.load(filtered_by_site.server_dir / "models" / "server.npy")
        assert model.nbytes == LARGE and (model == expected).all()

    @pytest.mark.parametrize("site", SITES)
    def test_log_is_quiet(self, filtered_by_site, site):
        assert unexpected(filtered_by_site.log(site)) == []


class TestFailingScript:
    def test_job_ends(self, failing):
        assert failing.status == "FINISHED:EXECUTION_EXCEPTION"

    def test_log_has_the_cause_once(self, failing):
        log = failing.log("site-1")
        errors = [line for line in complaints(log) if re.match(r"\d{4}-.* - ERROR - ", line)]
        assert len(errors) == 1
        assert "task 'train' failed" in errors[0] and "exit code 1" in errors[0]
        # Beside the line of the output itself.
        assert log.partition(errors[0])[2].count("RuntimeError: out of data") == 1

    def test_other_site_has_nothing_to_complain_of(self, failing):
        assert unexpected(failing.log("site-2")) == []


class TestAbortedJob:
    def test_trainers_were_at_work(self, aborted):
        assert len(aborted.trainers) == len(SITES)
        assert set(aborted.trainers) <= set(aborted.running)

    def test_status_tells(self, aborted):
        assert aborted.status == "FINISHED:ABORTED"

    def test_no_process_is_left(self, aborted):
        assert aborted.left_processes == []

    def test_no_bootstrap_file_is_left(self, aborted):
        assert aborted.left_bootstraps == []

    @pytest.mark.parametrize("site", SITES)
    def test_log_is_quiet(self, aborted, site):
        assert unexpected(aborted.log(site)) == []


def make_codeless_job() -> FedJob:
    job = FedJob(name="attached", min_clients=len(SITES))
    job.to_server(NPModelPersistor(model=[0.0, 0.0, 0.0]), id="persistor")
    job.to_server(FedAvg(num_clients=len(SITES), num_rounds=ATTACHED_ROUNDS, persistor_id="persistor"))
    job.to_server(EAGER)
    job.to_clients(AttachExecutor(attach_timeout=WAIT))
    return job


@pytest.fixture(scope="module")
def attached(federation, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    script = elsewhere / "train.py"
    script.write_text(textwrap.dedent(ATTACHED_TRAIN))
    trainers = []

    def attach(poc_job, session):
        for site in SITES:
            command = [sys.executable, "-m", ATTACH, "--workspace", str(poc_job.site_dir(site).parent), "--site", site]
            command += ["--wait", str(WAIT), "--", str(script)]
            trainers.append(subprocess.Popen(command, cwd=elsewhere, stdout=subprocess.PIPE, text=True))

    try:
        job = federation.run(make_codeless_job(), attach, has_code=False)
        job.trainer_ends = [(trainer.communicate(timeout=WAIT)[0], trainer.returncode) for trainer in trainers]
    finally:
        for trainer in trainers:
            trainer.kill()
            trainer.communicate()
    return job


class TestAttachedTrainers:
    """On sites that allow AttachExecutor to jobs without code."""

    def test_model_is_trained(self, attached):
        assert attached.status == "FINISHED:COMPLETED"
        assert global_model(attached) == [float(ATTACHED_ROUNDS)] * 3

    def test_trainers_end_well(self, attached):
        assert [code for _, code in attached.trainer_ends] == [0, 0]
        assert all("at the end" in output for output, _ in attached.trainer_ends)

    @pytest.mark.parametrize("site", SITES)
    def test_log_is_quiet(self, attached, site):
        assert unexpected(attached.log(site)) == []

    def test_nothing_is_left(self, attached):
        assert attached.left_processes == []
        assert list(attached.site_dir(SITES[0]).rglob("client_api_*.json")) == []
