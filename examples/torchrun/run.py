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

"""FedAvg of one site whose script runs in two processes of torchrun: `.venv/bin/python examples/torchrun/run.py`."""

import argparse
import shlex
import shutil
import sys
from pathlib import Path

import torch
from net import Net

from nvflare.app_common.executors.client_api.client_api_runner import ClientAPIRunner
from nvflare.app_opt.pt.job_config.fed_avg import FedAvgJob
from nvflare.fuel.utils.constants import FrameworkType

HERE = Path(__file__).resolve().parent
# At a site whose PATH has it: command="torchrun --standalone --nproc_per_node=2".
TORCHRUN = f"{shlex.quote(sys.executable)} -m torch.distributed.run --standalone --nproc_per_node=2"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workspace", type=Path, default=Path(".demo-torchrun"), help="deleted first if it exists")
    args = parser.parse_args()

    workspace = args.workspace.resolve()
    shutil.rmtree(workspace, ignore_errors=True)
    job = FedAvgJob(Net(), n_clients=1, num_rounds=args.rounds, name="torchrun", key_metric="loss")
    runner = ClientAPIRunner(
        script=str(HERE / "train.py"),
        execution_mode="external_process",
        command=TORCHRUN,
        framework=FrameworkType.PYTORCH,
    )
    job.to_clients(runner, tasks=["train"])
    job.add_file_to_clients(str(HERE / "net.py"))
    job.simulator_run(str(workspace), n_clients=1)

    model = torch.load(workspace / "server" / "simulate_job" / "app_server" / "FL_global_model.pt")["model"]
    print(f"\nweights {model['weight'].tolist()}, bias {model['bias'].tolist()}")
    if (model["weight"] - torch.tensor([[2.0, -3.0, 0.5, 1.0]])).abs().max() > 1:
        sys.exit("the model has not learned")


if __name__ == "__main__":
    main()
