# SPDX-License-Identifier: GPL-3.0-or-later
"""Masks on the panorama: growth and connection, around the seam and over the poles."""

from __future__ import annotations

import numpy as np

from . import resample


def grow(mask: np.ndarray) -> np.ndarray:
    """The mask (H, W) and all eight neighbours of its pixels."""
    padded = resample.pad(mask, 1)
    wide = padded[:, :-2] | padded[:, 1:-1] | padded[:, 2:]
    return wide[:-2] | wide[1:-1] | wide[2:]


def connected(seeds: np.ndarray, within: np.ndarray) -> np.ndarray:
    """All pixels of ``within`` (H, W; even W) connected to ``seeds`` by shared sides.

    A row of the panorama is a circle, and so is a column together with the opposite one: seeds
    spread along whole runs of either at once, in turn, until nothing changes.
    """
    height = within.shape[0]
    reached = seeds & within
    while True:
        count = np.count_nonzero(reached)
        reached = _fill_runs(reached, within)
        circles = _fill_runs(_meridians(reached), _meridians(within))
        reached = np.concatenate([circles[:, :height], circles[:, height:][:, ::-1]]).T
        if np.count_nonzero(reached) == count:
            return np.ascontiguousarray(reached)


def _meridians(mask: np.ndarray) -> np.ndarray:
    """Great circles through the poles: (W / 2, 2 H)."""
    half = mask.shape[1] // 2
    return np.concatenate([mask[:, :half].T, mask[::-1, half:].T], axis=1)


def _fill_runs(seeds: np.ndarray, within: np.ndarray) -> np.ndarray:
    """Along the circles that the rows are, every run of ``within`` that holds a seed."""
    lines, length = within.shape
    run = np.cumsum(within & ~np.roll(within, 1, axis=1), axis=1)
    # What precedes the first start belongs to the last run, which wraps around.
    run = np.where(run == 0, run[:, -1:], run) + np.arange(lines)[:, None] * (length + 1)
    holds = np.bincount(run[seeds], minlength=lines * (length + 1)) > 0
    return holds[run] & within
