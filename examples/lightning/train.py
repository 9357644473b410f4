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

"""A PyTorch Lightning script as any nvflare 2.8 site has it: `flare.patch` and the loop make it federated."""

from lit_net import LitNet, make_loader
from pytorch_lightning import Trainer

import nvflare.client.lightning as flare


def main():
    model, loader = LitNet(), make_loader(seed=1)
    trainer = Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    flare.patch(trainer)
    while flare.is_running():
        trainer.validate(model, loader)  # the global model
        trainer.fit(model, loader)


if __name__ == "__main__":
    main()
