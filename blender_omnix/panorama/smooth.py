# SPDX-License-Identifier: GPL-3.0-or-later
"""Depth that agrees with the normals: floors and walls flat, edges sharp."""

from __future__ import annotations

import numpy as np

from . import frames, resample

_NEIGHBOURS = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]
_SAME_PLANE = 0.02  # 1 - cos of the angle between normals at which the weight falls to 1/e
_SAME_DEPTH = 0.1  # relative difference to a neighbour's prediction at which it falls to 1/e
_GRAZING = 0.03  # least cosine between ray and normal at which a plane predicts anything


def plane_guided(
    depth: np.ndarray, normal: np.ndarray, sky: np.ndarray | None = None, rounds: int = 6
) -> np.ndarray:
    """Smooth Euclidean depth (h, w) along the planes that the normals (h, w, 3) tell of.

    A plane through the point ``d r`` with normal n meets the ray s at ``1 / d' = (n.s) / (n.r d)``.
    Each round replaces the inverse depth of a pixel by the mean of its own and of what its
    neighbours' planes predict, weighted by how alike the normals are and how near the prediction
    comes; rounds look 1, 2, 4 pixels away in turn. Wraps around the seam and over the poles. Sky
    (probability or mask (h, w), or depth 0) neither changes nor takes part. Units are kept.
    """
    height, width = depth.shape
    solid = depth > 0
    if sky is not None:
        solid &= np.asarray(sky) < 0.5
    inverse = np.where(solid, 1.0 / np.where(solid, depth, 1.0), 0.0).astype(np.float32)
    rays = frames.directions(height, width)
    facing = -np.einsum("hwc,hwc->hw", normal, rays)
    usable = solid & (facing > _GRAZING)
    for step in [1, 2, 4] * (rounds // 3) + [1, 2, 4][: rounds % 3]:
        n, f, u, d = (resample.pad(a, step) for a in (normal, facing, usable, inverse))
        total, weight = inverse.copy(), np.ones_like(inverse)
        for y, x in _NEIGHBOURS:
            there = (
                slice(step + y * step, step + y * step + height),
                slice(step + x * step, step + x * step + width),
            )
            reach = -np.einsum("hwc,hwc->hw", n[there], rays)
            predicted = d[there] * reach / np.where(u[there], f[there], 1.0)
            unlike = (1.0 - np.einsum("hwc,hwc->hw", n[there], normal)) / _SAME_PLANE
            away = (predicted - inverse) / np.where(solid, _SAME_DEPTH * inverse, 1.0)
            w = np.exp(-unlike - away * away) * (u[there] & solid & (reach > _GRAZING))
            total += w * predicted
            weight += w
        inverse = total / weight
    return np.where(solid, 1.0 / np.where(solid, inverse, 1.0), depth).astype(np.float32)
