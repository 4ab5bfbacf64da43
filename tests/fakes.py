# SPDX-License-Identifier: GPL-3.0-or-later
"""Analytic stand-ins for what is slow or unknown: a box room of known maps, and an engine that
has perceived it perfectly."""

from __future__ import annotations

import numpy as np

from blender_omnix.errors import Cancelled
from blender_omnix.panorama import frames

# Half extents of the room around the camera (metres): 6 x 4 m, floor 1.6 m below the viewpoint.
LOW = np.array([-3.0, -2.0, -1.6], np.float32)
HIGH = np.array([3.0, 2.0, 1.1], np.float32)


def box_room(height: int) -> dict[str, np.ndarray]:
    """Exact depth (metres), normal and a checked albedo of the box room, plus a lit picture."""
    rays = frames.directions(height, 2 * height)
    distance = np.where(rays > 0, HIGH, LOW) / np.where(np.abs(rays) < 1e-9, 1e-9, rays)
    axis = distance.argmin(axis=-1)
    depth = distance.min(axis=-1).astype(np.float32)
    normal = np.zeros_like(rays)
    np.put_along_axis(
        normal, axis[..., None], -np.sign(np.take_along_axis(rays, axis[..., None], -1)), -1
    )
    point = rays * depth[..., None]
    check = (np.floor(point * 2.0).sum(axis=-1) % 2)[..., None]
    albedo = (0.35 + 0.3 * check * np.array([1.0, 0.8, 0.6])).astype(np.float32)
    shade = (0.4 + 0.3 * normal[..., 2:] + 0.1 * normal[..., :1]).astype(np.float32)
    return {
        "depth": depth,
        "normal": normal.astype(np.float32),
        "albedo": albedo,
        "roughness": np.full(depth.shape, 0.6, np.float32),
        "metallic": np.zeros(depth.shape, np.float32),
        "picture": albedo * shade,
    }


class BoxRoomEngine:
    """An engine whose every prediction is the box room, at 64 rows, depth in its own unit."""

    name = "box room"
    makes = frozenset(("albedo", "normal", "roughness", "metallic", "depth"))

    def __init__(self) -> None:
        self.loads = 0

    def load(self, progress) -> None:
        self.loads += 1
        progress("Loading", 1.0)

    def unload(self) -> None:
        self.loads = 0

    def predict(self, panorama, maps, progress, cancelled, seed=0):
        room = box_room(64)
        for index, name in enumerate(maps):
            if cancelled():
                raise Cancelled
            progress(name.title(), index / len(maps))
        room["depth"] = room["depth"] * 7.0
        room["sky"] = np.zeros_like(room["depth"])
        del room["picture"]
        return room

    def adapters(self):
        return []

    def warnings(self, maps):
        return []
