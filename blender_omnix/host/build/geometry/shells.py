# SPDX-License-Identifier: GPL-3.0-or-later
"""The layers of a place, put together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ....panorama import frames, resample
from . import background, backs, openings
from .background import Hidden
from .faces import (
    BACK,
    BACKGROUND,
    VISIBLE,
    Part,
    Shell,
    assemble,
    corner_disparity,
    corner_keys,
    key_rays,
    weld,
)
from .grid import Grid, joins, plane_of


def lamp_cells(emission: np.ndarray, grid: Grid) -> np.ndarray:
    """(R C,) bool: the brightest cells of an emission map (H, W, 3), which together give 99 % of
    the light that surfaces emit. A cell is as bright as its brightest pixel.

    Infinity counts as the largest number in the map, and what is no number as dark.
    """
    rows, columns = grid.shape
    values = np.fmax.reduce(emission, axis=2)
    largest = values.max(where=np.isfinite(values), initial=0.0)
    values = np.nan_to_num(values, copy=False, nan=0.0, posinf=largest, neginf=0.0)
    brightest = resample.block_max(values, rows, columns)
    power = brightest * frames.solid_angles(rows, columns)[:, None] * (grid.depth > 0)
    power = power.ravel()
    order = np.argsort(-power)
    lamps = np.zeros(power.size, bool)
    total = power.sum()
    if total > 0:
        lamps[order[: np.searchsorted(np.cumsum(power[order]), 0.99 * total) + 1]] = True
    return lamps


def shells(
    grid: Grid, jump: float, fill: float, *, enclosed: bool
) -> tuple[Shell, Shell | None, Shell | None]:
    """The surfaces of a place; if it is `enclosed` also, if it has any, its hull and its panes.

    The visible surface is cut as `joins` says. `fill`: how far what is hidden reaches behind an
    edge, as a fraction of the panorama's width. Walls and openings both go on behind what stands
    before them, each until it meets the other.

    Raises ValueError where an enclosed place has nothing but sky.
    """
    cut = joins(grid, jump)
    solid = (grid.depth > 0).ravel()
    radius = round(fill * grid.shape[1])
    if not enclosed:
        hidden = background.grow(grid, solid, background.jump_pairs(grid, *cut), radius, solid)
        return _surfaces(grid, jump, cut, hidden, radius), None, None
    outside = openings.outside(grid)
    walls = openings.walls(grid, outside)
    glass = openings.glass(grid, walls)
    whole = replace(grid, depth=grid.depth + glass.depth, normal=glass.normal)
    before = solid & ~openings.frame_cells(grid, outside).ravel()
    hidden = background.grow(whole, solid, background.jump_pairs(whole, *cut), radius, before)
    behind_glass = ~solid[hidden.seeds]

    is_open = outside.copy()
    is_open.ravel()[hidden.cells[behind_glass]] = True
    hull = openings.hull(is_open, walls)

    surfaces = _surfaces(grid, jump, cut, hidden.where(~behind_glass), radius)
    if not (glass.depth > 0).any():
        return surfaces, hull, None
    return surfaces, hull, openings.panes(glass, walls, hidden.where(behind_glass))


def _surfaces(
    grid: Grid, jump: float, cut: tuple[np.ndarray, np.ndarray], hidden: Hidden, radius: int
) -> Shell:
    """The visible surface, `cut` (see `joins`), and unless the `radius` is 0 the background behind
    its edges and the backs of slim things."""
    surface = _surface(grid, *cut)
    if radius == 0:
        return assemble([(VISIBLE, surface)], grid.shape)
    behind = background.part(grid, jump, hidden, surface)
    far = backs.part(grid, *cut, jump, len(surface.vertices) + len(behind.vertices))
    return assemble([(VISIBLE, surface), (BACKGROUND, behind), (BACK, far)], grid.shape)


def _surface(grid: Grid, right: np.ndarray, down: np.ndarray) -> Part:
    """The visible surface, cut where cells are not joined (see `joins`)."""
    cells = np.flatnonzero(grid.depth > 0)
    keys = corner_keys(right, down).reshape(-1, 4)[cells]
    planes = plane_of(grid, cells)
    used, corners, disparity = weld(keys, corner_disparity(grid, cells, planes))
    vertices = key_rays(used, grid.shape[0]) / disparity[:, None]
    return Part(vertices, vertices, corners, cells, cells)
