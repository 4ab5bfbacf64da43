# SPDX-License-Identifier: GPL-3.0-or-later
"""Directions, solid angles and frames of the equirectangular panorama.

Blender's frame: the image centre looks along +X, +Y lies at u = 0.25, +Z is up, so that
``u = 0.5 - atan2(y, x) / 2 pi`` and the elevation is ``asin(z)``. OmniX looks along +X with +Y up
and +Z to the left, a left-handed frame; the two differ by swapping the last two components.
"""

from __future__ import annotations

import numpy as np


def azimuths(width: int) -> np.ndarray:
    """Azimuth of each column's centre, ``atan2(y, x)`` in radians: (W,) float64, falling with u."""
    return _azimuth(np.arange(width) + 0.5, width)


def elevations(height: int) -> np.ndarray:
    """Elevation of each row's centre in radians, top row first: (H,) float64."""
    return _elevation(np.arange(height) + 0.5, height)


def directions(height: int, width: int, *, rows: slice = slice(None)) -> np.ndarray:
    """Unit view rays at the pixel centres, Blender's frame: (H, W, 3) float32, or some rows."""
    row, column = np.arange(height)[rows, None] + 0.5, np.arange(width) + 0.5
    return rays_at(row, column, (height, width))


def rays_at(row: np.ndarray, column: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Unit view rays of places in a panorama of `shape` (H, W), Blender's frame: (..., 3) float32.

    ``row`` and ``column``, which broadcast, count pixels from the top left corner of the picture:
    pixel (j, i) has its centre at row j + 0.5, column i + 0.5.
    """
    elevation, azimuth = _elevation(row, shape[0]), _azimuth(column, shape[1])
    flat = np.cos(elevation)
    rays = np.empty((*np.broadcast_shapes(elevation.shape, azimuth.shape), 3), np.float32)
    rays[..., 0] = flat * np.cos(azimuth)
    rays[..., 1] = flat * np.sin(azimuth)
    rays[..., 2] = np.sin(elevation)
    return rays


def _azimuth(column: np.ndarray, width: int) -> np.ndarray:
    return np.pi - column * (2.0 * np.pi / width)


def _elevation(row: np.ndarray, height: int) -> np.ndarray:
    return np.pi / 2.0 - row * (np.pi / height)


def project(directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where directions (..., 3) of any length land in the panorama.

    Returns ``(u, v)``, each (...) and within [0, 1): u to the right from the left edge, v down from
    the top. Pixel (row j, column i) has its centre at ``u = (i + 0.5) / W``, ``v = (j + 0.5) / H``.
    """
    x, y, z = np.moveaxis(np.asarray(directions), -1, 0)
    u = np.mod(0.5 - np.arctan2(y, x) / (2.0 * np.pi), 1.0)
    v = 0.5 - np.arctan2(z, np.hypot(x, y)) / np.pi
    below_one = np.nextafter(u.dtype.type(1.0), u.dtype.type(0.0))
    # mod() of a tiny negative number rounds up to 1, and the nadir itself is v = 1.
    return np.where(u >= 1.0, 0.0, u).astype(u.dtype), np.minimum(v, below_one)


def solid_angles(height: int, width: int) -> np.ndarray:
    """Steradians covered by one pixel of each row: (H,) float64; all pixels sum to 4 pi."""
    edges = np.sin(np.pi / 2.0 - np.arange(height + 1) * (np.pi / height))
    return (edges[:-1] - edges[1:]) * (2.0 * np.pi / width)


def gravity_basis(height: int, width: int) -> np.ndarray:
    """The gravity-aligned frame of each pixel's column: (H, W, 3, 3) float32, read-only.

    Rows are unit vectors in Blender's frame: *east* (to the right as seen, u rising), *outward*
    (the horizontal direction away from the viewer) and *up* (+Z), a right-handed basis.
    ``basis @ n`` takes a Blender vector into the frame, ``basis.T @ n`` takes it back. The basis
    depends on the column alone, so a yaw roll of the panorama rolls vectors given in it without
    changing them.
    """
    azimuth = azimuths(width)
    basis = np.zeros((width, 3, 3), np.float32)
    basis[:, 0, 0], basis[:, 0, 1] = np.sin(azimuth), -np.cos(azimuth)
    basis[:, 1, 0], basis[:, 1, 1] = np.cos(azimuth), np.sin(azimuth)
    basis[:, 2, 2] = 1.0
    return np.broadcast_to(basis, (height, width, 3, 3))


def blender_from_omnix(vectors: np.ndarray) -> np.ndarray:
    """OmniX vectors (..., 3) in Blender's frame: (x, z, y). Its own inverse."""
    return np.asarray(vectors)[..., [0, 2, 1]]


def omnix_from_blender(vectors: np.ndarray) -> np.ndarray:
    """Blender vectors (..., 3) in OmniX's frame: (x, z, y). Its own inverse."""
    return np.asarray(vectors)[..., [0, 2, 1]]
