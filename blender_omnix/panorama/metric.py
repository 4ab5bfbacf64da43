# SPDX-License-Identifier: GPL-3.0-or-later
"""Metres from depth that is known up to a scale: the floor lies one camera height below."""

from __future__ import annotations

import numpy as np

from . import frames, weighted

CONE = 60.0  # degrees around the nadir in which the floor is looked for
LEVEL = 0.9  # least upward component of a floor's normal
LEAST_FLOOR = 0.02  # of the cone's solid angle


def scale_to_camera_height(
    depth: np.ndarray,
    normal: np.ndarray | None,
    camera_height: float,
    sky: np.ndarray | None = None,
) -> tuple[float, str | None]:
    """The factor that turns ``depth`` into metres, and a warning where it is a guess.

    ``depth`` (h, w) is Euclidean, up to scale; ``normal`` (h, w, 3) in Blender's frame or None;
    ``camera_height`` in metres above the floor; ``sky`` (h, w) a probability or mask.

    The floor is sought within 60 degrees of the nadir among level surfaces: the lowest height below
    the camera that is common there, so that a table under the camera does not pass for it. Without
    any level surface all that lies below counts instead, and with nothing but sky below, the
    median depth is taken to be twice the camera height; both give a warning.
    """
    height, width = depth.shape
    below = -np.sin(frames.elevations(height))[:, None]
    weight = np.broadcast_to(frames.solid_angles(height, width)[:, None], depth.shape)
    solid = (depth > 0) & np.isfinite(depth)
    if sky is not None:
        solid &= np.asarray(sky) < 0.5
    cone = np.broadcast_to(below > np.cos(np.radians(CONE)), depth.shape)
    drop = depth * below

    level = cone & solid
    if normal is not None:
        level &= normal[..., 2] > LEVEL
    if weight[level].sum() >= LEAST_FLOOR * weight[cone].sum():
        return float(camera_height / _lowest_common(drop[level], weight[level])), None
    if (cone & solid).any():
        found = weighted.median(drop[cone & solid], weight[cone & solid])
        return float(camera_height / found), (
            "No level floor was found below the camera; the scale is a guess from what lies there."
        )
    if solid.any():
        found = weighted.median(depth[solid], weight[solid])
        return float(2.0 * camera_height / found), (
            "Nothing but sky was found below the camera; the scale is a guess."
        )
    return 1.0, "Nothing but sky was found; depth has no scale."


def _lowest_common(drop: np.ndarray, weight: np.ndarray) -> float:
    """Median height of the lowest layer that holds at least half as much as the fullest layer."""
    octaves = np.log2(drop)
    step = 0.1
    count = int(np.ptp(octaves) / step) + 1
    histogram = np.bincount(((octaves - octaves.min()) / step).astype(int), weight, count)
    # Not mode="same", which gives three values where there are but two.
    layers = np.convolve(np.pad(histogram, 1), [0.5, 1.0, 0.5], mode="valid")
    lowest = np.nonzero(layers >= 0.5 * layers.max())[0][-1]
    # Walk up to that layer's own peak, so that the tail below a full layer does not count.
    while lowest > 0 and layers[lowest - 1] > layers[lowest]:
        lowest -= 1
    centre = octaves.min() + (lowest + 0.5) * step
    near = np.abs(octaves - centre) < 2.0 * step
    return weighted.median(drop[near], weight[near])
