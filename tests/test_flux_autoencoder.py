# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKL

from blender_omnix.engines.flux import autoencoder
from tests.flux_tiny import MODEL

torch.set_num_threads(1)


@pytest.fixture
def vae():
    return AutoencoderKL.from_pretrained(MODEL / "vae").eval()


def test_encode_samples_the_posterior_with_the_given_noise(vae):
    image, noise = torch.rand(1, 3, 32, 64) * 2 - 1, torch.randn(1, 16, 4, 8)
    zero = autoencoder.encode(vae, image, torch.zeros_like(noise))
    posterior = vae.encode(image).latent_dist
    expected = (posterior.mean - vae.config.shift_factor) * vae.config.scaling_factor
    torch.testing.assert_close(zero, expected.detach())
    drawn = autoencoder.encode(vae, image, noise) - zero
    torch.testing.assert_close(
        drawn, (posterior.std * noise * vae.config.scaling_factor).detach(), atol=1e-6, rtol=1e-5
    )


def test_encode_in_tiles_only_when_asked(vae):
    vae.tile_sample_min_size, vae.tile_latent_min_size = 32, 4
    image, noise = torch.rand(1, 3, 32, 64) * 2 - 1, torch.zeros(1, 16, 4, 8)
    whole = autoencoder.encode(vae, image, noise)
    tiled = autoencoder.encode(vae, image, noise, tiled=True)
    assert whole.shape == tiled.shape
    assert not torch.allclose(whole, tiled)


def test_decode_returns_an_image_in_range(vae):
    image = autoencoder.decode(vae, 3 * torch.randn(2, 16, 4, 8))
    assert image.shape == (2, 3, 32, 64)
    assert image.dtype == torch.float32
    assert image.min() >= 0
    assert image.max() <= 1


def test_decode_rolls_the_wrap_columns_in(vae):
    """Content of the first latent columns must reach the pixels left of the seam's other side."""
    latents = torch.zeros(1, 16, 4, 16)
    changed = latents.clone()
    changed[..., 0] = 2.0
    difference = (autoencoder.decode(vae, changed) - autoencoder.decode(vae, latents)).abs()
    assert difference[..., -4:].max() > 1e-4


def test_row_tiles_overlap_and_fade(vae):
    """A tile limit that the image exceeds: official row tiling, spelled out with loops."""
    vae.tile_sample_min_size, vae.tile_latent_min_size = 64, 8
    latents = torch.randn(1, 16, 13, 8)
    z = latents / vae.config.scaling_factor + vae.config.shift_factor
    z = torch.cat([z, z[..., :2]], dim=-1)
    with torch.no_grad():
        upper, lower, last = (vae.decoder(z[:, :, top : top + 8]) for top in (0, 6, 12))
    expected = torch.empty(1, 3, 13 * 8, 10 * 8)
    expected[:, :, :48] = upper[:, :, :48]
    for y in range(16):
        expected[:, :, 48 + y] = upper[:, :, 48 + y] * (1 - y / 16) + lower[:, :, y] * (y / 16)
    expected[:, :, 64:96] = lower[:, :, 16:48]
    for y in range(8):
        expected[:, :, 96 + y] = lower[:, :, 48 + y] * (1 - y / 8) + last[:, :, y] * (y / 8)
    for x in range(16):
        expected[..., x] = expected[..., 64 + x] * (1 - x / 16) + expected[..., x] * (x / 16)
    expected = (expected[..., :64] / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(autoencoder.decode(vae, latents), expected, atol=1e-5, rtol=1e-5)
