# SPDX-License-Identifier: GPL-3.0-or-later
"""The cells that a panorama is reduced to, and which of them lie on one surface.

Frame: the capture frame of the panorama, viewpoint at the origin, +X at the image centre, +Z up,
metres. The panorama is reduced to a grid of *cells*, R rows from the top and 2 R columns. A cell is
addressed by row and column, or flat by `row * columns + column`. Its plane is a vector g (3,) with
1 / depth = g . ray for every ray that meets it: linear in what a picture shows of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ....panorama import frames, resample

# Metres; beyond them is the sky, as in a depth pass that was rendered.
FAR = 1e6
NEIGHBOURS = ((-1, 0), (1, 0), (0, -1), (0, 1))
# How much of its disparity a plane may gain or lose within a cell. Beyond this the cell is seen
# so nearly edge-on that its normal says nothing about the next pixel.
MAX_TILT = 1.25
# Cosine between ray and normal below which a cell that is nearer than so many metres is a rim.
_EDGE_ON, _NEAR = 0.05, 5.0
# Surfaces that meet at less than this cosine between their normals form a corner.
BENT = 0.94


@dataclass(frozen=True)
class Grid:
    """Depth and normals of the cells.

    rays, normal: (R, C, 3) unit; depth: (R, C) metres along the ray, 0 = sky.
    """

    rays: np.ndarray
    depth: np.ndarray
    normal: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        return self.depth.shape[0], self.depth.shape[1]


def reduce(depth: np.ndarray, normal: np.ndarray | None, columns: int) -> Grid:
    """Maps (H, W), (H, W, 3) as a grid of at most `columns` cells around the horizon. Without a
    normal map all surfaces face the viewpoint.

    Each cell takes the pixel of median depth in its block, carried along that pixel's plane to
    the centre of the cell: an average would lie half-way between a chair and the wall behind it.
    """
    height, width = depth.shape
    rows = max(1, min(columns // 2, height))
    columns = 2 * rows
    taps = max(1, round(height / rows))
    row = resample.pixels_at(rows * taps, height)
    column = resample.pixels_at(columns * taps, width)
    rays = frames.directions(rows, columns)
    blocks = depth[row][:, column].reshape(rows, taps, columns, taps).swapaxes(1, 2)
    blocks = blocks.reshape(rows, columns, taps * taps).astype(np.float32)
    middle = taps * taps // 2
    chosen = np.argpartition(blocks, middle, axis=2)[..., middle]
    median = np.take_along_axis(blocks, chosen[..., None], axis=2)[..., 0]
    pixel_row = row[np.arange(rows)[:, None] * taps + chosen // taps]
    pixel_column = column[np.arange(columns) * taps + chosen % taps]
    pixel_rays = frames.rays_at(pixel_row + 0.5, pixel_column + 0.5, (height, width))
    cell_normal = unit(-pixel_rays if normal is None else normal[pixel_row, pixel_column])
    if taps == 1:
        return Grid(rays, median, cell_normal)
    return Grid(rays, median / _tilt(cell_normal, pixel_rays, rays), cell_normal)


def joins(grid: Grid, jump: float) -> tuple[np.ndarray, np.ndarray]:
    """Which neighbouring cells lie on one surface, as two boolean arrays: (R, C) joined with the
    cell to the right (the last column with the first), (R - 1, C) joined with the cell below.

    Two cells are apart when each lies more than 3 steps off the other's plane and their depths
    differ by more than 4 steps and by more than `jump`; a step is the angle of one cell. The
    planes keep a floor whole that runs away at a grazing angle. The plane of a rim does not count:
    a cell that is seen edge-on though it is near has all that is behind it on its plane. (Far away
    a floor is seen edge-on too.)
    """
    points = grid.rays * grid.depth[..., None]
    step = 2.0 * np.pi / grid.shape[1]
    rim = (dot(grid.normal, grid.rays) > -_EDGE_ON) & (grid.depth < _NEAR)
    here = (grid.depth, points, grid.normal, rim)

    def joined(a: tuple[np.ndarray, ...], b: tuple[np.ndarray, ...]) -> np.ndarray:
        near = np.minimum(a[0], b[0])
        offset = b[1] - a[1]
        bent = dot(a[2], b[2]) < BENT
        off_plane = np.minimum(
            np.where(a[3] & bent, np.inf, np.abs(dot(a[2], offset))),
            np.where(b[3] & bent, np.inf, np.abs(dot(b[2], offset))),
        )
        apart = (off_plane > 3.0 * step * near) & (
            np.abs(a[0] - b[0]) > max(4.0 * step, jump) * near
        )
        return ~apart & (near > 0)

    right = joined(here, tuple(np.roll(array, -1, axis=1) for array in here))
    down = joined(tuple(array[:-1] for array in here), tuple(array[1:] for array in here))
    return right, down


def plane_of(grid: Grid, cells: np.ndarray) -> np.ndarray:
    """Plane g (N, 3) of each flat cell, 1 / depth = g . ray for every ray that meets it.

    A cell whose normal is turned away from the viewpoint or edge-on counts as facing it.
    """
    rays = grid.rays.reshape(-1, 3)[cells]
    normal = grid.normal.reshape(-1, 3)[cells]
    facing = dot(normal, rays)
    normal = np.where((facing > -0.05)[:, None], -rays, normal)
    facing = np.where(facing > -0.05, -1.0, facing)
    return (normal / (facing * grid.depth.reshape(-1)[cells])[:, None]).astype(np.float32)


def corner_rays(rows: int) -> np.ndarray:
    """(R + 1, 2 R, 3) unit vectors of all corners of the grid."""
    row = np.arange(rows + 1)[:, None]
    return frames.rays_at(row, np.arange(2 * rows)[None], (rows, 2 * rows))


def _tilt(normal: np.ndarray, origin: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Ratio of the disparities that a plane shows along `target` and along `origin`; 1 for one that
    is turned away from the viewpoint or edge-on, or has no normal."""
    here, there = dot(normal, origin), dot(normal, target)
    ratio = np.where(here > -1e-3, np.float32(1.0), there / np.minimum(here, np.float32(-1e-3)))
    return np.clip(ratio, 1.0 / MAX_TILT, MAX_TILT)


def dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.einsum("...k,...k->...", a, b)


def unit(vectors: np.ndarray) -> np.ndarray:
    vectors = np.asarray(vectors, np.float32)
    return vectors / np.maximum(np.sqrt(dot(vectors, vectors)), 1e-6)[..., None]
