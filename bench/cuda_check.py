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

"""Hands tensors of a device over between two processes, both ways, as a job and its trainer do, and compares the bits.

    python bench/cuda_check.py [--device cuda] [--mb 512] [--rounds 3]

The trainer is a process of its own. It takes each model, moves it to the device, and sends it back from there; the job
receives it with tensors and, as it does where nobody looks into them, without. Ends with 1 if anything differs.
"""

import argparse
import multiprocessing
import sys
import time
from types import SimpleNamespace

from nvflare.app_common.executors.client_api.arrays.exchange import Exchange
from nvflare.app_common.executors.client_api.arrays.parcels import CarriedTensor

DTYPES = ("float32", "bfloat16", "float16", "float8_e4m3fn", "int64", "bool")
TENSORS = 8


def make_model(dtype: str, size: int) -> dict:
    """Returns random bits as tensors of a dtype, `size` bytes in all, and the special cases of layout."""
    import torch

    def tensor(count: int):
        bits = torch.randint(0, 2 if dtype == "bool" else 256, (count,), dtype=torch.uint8)
        return bits.view(getattr(torch, dtype))

    model = {f"w{i}": tensor(size // TENSORS) for i in range(TENSORS)}
    model.update(scalar=tensor(8)[:1].reshape(()), empty=tensor(0), twice=model["w0"])
    model["transposed"] = tensor(8 * 1024).reshape(8, -1).t()
    return model


def bits_of(tensor) -> bytes:
    import torch

    if isinstance(tensor, CarriedTensor):
        return bytes(memoryview(tensor.buffer)[tensor.offset : tensor.offset + tensor.nbytes])
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def serve_as_trainer(connection, device: str) -> None:
    """Sends back each model that comes, from the device."""
    import torch

    exchange = Exchange()
    while (payload := connection.recv()) is not None:
        started = time.monotonic()
        model = exchange.unpack(payload)
        taken = time.monotonic() - started
        connection.send(taken)
        on_device = {name: tensor.to(device) for name, tensor in model.items()}
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        started = time.monotonic()
        with exchange.pack(SimpleNamespace(data=on_device)) as packed:
            connection.send((packed.payload, time.monotonic() - started))
            connection.recv()  # the job has it


def check(connection, dtype: str, size: int, makes_tensors: bool) -> bool:
    """Sends one model to the trainer and back; prints how long it took and tells whether it is the same."""
    model = make_model(dtype, size)
    expected = {name: bits_of(tensor) for name, tensor in model.items()}
    exchange = Exchange(makes_tensors=makes_tensors)
    started = time.monotonic()
    with exchange.pack(SimpleNamespace(data=model)) as packed:
        placed = time.monotonic() - started
        connection.send(packed.payload)
        taken = connection.recv()
    payload, from_device = connection.recv()
    started = time.monotonic()
    returned = exchange.unpack(payload)
    opened = time.monotonic() - started
    connection.send("taken")
    differing = [name for name, bits in expected.items() if bits_of(returned[name]) != bits]
    whose = "tensors" if makes_tensors else "carried"
    print(
        f"{dtype:14} {whose:8} to trainer {placed:.3f} + {taken:.3f} s, "
        f"from device {from_device:.3f} + {opened:.3f} s, {'differs: ' + str(differing) if differing else 'same bits'}",
        flush=True,
    )
    return not differing


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--mb", type=int, default=512, help="size of a model (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="the first has the start of CUDA (default: %(default)s)")
    args = parser.parse_args()
    context = multiprocessing.get_context("spawn")  # CUDA does not outlive a fork
    ours, theirs = context.Pipe()
    trainer = context.Process(target=serve_as_trainer, args=(theirs, args.device), daemon=True)
    trainer.start()
    theirs.close()
    good = True
    for _ in range(args.rounds):
        for dtype in DTYPES:
            for makes_tensors in (True, False):
                good &= check(ours, dtype, args.mb * 1_000_000 // 64 * 64, makes_tensors)
    ours.send(None)
    trainer.join(30)
    return 0 if good and trainer.exitcode == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
