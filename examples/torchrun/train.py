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

"""A training script for torchrun as any nvflare 2.8 site has it: data-parallel, gloo on CPUs.

Only rank 0 talks to the job. It tells the others whether there is one more round, so that all of them end together.
"""

import torch
import torch.distributed as dist
from net import Net
from torch.nn.parallel import DistributedDataParallel

import nvflare.client as flare

STEPS = 20


def main():
    dist.init_process_group("gloo")
    train(dist.get_rank())
    # Only now that DistributedDataParallel has gone with train(): were it the last to hold the group, it would wait for
    # gloo's threads to end while they wait for Python's lock, for ever.
    dist.destroy_process_group()


def train(rank: int):
    flare.init(rank=rank)
    net = Net()
    parallel = DistributedDataParallel(net)
    random = torch.Generator().manual_seed(rank)
    x = torch.randn(500, 4, generator=random)  # each rank has its own share of the data
    y = x @ torch.tensor([[2.0], [-3.0], [0.5], [1.0]]) + 1

    while is_running(rank):
        model = flare.receive() if rank == 0 else None
        if model:
            net.load_state_dict(model.params)
        for weights in net.state_dict().values():
            dist.broadcast(weights, src=0)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
        for _ in range(STEPS):
            optimizer.zero_grad()
            loss = torch.nn.functional.mse_loss(parallel(x), y)
            loss.backward()  # averages the gradients of all ranks
            optimizer.step()
        print(f"rank {rank}: loss {loss.item():.4f}", flush=True)
        if rank == 0:
            flare.send(flare.FLModel(params=net.state_dict(), metrics={"loss": loss.item()}))


def is_running(rank: int) -> bool:
    """Tells every rank whether there is one more round."""
    one_more = torch.tensor(float(rank == 0 and flare.is_running()))
    dist.broadcast(one_more, src=0)
    return bool(one_more)


if __name__ == "__main__":
    main()
