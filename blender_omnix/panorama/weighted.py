# SPDX-License-Identifier: GPL-3.0-or-later
"""Statistics of values that count differently, as pixels of a panorama do."""

from __future__ import annotations

import numpy as np


def quantile(
    values: np.ndarray, weights: np.ndarray, fraction: float | tuple[float, ...]
) -> np.ndarray:
    """The least of the values that, with all below it, has at least a fraction of the weight.

    ``values`` and ``weights`` have one shape, any; one result for each ``fraction``, 0..1.
    """
    order = np.argsort(values, axis=None)
    below = np.cumsum(np.ravel(weights)[order])
    return np.ravel(values)[order][np.searchsorted(below, np.multiply(fraction, below[-1]))]


def median(values: np.ndarray, weights: np.ndarray) -> float:
    """The quantile of one half."""
    return float(quantile(values, weights, 0.5))
