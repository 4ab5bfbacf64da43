# SPDX-License-Identifier: GPL-3.0-or-later
"""Images to FLUX latents and back, as the official OmniX code does it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from . import wrap

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

# Latent columns appended on the right for the decoder.
DECODE_COLUMNS = 2


def reduction(vae: AutoencoderKL) -> int:
    """Pixels to a latent, each way."""
    return 2 ** (len(vae.config.block_out_channels) - 1)


@torch.no_grad()
def encode(
    vae: AutoencoderKL, image: torch.Tensor, noise: torch.Tensor, *, tiled: bool = False
) -> torch.Tensor:
    """Sample the posterior of `image` (1, 3, H, W) in -1..1 with `noise` (1, C, H/8, W/8).

    Returns normalised latents of the noise's shape, float32. The official code encodes an image
    beyond the autoencoder's `sample_size` in overlapping tiles (`tiled=True`); encoding it in one
    piece is what the tiles approximate.
    """
    vae.use_tiling = tiled
    posterior = vae.encode(image.to(vae.device, vae.dtype)).latent_dist
    latents = posterior.mean + posterior.std * noise.to(vae.device, vae.dtype)
    return ((latents - vae.config.shift_factor) * vae.config.scaling_factor).float()


@torch.no_grad()
def decode(vae: AutoencoderKL, latents: torch.Tensor) -> torch.Tensor:
    """Decode normalised `latents` (B, C, h, w) to an image (B, 3, 8h, 8w) in 0..1, float32.

    The decoder sees full-width row tiles with two columns appended for the wrap; both overlaps are
    faded (official code, src/modules/blend_h.py).
    """
    z = latents.to(vae.device, vae.dtype) / vae.config.scaling_factor + vae.config.shift_factor
    image = _decode_row_tiles(vae, wrap.extend(z, DECODE_COLUMNS))
    scale = image.shape[-1] // (z.shape[-1] + DECODE_COLUMNS)
    image = wrap.close(image, DECODE_COLUMNS * scale)
    return (image.float() / 2 + 0.5).clamp(0, 1)


def _decode_row_tiles(vae: AutoencoderKL, z: torch.Tensor) -> torch.Tensor:
    step = int(vae.tile_latent_min_size * (1 - vae.tile_overlap_factor))
    overlap = int(vae.tile_sample_min_size * vae.tile_overlap_factor)
    kept = vae.tile_sample_min_size - overlap

    tiles: list[torch.Tensor] = []
    for top in range(0, z.shape[2], step):
        rows = z[:, :, top : top + vae.tile_latent_min_size]
        tile = vae.decoder(rows if vae.post_quant_conv is None else vae.post_quant_conv(rows))
        if tiles:
            count = min(overlap, tiles[-1].shape[2], tile.shape[2])
            faded = wrap.cross_fade(tiles[-1][:, :, -count:], tile[:, :, :count], dim=2)
            tile = torch.cat([faded, tile[:, :, count:]], dim=2)
        tiles.append(tile)
    return torch.cat([tile[:, :, :kept] for tile in tiles], dim=2)
