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

"""Training that loads its data in worker processes, as PyTorch's DataLoader does."""

import pytest

from tests.integration_test.client_api.external_jobs import assert_works, start, stats
from tests.unit_test.app_common.executors.job_harness import LARGE, make_task, model_of
from tests.unit_test.app_common.executors.markers import needs_torch

pytestmark = [pytest.mark.watchdog(300), needs_torch]

TRAIN = """
    import sys
    import torch
    import nvflare.client as flare
    from torch.utils.data import DataLoader, TensorDataset

    data = TensorDataset(torch.arange(8.0))
    loader = DataLoader(data, batch_size=2, num_workers=2, persistent_workers=sys.argv[1] == "persistent")
    flare.init()
    while flare.is_running():
        model = flare.receive()
        total = sum(float(batch.sum()) for (batch,) in loader)
        flare.send(flare.FLModel(params={"w": model.params["w"] + total}))
"""


@pytest.mark.parametrize("workers", ["persistent", "of_each_round"])
def test_rounds_with_workers(job, workers):
    start(job, TRAIN, workers)
    for _ in range(2):
        assert (model_of(job.execute("train", make_task())).params["w"] == 28).all()
    assert stats(job)["launches"] == 1


WITH_MODEL = """
    import numpy as np
    import nvflare.client as flare
    from torch.utils.data import DataLoader, Dataset

    class Weights(Dataset):
        def __init__(self, weights):
            self.weights = weights

        def __len__(self):
            return 8

        def __getitem__(self, i):
            part = self.weights[i::8]
            part += 1  # in the worker, and nowhere else
            return float(part.mean())

    flare.init()
    while flare.is_running():
        model = flare.receive()
        weights = model.params["w"]
        means = [mean for batch in DataLoader(Weights(weights), batch_size=2, num_workers=2) for mean in batch.tolist()]
        assert means == [float(weights[0]) + 1] * 8, means
        weights += 2
        flare.send(model)
"""


def test_workers_read_the_model_that_was_received(job):
    """It is in memory that the job has handed over, and its pages are shared until somebody writes to them."""
    start(job, WITH_MODEL)
    for _ in range(2):
        assert_works(job, LARGE, added=2.0)
    assert stats(job)["launches"] == 1
