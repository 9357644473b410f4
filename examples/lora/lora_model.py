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

"""The language model that each site has, and its adapter: all that travels, and all that the server has."""

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from transformers import LlamaConfig, LlamaForCausalLM

VOCABULARY = 32


def make_model() -> PeftModel:
    """Returns a frozen model with trainable adapters, the same one at every site.

    Instead of a tiny random model a real site has `AutoModelForCausalLM.from_pretrained(...)` here.
    """
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    return get_peft_model(LlamaForCausalLM(config), LoraConfig(r=8, lora_alpha=32, target_modules="all-linear"))


class Adapter(torch.nn.Module):
    """The adapter alone, under the names that peft gives its weights: the server allocates no model."""

    def __init__(self):
        super().__init__()
        with torch.device("meta"):  # shapes without memory
            shapes = get_peft_model_state_dict(make_model())
        for name, weights in shapes.items():
            *path, leaf = name.split(".")
            module = self
            for part in path:
                if part not in module._modules:
                    module.add_module(part, torch.nn.Module())
                module = module.get_submodule(part)
            # As peft starts: with B = 0 the adapter changes nothing, and A must not be 0 or neither ever learns.
            value = torch.zeros(weights.shape)
            if "lora_A" in name:
                torch.nn.init.kaiming_uniform_(value, a=5**0.5)
            module.register_parameter(leaf, torch.nn.Parameter(value))


def make_data(seed: int, count: int = 256, length: int = 16) -> torch.Tensor:
    """Returns sentences of a language with one rule: the next word is 5 times this one plus 3."""
    words = [torch.randint(VOCABULARY, (count,), generator=torch.Generator().manual_seed(seed))]
    for _ in range(length - 1):
        words.append((5 * words[-1] + 3) % VOCABULARY)
    return torch.stack(words, dim=1)
