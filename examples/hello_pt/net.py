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

"""The network and the data that the site's script and run.py share."""

import torch
from torch import nn

SIZE = 8  # pixels of an image's edge
CLASSES = 4


class Net(nn.Module):
    """A small CNN."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
        self.classifier = nn.Linear(8 * (SIZE // 2) ** 2, CLASSES)

    def forward(self, images):
        return self.classifier(self.features(images))


def make_data(seed: int, samples: int = 512):
    """Makes noisy images, one quarter of which is brighter, and the number of that quarter as the label."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (samples,), generator=random)
    images = torch.randn(samples, 1, SIZE, SIZE, generator=random)
    for image, label in zip(images, labels.tolist()):
        row, column = SIZE // 2 * (label // 2), SIZE // 2 * (label % 2)
        image[0, row : row + SIZE // 2, column : column + SIZE // 2] += 1.0
    return images, labels


def accuracy(net: nn.Module, images, labels) -> float:
    with torch.no_grad():
        return (net(images).argmax(dim=1) == labels).float().mean().item()
