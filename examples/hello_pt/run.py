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

"""FedAvg with a PyTorch CNN, by nvflare's Job API and ClientAPIRunner: `.venv/bin/python examples/hello_pt/run.py`.

The server averages NumPy arrays, and nvflare converts them for the script; with --tensors tensors travel as they are.
"""

import argparse
import shlex
import shutil
import sys
from pathlib import Path

import torch
from net import Net, accuracy, make_data

from nvflare.app_common.executors.client_api.client_api_runner import ClientAPIRunner
from nvflare.app_common.workflows.fedavg import FedAvg
from nvflare.app_opt.pt.job_config.base_fed_job import BaseFedJob
from nvflare.app_opt.pt.job_config.model import PTModel
from nvflare.client.config import ExchangeFormat
from nvflare.fuel.utils.constants import FrameworkType

HERE = Path(__file__).resolve().parent


def build_job(mode: str, tensors: bool, clients: int, rounds: int) -> BaseFedJob:
    job = BaseFedJob(name="hello_pt", min_clients=clients)
    model = job.to_server(PTModel(Net(), allow_numpy_conversion=not tensors))
    job.to_server(FedAvg(num_clients=clients, num_rounds=rounds, persistor_id=model["persistor_id"]))
    runner = ClientAPIRunner(
        script=str(HERE / "train.py"),
        execution_mode=mode,
        command=f"{shlex.quote(sys.executable)} -u" if mode == "external_process" else None,
        framework=FrameworkType.PYTORCH,
        server_expected_format=ExchangeFormat.PYTORCH if tensors else ExchangeFormat.NUMPY,
    )
    job.to_clients(runner, tasks=["train"])
    job.add_file_to_clients(str(HERE / "net.py"))
    return job


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mode", choices=["in_process", "external_process"], default="in_process")
    parser.add_argument("--tensors", action="store_true", help="exchange PyTorch tensors instead of NumPy arrays")
    parser.add_argument("--clients", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workspace", type=Path, default=Path(".demo-hello_pt"), help="deleted first if it exists")
    args = parser.parse_args()

    workspace = args.workspace.resolve()
    shutil.rmtree(workspace, ignore_errors=True)
    job = build_job(args.mode, args.tensors, args.clients, args.rounds)
    job.simulator_run(str(workspace), n_clients=args.clients)

    images, labels = make_data(seed=0)
    net = Net()
    before = accuracy(net, images, labels)
    net.load_state_dict(
        torch.load(workspace / "server" / "simulate_job" / "app_server" / "FL_global_model.pt")["model"]
    )
    after = accuracy(net, images, labels)
    print(f"\naccuracy of the global model on new data: {before:.3f} -> {after:.3f}")
    if after <= max(before, 0.5):
        sys.exit("the model has not learned")


if __name__ == "__main__":
    main()
