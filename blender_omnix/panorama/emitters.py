# SPDX-License-Identifier: GPL-3.0-or-later
"""What in the panorama gives light of its own, kept out of the materials.

An emitter is sky, or a connected region far brighter than a white surface could be where it is.
White is estimated from the surroundings: the mean radiance of the neighbourhood, sky and what is
far above the scene left out, over its mean albedo. A region reaches as far as the radiance is
above ``EDGE`` times white, the mask falling off over the octave below. It counts when it holds
something above ``SURE`` times white, or something above ``SEED`` times white and a sharp outline,
which a window has and the light of a lamp on a wall has not. Level ground is lit and does not
light: patches of sun on a floor stay material. A picture of limited range cannot show more than
its own white: there an emitter is what is clipped.
"""

from __future__ import annotations

import numpy as np

from . import frames, regions, resample, tonemap

EDGE = 2.0  # times white
SEED = 4.0  # times white
SURE = 32.0  # times white
SHARP = 1.0  # octaves of radiance lost within two pixels of a 512 x 256 panorama
OUTLINE = 0.3  # least share of a region's outline that is sharp
CLIPPED = 0.98  # sRGB-encoded luminance of a picture of limited range
PLATEAU = 1e-4  # share of the pixels that are as bright as the brightest, in a clipped picture
CONTRAST = 50.0  # of the brightest pixel to the median, that no clipped picture reaches
ALBEDO = 0.4  # mean linear albedo of a neighbourhood where none is predicted
LEVEL = 0.7  # upward component of the normal above which a surface below the horizon is ground
_NEAR = 20.0  # degrees, standard deviation of the neighbourhood


def is_clipped(linear: np.ndarray) -> bool:
    """Whether linear values (H, W, 3) of a float file are a picture of limited range.

    Such a picture ends at 1, and is clipped there over some area, or has nothing that is far
    brighter than the rest. Radiance may be in any unit: that all of it is below 1 says nothing.
    """
    strongest = linear.max(axis=-1)
    white = float(strongest.max())
    if white > 1.0:
        return False
    plateau = float((strongest > 0.999 * white).mean())
    return plateau > PLATEAU or white < CONTRAST * float(np.median(strongest))


def emission(
    linear: np.ndarray,
    sky: np.ndarray,
    albedo: np.ndarray | None = None,
    normal: np.ndarray | None = None,
    *,
    is_hdr: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Radiance of light sources, windows and sky: ``(emission, mask)``.

    ``linear`` (H, W, 3) linear radiance, of a picture of limited range decoded from sRGB unless it
    ``is_hdr``; ``sky`` (H, W) a mask or probability at that size. ``albedo`` (h, w, 3;
    sRGB-encoded) and ``normal`` (h, w, 3; Blender's frame) are predictions of any size that sharpen
    the decision.
    ``mask`` (H, W) float32 is 1 on emitters and sky, with soft edges; ``emission`` is linear times
    mask, in the units of ``linear``.
    """
    height = min(linear.shape[0], 256)
    size = (height, 2 * height)
    open_sky = resample.resize(sky, *size) > 0.5
    surface = ~open_sky
    if normal is not None:
        level = resample.resize(normal[..., 2], *size) > LEVEL
        surface &= ~(level & (frames.elevations(height)[:, None] < 0))

    light = tonemap.luminance(resample.resize(linear, *size))
    if not is_hdr:
        strength = tonemap.luminance(tonemap.srgb_encode(linear))
        edge, seed, sure, fade = CLIPPED, CLIPPED, CLIPPED, 0.1
    else:
        strength = tonemap.luminance(linear)
        white = _white(light, ~open_sky, albedo)
        strength /= resample.resize(white, *strength.shape)
        np.log2(np.maximum(strength, 1e-6), out=strength)
        edge, seed, sure = np.log2([EDGE, SEED, SURE]).tolist()
        fade = 1.0
    # A lamp may be smaller than a block.
    peak = resample.block_max(strength, *size)
    region = _glowing(np.where(surface, peak, -np.inf), edge, seed, sure, light)
    gate = (regions.grow(region) & surface).astype(np.float32)

    mask = np.clip((strength - (edge - fade)) / fade, 0.0, 1.0)
    mask *= resample.resize(gate, *mask.shape)
    np.maximum(mask, sky, out=mask)
    return linear * mask[..., None], mask


def _glowing(
    peak: np.ndarray, edge: float, seed: float, sure: float, light: np.ndarray
) -> np.ndarray:
    """Regions of ``peak > edge`` that are emitters, (h, w) bool."""
    labels = regions.label(peak > edge)
    count = labels.size + 1
    outline = (labels > 0) & regions.grow(labels == 0)
    octaves = np.log2(np.maximum(light, 1e-6))
    padded = resample.pad(octaves, 2)
    lowest = octaves
    for y in range(5):
        for x in range(5):
            around = padded[y : y + len(octaves), x : x + octaves.shape[1]]
            lowest = np.minimum(lowest, around)
    sharp = outline & (octaves - lowest > SHARP)
    length = np.bincount(labels.ravel(), outline.ravel(), count)
    share = np.bincount(labels.ravel(), sharp.ravel(), count) / np.maximum(length, 1.0)
    strongest = np.full(count, -np.inf)
    np.maximum.at(strongest, labels, peak)
    emits = (strongest > sure) | ((strongest > seed) & (share > OUTLINE))
    emits[0] = False
    return emits[labels]


def _white(light: np.ndarray, surface: np.ndarray, albedo: np.ndarray | None) -> np.ndarray:
    """Radiance (h, w) of a white diffuse surface at each place, from the radiance around it."""
    small = (24, 48)
    rays = frames.directions(*small).reshape(-1, 3)
    near = np.exp((rays @ rays.T - 1.0) / (1.0 - np.cos(np.radians(_NEAR))))
    near *= np.repeat(frames.solid_angles(*small), small[1]).astype(np.float32)

    part = surface.astype(np.float32)
    if not part.any():
        return np.full(light.shape, np.float32(light.mean() / ALBEDO) + 1e-6)
    # What is far above three quarters of the surfaces is capped: it may be a lamp.
    cap = 2.0 * np.quantile(light[surface], 0.75)
    total = near @ resample.resize(np.minimum(light, cap) * part, *small).ravel()
    if albedo is None:
        reflected = ALBEDO * part
    else:
        shade = tonemap.luminance(tonemap.srgb_decode(albedo))
        reflected = part * np.maximum(resample.resize(shade, *light.shape), 0.05)
    share = near @ resample.resize(reflected, *small).ravel()
    everywhere = total.sum() / share.sum()
    local = total / np.maximum(share, 1e-3 * share.max())
    # A dark corner receives less light, but not so little that a wall beyond it seems to glow.
    white = np.maximum(local, 0.5 * everywhere) + 1e-6
    return resample.resize(white.reshape(small), *light.shape)
