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

"""The arrays of a measurement's model: NumPy arrays, or PyTorch tensors where the plan names a dtype of them.

torch is imported only for tensors, and nvflare told about them as its own parts for PyTorch do.
"""

import numpy as np

from nvflare.fuel.utils import fobs

ITEM_BYTES = {"": 4, "float32": 4, "bfloat16": 2}


def prepare(plan: dict):
    """Makes this process ready for the plan's kind of arrays."""
    if plan["tensors"]:
        from nvflare.app_opt.pt.decomposers import TensorDecomposer

        fobs.register(TensorDecomposer)


def make_array(plan: dict, value: int):
    """Returns one of the plan's arrays, full of the value."""
    size = max(1, plan["bytes"] // plan["arrays"] // ITEM_BYTES[plan["tensors"]])
    if not plan["tensors"]:
        return np.full(size, value, dtype=np.float32)
    import torch

    return torch.full((size,), value, dtype=getattr(torch, plan["tensors"]))
