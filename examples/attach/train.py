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

"""A training script as any nvflare 2.8 site has it: it does not know who started it, or how it gets its tasks.

Fits a linear model with NumPy. Run it with the attach runner, see README.md.
"""

import numpy as np

import nvflare.client as flare
from nvflare.client.tracking import SummaryWriter

TRUE_WEIGHTS = np.array([2.0, -3.0, 0.5, 1.0])
STEPS = 20
LEARNING_RATE = 0.05


def main():
    x = np.random.default_rng(7).normal(size=(2000, len(TRUE_WEIGHTS)))
    y = x @ TRUE_WEIGHTS

    flare.init()
    writer = SummaryWriter()
    while flare.is_running():
        model = flare.receive()
        weights = np.asarray(model.params["numpy_key"], dtype=float)
        for step in range(STEPS):
            error = x @ weights - y
            writer.add_scalar("loss", float(np.mean(error**2)), model.current_round * STEPS + step)
            weights = weights - LEARNING_RATE * 2 * x.T @ error / len(y)
        print(f"round {model.current_round}: weights {weights.round(3).tolist()}", flush=True)
        flare.send(flare.FLModel(params={"numpy_key": weights}))
    print("the job has ended", flush=True)


if __name__ == "__main__":
    main()
