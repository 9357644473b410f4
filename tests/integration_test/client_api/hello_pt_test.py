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

"""A PyTorch CNN with nvflare's FedAvg for PyTorch, in the simulator: three sites, one in each execution mode.

The sites have the same data and the same random numbers, so what they report must be the same to the last bit.
"""

import importlib.util
import sys
import textwrap
from pathlib import Path
from types import ModuleType

import pytest

from nvflare.app_common.executors.client_api.client_api_runner import ClientAPIRunner
from nvflare.app_common.workflows.fedavg import FedAvg
from nvflare.client.config import ExchangeFormat
from nvflare.fuel.utils.constants import FrameworkType
from tests.integration_test.client_api.attach_harness import Trainer, attach_command
from tests.integration_test.client_api.simulation import JOB_TIMEOUT, Simulation, complaints
from tests.integration_test.client_api.simulator_parts import LogKeeper, hurry
from tests.unit_test.app_common.executors.markers import needs_torch

pytestmark = [pytest.mark.watchdog(600), needs_torch]

ROUNDS = 2
SITES = ("site-1", "site-2", "site-3")  # in_process, external_process, attach

NET = """
    import torch
    from torch import nn

    class HelloNet(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.convolution = nn.Conv2d(1, 4, 3, padding=1)
            self.norm = nn.BatchNorm2d(4)  # has an integer among its buffers
            self.linear = nn.Linear(4 * 4 * 4, 4)
            # Makes the model too large to travel inside a message: it goes past the sites' jobs where they let it.
            self.register_buffer("ballast", torch.arange(1024 * 1024 / 2))

        def forward(self, x):
            x = torch.relu(self.norm(self.convolution(x)))
            return self.linear(nn.functional.max_pool2d(x, 2).flatten(1))

    def make_data():
        # Noisy images of 8 x 8 pixels; the label is the quarter that is brighter.
        random = torch.Generator().manual_seed(1)
        labels = torch.randint(4, (256,), generator=random)
        images = torch.randn(256, 1, 8, 8, generator=random)
        for image, label in zip(images, labels.tolist()):
            row, column = 4 * (label // 2), 4 * (label % 2)
            image[0, row : row + 4, column : column + 4] += 1
        return images, labels

    def accuracy(net, images, labels):
        net.eval()
        with torch.no_grad():
            return (net(images).argmax(dim=1) == labels).float().mean().item()
"""

TRAIN = """
    import torch
    import nvflare.client as flare
    from hello_net import HelloNet, accuracy, make_data
    from nvflare.client.tracking import SummaryWriter

    torch.set_num_threads(1)
    flare.init()
    writer = SummaryWriter()
    images, labels = make_data()
    net = HelloNet()
    step = 0
    while flare.is_running():
        model = flare.receive()
        assert all(type(value) is torch.Tensor for value in model.params.values())
        assert torch.equal(model.params["ballast"], net.ballast)
        net.load_state_dict(model.params)
        before = accuracy(net, images, labels)
        net.train()
        order = torch.Generator().manual_seed(model.current_round)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9)
        for batch in torch.randperm(len(labels), generator=order).split(32):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(net(images[batch]), labels[batch])
            loss.backward()
            optimizer.step()
            writer.add_scalar("loss", loss.item(), step)
            step += 1
        flare.send(flare.FLModel(params=net.state_dict(), metrics={"accuracy": before}))
"""

WATCH = """
    import sys
    from pathlib import Path
    from nvflare.apis.event_type import EventType
    from nvflare.apis.fl_component import FLComponent

    class TorchWatch(FLComponent):
        def handle_event(self, event_type, fl_ctx):
            if event_type == EventType.ABOUT_TO_END_RUN:
                run_dir = Path(fl_ctx.get_workspace().get_run_dir(fl_ctx.get_job_id()))
                (run_dir / "has_torch").write_text(str("torch" in sys.modules))
"""


def import_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class HelloJob:
    """The job that has run."""

    def __init__(self, root: Path, server_format: ExchangeFormat):
        self.root = root
        files = {"train.py": TRAIN, "hello_net.py": NET, "torch_watch.py": WATCH}
        for name, text in files.items():
            (root / name).write_text(textwrap.dedent(text))
        script = root / "train.py"
        self.net = import_file(root / "hello_net.py")
        self._export(str(script), server_format)
        options = ["--site", SITES[2]]
        attached = Trainer(*attach_command(root / "run", script, wait=JOB_TIMEOUT, options=options), cwd="/")
        try:
            attached.output.wait_for("waiting for a job")
            self.run = Simulation(root, root / "jobs" / "job", SITES).finish()
            self.attached_code = attached.exit_code()
        finally:
            attached.stop()

    def _export(self, script: str, server_format: ExchangeFormat) -> None:
        from nvflare.app_opt.pt.job_config.base_fed_job import BaseFedJob
        from nvflare.app_opt.pt.job_config.model import PTModel

        job = BaseFedJob(name="job", min_clients=len(SITES), analytics_receiver=LogKeeper())
        model = PTModel(self.net.HelloNet(), allow_numpy_conversion=server_format == ExchangeFormat.NUMPY)
        persistor_id = job.to_server(model)["persistor_id"]
        job.to_server(FedAvg(num_clients=len(SITES), num_rounds=ROUNDS, persistor_id=persistor_id))
        hurry(job)
        formats = {"framework": FrameworkType.PYTORCH, "server_expected_format": server_format}
        in_process = ClientAPIRunner(script, **formats)
        command = f"{sys.executable} -u"
        external = ClientAPIRunner(script, execution_mode="external_process", command=command, **formats)
        attach = ClientAPIRunner(execution_mode="attach", attach_timeout=60.0, **formats)
        for site, runner in zip(SITES, (in_process, external, attach)):
            job.to(runner, site, tasks=["train"])
            job.to(import_file(self.root / "torch_watch.py").TorchWatch(), site, id="torch_watch")
            job.add_file_to(str(self.root / "hello_net.py"), site)
        job.export_job(str(self.root / "jobs"))

    def losses(self) -> dict:
        """What each site has logged, in order."""
        losses = {site: [] for site in SITES}
        for site, _, value, step in self.run.log_records():
            assert step == len(losses[site])
            losses[site].append(value)
        return losses

    def sites_with_torch(self) -> list:
        files = {site: self.run.run_dir / site / "simulate_job" / "has_torch" for site in SITES}
        return [site for site, file in files.items() if file.read_text() == "True"]

    def global_accuracy(self) -> float:
        import torch

        (file,) = self.run.server_dir.rglob("FL_global_model.pt")
        net = self.net.HelloNet()
        net.load_state_dict(torch.load(file)["model"])
        return self.net.accuracy(net, *self.net.make_data())


@pytest.mark.parametrize("server_format", [ExchangeFormat.NUMPY, ExchangeFormat.PYTORCH])
def test_all_modes_train_alike(tmp_path, server_format):
    job = HelloJob(tmp_path, server_format)
    assert (job.run.exit_code, job.attached_code) == (0, 0), job.run.log
    losses = job.losses()
    assert losses[SITES[0]] == losses[SITES[1]] == losses[SITES[2]]
    assert len(losses[SITES[0]]) == ROUNDS * 256 / 32
    assert losses[SITES[0]][-1] < losses[SITES[0]][0] / 2
    assert job.global_accuracy() > 0.8
    # The script's process has it; the job's process only where that is the same one: it carries tensors as bytes.
    assert job.sites_with_torch() == [SITES[0]]
    assert [line for line in complaints(job.run.log) if "site-" in line or "Traceback" in line] == []
