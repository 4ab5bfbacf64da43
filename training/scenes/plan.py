# SPDX-License-Identifier: GPL-3.0-or-later
"""A room's floor plan: its walls, the openings in them and the floor that is taken."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass
class Opening:
    """A hole in a wall: along the wall from `left` to `right`, from `low` to `high`, in metres."""

    left: float
    right: float
    low: float
    high: float
    kind: str


@dataclass
class Wall:
    """One side of the room: `start` + s * `along`, s in 0..length; `inward` points inside."""

    start: np.ndarray
    along: np.ndarray
    inward: np.ndarray
    length: float
    openings: list[Opening] = field(default_factory=list)

    @property
    def yaw(self) -> float:
        """Turn that makes a shape's back (+y) touch this wall."""
        return float(np.arctan2(self.inward[0], -self.inward[1]))

    def point(self, s: float, inset: float = 0.0, z: float = 0.0) -> np.ndarray:
        x, y = self.start + self.along * s + self.inward * inset
        return np.array([x, y, z])


@dataclass
class Room:
    """The room under construction: extents, walls and the floor areas already taken."""

    low: np.ndarray
    high: np.ndarray
    height: float
    walls: list[Wall]
    taken: list[tuple[float, float, float, float]] = field(default_factory=list)

    def free(self, x0: float, y0: float, x1: float, y1: float, margin: float = 0.03) -> bool:
        """Whether a floor rectangle lies in the room, off the camera and off what stands there."""
        inside = (
            x0 > self.low[0] - 0.01
            and y0 > self.low[1] - 0.01
            and x1 < self.high[0] + 0.01
            and y1 < self.high[1] + 0.01
        )
        clear = all(
            x1 < a - margin or x0 > c + margin or y1 < b - margin or y0 > d + margin
            for a, b, c, d in self.taken
        )
        return inside and clear
