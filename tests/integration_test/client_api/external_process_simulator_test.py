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

"""Whole jobs in nvflare's simulator: mode external_process between nvflare's controllers and a script.

Each job runs once and its tests look at what it left: the log, the model, and what an observer at the server noted.
"""

import hashlib
import importlib.util
import re
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from nvflare.app_common.executors.client_api_executor import ClientAPIExecutor
from nvflare.job_config.defs import FilterType
from tests.integration_test.client_api.simulation import SimulatedJob, Simulation, complaints
from tests.unit_test.app_common.executors.markers import HAS_TORCH

pytestmark = pytest.mark.watchdog(400)

ROUNDS = 2
SCALARS = 1000  # logged in one task
INITIAL_LARGE = np.random.default_rng(7).normal(size=512 * 1024)  # does not travel inside a message
PYTHON = "python3 -u custom/train.py"

# Adds 1 to the model in every round, logs, keeps its model for cross-site validation; a model's score is its sum.
TRAIN = """
    import sys
    from hashlib import sha256
    from pathlib import Path
    import numpy as np
    import nvflare.client as flare
    from nvflare.client.tracking import SummaryWriter

    scalars = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    flare.init()
    site = flare.get_site_name()
    writer = SummaryWriter()
    own_model = Path("own_model.npy").resolve()
    while flare.is_running():
        model = flare.receive()
        if flare.is_train():
            before = model.params["numpy_key"]
            print(f"{site} received {sha256(before.tobytes()).hexdigest()}")
            for step in range(scalars):
                writer.add_scalar("loss", float(step), model.current_round * scalars + step)
            after = before + 1
            np.save(own_model, after)
            print(f"{site} sends {sha256(after.tobytes()).hexdigest()}")
            flare.send(flare.FLModel(params={"numpy_key": after}))
        elif flare.is_evaluate():
            flare.send(flare.FLModel(metrics={"sum": float(model.params["numpy_key"].sum())}))
        elif flare.is_submit_model():
            flare.send(flare.FLModel(params={"numpy_key": np.load(own_model)}))
    print(f"{site} at the end")
"""

# Every rank adds its number + 1 to the model, by gloo: two ranks add 3.
TRAIN_DISTRIBUTED = """
    import torch
    import torch.distributed as dist
    import nvflare.client as flare

    dist.init_process_group("gloo")
    rank = dist.get_rank()
    flare.init(rank=str(rank))

    def goes_on():
        answer = torch.tensor([float(rank == 0 and flare.is_running())])
        dist.broadcast(answer, src=0)
        return bool(answer)

    while goes_on():
        model = torch.zeros(3, dtype=torch.float64)
        if rank == 0:
            received = flare.receive()
            model = torch.from_numpy(received.params["numpy_key"]).clone()
        dist.broadcast(model, src=0)
        step = torch.full((3,), rank + 1.0, dtype=torch.float64)
        dist.all_reduce(step)
        print(f"rank {rank} trains")
        if rank == 0:
            flare.send(flare.FLModel(params={"numpy_key": (model + step).numpy()}))
    dist.destroy_process_group()
"""

# Notes every submission at the server: who, which kind of data, its bits, and how many log records were there before.
OBSERVER = """
    import json
    import os
    from hashlib import sha256
    from nvflare.apis.analytix import AnalyticsData
    from nvflare.apis.dxo import from_shareable
    from nvflare.apis.event_type import EventType
    from nvflare.apis.fl_component import FLComponent
    from nvflare.apis.fl_constant import FedEventHeader, FLContextKey, ReservedKey
    from nvflare.widgets.fed_event import ServerFedEventRunner

    class Arrivals(list):
        '''nvflare's queue of events, whose thread fires them when it comes round to it: what counts is the arrival.'''

        def __init__(self, note):
            super().__init__()
            self.note = note

        def append(self, event):
            self.note(event)
            super().append(event)

    class Observer(FLComponent):
        def __init__(self):
            super().__init__()
            self._steps = {}

        def note(self, event):
            if event.get_header(FedEventHeader.EVENT_TYPE) == "fed.analytix_log_stats":
                steps = self._steps.setdefault(event.get_peer_prop(ReservedKey.IDENTITY_NAME, None), [])
                steps.append(AnalyticsData.from_dxo(from_shareable(event)).step)

        def handle_event(self, event_type, fl_ctx):
            if event_type == EventType.START_RUN:
                handlers = fl_ctx.get_engine().run_manager.get_handlers()
                next(h for h in handlers if isinstance(h, ServerFedEventRunner)).in_events = Arrivals(self.note)
            elif event_type == EventType.BEFORE_PROCESS_SUBMISSION:
                site = fl_ctx.get_peer_context().get_identity_name()
                dxo = from_shareable(fl_ctx.get_prop(FLContextKey.TASK_RESULT))
                arrays = [value for value in dxo.data.values() if hasattr(value, "tobytes")]
                digests = [sha256(array.tobytes()).hexdigest() for array in arrays]
                note = {"site": site, "kind": dxo.data_kind, "digests": digests, "steps": self._steps.pop(site, [])}
                run_dir = fl_ctx.get_workspace().get_run_dir(fl_ctx.get_job_id())
                with open(os.path.join(run_dir, "submissions.jsonl"), "a") as f:
                    f.write(json.dumps(note) + "\\n")
"""

# Fails on anything that is not an array, and doubles it.
DOUBLE = """
    import numpy as np
    from nvflare.apis.dxo import DataKind
    from nvflare.apis.dxo_filter import DXOFilter

    class Double(DXOFilter):
        def __init__(self):
            super().__init__([DataKind.WEIGHTS, DataKind.WEIGHT_DIFF], [DataKind.WEIGHTS, DataKind.WEIGHT_DIFF])

        def process_dxo(self, dxo, shareable, fl_ctx):
            for name, array in dxo.data.items():
                if type(array) is not np.ndarray:
                    raise TypeError(f"{name} is a {type(array)}")
                dxo.data[name] = array * 2
            return dxo
"""


def make_job(root: Path, command: str, sites: int = 1, script: str = TRAIN) -> SimulatedJob:
    job = SimulatedJob(root, script, sites, ROUNDS)
    job.fed_job.to_server(custom_component(root, "Observer", OBSERVER), id="observer")
    job.fed_job.to_clients(ClientAPIExecutor("external_process", command=command))
    return job


def custom_component(root: Path, class_name: str, code: str):
    """Makes a component whose code comes with the job."""
    path = root / f"{class_name.lower()}_component.py"
    path.write_text(textwrap.dedent(code))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, class_name)()


def submissions(job: Simulation) -> list:
    """What the observer has noted."""
    return job.lines("submissions.jsonl")


@pytest.fixture(scope="module")
def cross_site(tmp_path_factory):
    job = make_job(tmp_path_factory.mktemp("cross_site"), f"{PYTHON} {SCALARS}", sites=2)
    job.add_cross_site_validation()
    return job.run()


def large_job(root: Path) -> SimulatedJob:
    job = make_job(root, PYTHON)
    job.initial_model = INITIAL_LARGE
    return job


@pytest.fixture(scope="module")
def unfiltered(tmp_path_factory):
    return large_job(tmp_path_factory.mktemp("unfiltered")).run()


@pytest.fixture(scope="module")
def filtered(tmp_path_factory):
    job = large_job(tmp_path_factory.mktemp("filtered"))
    job.set_client_config(params_transfer_type="DIFF")
    double = custom_component(job.root, "Double", DOUBLE)
    job.fed_job.to_clients(double, filter_type=FilterType.TASK_RESULT, tasks=["train"])
    job.fed_job.to_clients(double, filter_type=FilterType.TASK_DATA, tasks=["train"])
    return job.run()


@pytest.fixture(scope="module")
def distributed(tmp_path_factory):
    if not HAS_TORCH:
        pytest.skip("torch is not installed")
    command = "torchrun --standalone --nproc_per_node=2 custom/train.py"
    return make_job(tmp_path_factory.mktemp("distributed"), command, script=TRAIN_DISTRIBUTED).run()


@pytest.fixture(scope="module", params=["cross_site", "unfiltered", "filtered"])
def any_job(request):
    return request.getfixturevalue(request.param)


class TestEveryJob:
    def test_it_ends_well(self, any_job):
        assert any_job.exit_code == 0

    def test_log_is_quiet(self, any_job):
        assert complaints(any_job.log) == []

    def test_nothing_is_left(self, any_job):
        assert any_job.left_processes == []
        assert any_job.left_files() == []


class TestCrossSiteValidation:
    def test_model_is_trained(self, cross_site):
        assert cross_site.global_model().tolist() == [2.0, 2.0, 2.0]

    def test_every_scalar_is_at_the_server_in_order_and_before_the_result(self, cross_site):
        for site in ("site-1", "site-2"):
            steps = [submission["steps"] for submission in submissions(cross_site) if submission["site"] == site]
            expected = [list(range(number * SCALARS, (number + 1) * SCALARS)) for number in range(ROUNDS)]
            assert steps[:ROUNDS] == expected

    def test_every_site_validates_every_model(self, cross_site):
        results = cross_site.cross_site_results()
        assert results.keys() == {"site-1", "site-2"}
        for site in results:
            assert results[site] == {name: {"sum": 6.0} for name in ("SRV_server", "site-1", "site-2")}

    def test_output_is_in_the_log_once(self, cross_site):
        for site in ("site-1", "site-2"):
            assert cross_site.log.count(f"{site} sends ") == ROUNDS
            assert cross_site.log.count(f"{site} at the end") == 1


def digest(array: np.ndarray) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()


class TestWithoutFilters:
    def test_every_bit_arrives(self, unfiltered):
        received = re.findall(r"site-1 received (\w+)", unfiltered.log)
        sent = re.findall(r"site-1 sends (\w+)", unfiltered.log)
        at_server = [submission["digests"] for submission in submissions(unfiltered)]
        assert len(sent) == ROUNDS
        assert received[0] == digest(INITIAL_LARGE)
        assert at_server == [[one] for one in sent]
        # The average of one site's model is that model.
        assert received[1] == sent[0]
        assert digest(unfiltered.global_model()) == sent[1]


class TestFiltersAndDifferences:
    def test_filters_see_arrays_and_what_they_do_counts(self, filtered):
        expected = INITIAL_LARGE
        for _ in range(ROUNDS):
            # Doubled on the way in; of what comes back, one more than that, the difference is sent and doubled.
            expected = expected + ((expected * 2 + 1) - expected * 2) * 2
        np.testing.assert_array_equal(filtered.global_model(), expected)

    def test_difference_is_sent(self, filtered):
        assert [submission["kind"] for submission in submissions(filtered)] == ["WEIGHT_DIFF"] * ROUNDS


class TestTorchrun:
    def test_model_is_trained(self, distributed):
        assert distributed.exit_code == 0
        assert distributed.global_model().tolist() == [6.0, 6.0, 6.0]

    def test_both_ranks_train(self, distributed):
        for rank in range(2):
            assert distributed.log.count(f"rank {rank} trains") == ROUNDS

    def test_only_the_script_complains(self, distributed):
        # The pattern leaves rank 1 in a broadcast when rank 0 ends, and torchrun says so at length.
        log = distributed.site_log("site-1")
        assert [line for line in complaints(log) if " - TrainerProcess - " not in line] == []

    def test_nothing_is_left(self, distributed):
        assert distributed.left_processes == []
        assert distributed.left_files() == []


def test_interrupted(tmp_path):
    """nvflare kills all its processes then, the guard included; a rank in a session of its own is among them."""
    script = """
        import subprocess, time
        import nvflare.client as flare
        flare.init()
        flare.receive()
        subprocess.Popen(["sleep", "1000"], start_new_session=True)
        print("it trains", flush=True)
        time.sleep(1000)
    """
    job = SimulatedJob(tmp_path, script)
    job.fed_job.to_clients(ClientAPIExecutor("external_process", command="python3 custom/train.py"))
    simulation = job.start()
    simulation.wait_for("it trains")
    simulation.interrupt()
    assert simulation.left_processes == [] and complaints(simulation.site_log("site-1")) == []
