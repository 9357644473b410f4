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

from tests.integration_test.client_api.external_jobs import start, stats
from tests.unit_test.app_common.executors.job_harness import make_task, model_of

pytest.importorskip("torch")

pytestmark = pytest.mark.watchdog(120)

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
