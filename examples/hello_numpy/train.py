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

"""A training script as any nvflare 2.8 site has it: a linear model, fitted by gradient descent with NumPy.

Every site draws its own data around the same true model, so that the averaged model learns it.
"""

import argparse
import time
import zlib

import numpy as np

import nvflare.client as flare
from nvflare.app_common.np.constants import NPConstants
from nvflare.client.tracking import SummaryWriter

TRUE_WEIGHTS = np.array([2.0, -3.0, 0.5, 1.0])  # the last one is the bias


def make_data(site_name: str, samples: int):
    random = np.random.default_rng(zlib.crc32(site_name.encode()))
    x = np.hstack([random.normal(size=(samples, len(TRUE_WEIGHTS) - 1)), np.ones((samples, 1))])
    return x, x @ TRUE_WEIGHTS + random.normal(scale=0.1, size=samples)


def mean_squared_error(weights, x, y) -> float:
    return float(np.mean((x @ weights - y) ** 2))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--learning_rate", type=float, default=0.002)
    args = parser.parse_args()

    flare.init()
    site = flare.get_site_name()
    writer = SummaryWriter()
    x, y = make_data(site, args.samples)
    while flare.is_running():
        model = flare.receive()
        start = time.monotonic()
        weights = model.params[NPConstants.NUMPY_KEY]
        loss = mean_squared_error(weights, x, y)
        for _ in range(args.steps):
            weights = weights - args.learning_rate * 2 * x.T @ (x @ weights - y) / len(y)
        trained_loss = mean_squared_error(weights, x, y)
        print(f"{site}: round {model.current_round}, loss {loss:.4f} -> {trained_loss:.4f}")
        writer.add_scalar("loss", trained_loss, model.current_round)
        flare.send(
            flare.FLModel(
                params={NPConstants.NUMPY_KEY: weights},
                metrics={"loss": loss},
                meta={"train_seconds": time.monotonic() - start, "NUM_STEPS_CURRENT_ROUND": args.steps},
            )
        )


if __name__ == "__main__":
    main()
