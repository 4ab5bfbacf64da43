# SPDX-License-Identifier: GPL-3.0-or-later
"""Depth that agrees with the normals: floors and walls flat, edges sharp."""

from __future__ import annotations

import numpy as np

from . import frames, resample

_NEIGHBOURS = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]
_SAME_PLANE = 0.02  # 1 - cos of the angle between normals at which the weight falls to 1/e
_SAME_DEPTH = 0.1  # relative difference to a neighbour's prediction at which it falls to 1/e
_BAND_PIXELS = 2**15  # pixels worked on at a time, so that the temporaries stay in the cache
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
    # Channels first: sums over three contiguous planes take a fraction of an einsum's time.
    rays = np.ascontiguousarray(np.moveaxis(frames.directions(height, width), -1, 0))
    normal = np.ascontiguousarray(np.moveaxis(normal, -1, 0), np.float32)
    facing = -_dot(normal, rays)
    usable = solid & (facing > _GRAZING)
    band = max(1, _BAND_PIXELS // width)
    for step in [1, 2, 4] * (rounds // 3) + [1, 2, 4][: rounds % 3]:
        normals = [resample.pad(channel, step) for channel in normal]
        # Inverse distance of each pixel's plane from the viewpoint; 0 where it predicts nothing.
        near = np.where(usable, inverse / np.where(usable, facing, 1.0), 0.0)
        near = resample.pad(near, step)
        smoothed = np.empty_like(inverse)
        for top in range(0, height, band):
            rows = slice(top, min(top + band, height))
            own, ray, here = normal[:, rows], rays[:, rows], inverse[rows]
            scale = np.where(solid[rows], _SAME_DEPTH * here, 1.0)
            total, weight = here.copy(), np.ones_like(here)
            for y, x in _NEIGHBOURS:
                there = (
                    slice(rows.start + (1 + y) * step, rows.stop + (1 + y) * step),
                    slice((1 + x) * step, (1 + x) * step + width),
                )
                n = [channel[there] for channel in normals]
                reach = -_dot(n, ray)
                predicted = near[there] * reach
                unlike = (1.0 - _dot(n, own)) / _SAME_PLANE
                away = (predicted - here) / scale
                w = np.exp(-unlike - away * away)
                w *= (near[there] > 0) & solid[rows] & (reach > _GRAZING)
                total += w * predicted
                weight += w
            smoothed[rows] = total / weight
        inverse = smoothed
    return np.where(solid, 1.0 / np.where(solid, inverse, 1.0), depth).astype(np.float32)


def _dot(a: np.ndarray | list[np.ndarray], b: np.ndarray) -> np.ndarray:
    """Dot products of vectors whose three components come first."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
