# SPDX-License-Identifier: GPL-3.0-or-later
"""Where no surface is: from a coarse probability to a mask that follows the picture.

Probabilities and masks are (h, w) or (H, W), pictures (H, W, 3), sRGB-encoded.
"""

from __future__ import annotations

import numpy as np

from . import regions, resample

# Probabilities: what a region must reach somewhere, and what is left of one that does not.
_CERTAIN = 0.9
_NO_SKY = 0.4

_HEIGHT = 256  # rows of the picture whose colours are compared
_REACH = np.pi / 16  # radians around a pixel in which the colours of sky and surfaces are learnt
_SPREAD = 0.2  # standard deviation of either's colours
_CAP = 4.0  # largest evidence of colour, in logits
_ENOUGH = 0.05  # share of the neighbourhood that must be sky, and surface, for colours to count


def keep_certain(chance: np.ndarray) -> np.ndarray:
    """The probability, with every region in doubt all over taken for surface.

    Of real sky an engine is certain, somewhere in the middle; a bright curtain is likely sky all
    over and certain nowhere, and a hole in a wall is the worse mistake.
    """
    kept = regions.connected(chance > _CERTAIN, chance > 0.5)
    return np.where(kept, chance, np.minimum(chance, _NO_SKY))


def mask(chance: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """True where the sky is, (H, W) as the picture.

    An engine sees a small copy of the picture and misses its edges by some of its own pixels. Near
    them each pixel is compared with the mean colours of the sky and of the surfaces around it.
    """
    rows = min(_HEIGHT, picture.shape[0])
    small = resample.shrink(picture, rows, 2 * rows)
    chance = resample.upsample(chance, small, kind="scalar")
    refined = _follow_colour(chance, small)
    return resample.upsample(refined, picture, kind="scalar") > 0.5


def _follow_colour(chance: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """The probability given the picture's colours too, where both sky and surface are near."""
    reach = max(1, round(_REACH / np.pi * len(chance)))
    sky = np.clip(4.0 * (chance - 0.5), 0.0, 1.0)
    surface = np.clip(4.0 * (0.5 - chance), 0.0, 1.0)
    to_sky, near_sky = _unlike(picture, sky, reach)
    to_surface, near_surface = _unlike(picture, surface, reach)
    evidence = np.clip((to_surface - to_sky) / (2.0 * _SPREAD**2), -_CAP, _CAP)
    evidence *= np.clip(near_sky / _ENOUGH, 0, 1) * np.clip(near_surface / _ENOUGH, 0, 1)
    chance = np.clip(chance, 1e-3, 1.0 - 1e-3)
    return (1.0 / (1.0 + (1.0 - chance) / chance * np.exp(-evidence))).astype(np.float32)


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
