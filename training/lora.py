# SPDX-License-Identifier: GPL-3.0-or-later
"""Low-rank adapters of the decoder, trained in weight space.

``W + B A`` is one convolution where peft's layers run three, and the same function: training is a
third faster, and what is saved is an ordinary PEFT adapter (a test compares the two).
LoRA: Hu et al. 2021, arXiv 2106.09685.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from blender_omnix.engines.compact.network import CompactNetwork, adapted_modules

RANK = 16


def create(network: CompactNetwork, rank: int = RANK) -> nn.ParameterDict:
    """A fresh adapter: ``lora_A`` random, ``lora_B`` zero, so that it changes nothing yet.

    Keys are ``<module>.lora_A.weight`` and ``<module>.lora_B.weight`` as peft names them. A
    ParameterDict allows no dots in its keys: they are stored with ``/`` instead.
    """
    adapter = nn.ParameterDict()
    for name in adapted_modules(network):
        outputs, inputs, *kernel = network.get_submodule(name).weight.shape
        down = torch.empty(rank, inputs, *kernel)
        nn.init.kaiming_uniform_(down, a=math.sqrt(5))
        adapter[f"{name}.lora_A.weight".replace(".", "/")] = nn.Parameter(down)
        adapter[f"{name}.lora_B.weight".replace(".", "/")] = nn.Parameter(
            torch.zeros(outputs, rank, 1, 1)
        )
    return adapter


def merge(network: CompactNetwork, adapter: nn.ParameterDict) -> dict[str, Tensor]:
    """The decoder's weights with the adapter added, for ``torch.func.functional_call``.

    Keys are names within the decoder.
    """
    merged = {}
    for name in adapted_modules(network):
        weight = network.get_submodule(name).weight
        key = name.replace(".", "/")
        down, up = adapter[f"{key}/lora_A/weight"], adapter[f"{key}/lora_B/weight"]
        change = (up.flatten(1) @ down.flatten(1)).view_as(weight)
        merged[f"{name.removeprefix('decoder.')}.weight"] = weight + change
    return merged


def tensors(adapter: nn.ParameterDict) -> dict[str, Tensor]:
    """The adapter's tensors by their PEFT names within the network."""
    return {key.replace("/", "."): value.detach() for key, value in adapter.items()}
