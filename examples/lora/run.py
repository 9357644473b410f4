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

"""Federated fine-tuning of a LoRA adapter, two ranks of torchrun at each site: `.venv/bin/python examples/lora/run.py`.

Only the adapter travels, as tensors, and the server averages tensors.
"""

import argparse
import shlex
import shutil
import sys
from pathlib import Path

import torch
from lora_model import Adapter, make_data, make_model
from peft import set_peft_model_state_dict

from nvflare.app_common.executors.client_api.client_api_runner import ClientAPIRunner
from nvflare.app_common.workflows.fedavg import FedAvg
from nvflare.app_opt.pt.job_config.base_fed_job import BaseFedJob
from nvflare.app_opt.pt.job_config.model import PTModel
from nvflare.client.config import ExchangeFormat
from nvflare.fuel.utils.constants import FrameworkType

HERE = Path(__file__).resolve().parent
# At a site whose PATH has it: command="torchrun --standalone --nproc_per_node=2".
TORCHRUN = f"{shlex.quote(sys.executable)} -m torch.distributed.run --standalone --nproc_per_node=2"


def build_job(clients: int, rounds: int) -> BaseFedJob:
    job = BaseFedJob(name="lora", min_clients=clients)
    model = job.to_server(PTModel(Adapter(), allow_numpy_conversion=False))
    job.to_server(FedAvg(num_clients=clients, num_rounds=rounds, persistor_id=model["persistor_id"]))
    runner = ClientAPIRunner(
        script=str(HERE / "train.py"),
        execution_mode="external_process",
        command=TORCHRUN,
        framework=FrameworkType.PYTORCH,
        server_expected_format=ExchangeFormat.PYTORCH,
        shutdown_timeout=120.0,  # such large modules need a while to end, and no rank is to be terminated
    )
    job.to_clients(runner, tasks=["train"])
    job.add_file_to_clients(str(HERE / "lora_model.py"))
    return job


def loss_with(adapter: dict) -> float:
    model = make_model()
    set_peft_model_state_dict(model, adapter)
    data = make_data(seed=1)
    with torch.no_grad():
        return model(input_ids=data, labels=data).loss.item()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workspace", type=Path, default=Path(".demo-lora"), help="deleted first if it exists")
    args = parser.parse_args()

    workspace = args.workspace.resolve()
    shutil.rmtree(workspace, ignore_errors=True)
    build_job(args.clients, args.rounds).simulator_run(str(workspace), n_clients=args.clients)

    adapter = torch.load(workspace / "server" / "simulate_job" / "app_server" / "FL_global_model.pt")["model"]
    weights = sum(value.numel() for value in adapter.values())
    before, after = loss_with(Adapter().state_dict()), loss_with(adapter)
    total = sum(value.numel() for value in make_model().parameters())
    print(f"\n{weights} of {total} weights travelled; loss on new sentences: {before:.3f} -> {after:.3f}")
    if after > before - 0.5:
        sys.exit("the adapter has not learned")


if __name__ == "__main__":
    main()
