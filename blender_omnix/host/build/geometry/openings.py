# SPDX-License-Identifier: GPL-3.0-or-later
"""The openings of an enclosed place: what is outside, the panes, and a hull, shut but for them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ....panorama import frames, regions, resample
from .background import Hidden, mirrored
from .faces import HULL, PANE, Part, Shell, assemble, key_rays, welded_keys
from .grid import BENT, NEIGHBOURS, Grid, corner_rays, dot, unit

# The plane of an opening's frame: of so many through three points beside it the one that most
# points lie on, within this share of their depth; for the largest openings.
_TRIES, _ON_FRAME, _MOST = 128, 0.03, 16
# A bar between two panes of one window is at most the `_BARS / 2`th part of the panorama's width.
_BARS = 256
_HULL_ROWS = 64
# A wall nearer than this share of the farthest point, or behind the viewpoint, is none.
_NO_WALL = 1e-3
# Points multiplied at a time, so that the products stay in the cache.
_BAND_POINTS = 2**11


@dataclass(frozen=True)
class Walls:
    """Planes that enclose a place: outward unit normals (K, 3), distances (K,) from the viewpoint
    in metres."""

    normals: np.ndarray
    distances: np.ndarray


def is_enclosed(grid: Grid) -> bool:
    """True for a place with a roof: little sky, and less of it overhead.

    Counted by solid angle: at most a quarter of all directions, and at most a tenth of those more
    than 45 degrees above the horizon.
    """
    weight = frames.solid_angles(*grid.shape)
    sky = (grid.depth <= 0).mean(axis=1)
    overhead = np.arange(grid.shape[0]) < grid.shape[0] // 4
    return bool(
        np.average(sky, weights=weight) <= 0.25
        and np.average(sky[overhead], weights=weight[overhead]) <= 0.1
    )


def outside(grid: Grid) -> np.ndarray:
    """(R, C) bool: the sky, and surfaces beyond the walls that are connected with it.

    The walls are where the ceiling ends: beyond them is what lies further than it in its own
    direction from the viewpoint, and further than all of it in some direction, since a beam may
    hide where it ends. What lies beyond them without sky, such as the next room seen through a
    door, belongs to the place; so does everything where there is no ceiling.
    """
    sky = grid.depth <= 0
    points = grid.rays * grid.depth[..., None]
    ceiling = ~sky & (grid.normal[..., 2] < -0.7) & (grid.rays[..., 2] > 0.0)
    weight = np.broadcast_to(frames.solid_angles(*grid.shape)[:, None], grid.shape)
    if weight[ceiling].sum() < 0.02 * 4.0 * np.pi:
        return sky
    angles = np.arange(32) * (2.0 * np.pi / 32)
    beyond = np.zeros(grid.shape, bool)
    for x, y in zip(np.cos(angles), np.sin(angles), strict=True):
        reach = points[..., 0] * x + points[..., 1] * y
        beyond |= reach > _beyond(np.maximum(np.percentile(reach[ceiling], 99.5), 0.0))
    level = np.hypot(points[..., 0], points[..., 1])
    beyond &= level > _beyond(np.where(ceiling & ~beyond, level, 0.0).max(axis=0))
    # Across the bars of a window too: a pane may show a street alone. But what has a ceiling there
    # is the next room, seen through a door.
    air = linked = sky | beyond
    for _ in range(grid.shape[1] // _BARS):
        linked = regions.grow(linked)
    seen = regions.connected(sky, air)
    further = air & regions.connected(sky, linked) & ~seen
    return seen | (further & ~regions.connected(ceiling & further, further))


def _beyond(reach: np.ndarray) -> np.ndarray:
    """What is further than this is not part of a wall that is so far away, in metres."""
    return 1.1 * reach + 0.1


def walls(grid: Grid, outside: np.ndarray) -> Walls:
    """The convex hull of what is not `outside`, (R, C) bool; ValueError where everything is.

    Where the viewpoint is not within it, as over open ground, what is open is as far as the
    farthest point.
    """
    inside = (grid.rays * grid.depth[..., None])[~outside]
    if not len(inside):
        raise ValueError("nothing is inside")
    normals = np.concatenate((frames.directions(10, 20).reshape(-1, 3), np.eye(3), -np.eye(3)))
    normals = normals.astype(np.float32)
    support = np.full(len(normals), -np.inf, np.float32)
    for start in range(0, len(inside), _BAND_POINTS):
        reach = normals @ inside[start : start + _BAND_POINTS].T
        np.maximum(support, reach.max(axis=1), out=support)
    farthest = grid.depth[~outside].max()
    support[support < _NO_WALL * farthest] = farthest
    return Walls(normals, support)


def reach(walls: Walls, rays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far unit vectors (..., 3) go until they meet a wall, and the number of that wall."""
    radius = np.full(rays.shape[:-1], np.inf, np.float32)
    nearest = np.zeros(rays.shape[:-1], int)
    for number, (normal, distance) in enumerate(zip(walls.normals, walls.distances, strict=True)):
        reach = distance / np.maximum(rays @ normal, 1e-6)
        np.copyto(nearest, number, where=reach < radius)
        np.minimum(radius, reach, out=radius)
    return radius, nearest


def glass(grid: Grid, walls: Walls) -> Grid:
    """The openings alone: depth and normals of the walls where the sky is seen, depth 0 elsewhere
    (and there the normals of the place)."""
    sky = grid.depth <= 0
    depth, normal = np.zeros_like(grid.depth), grid.normal.copy()
    depth[sky], wall = reach(walls, grid.rays[sky])
    normal[sky] = -walls.normals[wall]
    return Grid(grid.rays, depth, normal)


def frame_cells(grid: Grid, outside: np.ndarray) -> np.ndarray:
    """(R, C) bool: what lies in the plane of an opening's frame: the wall that the opening is in,
    which may be an inner one, and no thing before it. Of the `_MOST` largest openings."""
    number = np.unique(regions.label(outside), return_inverse=True)[1].reshape(grid.shape)
    rows, columns = grid.shape
    padded = resample.pad(number, 1)
    beside = []
    for down, right in NEIGHBOURS:
        there = padded[1 + down : 1 + down + rows, 1 + right : 1 + right + columns]
        cells = np.flatnonzero((number == 0) & (there > 0))
        beside.append(np.stack((there.ravel()[cells], cells)))
    opening, cells = np.concatenate(beside, axis=1)
    points, normals = grid.rays * grid.depth[..., None], grid.normal.reshape(-1, 3)
    found = np.zeros(grid.shape, bool)
    for largest in np.argsort(-np.bincount(opening, minlength=1))[:_MOST]:
        own = cells[opening == largest]
        plane = _frame_plane(points.reshape(-1, 3)[own], normals[own])
        found |= np.abs(points @ plane - 1.0) < _ON_FRAME
    return found


def _frame_plane(points: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """Plane g (3,) with g . point = 1 for most of the points (N, 3) beside an opening; zero where
    no plane has half of them (Fischler and Bolles 1981, random sample consensus). Points whose
    normals (N, 3) are the plane's count twice: a pillar's edge and a wall's are on a plane too."""
    nowhere = np.zeros(3, np.float32)
    if len(points) < 8:
        return nowhere
    one, two, three = points[np.random.default_rng(0).integers(len(points), size=(3, _TRIES))]
    across = unit(np.cross(two - one, three - one))
    distances = dot(across, one)
    usable = np.abs(distances) > 1e-3
    candidates = across[usable] / distances[usable, None]
    on_plane = np.abs(points @ candidates.T - 1.0) < _ON_FRAME
    alike = np.abs(normals @ across[usable].T) > BENT
    votes = on_plane.sum(axis=0) + (on_plane & alike).sum(axis=0)
    if not len(votes):
        return nowhere
    best = votes.argmax()
    return candidates[best] if on_plane[:, best].mean() >= 0.5 else nowhere


def hull(is_open: np.ndarray, walls: Walls) -> Shell | None:
    """A coarse shell just outside the place, open where one looks out of it, (R, C) bool; None
    where that is everywhere.

    It lies 4 % outside the `walls`, so that no lamp in the place has it in front of what it lights:
    it stops outside light without casting shadows of its own. It is open a cell further than asked,
    since the sun comes in at a slant.
    """
    rows = min(_HULL_ROWS, is_open.shape[0])
    columns = 2 * rows
    rays = corner_rays(rows)
    radius = 1.04 * reach(walls, rays)[0]
    # Faces are chords; with each vertex as far out as its surroundings they cut no corner off.
    radius = np.maximum.reduce([np.roll(radius, shift, axis=1) for shift in (-1, 0, 1)])
    padded = np.pad(radius, ((1, 1), (0, 0)), mode="edge")
    radius = np.maximum.reduce([padded[:-2], padded[1:-1], padded[2:]])
    radius[0], radius[-1] = radius[0].max(), radius[-1].max()
    points = (rays * radius[..., None]).reshape(-1, 3)

    coarse = np.zeros((rows, columns), bool)
    row, column = np.nonzero(is_open)
    coarse[row * rows // is_open.shape[0], column * columns // is_open.shape[1]] = True
    cells = np.flatnonzero(~regions.grow(coarse))
    if not len(cells):
        return None
    used, corners = np.unique(welded_keys(rows)[cells], return_inverse=True)
    points = points[used // 4]
    part = Part(points, points, corners.reshape(-1, 4), cells, cells)
    return assemble([(HULL, part)], (rows, columns))


def panes(glass: Grid, walls: Walls, hidden: Hidden) -> Shell:
    """The panes in the openings of an enclosed place, seen and hidden.

    With the photograph on it a window stays in its wall when one moves, where the sky itself is
    infinitely far away.
    """
    rows = glass.shape[0]
    keys = welded_keys(rows)
    seen = np.flatnonzero(glass.depth > 0)

    def corners_of(cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        used, corners = np.unique(keys[cells], return_inverse=True)
        rays = key_rays(used, rows)
        return rays * reach(walls, rays)[0][:, None], corners.reshape(-1, 4)

    # Each with corners of its own: beside an edge what is hidden looks its colour up off the edge.
    points, corners = corners_of(seen)
    further, own = corners_of(hidden.cells)
    lookup, lookup_cells = mirrored(glass, hidden, own, further)
    return assemble(
        [
            (PANE, Part(points, points, corners, seen, seen)),
            (PANE, Part(further, lookup, own + len(points), hidden.cells, lookup_cells)),
        ],
        glass.shape,
    )
