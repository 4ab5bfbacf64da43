# SPDX-License-Identifier: GPL-3.0-or-later
"""The place as quads and triangles: depth and normals in, layers of a shell out (plain numpy).

Frame: the capture frame of the panorama, viewpoint at the origin, +X at the image centre, +Z up,
metres. The panorama is reduced to a grid of *cells*, R rows from the top and 2 R columns; every
cell that shows a surface becomes one quad (a triangle beside a pole). A cell is addressed by row
and column, or flat by `row * columns + column`.

A place has five layers:

* the visible surface, its corners welded inside a surface and split at depth jumps;
* the background, grown behind the near side of every jump, so that a step aside shows what is
  plausibly there instead of a hole;
* the backs of slim things such as lamp shades and pillars, so that no light passes through them
  from where nobody has seen them;
* where it is enclosed, panes in its openings, which go on behind what stands before them;
* where it is enclosed, a hull outside of all, which lets no light in except through the openings.

Every vertex carries the direction at which it looks its colour up, scaled by its distance: linear
interpolation over a face is then correct in perspective.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ...panorama import frames, regions, resample

# The corners of a cell, counter-clockwise as seen from the viewpoint: top left, bottom left,
# bottom right, top right. For each the row and column offset of the corner, and which of the four
# cells around that corner (north-west, north-east, south-east, south-west) this cell is.
_CORNERS = ((0, 0, 2), (1, 0, 1), (1, 1, 0), (0, 1, 3))
_NEIGHBOURS = ((-1, 0), (1, 0), (0, -1), (0, 1))

# Metres; beyond them is the sky, as in a depth pass that was rendered.
FAR = 1e6

# How much of its disparity a plane may gain or lose within a cell. Beyond this the cell is seen
# so nearly edge-on that its normal says nothing about the next pixel.
_MAX_TILT = 1.25
# The background stays within this factor of the depth it grew from.
_MAX_GROWTH = 2.0
# Background closer than this behind the visible surface is that surface.
_BEHIND = 1.02
# The plane of an opening's frame: of so many through three points beside it the one that most
# points lie on, within this share of their depth; for the largest openings.
_TRIES, _ON_FRAME, _MOST = 128, 0.03, 16
# A bar between two panes of one window is at most the `_BARS / 2`th part of the panorama's width.
_BARS = 256
# What is slimmer than this, in metres, has a back like its front, unless it is as flat as a sheet:
# thinner than this share of its depth.
_SLIM = 1.5
_SHEET = 0.01
# Least cosine between ray and normal at the rim of a round thing; beyond it normals are unsure.
_RIM = 1 / 6

# Cosine between ray and normal below which a cell that is nearer than so many metres is a rim.
_EDGE_ON, _NEAR = 0.05, 5.0
# Surfaces that meet at less than this cosine between their normals form a corner. A trench at its
# bottom is at most the `_TRENCH`th part of the panorama wide; its cells are behind the plane beside
# it by this share of their depth.
_BENT = 0.94
_TRENCH = 40
_BEHIND_PLANE = 0.001
# A step of up to this many jumps is still taken for a trench: elsewhere it is an edge, but between
# surfaces that bend towards each other a gap is a worse guess than a corner.
_DEEP = 1.5
_BESIDE = 3  # walks on either side that one is compared with
# A plane's cells are alike up to this cosine between the normals of cells so many apart.
_ALIKE, _APART = 0.98, 4

# Points multiplied at a time, so that the products stay in the cache.
_BAND_POINTS = 2**11

# Layers of a shell.
VISIBLE, BACK, PANE, BACKGROUND, HULL = range(5)


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


@dataclass(frozen=True)
class _Walls:
    """Planes that enclose a place: outward unit normals (K, 3), distances (K,) from the viewpoint
    in metres."""

    normals: np.ndarray
    distances: np.ndarray


@dataclass(frozen=True)
class _Hidden:
    """Cells behind what is seen in them.

    cells, seeds: (N,) the flat cell and the visible cell it grew from. planes: (N, 3) the plane g
    in it, with 1 / depth = g . ray. outward: (N, 2) the step (row, column) that leads from the edge
    away from the foreground.
    """

    cells: np.ndarray
    planes: np.ndarray
    seeds: np.ndarray
    outward: np.ndarray

    def where(self, chosen: np.ndarray) -> _Hidden:
        return _Hidden(
            self.cells[chosen], self.planes[chosen], self.seeds[chosen], self.outward[chosen]
        )


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


def reduce(depth: np.ndarray, normal: np.ndarray, columns: int) -> Grid:
    """Maps (H, W), (H, W, 3) as a grid of at most `columns` cells around the horizon.

    Each cell takes the pixel of median depth in its block, carried along that pixel's plane to
    the centre of the cell: an average would lie half-way between a chair and the wall behind it.
    """
    height, width = depth.shape
    rows = max(1, min(columns // 2, height))
    columns = 2 * rows
    taps = max(1, round(height / rows))
    row = ((np.arange(rows * taps) + 0.5) * height / (rows * taps)).astype(int)
    column = ((np.arange(columns * taps) + 0.5) * width / (columns * taps)).astype(int)
    rays = frames.directions(rows, columns)
    if taps == 1:
        return Grid(
            rays,
            np.ascontiguousarray(depth[row][:, column], np.float32),
            _unit(normal[row][:, column]),
        )
    blocks = depth[row][:, column].reshape(rows, taps, columns, taps).swapaxes(1, 2)
    blocks = blocks.reshape(rows, columns, taps * taps).astype(np.float32)
    middle = taps * taps // 2
    chosen = np.argpartition(blocks, middle, axis=2)[..., middle]
    pixel_row = row[np.arange(rows)[:, None] * taps + chosen // taps]
    pixel_column = column[np.arange(columns) * taps + chosen % taps]
    cell_normal = _unit(normal[pixel_row, pixel_column])
    pixel_rays = frames.directions(height, width)[pixel_row, pixel_column]
    median = np.take_along_axis(blocks, chosen[..., None], axis=2)[..., 0]
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
    rim = (_dot(grid.normal, grid.rays) > -_EDGE_ON) & (grid.depth < _NEAR)
    here = (grid.depth, points, grid.normal, rim)

    def joined(a: tuple[np.ndarray, ...], b: tuple[np.ndarray, ...]) -> np.ndarray:
        near = np.minimum(a[0], b[0])
        offset = b[1] - a[1]
        bent = _dot(a[2], b[2]) < _BENT
        off_plane = np.minimum(
            np.where(a[3] & bent, np.inf, np.abs(_dot(a[2], offset))),
            np.where(b[3] & bent, np.inf, np.abs(_dot(b[2], offset))),
        )
        apart = (off_plane > 3.0 * step * near) & (
            np.abs(a[0] - b[0]) > max(4.0 * step, jump) * near
        )
        return ~apart & (near > 0)

    right = joined(here, tuple(np.roll(array, -1, axis=1) for array in here))
    down = joined(tuple(array[:-1] for array in here), tuple(array[1:] for array in here))
    return right, down


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
    planes = _planes(grid, margins)
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
        met &= _dot(normal[cells[rim]], normal[start]) < _BENT
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


def lamp_cells(emission: np.ndarray, grid: Grid) -> np.ndarray:
    """(R C,) bool: the brightest cells of an emission map (H, W, 3), which together give 99 % of
    the light that surfaces emit. A cell is as bright as its brightest pixel."""
    rows, columns = grid.shape
    brightest = _block_max(emission.max(axis=2), rows, columns)
    power = brightest * frames.solid_angles(rows, columns)[:, None] * (grid.depth > 0)
    power = power.ravel()
    order = np.argsort(-power)
    lamps = np.zeros(power.size, bool)
    total = power.sum()
    if total > 0:
        lamps[order[: np.searchsorted(np.cumsum(power[order]), 0.99 * total) + 1]] = True
    return lamps


def _block_max(values: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """The largest value in each cell of a grid; the nearest pixel where cells are smaller."""
    for axis, count in ((0, rows), (1, columns)):
        starts = np.arange(count) * values.shape[axis] // count
        values = np.maximum.reduceat(values, starts, axis=axis)
    return values


def shells(
    grid: Grid, jump: float, fill: float, *, enclosed: bool
) -> tuple[Shell, Shell | None, Shell | None]:
    """The surfaces of a place; if it is `enclosed` also its hull and, if it has any, its panes.

    The visible surface is cut as `joins` says. `fill`: how far what is hidden reaches behind an
    edge, as a fraction of the panorama's width. Walls and openings both go on behind what stands
    before them, each until it meets the other.

    Raises ValueError where an enclosed place has nothing but sky.
    """
    cut = joins(grid, jump)
    solid = (grid.depth > 0).ravel()
    radius = round(fill * grid.shape[1])
    if not enclosed:
        hidden = _grow(grid, solid, _jump_pairs(grid, *cut), radius, solid)
        return _surfaces(grid, jump, cut, hidden, radius), None, None
    outside = _outside(grid)
    walls = _walls(grid, outside)
    glass = _glass(grid, walls)
    whole = replace(grid, depth=grid.depth + glass.depth, normal=glass.normal)
    before = solid & ~_frames(grid, outside).ravel()
    hidden = _grow(whole, solid, _jump_pairs(whole, *cut), radius, before)
    behind_glass = ~solid[hidden.seeds]

    is_open = outside.copy()
    is_open.ravel()[hidden.cells[behind_glass]] = True
    hull = _hull(is_open, walls)

    surfaces = _surfaces(grid, jump, cut, hidden.where(~behind_glass), radius)
    if not (glass.depth > 0).any():
        return surfaces, hull, None
    return surfaces, hull, _panes(glass, walls, hidden.where(behind_glass))


def _surfaces(
    grid: Grid, jump: float, cut: tuple[np.ndarray, np.ndarray], hidden: _Hidden, radius: int
) -> Shell:
    """The visible surface, `cut` (see `joins`), and unless the `radius` is 0 the background behind
    its edges and the backs of slim things."""
    surface = _surface(grid, *cut)
    if radius == 0:
        return _shell([(VISIBLE, surface)], grid.shape)
    behind = _background(grid, jump, hidden, surface)
    backs = _backs(grid, *cut, jump, len(surface[0]) + len(behind[0]))
    return _shell([(VISIBLE, surface), (BACKGROUND, behind), (BACK, backs)], grid.shape)


def _hull(is_open: np.ndarray, walls: _Walls, rows: int = 64) -> Shell:
    """A coarse shell just outside the place, open where one looks out of it, (R, C) bool.

    It lies 4 % outside the `walls`, so that no lamp in the place has it in front of what it lights:
    it stops outside light without casting shadows of its own. It is open a cell further than asked,
    since the sun comes in at a slant.
    """
    rows = min(rows, is_open.shape[0])
    columns = 2 * rows
    rays = _corner_rays(rows)
    radius = 1.04 * _reach(walls, rays)[0]
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
    used, corners = np.unique(_welded_keys(rows)[cells], return_inverse=True)
    points = points[used // 4]
    part = points, points, corners.reshape(-1, 4), cells, cells
    return _shell([(HULL, part)], (rows, columns))


def _panes(glass: Grid, walls: _Walls, hidden: _Hidden) -> Shell:
    """The panes in the openings of an enclosed place, seen and hidden.

    With the photograph on it a window stays in its wall when one moves, where the sky itself is
    infinitely far away.
    """
    rows = glass.shape[0]
    keys = _welded_keys(rows)
    seen = np.flatnonzero(glass.depth > 0)

    def corners_of(cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        used, corners = np.unique(keys[cells], return_inverse=True)
        rays = _key_rays(used, rows)
        return rays * _reach(walls, rays)[0][:, None], corners.reshape(-1, 4)

    # Each with corners of its own: beside an edge what is hidden looks its colour up off the edge.
    points, corners = corners_of(seen)
    further, own = corners_of(hidden.cells)
    lookup, lookup_cells = _mirrored(glass, hidden, own, further)
    return _shell(
        [
            (PANE, (points, points, corners, seen, seen)),
            (PANE, (further, lookup, own + len(points), hidden.cells, lookup_cells)),
        ],
        glass.shape,
    )


def _welded_keys(rows: int) -> np.ndarray:
    """(R C, 4) `_corner_keys` of a grid whose cells are all joined."""
    welded = np.ones((rows, 2 * rows), bool)
    return _corner_keys(welded, welded[1:]).reshape(-1, 4)


def _glass(grid: Grid, walls: _Walls) -> Grid:
    """The openings alone: depth and normals of the walls where the sky is seen, depth 0 elsewhere
    (and there the normals of the place)."""
    sky = grid.depth <= 0
    depth, normal = np.zeros_like(grid.depth), grid.normal.copy()
    depth[sky], wall = _reach(walls, grid.rays[sky])
    normal[sky] = -walls.normals[wall]
    return Grid(grid.rays, depth, normal)


def _frames(grid: Grid, outside: np.ndarray) -> np.ndarray:
    """(R, C) bool: what lies in the plane of an opening's frame: the wall that the opening is in,
    which may be an inner one, and no thing before it. Of the `_MOST` largest openings."""
    number = np.unique(regions.label(outside), return_inverse=True)[1].reshape(grid.shape)
    rows, columns = grid.shape
    padded = resample.pad(number, 1)
    beside = []
    for down, right in _NEIGHBOURS:
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
    across = _unit(np.cross(two - one, three - one))
    distances = _dot(across, one)
    usable = np.abs(distances) > 1e-3
    candidates = across[usable] / distances[usable, None]
    on_plane = np.abs(points @ candidates.T - 1.0) < _ON_FRAME
    alike = np.abs(normals @ across[usable].T) > _BENT
    votes = on_plane.sum(axis=0) + (on_plane & alike).sum(axis=0)
    if not len(votes):
        return nowhere
    best = votes.argmax()
    return candidates[best] if on_plane[:, best].mean() >= 0.5 else nowhere


def _walls(grid: Grid, outside: np.ndarray) -> _Walls:
    """The convex hull of what is not `outside`, (R, C) bool; ValueError where everything is."""
    inside = (grid.rays * grid.depth[..., None])[~outside]
    if not len(inside):
        raise ValueError("nothing is inside")
    normals = np.concatenate((frames.directions(10, 20).reshape(-1, 3), np.eye(3), -np.eye(3)))
    normals = normals.astype(np.float32)
    support = np.full(len(normals), -np.inf, np.float32)
    for start in range(0, len(inside), _BAND_POINTS):
        reach = normals @ inside[start : start + _BAND_POINTS].T
        np.maximum(support, reach.max(axis=1), out=support)
    return _Walls(normals, support)


def _reach(walls: _Walls, rays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far unit vectors (..., 3) go until they meet a wall, and the number of that wall."""
    radius = np.full(rays.shape[:-1], np.inf, np.float32)
    nearest = np.zeros(rays.shape[:-1], int)
    for number, (normal, distance) in enumerate(zip(walls.normals, walls.distances, strict=True)):
        reach = distance / np.maximum(rays @ normal, 1e-6)
        np.copyto(nearest, number, where=reach < radius)
        np.minimum(radius, reach, out=radius)
    return radius, nearest


def _outside(grid: Grid) -> np.ndarray:
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


def _surface(grid: Grid, right: np.ndarray, down: np.ndarray) -> tuple[np.ndarray, ...]:
    """vertices, lookup, corners (N, 4), cells (N,) and look-up cells of the visible surface."""
    cells = np.flatnonzero(grid.depth > 0)
    keys = _corner_keys(right, down).reshape(-1, 4)[cells]
    planes = _planes(grid, cells)
    used, corners, disparity = _weld(keys, _corner_disparity(grid, cells, planes))
    vertices = _key_rays(used, grid.shape[0]) / disparity[:, None]
    return vertices, vertices, corners, cells, cells


def _background(
    grid: Grid, jump: float, hidden: _Hidden, surface: tuple[np.ndarray, ...]
) -> tuple[np.ndarray, ...]:
    """The same five arrays for the background; its vertices come after those of the surface."""
    rows, columns = grid.shape
    cells, planes = hidden.cells, hidden.planes
    depth = grid.depth.copy().reshape(-1)
    normal = grid.normal.copy().reshape(-1, 3)
    rays = grid.rays.reshape(-1, 3)
    depth[cells] = 1.0 / _dot(planes, rays[cells])
    normal[cells] = -_unit(planes)
    behind = Grid(grid.rays, depth.reshape(rows, columns), normal.reshape(rows, columns, 3))

    all_keys = _corner_keys(*joins(behind, jump)).reshape(-1, 4)
    filled = np.zeros(rows * columns, bool)
    filled[cells] = True
    vertices, _, corners, surface_cells, _ = surface
    # Where the background runs on into the visible surface it takes over that vertex's position.
    # Not the vertex: right at the edge the picture mixes in the foreground, which would be drawn
    # out over the first cell.
    owner = np.full(all_keys.max() + 1, -1)
    visible = ~filled[surface_cells]
    owner[all_keys[surface_cells[visible]]] = corners[visible]

    keys = all_keys[cells]
    used, own, disparity = _weld(keys, _corner_disparity(behind, cells, planes))
    points = _key_rays(used, rows) / disparity[:, None]
    taken = owner[used] >= 0
    points[taken] = vertices[owner[used[taken]]]
    points *= _behind(points, own, cells, surface)[:, None]
    lookup, lookup_cells = _mirrored(grid, hidden, own, points)
    return points, lookup, own + len(vertices), cells, lookup_cells


def _backs(
    grid: Grid, right: np.ndarray, down: np.ndarray, jump: float, first: int
) -> tuple[np.ndarray, ...]:
    """The same five arrays for the far sides of slim things, vertices numbered from `first`.

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

    mirrored = 2.0 * _dot(grid.normal, grid.rays)[..., None] * grid.rays - grid.normal
    behind = Grid(grid.rays, grid.depth + thickness.astype(np.float32), mirrored)
    keys = _corner_keys(*joins(behind, jump)).reshape(-1, 4)[cells]
    used, corners, disparity = _weld(keys, _corner_disparity(behind, cells, _planes(behind, cells)))
    # The outermost corners lie on the front, which closes the thing at its ends as well: between
    # two open sheets the light of a lamp below a shade would pass to the ceiling.
    front = _weld(keys, _corner_disparity(grid, cells, _planes(grid, cells)))[2]
    outermost = np.bincount(keys.ravel() // 4)[used // 4] < 4
    points = _key_rays(used, rows) / np.where(outermost, front, disparity)[:, None]
    return points, points, corners + first, cells, cells


def _limb(grid: Grid, axis: int) -> np.ndarray:
    """(R, C) depth of the edge of a round thing whose last cell along an axis of the grid is this.

    The edge is half a cell beyond the centre of that cell, and a circle falls back over this
    stretch about twice as far as the plane of the cell does: of a thing a dozen cells wide, two
    fifths of its radius. What faces the viewpoint, such as a sheet, ends at its own depth.
    """
    step = 0.5 * (np.roll(grid.rays, -1, axis) - np.roll(grid.rays, 1, axis))
    facing = np.maximum(-_dot(grid.normal, grid.rays), _RIM)
    return grid.depth * (1.0 + np.abs(_dot(grid.normal, step)) / facing)


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
    between, p, q = _dot(from_one, from_other), _dot(ray, from_one), _dot(ray, from_other)
    with np.errstate(divide="ignore", invalid="ignore"):
        disparity = (p - between * q) / one + (q - between * p) / other
        crossed = np.where(width < _SLIM, (1.0 - between**2) / disparity, np.nan)
    found = np.full(depth.shape, np.nan, np.float32)
    found[line, at] = crossed
    return found


def _behind(
    points: np.ndarray, own: np.ndarray, cells: np.ndarray, surface: tuple[np.ndarray, ...]
) -> np.ndarray:
    """(V,) factors that move background vertices just behind the visible corners they share a
    direction with: where both surfaces are extrapolated to an edge, they may cross."""
    vertices, _, corners, surface_cells, _ = surface
    row_of = np.zeros(surface_cells.max(initial=0) + 1, int)
    row_of[surface_cells] = np.arange(len(surface_cells))
    distance = np.sqrt(_dot(vertices, vertices))
    front = np.zeros(len(points), np.float32)
    np.maximum.at(front, own, distance[corners[row_of[cells]]])
    return np.maximum(1.0, 1.005 * front / np.sqrt(_dot(points, points)))


def _grow(
    grid: Grid,
    solid: np.ndarray,
    edges: tuple[np.ndarray, np.ndarray, np.ndarray],
    radius: int,
    before: np.ndarray,
) -> _Hidden:
    """Extend far surfaces behind near ones from edges (see `_jump_pairs`), ring by ring, `radius`
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
    plane = _planes(grid, seed)
    reached = np.zeros(rows * columns, bool)
    found: list[tuple[np.ndarray, ...]] = []
    for _ in range(radius):
        disparity = _dot(plane, rays[near])
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
        plane = plane * (disparity[chosen] / _dot(plane, rays[near]))[:, None]
        reached[near] = True
        found.append((near, plane, seed, outward))
        row, column = near // columns, near % columns
        steps = [(row + dr, (column + dc) % columns) for dr, dc in _NEIGHBOURS]
        inside = np.concatenate([(r >= 0) & (r < rows) for r, _ in steps])
        near = np.concatenate([r * columns + c for r, c in steps])[inside]
        plane, seed, outward = (
            np.concatenate([array] * len(steps))[inside] for array in (plane, seed, outward)
        )
    if not found:
        nothing = np.empty(0, int)
        return _Hidden(nothing, np.empty((0, 3), np.float32), nothing, np.empty((0, 2), int))
    return _Hidden(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


def _jump_pairs(
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


def _mirrored(
    grid: Grid, hidden: _Hidden, corners: np.ndarray, points: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Where hidden cells, whose corners (N, 4) number the points (V, 3), look their colour up: (V,
    3) look-up vectors, (N,) flat cells."""
    position, lookup_cells = _mirror(grid, hidden)
    lookup = np.stack(
        [np.bincount(corners.ravel(), weights=position[..., k].ravel()) for k in range(3)], axis=-1
    )
    return _unit(lookup) * np.sqrt(_dot(points, points))[:, None], lookup_cells


def _mirror(grid: Grid, hidden: _Hidden) -> tuple[np.ndarray, np.ndarray]:
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

    offsets = np.array([corner[:2] for corner in _CORNERS])
    reflected = 2 * centre[:, None] + 1 - (cell[:, None] + offsets)
    fixed = np.stack((lookup_cells // columns, lookup_cells % columns), axis=1)[:, None] + 0.5
    position = np.where(fits[:, None, None], reflected, fixed)
    return _rays_at(position[..., 0], position[..., 1], rows), lookup_cells


def _on_plane(grid: Grid, at: np.ndarray, planes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Flat cells for positions (N, 2) row and column, and whether each exists and shows a surface
    within a tenth of the plane g (N, 3)."""
    rows, columns = grid.shape
    inside = (at[:, 0] >= 0) & (at[:, 0] < rows)
    cells = np.where(inside, at[:, 0], 0) * columns + at[:, 1] % columns
    expected = _dot(planes, grid.rays.reshape(-1, 3)[cells])
    fits = np.abs(grid.depth.reshape(-1)[cells] * expected - 1.0) < 0.1
    return cells, inside & fits


def _planes(grid: Grid, cells: np.ndarray) -> np.ndarray:
    """Plane g (N, 3) of each flat cell, 1 / depth = g . ray for every ray that meets it.

    A cell whose normal is turned away from the viewpoint or edge-on counts as facing it.
    """
    rays = grid.rays.reshape(-1, 3)[cells]
    normal = grid.normal.reshape(-1, 3)[cells]
    facing = _dot(normal, rays)
    normal = np.where((facing > -0.05)[:, None], -rays, normal)
    facing = np.where(facing > -0.05, -1.0, facing)
    return (normal / (facing * grid.depth.reshape(-1)[cells])[:, None]).astype(np.float32)


def _corner_disparity(grid: Grid, cells: np.ndarray, planes: np.ndarray) -> np.ndarray:
    """(N, 4) the disparity that each cell's plane shows at its corners."""
    rows, columns = grid.shape
    centre = 1.0 / grid.depth.reshape(-1)[cells]
    row, column = cells // columns, cells % columns
    rays = _corner_rays(rows).reshape(-1, 3)
    disparity = np.empty((len(cells), 4), np.float32)
    for k, (down, right, _) in enumerate(_CORNERS):
        corner = (row + down) * columns + (column + right) % columns
        disparity[:, k] = _dot(planes, rays[corner])
    return np.clip(disparity, centre[:, None] / _MAX_TILT, centre[:, None] * _MAX_TILT)


def _weld(keys: np.ndarray, disparity: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The keys in use, (N, 4) indices into them, and the mean disparity of each."""
    flat = keys.ravel()
    count = np.bincount(flat)
    total = np.bincount(flat, weights=disparity.ravel())
    used = np.flatnonzero(count)
    index = np.empty(len(count), np.int32)
    index[used] = np.arange(len(used))
    return used, index[keys], (total[used] / count[used]).astype(np.float32)


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


def _corner_keys(right: np.ndarray, down: np.ndarray) -> np.ndarray:
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
    for k, (row, column, member) in enumerate(_CORNERS):
        keys[..., k] = np.roll(corner + labels[..., member], -column, axis=1)[row : row + rows]
    # The corners of a pole row are one point: one vertex for each run of joined cells around it.
    keys[0, :, 0] = keys[0, :, 3] = 4 * _runs(right[0])
    keys[-1, :, 1] = keys[-1, :, 2] = 4 * (rows * columns + _runs(right[-1]))
    return keys


def _runs(joined: np.ndarray) -> np.ndarray:
    """(C,) number of the run that each element of a ring is in; element i joins element i + 1."""
    run = np.concatenate(([0], np.cumsum(~joined[:-1])))
    if joined[-1]:
        run[run == run[-1]] = 0
    return run


def _corner_rays(rows: int) -> np.ndarray:
    """(R + 1, 2 R, 3) unit vectors of all corners of the grid."""
    row = np.arange(rows + 1)[:, None]
    return _rays_at(row, np.arange(2 * rows)[None], rows)


def _key_rays(keys: np.ndarray, rows: int) -> np.ndarray:
    """(N, 3) unit vectors of the corners that keys stand for."""
    corner = keys // 4
    return _rays_at(corner // (2 * rows), corner % (2 * rows), rows)


def _rays_at(row: np.ndarray, column: np.ndarray, rows: int) -> np.ndarray:
    """Unit vectors (..., 3) float32 of positions on the grid, in cells from its top left."""
    elevation = (0.5 - row / rows) * np.pi
    azimuth = (0.5 - column / (2 * rows)) * (2.0 * np.pi)
    flat = np.cos(elevation)
    rays = np.empty((*np.broadcast_shapes(elevation.shape, azimuth.shape), 3), np.float32)
    rays[..., 0] = flat * np.cos(azimuth)
    rays[..., 1] = flat * np.sin(azimuth)
    rays[..., 2] = np.sin(elevation)
    return rays


def _shell(layers: list[tuple[int, tuple[np.ndarray, ...]]], shape: tuple[int, int]) -> Shell:
    """Faces of layers, each with its vertices, their look-up vectors, the corners, the cells and
    the look-up cells of its faces: beside a pole two corners coincide, which is a triangle."""
    vertices, lookup, corners, cells, lookup_cells = (
        np.concatenate(arrays) for arrays in zip(*(part for _, part in layers), strict=True)
    )
    numbers = np.array([number for number, _ in layers], np.int8)
    layer = np.repeat(numbers, [len(part[0]) for _, part in layers])
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


def _tilt(normal: np.ndarray, origin: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Ratio of the disparities that a plane shows along `target` and along `origin`."""
    here, there = _dot(normal, origin), _dot(normal, target)
    ratio = there / np.where(here > -1e-3, np.float32(-1e-3), here)
    return np.clip(ratio, 1.0 / _MAX_TILT, _MAX_TILT)


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.einsum("...k,...k->...", a, b)


def _unit(vectors: np.ndarray) -> np.ndarray:
    vectors = np.asarray(vectors, np.float32)
    return vectors / np.maximum(np.sqrt(_dot(vectors, vectors)), 1e-6)[..., None]
