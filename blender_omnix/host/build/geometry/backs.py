# SPDX-License-Identifier: GPL-3.0-or-later
"""The backs of slim things such as lamp shades and pillars, so that no light passes through them
from where nobody has seen them."""

from __future__ import annotations

import numpy as np

from .faces import Part, corner_disparity, corner_keys, key_rays, weld
from .grid import Grid, dot, joins, plane_of

# What is slimmer than this, in metres, has a back like its front, unless it is as flat as a sheet:
# thinner than this share of its depth.
_SLIM = 1.5
_SHEET = 0.01
# Least cosine between ray and normal at the rim of a round thing; beyond it normals are unsure.
_RIM = 1 / 6


def part(grid: Grid, right: np.ndarray, down: np.ndarray, jump: float, first: int) -> Part:
    """The far sides of slim things, vertices numbered from `first`.

    A far side mirrors the near side in the line between the edges of a thing, which is right for
    all that is round, and closes it. Sheets and hollows have none.
    """
    rows, columns = grid.shape
    upright = np.zeros(grid.shape, bool)  # nothing goes on over a pole
    upright[:-1] = down
    # A ring of cells is laid out three times, so that every run lies whole in the middle one.
    across, along = _limb(grid, 1), _limb(grid, 0)
    across = _silhouette(grid.rays, *(np.tile(a, 3) for a in (grid.depth, across, right)))
    along = _silhouette(grid.rays.swapaxes(0, 1), grid.depth.T, along.T, upright.T).T
    across = across[:, columns : 2 * columns]
    # What stands or hangs is rounder across than along.
    silhouette = np.where(np.isnan(across), along, across)
    thickness = np.nan_to_num(2.0 * (silhouette - grid.depth))
    cells = np.flatnonzero((thickness > _SHEET * grid.depth) & (thickness < _SLIM))

    mirrored = 2.0 * dot(grid.normal, grid.rays)[..., None] * grid.rays - grid.normal
    behind = Grid(grid.rays, grid.depth + thickness.astype(np.float32), mirrored)
    keys = corner_keys(*joins(behind, jump)).reshape(-1, 4)[cells]
    used, corners, disparity = weld(keys, corner_disparity(behind, cells, plane_of(behind, cells)))
    # The outermost corners lie on the front, which closes the thing at its ends as well: between
    # two open sheets the light of a lamp below a shade would pass to the ceiling.
    front = weld(keys, corner_disparity(grid, cells, plane_of(grid, cells)))[2]
    outermost = np.bincount(keys.ravel() // 4)[used // 4] < 4
    points = key_rays(used, rows) / np.where(outermost, front, disparity)[:, None]
    return Part(points, points, corners + first, cells, cells)


def _limb(grid: Grid, axis: int) -> np.ndarray:
    """(R, C) depth of the edge of a round thing whose last cell along an axis of the grid is this.

    The edge is half a cell beyond the centre of that cell, and a circle falls back over this
    stretch about twice as far as the plane of the cell does: of a thing a dozen cells wide, two
    fifths of its radius. What faces the viewpoint, such as a sheet, ends at its own depth.
    """
    step = 0.5 * (np.roll(grid.rays, -1, axis) - np.roll(grid.rays, 1, axis))
    facing = np.maximum(-dot(grid.normal, grid.rays), _RIM)
    return grid.depth * (1.0 + np.abs(dot(grid.normal, step)) / facing)


def _silhouette(
    rays: np.ndarray, depth: np.ndarray, limb: np.ndarray, joined: np.ndarray
) -> np.ndarray:
    """Depth (N, M) at which each ray crosses the line between the two edges of the slim thing that
    it meets; NaN where it meets none.

    rays: (N, L, 3), repeated where L is less than M. depth: (N, M). limb: (N, M) depth of the edge
    that a cell ends at. joined: (N, M) each cell of a line joined with the next. A thing is slim
    where both its edges are in front of what is beside them and less than `_SLIM` apart.
    """
    count = depth.shape[1]
    cell = np.broadcast_to(np.arange(count), depth.shape)
    ends = ~joined
    starts = np.roll(ends, 1, axis=1)
    start = np.maximum.accumulate(np.where(starts, cell, -1), axis=1)
    end = np.minimum.accumulate(np.where(ends, cell, count)[:, ::-1], axis=1)[:, ::-1]
    line, at = np.nonzero((depth > 0) & (start > 0) & (start < end) & (end < count - 1))
    start, end = start[line, at], end[line, at]
    beyond = np.where(depth > 0, depth, np.inf)
    near = (beyond[line, start - 1] > depth[line, start]) & (
        beyond[line, end + 1] > depth[line, end]
    )
    line, at, start, end = line[near], at[near], start[near], end[near]

    ray, from_one, from_other = (rays[line, k % rays.shape[1]] for k in (at, start, end))
    one, other = limb[line, start], limb[line, end]
    width = np.linalg.norm(from_one * one[:, None] - from_other * other[:, None], axis=1)
    # The ray as a sum of those to the edges gives the disparity between theirs.
    between, p, q = dot(from_one, from_other), dot(ray, from_one), dot(ray, from_other)
    with np.errstate(divide="ignore", invalid="ignore"):
        disparity = (p - between * q) / one + (q - between * p) / other
        crossed = np.where(width < _SLIM, (1.0 - between**2) / disparity, np.nan)
    found = np.full(depth.shape, np.nan, np.float32)
    found[line, at] = crossed
    return found
