# SPDX-License-Identifier: GPL-3.0-or-later
"""The numbers by which the geometry of a place is cut: what they mean and may be.

Apart from `build`, which imports numpy, since operators are registered with them.
"""

from __future__ import annotations

from typing import NamedTuple


class Number(NamedTuple):
    """A setting: its value unless told otherwise, its bounds, and its tooltip."""

    default: float
    least: float
    most: float
    description: str


NUMBERS = {
    "detail": Number(1024, 64, 8192, "Quads around the horizon"),
    "jump": Number(0.08, 0.005, 1.0, "Least relative step in depth at which the surface is cut"),
    "fill": Number(
        1 / 16,
        0.0,
        0.25,
        "How far the background grows behind an edge, as a fraction of the panorama's width",
    ),
    "smooth": Number(6, 0, 24, "Rounds of smoothing depth along normals"),
}
