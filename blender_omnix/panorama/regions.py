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


def label(mask: np.ndarray) -> np.ndarray:
    """Number the connected regions of ``mask`` (H, W; even W): (H, W) int, 0 outside.

    Pixels of one region share a number; the numbers are not consecutive. Connected means by a
    shared side. A row of the panorama is a circle, and so is a column together with the opposite
    one: each pixel starts with a number of its own, and the highest of every run along either kind
    of circle spreads over the run, in turn, until nothing changes.
    """
    height, width = mask.shape
    labels = np.where(mask, np.arange(1, mask.size + 1, dtype=np.int32).reshape(height, width), 0)
    while True:
        before = labels
        labels = _spread(labels)
        half = width // 2
        circles = _spread(np.concatenate([labels[:, :half], labels[::-1, half:]]).T).T
        labels = np.concatenate([circles[:height], circles[height:][::-1]], axis=1)
        if np.array_equal(labels, before):
            return labels


def connected(seeds: np.ndarray, within: np.ndarray) -> np.ndarray:
    """All pixels of ``within`` (H, W; even W) connected to a pixel of ``seeds``."""
    labels = label(within)
    held = np.zeros(within.size + 1, bool)
    held[labels[seeds & within]] = True
    return held[labels]


def _spread(labels: np.ndarray) -> np.ndarray:
    """The highest label of every run along the circles that the rows are."""
    lines, length = labels.shape
    inside = labels > 0
    run = np.cumsum(inside & ~np.roll(inside, 1, axis=1), axis=1, dtype=np.int32)
    # What precedes the first start belongs to the last run, which wraps around.
    run = np.where(run == 0, run[:, -1:], run) + np.arange(lines)[:, None] * (length + 1)
    highest = np.zeros(lines * (length + 1), labels.dtype)
    np.maximum.at(highest, run[inside], labels[inside])
    return np.where(inside, highest[run], 0)
