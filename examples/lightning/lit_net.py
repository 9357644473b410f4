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

"""The Lightning module that the site's script and run.py share, and the data."""

import torch
from pytorch_lightning import LightningModule
from torch.utils.data import DataLoader, TensorDataset

TRUE_WEIGHTS = torch.tensor([[2.0], [-3.0], [0.5], [1.0]])


class LitNet(LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(len(TRUE_WEIGHTS), 1)

    def _loss(self, batch):
        x, y = batch
        return torch.nn.functional.mse_loss(self.net(x), y)

    def training_step(self, batch, _):
        return self._loss(batch)

    def validation_step(self, batch, _):
        self.log("loss", self._loss(batch))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05)


def make_loader(seed: int) -> DataLoader:
    x = torch.randn(500, len(TRUE_WEIGHTS), generator=torch.Generator().manual_seed(seed))
    return DataLoader(TensorDataset(x, x @ TRUE_WEIGHTS + 1), batch_size=50)
