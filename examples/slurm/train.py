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

"""A training script for a batch system that may stop it at any time: it keeps its work, and goes on with it.

Fits a linear model with NumPy. Who comes after a preempted trainer gets the same task again, and finds how far that had
got in the round.
"""

import os
import time

import numpy as np

import nvflare.client as flare

FEATURES = 20
STEPS = 40
LEARNING_RATE = 0.1
# Seconds that a step takes at least: one of a real model does.
PACE = 0.1
# In the directory of the batch job, which its next run has, too.
CHECKPOINT = "checkpoint.npz"


def save(job: str, current_round: int, step: int, weights: np.ndarray) -> None:
    with open(CHECKPOINT + ".new", "wb") as file:
        np.savez(file, job=job, round=current_round, step=step, weights=weights)
    os.replace(CHECKPOINT + ".new", CHECKPOINT)  # a checkpoint is there as a whole, whenever this is stopped


def load(job: str, current_round: int, weights: np.ndarray):
    """Returns the step to begin with, and its weights: those of the checkpoint if it is of this round."""
    if os.path.exists(CHECKPOINT):
        saved = np.load(CHECKPOINT)
        if (str(saved["job"]), int(saved["round"])) == (job, current_round):
            return int(saved["step"]), saved["weights"]
    return 0, weights


def main():
    random = np.random.default_rng(7)
    x = random.normal(size=(2000, FEATURES))
    y = x @ np.arange(FEATURES)

    flare.init()
    job = flare.get_job_id()
    while flare.is_running():
        model = flare.receive()
        first, weights = load(job, model.current_round, np.asarray(model.params["numpy_key"], dtype=float))
        print(f"round {model.current_round} from step {first}", flush=True)
        for step in range(first, STEPS):
            weights = weights - LEARNING_RATE * 2 * x.T @ (x @ weights - y) / len(y)
            time.sleep(PACE)
            if step % 5 == 4:
                save(job, model.current_round, step + 1, weights)
                print(f"round {model.current_round}: step {step + 1} is kept", flush=True)
        flare.send(flare.FLModel(params={"numpy_key": weights}))
    print("the job has ended", flush=True)


if __name__ == "__main__":
    main()
