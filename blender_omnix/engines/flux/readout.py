# SPDX-License-Identifier: GPL-3.0-or-later
"""From a task's decoded image to maps in Blender's frame (docs/flux.md: From image to maps)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...panorama import frames

if TYPE_CHECKING:
    from ..base import Prediction

# Depth is read in units of the task's unknown maximum; below one 8-bit level it says nothing.
NEAREST = 1.0 / 255.0
# Depth is clipped at its maximum when the targets are made, so open sky decodes to 1.
SKY_STARTS, SKY_CERTAIN = 0.95, 0.99
# The farthest corner of a room reaches the maximum too, but over less of the upper half than this.
SKY_LEAST_SHARE = 0.1


def read(task: str, image: np.ndarray) -> Prediction:
    """The maps of one task from its decoded image (h, w, 3) in 0..1, float32.

    Raises KeyError for a task that decodes to no map.
    """
    return _READERS[task](image)


def read_normal(image: np.ndarray) -> Prediction:
    """World-space n = 2c - 1 in OmniX's frame to unit normals in Blender's, facing the viewer."""
    normal, away = _decode_normal(image)
    return {"normal": np.where(away[..., None], -normal, normal)}


def facing_away(image: np.ndarray) -> float:
    """Share of the sphere whose normals, decoded from a task's image, face away from the viewer,
    which `read_normal` turns round: small where the adapters do what they should."""
    _, away = _decode_normal(image)
    return float(np.average(away.mean(axis=1), weights=frames.solid_angles(*away.shape)))


def _decode_normal(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit normals (h, w, 3) in Blender's frame as they stand in the image, and which of them face
    away from the viewer, (h, w)."""
    normal = frames.blender_from_omnix(image * 2 - 1).astype(np.float32)
    rays = frames.directions(*image.shape[:2])
    length = np.linalg.norm(normal, axis=-1, keepdims=True)
    # A mid-grey pixel has no direction; a surface square to the view is the neutral reading.
    normal = np.where(length > 1e-3, normal / np.maximum(length, 1e-3), -rays)
    return normal, np.sum(normal * rays, axis=-1) > 0


def read_depth(image: np.ndarray) -> Prediction:
    """Distance along the ray over an unknown maximum, and where there is nothing: sky.

    Sky is depth at its maximum above the horizon, where that is so over a good part of the upper
    half; below the horizon or in a small part the maximum is just the farthest surface.
    """
    depth = image.mean(axis=-1)
    height, width = depth.shape
    chance = np.clip((depth - SKY_STARTS) / (SKY_CERTAIN - SKY_STARTS), 0, 1)
    chance[height // 2 :] = 0
    upper = frames.solid_angles(height, width)[: height // 2, None]
    share = float((chance[: height // 2] * upper).sum() / (2 * np.pi))
    if share < SKY_LEAST_SHARE:
        chance[:] = 0
    return {"depth": np.maximum(depth, NEAREST), "sky": chance}


def read_pbr(image: np.ndarray) -> Prediction:
    """Channel 0 is roughness, channel 1 metallic, both linear; channel 2 is unused."""
    return {"roughness": image[..., 0], "metallic": image[..., 1]}


_READERS = {
    "rgb_to_albedo": lambda image: {"albedo": image},
    "rgb_to_normal": read_normal,
    "rgb_camray_to_normal": read_normal,
    "rgb_to_pbr": read_pbr,
    "rgb_to_depth": read_depth,
    "rgb_to_semantic": lambda image: {"semantic": image},
}
