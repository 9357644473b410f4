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

"""A training script for torchrun: every rank loops, rank 0 talks to the job, and together they add 1 by gloo."""

import torch
import torch.distributed as dist
from model_checksum import RECEIVED, SENT, checksum

import nvflare.client as flare


def main():
    dist.init_process_group("gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    flare.init(rank=str(rank))
    while flare.is_running():
        model = flare.receive() if rank == 0 else None
        share = torch.tensor(1.0 / ranks)
        dist.all_reduce(share)
        if rank == 0:
            params = {name: (array + share.item()).astype(array.dtype) for name, array in model.params.items()}
            meta = {RECEIVED: checksum(model.params), SENT: checksum(params)}
            flare.send(flare.FLModel(params=params, metrics={"ranks": ranks}, meta=meta))
        dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
