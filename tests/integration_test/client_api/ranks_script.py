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

"""A training script for torchrun: rank 0 talks to the job, every rank adds its number + 1 to the model, by gloo.

In the first task every rank spins in C code; the file `faulted` beside the script tells later processes not to.
"""

import itertools
import os
import signal
from pathlib import Path

import torch
import torch.distributed as dist

import nvflare.client as flare

MARKER = Path(__file__).with_name("faulted")


def spin(rank):
    """Never returns to the interpreter, so that a SIGTERM handler in Python never gets its turn."""
    signal.signal(signal.SIGTERM, lambda *_: None)
    os.write(1, f"rank {rank} now: spin\n".encode())  # in one piece: the ranks share the output
    sum(itertools.repeat(0))


def main():
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    flare.init(rank=str(rank))
    while flare.is_running():
        received = flare.receive() if rank == 0 else None
        has_spun = torch.tensor(MARKER.exists())
        dist.broadcast(has_spun, src=0)
        if not has_spun:
            MARKER.touch()
            spin(rank)
        step = torch.tensor(rank + 1.0)
        dist.all_reduce(step)
        if rank == 0:
            flare.send(flare.FLModel(params={name: value + step.item() for name, value in received.params.items()}))


if __name__ == "__main__":
    main()
