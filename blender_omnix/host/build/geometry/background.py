# SPDX-License-Identifier: GPL-3.0-or-later
"""The background, grown behind the near side of every jump, so that a step aside shows what is
plausibly there instead of a hole."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ....panorama import frames
from .faces import CORNERS, Part, corner_disparity, corner_keys, key_rays, weld
from .grid import NEIGHBOURS, Grid, dot, joins, plane_of, unit

# The background stays within this factor of the depth it grew from.
_MAX_GROWTH = 2.0
# Background closer than this behind the visible surface is that surface.
_BEHIND = 1.02
# A predicted edge is a ramp of up to so many cells, cut anywhere and at another cell in each row.
# Planes of the ramp itself would take the background apart into strips.
_RAMP = 3


@dataclass(frozen=True)
class Hidden:
    """Cells behind what is seen in them.

    cells, seeds: (N,) the flat cell and the visible cell it grew from. planes: (N, 3) the plane g
    in it (see `grid`). outward: (N, 2) the step (row, column) that leads from the edge
    away from the foreground.
    """

    cells: np.ndarray
    planes: np.ndarray
    seeds: np.ndarray
    outward: np.ndarray

    def where(self, chosen: np.ndarray) -> Hidden:
        """Those of the cells that are `chosen`, (N,) bool."""
        return Hidden(
            self.cells[chosen], self.planes[chosen], self.seeds[chosen], self.outward[chosen]
        )


def jump_pairs(
    grid: Grid, right: np.ndarray, down: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Flat cells (near, far) on the two sides of every jump between two surfaces, and the step
    (row, column) from near to far."""
    cell = np.arange(grid.depth.size).reshape(grid.shape)
    one = np.concatenate((cell[~right], cell[:-1][~down]))
    other = np.concatenate((np.roll(cell, -1, axis=1)[~right], cell[1:][~down]))
    step = np.repeat(((0, 1), (1, 0)), ((~right).sum(), (~down).sum()), axis=0)
    depth = grid.depth.reshape(-1)
    both = (depth[one] > 0) & (depth[other] > 0)
    one, other, step = one[both], other[both], step[both]
    swap = depth[one] > depth[other]
    near, far = np.where(swap, other, one), np.where(swap, one, other)
    return near, far, np.where(swap[:, None], -step, step)


def grow(
    grid: Grid,
    solid: np.ndarray,
    edges: tuple[np.ndarray, np.ndarray, np.ndarray],
    radius: int,
    before: np.ndarray,
) -> Hidden:
    """Extend far surfaces behind near ones from edges (see `jump_pairs`), ring by ring, `radius`
    times, as far as cells are `solid`, (R C,) bool. What is not solid itself, such as glass, goes
    on behind what stands `before` it alone, (R C,) bool.

    A cell is of what reaches it first, and of two at once of the nearer: the inside of a room is
    what all its walls leave over.
    """
    rows, columns = grid.shape
    rays = grid.rays.reshape(-1, 3)
    depth = grid.depth.reshape(-1)
    # Hidden surfaces stay within the heights of what is seen: a wall behind a table ends at the
    # floor that the table hides.
    heights = (rays[:, 2] * depth)[solid]
    limit = np.where(rays[:, 2] < 0, *np.percentile(heights, (0.1, 99.9)))
    least = np.maximum(rays[:, 2] / limit, 0.0)
    hiding = solid[edges[0]]
    near, seed, outward = (array[hiding] for array in edges)
    plane = plane_of(grid, _off_ramp(grid, solid, seed, outward))
    reached = np.zeros(rows * columns, bool)
    found: list[tuple[np.ndarray, ...]] = []
    for _ in range(radius):
        disparity = dot(plane, rays[near])
        start = 1.0 / depth[seed]
        disparity = np.clip(disparity, start / _MAX_GROWTH, start * _MAX_GROWTH)
        disparity = np.maximum(disparity, least[near])
        hidden = ~reached[near] & (disparity * depth[near] * _BEHIND < 1.0)
        hidden &= np.where(solid[seed], solid[near], before[near])
        if not hidden.any():
            break
        order = np.flatnonzero(hidden)
        order = order[np.lexsort((-disparity[order], near[order]))]
        near, first = np.unique(near[order], return_index=True)
        chosen = order[first]
        plane, seed, outward = plane[chosen], seed[chosen], outward[chosen]
        # The plane is bent to the clipped disparity, so that it still describes its own cell.
        plane = plane * (disparity[chosen] / dot(plane, rays[near]))[:, None]
        reached[near] = True
        found.append((near, plane, seed, outward))
        row, column = near // columns, near % columns
        steps = [(row + dr, (column + dc) % columns) for dr, dc in NEIGHBOURS]
        inside = np.concatenate([(r >= 0) & (r < rows) for r, _ in steps])
        near = np.concatenate([r * columns + c for r, c in steps])[inside]
        plane, seed, outward = (
            np.concatenate([array] * len(steps))[inside] for array in (plane, seed, outward)
        )
    if not found:
        nothing = np.empty(0, int)
        return Hidden(nothing, np.empty((0, 3), np.float32), nothing, np.empty((0, 2), int))
    return Hidden(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


def _off_ramp(grid: Grid, solid: np.ndarray, seeds: np.ndarray, outward: np.ndarray) -> np.ndarray:
    """Flat cells (N,) whose planes the background takes: the seeds, but for one that stands before
    the plane of the cell `_RAMP` steps `outward` that cell."""
    rows, columns = grid.shape
    depth = grid.depth.reshape(-1)
    row = np.clip(seeds // columns + _RAMP * outward[:, 0], 0, rows - 1)
    beyond = row * columns + (seeds + _RAMP * outward[:, 1]) % columns
    beyond = np.where((depth[beyond] > 0) & (solid[beyond] == solid[seeds]), beyond, seeds)
    ahead = 1.0 - depth[seeds] * dot(plane_of(grid, beyond), grid.rays.reshape(-1, 3)[seeds])
    # On a floor that meets a wall a cell is ahead of the wall by less.
    return np.where(ahead > 4.0 * _RAMP * 2.0 * np.pi / columns, beyond, seeds)


def part(grid: Grid, jump: float, hidden: Hidden, surface: Part) -> Part:
    """What is hidden behind the visible surface; its vertices are numbered after those."""
    rows, columns = grid.shape
    cells, planes = hidden.cells, hidden.planes
    depth = grid.depth.copy().reshape(-1)
    normal = grid.normal.copy().reshape(-1, 3)
    rays = grid.rays.reshape(-1, 3)
    depth[cells] = 1.0 / dot(planes, rays[cells])
    normal[cells] = -unit(planes)
    behind = Grid(grid.rays, depth.reshape(rows, columns), normal.reshape(rows, columns, 3))

    all_keys = corner_keys(*joins(behind, jump)).reshape(-1, 4)
    filled = np.zeros(rows * columns, bool)
    filled[cells] = True
    # Where the background runs on into the visible surface it takes over that vertex's position.
    # Not the vertex: right at the edge the picture mixes in the foreground, which would be drawn
    # out over the first cell.
    owner = np.full(all_keys.max() + 1, -1)
    visible = ~filled[surface.cells]
    owner[all_keys[surface.cells[visible]]] = surface.corners[visible]

    keys = all_keys[cells]
    used, own, disparity = weld(keys, corner_disparity(behind, cells, planes))
    points = key_rays(used, rows) / disparity[:, None]
    taken = owner[used] >= 0
    points[taken] = surface.vertices[owner[used[taken]]]
    points *= _behind(points, own, cells, surface)[:, None]
    lookup, lookup_cells = mirrored(grid, hidden, own, points)
    return Part(points, lookup, own + len(surface.vertices), cells, lookup_cells)


def _behind(points: np.ndarray, own: np.ndarray, cells: np.ndarray, surface: Part) -> np.ndarray:
    """(V,) factors that move background vertices just behind the visible corners they share a
    direction with: where both surfaces are extrapolated to an edge, they may cross."""
    row_of = np.zeros(surface.cells.max(initial=0) + 1, int)
    row_of[surface.cells] = np.arange(len(surface.cells))
    distance = np.sqrt(dot(surface.vertices, surface.vertices))
    front = np.zeros(len(points), np.float32)
    np.maximum.at(front, own, distance[surface.corners[row_of[cells]]])
    return np.maximum(1.0, 1.005 * front / np.sqrt(dot(points, points)))


def mirrored(
    grid: Grid, hidden: Hidden, corners: np.ndarray, points: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Where hidden cells, whose corners (N, 4) number the points (V, 3), look their colour up: (V,
    3) look-up vectors, (N,) flat cells."""
    position, lookup_cells = _mirror(grid, hidden)
    lookup = np.stack(
        [np.bincount(corners.ravel(), weights=position[..., k].ravel()) for k in range(3)], axis=-1
    )
    return unit(lookup) * np.sqrt(dot(points, points))[:, None], lookup_cells


def _mirror(grid: Grid, hidden: Hidden) -> tuple[np.ndarray, np.ndarray]:
    """The same for each cell by itself: unit vectors (N, 4, 3) for its corners, (N,) flat cells.

    The visible side is mirrored one cell off the edge, which continues its texture without the
    pixels that mix both sides. Where that lands on something else (more than a tenth off the
    plane), all corners take the cell beside the edge.
    """
    cells, planes, seeds, outward = hidden.cells, hidden.planes, hidden.seeds, hidden.outward
    rows, columns = grid.shape
    centre = np.stack((seeds // columns, seeds % columns), axis=1) + outward
    cell = np.stack((cells // columns, cells % columns), axis=1)
    mirrored, fits = _on_plane(grid, 2 * centre - cell, planes)
    off_edge, usable = _on_plane(grid, centre, planes)
    lookup_cells = np.where(fits, mirrored, np.where(usable, off_edge, seeds))

    offsets = np.array([corner[:2] for corner in CORNERS])
    reflected = 2 * centre[:, None] + 1 - (cell[:, None] + offsets)
    fixed = np.stack((lookup_cells // columns, lookup_cells % columns), axis=1)[:, None] + 0.5
    position = np.where(fits[:, None, None], reflected, fixed)
    return frames.rays_at(position[..., 0], position[..., 1], (rows, 2 * rows)), lookup_cells


def _on_plane(grid: Grid, at: np.ndarray, planes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Flat cells for positions (N, 2) row and column, and whether each exists and shows a surface
    within a tenth of the plane g (N, 3)."""
    rows, columns = grid.shape
    inside = (at[:, 0] >= 0) & (at[:, 0] < rows)
    cells = np.where(inside, at[:, 0], 0) * columns + at[:, 1] % columns
    expected = dot(planes, grid.rays.reshape(-1, 3)[cells])
    fits = np.abs(grid.depth.reshape(-1)[cells] * expected - 1.0) < 0.1
    return cells, inside & fits
