# SPDX-License-Identifier: GPL-3.0-or-later
"""Does a map show a line where its edges meet?"""

from __future__ import annotations

import numpy as np

# Rows or columns on either side of the edge whose jumps are the measure of what is usual there.
_BESIDE = 8


def seam_error(image: np.ndarray) -> dict[str, float]:
    """Jumps over the panorama's edges, as multiples of the usual jump beside them.

    ``seam``: between the first and the last column. ``poles``: from the top and bottom rows to the
    pixels opposite them across the pole, the larger of the two. Jumps are mean absolute
    differences of neighbouring pixels of an (H, W[, C]) map; the usual jump is their mean over the
    8 neighbour pairs on either side (over a pole: towards the equator). About 1 means that the
    map goes on as it does elsewhere; a map of one value gives 0.
    """
    image = np.asarray(image, np.float64)
    columns = np.moveaxis(image, 1, 0)
    around = np.concatenate([columns[-_BESIDE - 1 :], columns[: _BESIDE + 1]])
    jumps = _jumps(around)
    half = image.shape[1] // 2
    poles = []
    for rows in (image[: _BESIDE + 1], image[::-1][: _BESIDE + 1]):
        over = np.abs(rows[0] - np.roll(rows[0], half, axis=0)).mean()
        poles.append(_ratio(over, _jumps(rows).mean(), image))
    beside = np.delete(jumps, _BESIDE).mean()
    return {"seam": _ratio(jumps[_BESIDE], beside, image), "poles": max(poles)}


def _jumps(lines: np.ndarray) -> np.ndarray:
    """Mean absolute difference of each line to the next: (N,) for N + 1 lines."""
    return np.abs(np.diff(lines, axis=0)).reshape(len(lines) - 1, -1).mean(axis=1)


def _ratio(jump: float, usual: float, image: np.ndarray) -> float:
    # A thousandth of the map's range keeps rounding in a flat area from looking like a seam.
    return float(jump / max(usual, 1e-3 * np.ptp(image), np.finfo(np.float64).tiny))
