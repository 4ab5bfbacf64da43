# SPDX-License-Identifier: GPL-3.0-or-later
"""Where no surface is: from a coarse probability to a mask that follows the picture.

Probabilities and masks are (h, w) or (H, W), pictures (H, W, 3), sRGB-encoded.
"""

from __future__ import annotations

import numpy as np

from . import frames, regions, resample

# Probabilities: what a region must reach somewhere, and what is left of one that does not; what an
# even part of the picture must have to be sky where it joins it.
_CERTAIN = 0.8
_NO_SKY = 0.4
_POSSIBLE = 0.25

_HEIGHT = 256  # rows of the picture whose colours are compared
_REACH = np.pi / 11  # radians around a pixel in which the colours of sky and surfaces are learnt
_PASSES = 3  # over the picture, each with the sky and the surfaces that the one before told apart
_SPREAD = 0.28  # standard deviation of either's colours
_CAP = 4.0  # largest evidence of colour, in logits
_MARGIN = 1.5  # logits by which a pixel near both must be sky: a hole is the worse mistake
_ENOUGH = 0.05  # share of the neighbourhood that must be sky, and surface, for colours to count
_ISLAND = 4e-4  # largest share of the sphere of an even region in the sky that is no surface
_STEP = 0.03  # largest difference between neighbours in a clear or a blown-out sky


def keep_certain(chance: np.ndarray) -> np.ndarray:
    """The probability, lowered in every region that is in doubt all over.

    Of real sky an engine is certain, somewhere in the middle; a bright curtain is likely sky all
    over and certain nowhere, and a hole in a wall is the worse mistake. It is a surface unless
    `mask` finds that it joins a sky of its colour.
    """
    kept = regions.connected(chance > _CERTAIN, chance > 0.5)
    return np.where(kept, chance, np.minimum(chance, _NO_SKY))


def mask(chance: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """True where the sky is, (H, W) as the picture.

    An engine sees a small copy of the picture and misses its edges by some of its own pixels. Near
    them each pixel is compared with the mean colours of the sky and of the surfaces around it. From
    there the sky spreads over what is as even as a clear or a blown-out sky, unless the engine
    gives it less than a quarter; but what is even and small and has sky all around is sky whatever
    the engine says: nothing is there to be seen.
    """
    rows = min(_HEIGHT, picture.shape[0])
    small = resample.resize(picture, rows, 2 * rows)
    chance = resample.upsample(chance, small, kind="scalar")
    refined = _follow_colour(chance, small)
    even = _steps(small) < _STEP
    found = refined > 0.5
    spread = regions.connected(found, found | (even & (chance > _POSSIBLE)))
    filled = spread | _islands(~spread, even)
    refined = np.where(filled & ~found, np.float32(1.0), refined)
    return resample.upsample(refined, picture, kind="scalar") > 0.5


def _islands(surface: np.ndarray, even: np.ndarray) -> np.ndarray:
    """Small regions of the surface of which most is even."""
    labels = regions.label(surface)
    area = np.broadcast_to(frames.solid_angles(*surface.shape)[:, None], surface.shape).ravel()
    size = np.bincount(labels.ravel(), area)
    plain = np.bincount(labels.ravel(), area * even.ravel())
    return surface & ((size < _ISLAND * 4.0 * np.pi) & (plain > 0.5 * size))[labels]


def _follow_colour(chance: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """The probability given the picture's colours too, where both sky and surface are near."""
    reach = max(1, round(_REACH / np.pi * len(chance)))
    prior = np.clip(chance, 1e-3, 1.0 - 1e-3)
    odds = prior / (1.0 - prior)
    for _ in range(_PASSES):
        to_sky, near_sky = _unlike(picture, np.clip(4.0 * (chance - 0.5), 0.0, 1.0), reach)
        to_surface, near_surface = _unlike(picture, np.clip(4.0 * (0.5 - chance), 0.0, 1.0), reach)
        counts = np.clip(near_sky / _ENOUGH, 0, 1) * np.clip(near_surface / _ENOUGH, 0, 1)
        evidence = np.clip((to_surface - to_sky) / (2.0 * _SPREAD**2), -_CAP, _CAP) * counts
        chance = 1.0 / (1.0 + np.exp(-evidence) / odds)
    chance = 1.0 / (1.0 + np.exp(_MARGIN * counts - evidence) / odds)
    return chance.astype(np.float32)


def _steps(picture: np.ndarray) -> np.ndarray:
    """The largest difference in any channel between each pixel and its four neighbours, (H, W)."""
    around = resample.pad(picture, 1)
    near = (around[:-2, 1:-1], around[2:, 1:-1], around[1:-1, :-2], around[1:-1, 2:])
    return np.max([np.abs(other - picture).max(-1) for other in near], axis=0)


def _unlike(picture: np.ndarray, weight: np.ndarray, reach: int) -> tuple[np.ndarray, np.ndarray]:
    """Squared distance of each colour to the weighted mean around it, and the mean weight there."""
    held = _mean_around(weight[..., None], reach)
    mean = _mean_around(weight[..., None] * picture, reach) / np.maximum(held, 1e-6)
    return ((picture - mean) ** 2).sum(-1), held[..., 0]


def _mean_around(image: np.ndarray, reach: int) -> np.ndarray:
    """Mean over the square of ``2 reach + 1`` pixels around each, over seam and poles."""
    side = 2 * reach + 1
    total = np.pad(resample.pad(image, reach).astype(np.float64), ((1, 0), (1, 0), (0, 0)))
    total = total.cumsum(0).cumsum(1)
    corners = total[side:, side:] - total[side:, :-side] - total[:-side, side:]
    return (corners + total[:-side, :-side]) / side**2
