# SPDX-License-Identifier: GPL-3.0-or-later
"""The planes a place is built of: floors, ceilings and walls that share two or three directions."""

from __future__ import annotations

import numpy as np

from . import frames

# Cosines of the angles up to which a normal is replaced wholly and from which on not at all.
_NEAR, _FAR = np.cos(np.radians([15.0, 28.0]))
_STEP = 0.06  # of the logarithm of a plane's distance: the thickness of a layer
_LEAST = 0.008  # of the solid angle a layer must hold to be a plane
_UPRIGHT = 0.4  # largest vertical component of a wall's normal
_SPREAD = np.radians(12.0)  # around the main direction, within which walls vote for it
_AGREEMENT = 0.4  # share of the upright area that must vote, for walls to have a main direction


def snap_normals(normal: np.ndarray, depth: np.ndarray, sky: np.ndarray) -> np.ndarray:
    """Normals (h, w, 3) in which large level and upright planes are truly flat.

    ``normal`` is unit, in Blender's frame; ``depth`` (h, w) Euclidean, up to scale; ``sky`` (h, w)
    a probability or mask. Most of what people build is level or upright and its walls stand at
    right angles (Coughlan and Yuille 1999, the Manhattan world), but a predicted normal wavers by
    a few degrees. A pixel takes the direction of a floor, a ceiling or a wall if its normal is near
    that already and enough of the place lies in the same plane; what leans or is small keeps its
    own.
    """
    height, width = depth.shape
    solid = (depth > 0) & (np.asarray(sky) < 0.5)
    area = np.where(solid, frames.solid_angles(height, width)[:, None], 0.0)
    points = frames.directions(height, width) * depth[..., None]
    snapped = normal.copy()
    for axis in _axes(normal, area):
        cosine = normal @ axis
        distance = -(points @ axis)
        near = solid & (cosine > _FAR) & (distance > 0)
        if near.any():
            weight = np.clip((cosine[near] - _FAR) / (_NEAR - _FAR), 0.0, 1.0)
            weight *= _on_layer(np.log(distance[near]), area[near], area.sum())
            snapped[near] += weight[:, None] * (axis - normal[near])
    return snapped / np.maximum(np.linalg.norm(snapped, axis=-1, keepdims=True), 1e-6)


def _axes(normal: np.ndarray, area: np.ndarray) -> list[np.ndarray]:
    """Unit normals of floors, of ceilings and, where walls agree on a direction, of four walls."""
    axes = [np.array([0, 0, 1], np.float32), np.array([0, 0, -1], np.float32)]
    yaw = _wall_azimuth(normal, area)
    if yaw is not None:
        turns = yaw + np.arange(4) * (np.pi / 2)
        axes += [np.array([np.cos(a), np.sin(a), 0], np.float32) for a in turns]
    return axes


def _wall_azimuth(normal: np.ndarray, area: np.ndarray) -> float | None:
    """The azimuth, up to quarter turns, that most of the upright area shares; None if it does not.

    The peak of a histogram, then the mean around it, twice.
    """
    upright = (np.abs(normal[..., 2]) < _UPRIGHT) & (area > 0)
    if not upright.any():
        return None
    quarter = np.pi / 2
    azimuth = np.mod(np.arctan2(normal[upright][:, 1], normal[upright][:, 0]), quarter)
    weight = area[upright]
    bins = 45
    votes = np.bincount((azimuth / quarter * bins).astype(int) % bins, weight, bins)
    votes = np.convolve(np.concatenate([votes[-2:], votes, votes[:2]]), (1, 2, 4, 2, 1), "valid")
    centre = (float(votes.argmax()) + 0.5) / bins * quarter
    for _ in range(2):
        off = np.mod(azimuth - centre + quarter / 2, quarter) - quarter / 2
        voting = np.abs(off) < _SPREAD
        if weight[voting].sum() < _AGREEMENT * weight.sum():
            return None
        centre += float(np.average(off[voting], weights=weight[voting]))
    return centre


def _on_layer(offset: np.ndarray, area: np.ndarray, whole: float) -> np.ndarray:
    """1 for offsets (n,) in a layer that is full enough, down to 0 at half as much."""
    layer = ((offset - offset.min()) / _STEP).astype(int)
    filled = np.convolve(np.bincount(layer, area, 3), [0.5, 1.0, 0.5], mode="same")[layer]
    return np.clip(2.0 * filled / (_LEAST * whole) - 1.0, 0.0, 1.0)
