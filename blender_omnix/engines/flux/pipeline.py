# SPDX-License-Identifier: GPL-3.0-or-later
"""OmniX's sampler (arXiv 2510.26800): denoise one target beside its clean conditions.

The batch holds one element per adapter, conditions first, target last. Only the target is a sample
of the flow; the conditions are context and stay clean at every step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from . import wrap
from .attention import CrossAdapterAttnProcessor

if TYPE_CHECKING:
    from collections.abc import Callable

    from diffusers import FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel

    from .prompt import Prompt

STEPS = 28
MAX_STEPS = 1000  # as many as the network was trained at
GUIDANCE = 3.5
# Latent columns appended on the right while denoising.
WRAP_COLUMNS = 6
# A token is a square of this many latents each way.
PATCH = 2


@torch.no_grad()
def denoise(
    transformer: FluxTransformer2DModel,
    scheduler: FlowMatchEulerDiscreteScheduler,
    conditions: torch.Tensor,
    noise: torch.Tensor,
    prompt: Prompt,
    timesteps: torch.Tensor,
    *,
    guidance: float = GUIDANCE,
    wrap_columns: int = WRAP_COLUMNS,
    on_step: Callable[[int], None] = lambda step: None,
) -> torch.Tensor:
    """Sample the target's latents (1, C, h, w), float32.

    `conditions` (B - 1, C, h, w) are normalised clean latents and `noise` (1, C, h, w) starts the
    target. The transformer must already attend across the batch (`attend_across`) and route
    element i through adapter i, and `timesteps` are what `schedule` has just set. `on_step(i)` runs
    before step i and may raise to stop.
    """
    device = transformer.device
    clean = wrap.extend(conditions.to(device, torch.float32), wrap_columns)
    sample = wrap.extend(noise.to(device, torch.float32), wrap_columns)
    for index, timestep in enumerate(timesteps):
        on_step(index)
        batch = torch.cat([clean, sample])
        direction = velocity(transformer, batch, timestep, prompt, guidance)[-1:]
        sample = scheduler.step(direction, timestep, sample, return_dict=False)[0]
        sample = wrap.blend(sample, wrap_columns)
    return wrap.close(sample, wrap_columns)


@torch.no_grad()
def velocity(
    transformer: FluxTransformer2DModel,
    latents: torch.Tensor,
    timestep: torch.Tensor,
    prompt: Prompt,
    guidance: float = GUIDANCE,
) -> torch.Tensor:
    """The transformer's output for a batch of latents (B, C, h, w) at one timestep, float32.

    `timestep` is a scalar tensor in the scheduler's 0..1000; all elements share it and the prompt.
    """
    device, dtype = transformer.device, transformer.dtype
    batch, _, height, width = latents.shape
    output = transformer(
        hidden_states=pack(latents).to(device, dtype),
        encoder_hidden_states=prompt.tokens.to(device, dtype).expand(batch, -1, -1),
        txt_ids=torch.zeros(prompt.tokens.shape[1], 3, device=device),
        img_ids=position_ids(height // PATCH, width // PATCH).to(device),
        return_dict=False,
        **modulation(transformer, timestep.expand(batch), prompt, guidance),
    )[0]
    return unpack(output.float(), height, width)


def modulation(
    transformer: FluxTransformer2DModel, timesteps: torch.Tensor, prompt: Prompt, guidance: float
) -> dict[str, torch.Tensor | None]:
    """The transformer's arguments that its AdaLN layers see, for a batch at `timesteps` (B,)."""
    device, dtype = transformer.device, transformer.dtype
    embedded = torch.full(timesteps.shape, guidance, device=device)
    return {
        # Rounded to the network's type before it is scaled, as in Diffusers' FLUX pipeline.
        "timestep": timesteps.to(device, dtype) / 1000,
        "guidance": embedded if transformer.config.guidance_embeds else None,
        "pooled_projections": prompt.pooled.to(device, dtype).expand(len(timesteps), -1),
    }


def attend_across(transformer: FluxTransformer2DModel) -> None:
    """Let every attention of the transformer run over the whole batch."""
    transformer.set_attn_processor(CrossAdapterAttnProcessor())


def schedule(
    scheduler: FlowMatchEulerDiscreteScheduler,
    noise: torch.Tensor,
    steps: int = STEPS,
    wrap_columns: int = WRAP_COLUMNS,
) -> torch.Tensor:
    """Set FLUX's shifted sigmas for a target like `noise` (1, C, h, w); returns timesteps (steps,).

    The shift grows linearly with one element's token count, appended columns included; before it,
    sigmas are linspace(1, 1/n, n).
    """
    config = scheduler.config
    tokens = noise.shape[-2] * (noise.shape[-1] + wrap_columns) // PATCH**2
    slope = (config.max_shift - config.base_shift) / (
        config.max_image_seq_len - config.base_image_seq_len
    )
    shift = config.base_shift + slope * (tokens - config.base_image_seq_len)
    scheduler.set_timesteps(
        sigmas=np.linspace(1.0, 1 / steps, steps), mu=shift, device=noise.device
    )
    return scheduler.timesteps


def pack(latents: torch.Tensor) -> torch.Tensor:
    """(B, C, h, w) to tokens (B, h/2 w/2, 4C): one token per 2 x 2 patch, channel-major."""
    return F.pixel_unshuffle(latents, PATCH).flatten(2).mT


def unpack(tokens: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The inverse of `pack`: (B, h/2 w/2, 4C) to (B, C, height, width)."""
    return F.pixel_shuffle(tokens.mT.unflatten(2, (height // PATCH, width // PATCH)), PATCH)


def position_ids(rows: int, columns: int) -> torch.Tensor:
    """Rotary positions (rows columns, 3) of a token grid: 0, row, column."""
    row, column = torch.meshgrid(
        torch.arange(rows, dtype=torch.float32),
        torch.arange(columns, dtype=torch.float32),
        indexing="ij",
    )
    return torch.stack([torch.zeros_like(row), row, column], dim=-1).flatten(0, 1)
