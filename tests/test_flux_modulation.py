# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest
import torch
from diffusers import FluxTransformer2DModel

from blender_omnix.adapters.layout import FLUX_DEV, flux_modules
from blender_omnix.engines.flux import components, pipeline
from blender_omnix.engines.flux.attention import CrossAdapterAttnProcessor
from blender_omnix.engines.flux.modulation import ModulationTable
from blender_omnix.engines.flux.prompt import Prompt
from tests.flux_tiny import MODEL

torch.set_num_threads(1)


@pytest.fixture
def tiny():
    return components.load(MODEL, torch.float32).transformer


PROMPT = Prompt(torch.ones(1, 7, 32), torch.linspace(-1, 1, 32)[None])


def test_the_table_holds_the_networks_own_numbers(tiny):
    timesteps, latents = torch.tensor([990.0, 512.5, 3.0]), torch.randn(2, 16, 4, 8)
    plain = [pipeline.velocity(tiny, latents, step, PROMPT) for step in timesteps]
    table = ModulationTable(tiny)
    table.fill(**pipeline.modulation(tiny, timesteps, PROMPT, pipeline.GUIDANCE))
    # Backwards: rows are found by their timestep, not by counting calls.
    for step, expected in reversed(list(zip(timesteps, plain, strict=True))):
        torch.testing.assert_close(
            pipeline.velocity(tiny, latents, step, PROMPT), expected, atol=1e-6, rtol=1e-6
        )


def test_a_step_that_was_not_filled_is_an_error(tiny):
    table = ModulationTable(tiny)
    table.fill(**pipeline.modulation(tiny, torch.tensor([500.0]), PROMPT, pipeline.GUIDANCE))
    with pytest.raises(RuntimeError, match="was not computed"):
        pipeline.velocity(tiny, torch.zeros(1, 16, 4, 8), torch.tensor(400.0), PROMPT)


def test_the_linears_leave_the_model(tiny):
    names = [name for name, _ in tiny.named_parameters() if "norm" in name and "linear" in name]
    assert names
    ModulationTable(tiny)
    left = {name for name, _ in tiny.named_parameters()}
    assert not left & set(names)


def parameters(model) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_the_real_network_on_the_meta_device():
    """FLUX.1-dev without its memory: what is adapted, what attends, what the table replaces."""
    with torch.device("meta"):
        transformer = FluxTransformer2DModel(**FLUX_DEV, guidance_embeds=True)
    assert round(parameters(transformer) / 1e9, 2) == 11.90

    modules = dict(transformer.named_modules())
    adapted = flux_modules(dict(transformer.config))
    assert len(adapted) == 228
    assert all(tuple(modules[name].weight.shape) == shape for name, shape in adapted.items())

    pipeline.attend_across(transformer)
    processors = transformer.attn_processors.values()
    assert len(processors) == 57
    assert all(isinstance(processor, CrossAdapterAttnProcessor) for processor in processors)

    prompt = Prompt(torch.zeros(1, 512, 4096, device="meta"), torch.zeros(1, 768, device="meta"))
    latents = torch.zeros(3, 16, 90, 186, device="meta")
    timestep = torch.tensor(500.0, device="meta")
    assert pipeline.velocity(transformer, latents, timestep, prompt).shape == latents.shape

    ModulationTable(transformer)
    assert round(parameters(transformer) / 1e9, 2) == 8.65
