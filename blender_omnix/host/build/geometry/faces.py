# SPDX-License-Identifier: GPL-3.0-or-later
"""Quads and triangles from cells: corners welded inside a surface, split where it is cut.

Every cell that shows a surface becomes one quad, a triangle beside a pole. Every vertex carries the
direction at which it looks its colour up, scaled by its distance: linear interpolation over a face
is then correct in perspective.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ....panorama import frames
from .grid import MAX_TILT, Grid, corner_rays, dot

# The corners of a cell, counter-clockwise as seen from the viewpoint: top left, bottom left,
# bottom right, top right. For each the row and column offset of the corner, and which of the four
# cells around that corner (north-west, north-east, south-east, south-west) this cell is.
CORNERS = ((0, 0, 2), (1, 0, 1), (1, 1, 0), (0, 1, 3))
# Layers of a shell.
VISIBLE, BACK, PANE, BACKGROUND, HULL = range(5)


@dataclass(frozen=True)
class Shell:
    """Faces of one or more layers, facing the viewpoint.

    vertices: (V, 3) float32 metres. lookup: (V, 3) float32, the direction in which a vertex looks
    its colour up times its distance. layer: (V,) int8, VISIBLE from the viewpoint, BACK, PANE,
    BACKGROUND or HULL; a face lies in one layer. quads: (Q, 4), triangles: (T, 3) int32 vertex
    indices. quad_cells, triangle_cells: (Q,), (T,) the flat cell in which each face looks its
    colour up.
    """

    vertices: np.ndarray
    lookup: np.ndarray
    layer: np.ndarray
    quads: np.ndarray
    triangles: np.ndarray
    quad_cells: np.ndarray
    triangle_cells: np.ndarray


class Part(NamedTuple):
    """The faces of one layer.

    vertices, lookup: (V, 3) as of a `Shell`. corners: (N, 4) indices of the vertices of a face.
    cells: (N,) the flat cell in which each face lies. lookup_cells: (N,) that in which it looks
    its colour up.
    """

    vertices: np.ndarray
    lookup: np.ndarray
    corners: np.ndarray
    cells: np.ndarray
    lookup_cells: np.ndarray


def corner_keys(right: np.ndarray, down: np.ndarray) -> np.ndarray:
    """(R, C, 4) a number for the vertex at each corner of each cell, equal where welded.

    key // 4 is the position in the (R + 1, C) grid of corners.
    """
    rows, columns = right.shape
    west = np.roll(right, 1, axis=1)
    pattern = np.zeros((rows + 1, columns), np.uint8)
    for bit, joined in enumerate((west[:-1], down, west[1:], np.roll(down, 1, axis=1))):
        pattern[1:-1] |= joined.astype(np.uint8) << bit
    labels = _LABELS[pattern]
    corner = 4 * np.arange((rows + 1) * columns, dtype=np.int32).reshape(rows + 1, columns)
    keys = np.empty((rows, columns, 4), np.int32)
    for k, (row, column, member) in enumerate(CORNERS):
        keys[..., k] = np.roll(corner + labels[..., member], -column, axis=1)[row : row + rows]
    # The corners of a pole row are one point: one vertex for each run of joined cells around it.
    keys[0, :, 0] = keys[0, :, 3] = 4 * _runs(right[0])
    keys[-1, :, 1] = keys[-1, :, 2] = 4 * (rows * columns + _runs(right[-1]))
    return keys


def welded_keys(rows: int) -> np.ndarray:
    """(R C, 4) `corner_keys` of a grid whose cells are all joined."""
    welded = np.ones((rows, 2 * rows), bool)
    return corner_keys(welded, welded[1:]).reshape(-1, 4)


def _component_labels() -> np.ndarray:
    """(16, 4): for each pattern of joins around a corner, which of its cells share a vertex.

    Bit k of the pattern joins the corner's cell k with cell k + 1; a cell's label is the first
    cell it is connected with.
    """
    labels = np.empty((16, 4), np.int32)
    for pattern in range(16):
        label = list(range(4))
        for _ in range(3):
            for k in range(4):
                if pattern >> k & 1:
                    other = (k + 1) % 4
                    label[k] = label[other] = min(label[k], label[other])
        labels[pattern] = label
    return labels


_LABELS = _component_labels()


def _runs(joined: np.ndarray) -> np.ndarray:
    """(C,) number of the run that each element of a ring is in; element i joins element i + 1."""
    run = np.concatenate(([0], np.cumsum(~joined[:-1])))
    if joined[-1]:
        run[run == run[-1]] = 0
    return run


def corner_disparity(grid: Grid, cells: np.ndarray, planes: np.ndarray) -> np.ndarray:
    """(N, 4) the disparity that each cell's plane shows at its corners."""
    rows, columns = grid.shape
    centre = 1.0 / grid.depth.reshape(-1)[cells]
    row, column = cells // columns, cells % columns
    rays = corner_rays(rows).reshape(-1, 3)
    disparity = np.empty((len(cells), 4), np.float32)
    for k, (down, right, _) in enumerate(CORNERS):
        corner = (row + down) * columns + (column + right) % columns
        disparity[:, k] = dot(planes, rays[corner])
    return np.clip(disparity, centre[:, None] / MAX_TILT, centre[:, None] * MAX_TILT)


def weld(keys: np.ndarray, disparity: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The keys in use, (N, 4) indices into them, and the mean disparity of each."""
    flat = keys.ravel()
    count = np.bincount(flat)
    total = np.bincount(flat, weights=disparity.ravel())
    used = np.flatnonzero(count)
    index = np.empty(len(count), np.int32)
    index[used] = np.arange(len(used))
    return used, index[keys], (total[used] / count[used]).astype(np.float32)


def key_rays(keys: np.ndarray, rows: int) -> np.ndarray:
    """(N, 3) unit vectors of the corners that keys stand for."""
    corner = keys // 4
    return frames.rays_at(corner // (2 * rows), corner % (2 * rows), (rows, 2 * rows))


def assemble(layers: list[tuple[int, Part]], shape: tuple[int, int]) -> Shell:
    """The layers as one shell; corners number the vertices of all. Beside a pole two corners
    coincide, which is a triangle."""
    vertices, lookup, corners, cells, lookup_cells = (
        np.concatenate(arrays) for arrays in zip(*(part for _, part in layers), strict=True)
    )
    numbers = np.array([number for number, _ in layers], np.int8)
    layer = np.repeat(numbers, [len(part.vertices) for _, part in layers])
    row = cells // shape[1]
    top, bottom = row == 0, row == shape[0] - 1
    rest = ~(top | bottom)
    triangles = np.concatenate((corners[top][:, [0, 1, 2]], corners[bottom][:, [0, 1, 3]]))
    return Shell(
        vertices.astype(np.float32),
        lookup.astype(np.float32),
        layer,
        corners[rest].astype(np.int32),
        triangles.astype(np.int32),
        lookup_cells[rest],
        np.concatenate((lookup_cells[top], lookup_cells[bottom])),
    )
