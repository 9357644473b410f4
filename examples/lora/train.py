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

"""Fine-tunes a LoRA adapter with transformers and peft, data-parallel in the ranks of torchrun (gloo, on CPUs).

Only rank 0 talks to the job. It tells the others whether there is one more round, so that all of them end together.
"""

import zlib

import torch
import torch.distributed as dist
from lora_model import make_data, make_model
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from torch.nn.parallel import DistributedDataParallel

import nvflare.client as flare

STEPS = 20
BATCH = 32


def main():
    dist.init_process_group("gloo")
    train(dist.get_rank())
    # Only now that DistributedDataParallel has gone with train(): were it the last to hold the group, it would wait for
    # gloo's threads to end while they wait for Python's lock, for ever.
    dist.destroy_process_group()


def train(rank: int):
    flare.init(rank=rank)
    model = make_model()
    parallel = DistributedDataParallel(model)
    adapter = [weights for weights in model.parameters() if weights.requires_grad]
    # Each rank of each site has its own share of the data.
    data = make_data(zlib.crc32(f"{flare.get_site_name()}/{rank}".encode()))

    while is_running(rank):
        if rank == 0:
            set_peft_model_state_dict(model, flare.receive().params)
        for weights in adapter:
            dist.broadcast(weights.data, src=0)
        optimizer = torch.optim.AdamW(adapter, lr=1e-2)
        for batch in torch.randint(len(data), (STEPS, BATCH)):
            optimizer.zero_grad()
            loss = parallel(input_ids=data[batch], labels=data[batch]).loss
            loss.backward()  # averages the gradients of all ranks
            optimizer.step()
        print(f"rank {rank}: loss {loss.item():.4f}", flush=True)
        if rank == 0:
            flare.send(flare.FLModel(params=get_peft_model_state_dict(model), metrics={"loss": loss.item()}))


def is_running(rank: int) -> bool:
    """Tells every rank whether there is one more round."""
    one_more = torch.tensor(float(rank == 0 and flare.is_running()))
    dist.broadcast(one_more, src=0)
    return bool(one_more)


if __name__ == "__main__":
    main()
