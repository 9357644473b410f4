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

"""A training script that logs: a logistic regression with NumPy, on data that differ from site to site."""

import zlib

import numpy as np

import nvflare.client as flare
from nvflare.client.tracking import SummaryWriter

TRUE_WEIGHTS = np.array([2.0, -3.0, 0.5, 1.0])
STEPS = 20
LEARNING_RATE = 0.3


def make_data(site: str):
    """Each site sees one feature more than the others, and has wrong labels of its own."""
    random = np.random.default_rng(zlib.crc32(site.encode()))
    x = random.normal(size=(500, len(TRUE_WEIGHTS)))
    x[:, random.integers(len(TRUE_WEIGHTS))] *= 3
    y = (x @ TRUE_WEIGHTS > 0) ^ (random.random(len(x)) < 0.05)
    return x, y.astype(float)


def main():
    flare.init()
    x, y = make_data(flare.get_site_name())
    writer = SummaryWriter()
    while flare.is_running():
        model = flare.receive()
        weights = np.asarray(model.params["numpy_key"], dtype=float)
        writer.add_scalar("accuracy", np.mean((x @ weights > 0) == y), model.current_round)  # of the global model
        for step in range(STEPS):
            p = np.clip(1 / (1 + np.exp(-x @ weights)), 1e-7, 1 - 1e-7)
            loss = -np.mean(y * np.log(p) + (1 - y) * np.log(1 - p))
            writer.add_scalar("loss", loss, model.current_round * STEPS + step)
            weights = weights - LEARNING_RATE * x.T @ (p - y) / len(y)
        flare.send(flare.FLModel(params={"numpy_key": weights}))


if __name__ == "__main__":
    main()
