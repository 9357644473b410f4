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

"""A training script as any nvflare 2.8 site has it: a PyTorch CNN. It does not know who runs it, or in which mode."""

import zlib

import torch
from net import Net, accuracy, make_data

import nvflare.client as flare
from nvflare.client.tracking import SummaryWriter

EPOCHS = 2
BATCH = 32


def train(net, images, labels) -> float:
    """Trains the net; returns the mean loss of the last epoch."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9)
    for _ in range(EPOCHS):
        losses = []
        for batch in torch.randperm(len(labels)).split(BATCH):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(net(images[batch]), labels[batch])
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return sum(losses) / len(losses)


def main():
    flare.init()
    site = flare.get_site_name()
    images, labels = make_data(seed=zlib.crc32(site.encode()))
    net = Net()
    writer = SummaryWriter()
    while flare.is_running():
        model = flare.receive()
        net.load_state_dict(model.params)
        before = accuracy(net, images, labels)
        loss = train(net, images, labels)
        print(f"{site}: round {model.current_round}, accuracy {before:.3f}, loss {loss:.4f}")
        writer.add_scalar("loss", loss, model.current_round)
        flare.send(flare.FLModel(params=net.state_dict(), metrics={"accuracy": before}))


if __name__ == "__main__":
    main()
