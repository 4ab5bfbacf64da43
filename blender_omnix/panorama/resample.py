# SPDX-License-Identifier: GPL-3.0-or-later
"""Changing the size of a panorama: area average down, and continuation over its edges."""

from __future__ import annotations

import numpy as np


def pad(image: np.ndarray, n: int) -> np.ndarray:
    """The panorama (H, W[, C]) continued by ``n`` pixels on each side: (H + 2n, W + 2n[, C]).

    Columns wrap around. Over a pole the picture goes on down the opposite meridian: rows flipped
    and rolled by half the width. ``n`` is at most H.
    """
    if not 0 <= n <= image.shape[0]:
        raise ValueError(f"cannot pad {image.shape[0]} rows by {n}")
    if n == 0:
        return image
    half = image.shape[1] // 2
    above = np.roll(image[:n][::-1], half, axis=1)
    below = np.roll(image[-n:][::-1], half, axis=1)
    tall = np.concatenate([above, image, below])
    return np.concatenate([tall[:, -n:], tall, tall[:, :n]], axis=1)


def shrink(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize a panorama (H, W[, C]) to (height, width[, C]), float32.

    Along an axis that gets smaller each new pixel is the mean of the area it covers, exact for any
    factor, so that the picture's mean is kept. An axis that gets larger is interpolated linearly,
    around the seam and over the poles. At the same size the picture itself comes back, no copy.
    """
    image = np.asarray(image)
    if height <= image.shape[0]:
        image = _average_rows(image, height)
    else:
        image = _interpolate_rows(pad(image, 1)[:, 1:-1], height)
    image = np.swapaxes(image, 0, 1)
    if width <= image.shape[0]:
        image = _average_rows(image, width)
    else:
        image = _interpolate_rows(np.concatenate([image[-1:], image, image[:1]]), width)
    return np.ascontiguousarray(np.swapaxes(image, 0, 1), np.float32)


def _average_rows(image: np.ndarray, count: int) -> np.ndarray:
    """Area average along the first axis; adds up tap by tap, so needs no more than the result."""
    length = len(image)
    if length == count:
        return image
    starts, ends = np.arange(count) * length / count, np.arange(1, count + 1) * length / count
    first = np.floor(starts).astype(int)
    result = np.zeros((count, *image.shape[1:]), np.float32)
    for tap in range(int(np.ceil(length / count)) + 1):
        row = first + tap
        weight = np.clip(np.minimum(ends, row + 1) - np.maximum(starts, row), 0.0, 1.0)
        weight = (weight * count / length).astype(np.float32)
        result += _along_rows(weight, image) * image[np.minimum(row, length - 1)]
    return result


def _interpolate_rows(padded: np.ndarray, count: int) -> np.ndarray:
    """Linear interpolation along the first axis of rows that carry one extra row at either end."""
    position = (np.arange(count) + 0.5) * (len(padded) - 2) / count + 0.5
    first = np.floor(position).astype(int)
    weight = _along_rows((position - first).astype(np.float32), padded)
    return padded[first] * (1.0 - weight) + padded[first + 1] * weight


def _along_rows(weights: np.ndarray, image: np.ndarray) -> np.ndarray:
    return weights.reshape(-1, *[1] * (image.ndim - 1))
