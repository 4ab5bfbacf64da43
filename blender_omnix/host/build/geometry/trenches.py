# SPDX-License-Identifier: GPL-3.0-or-later
"""Inner corners of predicted surfaces, closed to the line where the surfaces meet."""

from __future__ import annotations

import numpy as np

from ....panorama import regions, resample
from .grid import BENT, Grid, dot, joins, plane_of

# A trench is at most the `_TRENCH`th part of the panorama wide; its cells are behind the plane
# beside it by this share of their depth.
_TRENCH = 40
_BEHIND_PLANE = 0.001
# A step of up to this many jumps is still taken for a trench: elsewhere it is an edge, but between
# surfaces that bend towards each other a gap is a worse guess than a corner.
_DEEP = 1.5
_BESIDE = 3  # walks on either side that one is compared with
# A plane's cells are alike up to this cosine between the normals of cells so many apart.
_ALIKE, _APART = 0.98, 4


def meet(grid: Grid, jump: float) -> Grid:
    """The same surfaces, those that form an inner corner carried on to the line where they meet.

    Predicted surfaces end a little beside each other: a wall reaches below its floor. Welded, the
    step between them would be a trench that no light gets into. Here the cells beside the margin
    of a plane that lie behind it, up to where another surface comes out in front of it, move to
    that plane; none by more than `_DEEP` times `jump` of its depth, and none across a gap of that
    size (see `joins`).
    """
    jump = _DEEP * jump
    rows, columns = grid.shape
    solid = (grid.depth > 0).ravel()
    before = np.where(solid, 1.0 / np.where(solid, grid.depth.ravel(), 1.0), 0.0)
    # How much nearer each cell comes, from the walks along columns and along rows.
    nearer = np.ones((2, rows * columns), np.float32)
    rays, normal = grid.rays.reshape(-1, 3), grid.normal.reshape(-1, 3)
    right, down = joins(grid, jump)
    margins = _margins(grid)
    planes = plane_of(grid, margins)
    reach = np.arange(1, 1 + max(2, columns // _TRENCH))
    for step, joined in (((0, 1), right), ((0, -1), right), ((1, 0), down), ((-1, 0), down)):
        # A row of cells in one direction from each margin whose neighbour lies behind its plane:
        # one cell of all rows first, which leaves few of them.
        start, plane = margins, planes
        for ahead in (reach[:1], reach):
            cells, inside = _walk(start, step, ahead, grid.shape)
            there = np.einsum("nk,ntk->nt", plane, rays[cells])
            behind = inside & solid[cells] & (there > before[cells] * (1.0 + _BEHIND_PLANE))
            use = behind[:, 0]
            start, plane = start[use], plane[use]
        cells, inside, there, behind = cells[use], inside[use], there[use], behind[use]
        # A join belongs to the cell on its left or above it: on the way right or down to the cell
        # before, on the way left or up to the cell itself.
        links, _ = _walk(start, step, reach - (min(step) == 0), grid.shape)
        links = np.minimum(links, joined.size - 1)
        whole = np.logical_and.accumulate(inside & joined.ravel()[links], axis=1)
        out = np.argmax(~behind, axis=1)
        rim = np.arange(len(start)), out
        met = ~behind[rim] & whole[rim] & solid[cells[rim]]
        met &= dot(normal[cells[rim]], normal[start]) < BENT
        trench = met[:, None] & (np.arange(len(reach)) < out[:, None])
        trench &= there < before[cells] * (1.0 + jump)
        moved = cells[trench]
        np.maximum.at(nearer[abs(step[1])], moved, there[trench] / before[moved])
    # Of two planes the nearer one wins: the inside of a room is what all its walls leave over.
    down_columns, along_rows = nearer.reshape(2, rows, columns)
    nearest = np.maximum(_steady(down_columns, 1), _steady(along_rows, 0))
    return Grid(grid.rays, grid.depth / nearest, grid.normal)


def _steady(nearer: np.ndarray, axis: int) -> np.ndarray:
    """A field (R, C), 1 nearly everywhere, without the ribs that walks leave which alone met
    something, or nothing, among those beside them.

    Trenches run about along `axis`, across the walks. Where on no line of about this direction half
    of the cells are nearer the cell is not either; where they are and it is not, it comes as much
    nearer as their median.
    """
    row, column = np.nonzero(regions.grow(nearer > 1.0))
    padded = resample.pad(nearer, _BESIDE)
    along = np.arange(-_BESIDE, _BESIDE + 1)
    usual = np.ones(len(row), np.float32)
    for slope in (-1.0, -0.5, 0.0, 0.5, 1.0):
        across = np.round(slope * along).astype(int)
        rows, columns = (along, across) if axis == 0 else (across, along)
        line = padded[row + rows[:, None] + _BESIDE, column + columns[:, None] + _BESIDE]
        usual = np.maximum(usual, np.median(line, axis=0))
    result, own = nearer.copy(), nearer[row, column]
    result[row, column] = np.where((own > 1.0) & (usual > 1.0), own, usual)
    return result


def _walk(
    cells: np.ndarray, step: tuple[int, int], ahead: np.ndarray, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Flat cells (N, T) at `ahead` (T,) steps from cells (N,), and which are not beyond a pole."""
    rows, columns = shape
    row = cells[:, None] // columns + step[0] * ahead
    column = (cells[:, None] % columns + step[1] * ahead) % columns
    return np.clip(row, 0, rows - 1) * columns + column, (row >= 0) & (row < rows)


def _margins(grid: Grid) -> np.ndarray:
    """Flat cells at the margin of a plane: they have the normal of at least half of the cells some
    way off, as the rounded corner that a network draws has not, but not of all."""
    rows, columns = grid.shape
    alike = np.zeros(grid.shape, np.int8)
    channels = np.moveaxis(grid.normal, -1, 0)
    padded = np.stack([resample.pad(channel, _APART) for channel in channels])
    for dr in (0, _APART, 2 * _APART):
        for dc in (0, _APART, 2 * _APART):
            if (dr, dc) != (_APART, _APART):
                other = padded[:, dr : dr + rows, dc : dc + columns]
                alike += (channels * other).sum(0) > _ALIKE
    return np.flatnonzero((alike >= 4) & (alike < 8) & (grid.depth > 0))
