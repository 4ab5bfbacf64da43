# SPDX-License-Identifier: GPL-3.0-or-later
"""The shell of a place, in numbers; no Blender takes part."""

from __future__ import annotations

import numpy as np
import pytest

from blender_omnix.panorama import frames, regions
from tests import box_room

geometry = pytest.importorskip("blender_omnix.host.build.geometry", exc_type=ImportError)

JUMP = 0.08


def grid(made: dict[str, np.ndarray], columns: int = 256) -> geometry.Grid:
    return geometry.reduce(made["depth"], made["normal"], columns)


def surfaces(cells: geometry.Grid, fill: float = 1 / 16) -> geometry.Shell:
    """What is seen, hidden and the backs of things, as of a place that is open."""
    return geometry.shells(cells, JUMP, fill, enclosed=False)[0]


def enclosure(
    cells: geometry.Grid, fill: float = 1 / 16
) -> tuple[geometry.Shell, geometry.Shell | None]:
    """Hull and panes."""
    return geometry.shells(cells, JUMP, fill, enclosed=True)[1:]


def edges(shell: geometry.Shell) -> dict[tuple[int, int], int]:
    """How many faces share each edge."""
    found: dict[tuple[int, int], int] = {}
    for faces in (shell.quads, shell.triangles):
        for face in faces.tolist():
            for a, b in zip(face, [*face[1:], face[0]], strict=True):
                key = (min(a, b), max(a, b))
                found[key] = found.get(key, 0) + 1
    return found


def face_normals(shell: geometry.Shell) -> tuple[np.ndarray, np.ndarray]:
    """Centres and unnormalised normals of all faces."""
    centres, normals = [], []
    for faces in (shell.quads, shell.triangles):
        points = shell.vertices[faces].astype(np.float64)
        centres.append(points.mean(axis=1))
        normals.append(
            np.cross(points[:, 2] - points[:, 0], points[:, -1] - points[:, 1])
            if faces.shape[1] == 4
            else np.cross(points[:, 1] - points[:, 0], points[:, 2] - points[:, 0])
        )
    return np.concatenate(centres), np.concatenate(normals)


def test_an_empty_room_is_watertight_and_one_piece():
    cells = grid(box_room.room(64, block=False), 128)
    shell = surfaces(cells)
    assert set(edges(shell).values()) == {2}
    assert len(shell.quads) + len(shell.triangles) == cells.depth.size
    # A closed surface without handles: V - E + F = 2.
    faces = len(shell.quads) + len(shell.triangles)
    assert len(shell.vertices) - len(edges(shell)) + faces == 2


def test_vertices_lie_on_the_walls():
    shell = surfaces(grid(box_room.room(128, block=False)), fill=0.0)
    low, high = box_room.ROOM
    off = np.minimum(np.abs(shell.vertices - low), np.abs(shell.vertices - high)).min(axis=1)
    # Only corners of the room lie inside a cell and are cut off by up to half of one.
    assert np.percentile(off, 90) < 1e-3
    assert off.max() < 0.06


def test_cells_coarser_than_the_map_keep_the_surface():
    fine = box_room.room(256, block=False)
    for columns in (128, 96):
        cells = geometry.reduce(fine["depth"], fine["normal"], columns)
        exact = box_room.room(columns // 2, block=False)["depth"]
        assert cells.shape == exact.shape
        assert np.percentile(np.abs(cells.depth / exact - 1), 95) < 1e-3


def test_the_rays_of_all_pixels_are_never_asked_for(monkeypatch):
    made = box_room.room(256, block=False)
    rays = frames.directions(256, 512)
    faced = geometry.reduce(made["depth"], -rays, 128)
    given = frames.directions

    def small(height, width, **rows):
        assert height * width <= 64 * 128
        return given(height, width, **rows)

    monkeypatch.setattr(frames, "directions", small)
    grid(made, 128)
    # Without normals surfaces face the viewpoint.
    assert np.array_equal(geometry.reduce(made["depth"], None, 128).normal, faced.normal)


def test_faces_look_at_the_viewpoint():
    centres, normals = face_normals(surfaces(grid(box_room.room(128))))
    towards = -np.einsum("ij,ij->i", normals, centres)
    # Background seen edge-on behind the block's rim may turn either way.
    assert (towards > 0).mean() > 0.999


def test_the_surface_splits_at_jumps_and_only_there():
    cells = grid(box_room.room(128))
    right, down = geometry.joins(cells, JUMP)
    below = tuple(array[1:] for array in (cells.depth, cells.normal))
    beside = tuple(np.roll(array, -1, axis=1) for array in (cells.depth, cells.normal))
    for joined, (depth, normal), here in (
        (right, beside, cells.depth),
        (down, below, cells.depth[:-1]),
    ):
        ratio = np.maximum(depth, here) / np.minimum(depth, here)
        same = np.einsum("ijk,ijk->ij", normal, cells.normal[: len(here)]) > 0.99
        # The block's rim stands off the wall behind it; half a metre of floor does not.
        assert (ratio > 1.3).sum() > 20
        assert not joined[ratio > 1.3].any()
        assert joined[same & (ratio < 1.05)].all()


def test_a_floor_at_a_grazing_angle_stays_whole():
    rays = frames.directions(256, 512)
    below = rays[..., 2] < 0
    depth = np.where(below, 1.6 / np.maximum(-rays[..., 2], 1e-9), 0.0)
    normal = np.where(below[..., None], (0.0, 0.0, 1.0), -rays)
    _, down = geometry.joins(geometry.reduce(depth, normal, 512), JUMP)
    assert down[128:].all()


def test_the_rim_of_a_round_thing_is_not_drawn_out_to_the_wall_behind():
    """A cell that is seen edge-on has all that is behind it on its plane."""
    rays = frames.directions(64, 128)
    cells = geometry.Grid(rays, np.full((64, 128), 3.0, np.float32), -rays)
    # A pillar whose outermost cells are seen edge-on, a metre away.
    columns = np.arange(58, 70)
    turned = np.radians(90.0) * np.linspace(-1.0, 1.0, len(columns))
    ahead = -rays[32, columns]
    aside = np.cross(ahead, (0.0, 0.0, 1.0))
    cells.normal[:, columns] = ahead * np.cos(turned)[:, None] - aside * np.sin(turned)[:, None]
    cells.depth[:, columns] = 1.0
    right, _ = geometry.joins(cells, JUMP)
    assert not right[30:34, [57, 69]].any()
    assert right[30:34, 58:69].all()


@pytest.mark.parametrize("away", [15.0, 40.0, 100.0])
@pytest.mark.parametrize("degrees", [0.0, 2.0])
def test_a_floor_reaches_the_wall_however_far_it_is(away, degrees):
    """Also where the normals are off by so much, which rims are told by."""
    rays = frames.directions(256, 512)
    with np.errstate(divide="ignore"):
        wall = away / np.abs(rays[..., :2]).max(axis=-1)
        floor = np.where(rays[..., 2] < 0, -1.6 / rays[..., 2], np.inf)
    facing = np.where(
        (np.abs(rays[..., :1]) > np.abs(rays[..., 1:2])),
        -np.sign(rays[..., :1]) * (1.0, 0.0, 0.0),
        -np.sign(rays[..., 1:2]) * (0.0, 1.0, 0.0),
    )
    on_floor = floor < wall
    normal = np.where(on_floor[..., None], (0.0, 0.0, 1.0), facing).astype(np.float32)
    depth = np.minimum(floor, wall).astype(np.float32)
    foot = on_floor[1:] & ~on_floor[:-1]
    assert foot.sum() == 512
    normal[on_floor] += np.tan(np.radians(degrees)) * rays[on_floor]
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    _, down = geometry.joins(geometry.Grid(rays, depth, normal), JUMP)
    assert down[foot].all()


def test_a_board_right_beside_the_eye_stays_whole():
    """Seen edge-on though it is near, but its cells are of one direction."""
    rays = frames.directions(256, 512)
    depth = np.where(rays[..., 2] < 0, 0.1 / np.maximum(-rays[..., 2], 1e-9), 0.0)
    depth = np.where(depth < 4.5, depth, 0.0).astype(np.float32)
    normal = np.broadcast_to(np.float32((0.0, 0.0, 1.0)), rays.shape)
    _, down = geometry.joins(geometry.Grid(rays, depth, normal), JUMP)
    assert down[(depth[:-1] > 0) & (depth[1:] > 0)].all()


def test_the_sky_is_cut_out():
    made = box_room.room(128, window=True)
    cells = grid(made)
    shell = surfaces(cells)
    assert len(shell.quads) + len(shell.triangles) >= (cells.depth > 0).sum()
    centres, _ = face_normals(shell)
    u, v = frames.project(centres)
    row, column = (v * 128).astype(int), (u * 256).astype(int)
    assert (cells.depth[row, column] > 0).all()
    assert 1 in edges(shell).values()


def test_the_background_goes_on_behind_the_block():
    made = box_room.room(128)
    cells = grid(made)
    front = surfaces(cells, fill=0.0)
    both = surfaces(cells)
    behind = both.layer == geometry.BACKGROUND
    assert (front.layer == geometry.VISIBLE).all()
    assert np.count_nonzero(behind) > 200
    # What grew lies on the floor or on the far wall, as the room without the block has it.
    low, high = box_room.ROOM
    points = both.vertices[behind]
    off = np.minimum(np.abs(points - low), np.abs(points - high)).min(axis=1)
    assert np.median(off) < 0.01
    assert np.percentile(off, 95) < 0.15
    # And it looks its colour up beside the block, not on it.
    u, v = frames.project(both.lookup[behind])
    seen = made["depth"][(v * 128).astype(int), (u * 256).astype(int)]
    empty = box_room.room(128, block=False)["depth"][(v * 128).astype(int), (u * 256).astype(int)]
    assert (np.abs(seen - empty) < 0.05).mean() > 0.9


def test_the_background_of_a_blurred_edge_lies_on_what_is_behind():
    made, empty = box_room.room(128), box_room.room(128, block=False)
    block = made["depth"] < empty["depth"]
    ramp = regions.grow(block) & ~block
    ramp[::2] = False
    made["depth"][ramp] *= 0.65
    shell = surfaces(grid(made))
    low, high = box_room.ROOM
    points = shell.vertices[shell.layer == geometry.BACKGROUND]
    off = np.minimum(np.abs(points - low), np.abs(points - high)).min(axis=1)
    assert (off < 0.05).mean() > 0.95


def test_the_background_is_welded_to_the_surface():
    cells = grid(box_room.room(128))
    front = surfaces(cells, fill=0.0)
    both = surfaces(cells)
    seen = {tuple(point) for point in front.vertices.tolist()}
    shared = [tuple(point) in seen for point in both.vertices[len(front.vertices) :].tolist()]
    assert sum(shared) > 50


def test_fill_zero_builds_no_background():
    cells = grid(box_room.room(64))
    shell = surfaces(cells, fill=0.0)
    assert len(shell.quads) + len(shell.triangles) == cells.depth.size
    assert np.array_equal(shell.lookup, shell.vertices)


def test_the_hull_encloses_everything_but_the_window():
    cells = grid(box_room.room(128, window=True))
    shell = surfaces(cells)
    hull, _ = enclosure(cells)
    # In each quad of the hull: its middle lies beyond all that is seen through it.
    farthest = np.zeros(64 * 128)
    u, v = frames.project(shell.vertices)
    cell = (v * 64).astype(int) * 128 + (u * 128).astype(int)
    np.maximum.at(farthest, cell, np.linalg.norm(shell.vertices, axis=1))
    middle = np.linalg.norm(hull.vertices[hull.quads].mean(axis=1), axis=1)
    assert (middle > farthest[hull.quad_cells]).all()
    open_cells = 64 * 128 - len(hull.quads) - len(hull.triangles)
    assert 0 < open_cells < 0.1 * 64 * 128
    centres, _ = face_normals(hull)
    u, v = frames.project(centres)
    assert (cells.depth[(v * 128).astype(int), (u * 256).astype(int)] > 0).all()
    # Houses outside are no walls: the sun comes in over them.
    made = box_room.room(128, window=True)
    rays = frames.directions(128, 256)
    low = (made["depth"] == 0) & (rays[..., 2] < 0)
    assert low.any()
    made["depth"][low] = 30.0
    streets, _ = enclosure(grid(made))
    assert np.allclose(streets.vertices.max(axis=0), hull.vertices.max(axis=0), rtol=0.02)
    assert len(streets.quads) == len(hull.quads)
    closed, panes = enclosure(grid(box_room.room(64)))
    assert set(edges(closed).values()) == {2}
    assert panes is None


@pytest.mark.parametrize("seen", ["ground", "roof"])
def test_the_hull_surrounds_a_viewpoint_over_open_ground(seen):
    """Which is not inside the convex hull of what it sees."""
    rays = frames.directions(64, 128)
    facing = np.float32((0, 0, 1 if seen == "ground" else -1))
    with np.errstate(divide="ignore"):
        depth = np.where(rays @ facing < 0, -1.6 / (rays @ facing), 0.0).astype(np.float32)
    normal = np.where(depth[..., None] > 0, facing, -rays)
    hull, panes = enclosure(geometry.reduce(depth, normal, 128))
    for shell in (hull, panes):
        centres, normals = face_normals(shell)
        assert (np.einsum("ij,ij->i", normals, centres) < 0).all()
        away = np.linalg.norm(shell.vertices, axis=1)
        assert away.max() < 2 * depth.max() and away.min() > 0.1


@pytest.mark.parametrize("seen", [np.s_[30:31, 50:51], np.s_[:1]])
def test_next_to_nothing_that_is_seen_has_no_hull(seen):
    rays = frames.directions(64, 128)
    depth = np.zeros((64, 128), np.float32)
    depth[seen] = 3.0
    hull, panes = enclosure(geometry.Grid(rays, depth, -rays))
    assert hull is None
    assert np.isfinite(panes.vertices).all()
    assert 0 < np.linalg.norm(panes.vertices, axis=1).max() < 6.0


def test_panes_close_the_window_in_its_wall():
    made = box_room.room(128, window=True)
    cells = grid(made)
    _, panes = enclosure(cells)
    assert len(panes.quads) + len(panes.triangles) == (cells.depth <= 0).sum()
    # The window is in the wall at -X, seen from inside as facing +X.
    assert np.allclose(panes.vertices[:, 0], box_room.ROOM[0][0], atol=0.12)


def test_a_window_goes_on_behind_a_pillar():
    made = box_room.room(128, block=False, window=True)
    pillar = np.array([-1.6, -0.15, -1.6]), np.array([-1.3, 0.15, 1.1])
    rays = frames.directions(128, 256).astype(np.float64)
    hit, near, facing = box_room.outside(rays, *pillar)
    made["depth"] = np.where(hit, near, made["depth"]).astype(np.float32)
    made["normal"] = np.where(hit[..., None], facing, made["normal"]).astype(np.float32)
    cells = grid(made)
    shell, hull, panes = geometry.shells(cells, JUMP, 1 / 16, enclosed=True)

    # Where the window would be seen without the pillar: its wall, and what lies behind the pillar.
    wall, (low, high) = box_room.ROOM[0][0], box_room.WINDOW
    across = rays[..., 1:] * (wall / np.minimum(rays[..., :1], -1e-6))
    window = (rays[..., 0] < 0) & (across > low + 0.1).all(-1) & (across < high - 0.1).all(-1)
    hidden = hit & window
    assert np.count_nonzero(hidden) > 50
    covered = np.zeros(cells.shape, bool)
    u, v = frames.project(face_normals(panes)[0])
    covered[(v * 128).astype(int), (u * 256).astype(int)] = True
    assert covered[hidden].all()
    assert np.allclose(panes.vertices[:, 0], wall, atol=0.12)
    u, v = frames.project(panes.lookup[np.unique(panes.quads)])
    seen = cells.depth[(v * 128 - 1e-3).astype(int), (u * 256 - 1e-3).astype(int)]
    assert (seen == 0).mean() > 0.8  # the rest are corners at the window's edge

    # Nothing bars the light there, as the wall does above the window.
    background = face_normals(shell)[0][_face_layers(shell) == geometry.BACKGROUND]
    assert not _shows(background, hidden).any()
    assert _shows(background, hit & (rays[..., 2] > 0.35)).any()
    assert not _shows(face_normals(hull)[0], hidden).any()
    bare, closed = enclosure(cells, fill=0.0)
    assert _shows(face_normals(bare)[0], hidden).any()
    assert len(closed.quads) == np.count_nonzero(made["depth"] == 0)


@pytest.mark.parametrize("vase", [False, True])
def test_a_window_in_an_inner_wall_lets_no_more_in_than_it_is_large(vase):
    """An L-shaped room: its hull lies far beyond the wall with the window."""
    made = box_room.room(128, block=False)
    rays = frames.directions(128, 256).astype(np.float64)
    jut = np.array([0.6, 0.2, -1.6]), np.array([2.5, 2.2, 1.1])
    hit, near, facing = box_room.outside(rays, *jut)
    made["depth"] = np.where(hit, near, made["depth"]).astype(np.float32)
    made["normal"] = np.where(hit[..., None], facing, made["normal"]).astype(np.float32)
    points = rays * made["depth"][..., None]
    inner = hit & (facing[..., 0] < -0.5)
    window = inner & (np.abs(points[..., 1] - 0.9) < 0.4) & (np.abs(points[..., 2]) < 0.5)
    made["depth"][window] = 0.0
    low = window & (rays[..., 2] < 0.0)
    for street in (0.0, 30.0):  # nor does it with a street in the window's lower half
        made["depth"][low] = street
        if vase:
            before, near, facing = box_room.outside(
                rays, np.array([0.4, 0.8, -0.4]), np.array([0.5, 1.0, 0.2])
            )
            made["depth"] = np.where(before, near, made["depth"]).astype(np.float32)
            made["normal"] = np.where(before[..., None], facing, made["normal"]).astype(np.float32)
        cells = grid(made)
        hull = enclosure(cells)[0]
        shut = np.zeros((64, 128), bool)
        shut.ravel()[np.concatenate((hull.quad_cells, hull.triangle_cells))] = True
        wide = window.reshape(64, 2, 128, 2).any(axis=(1, 3))
        wide = np.logical_or.reduce([np.roll(wide, k, axis=1) for k in (-2, -1, 0, 1, 2)])
        wide = np.logical_or.reduce([np.roll(wide, k, axis=0) for k in (-2, -1, 0, 1, 2)])
        assert (shut | wide).all()


def test_what_is_seen_through_a_window_goes_on_behind_its_wall():
    """So that no light comes in between the window and its wall from aside."""
    made = box_room.room(128, block=False, window=True)
    rays = frames.directions(128, 256)
    low = (made["depth"] == 0) & (rays[..., 2] < 0)
    made["depth"][low] = 30.0
    shell = geometry.shells(grid(made), JUMP, 1 / 16, enclosed=True)[0]
    centres = face_normals(shell)[0][_face_layers(shell) == geometry.BACKGROUND]
    street = centres[np.linalg.norm(centres, axis=1) > 10.0]
    assert _shows(street, (made["depth"] > 0) & ~low).sum() > 50


def test_the_next_room_is_inside_and_a_lower_pane_is_not():
    """A door to another room right beside a window, in whose lower pane the ground is seen."""
    made = box_room.room(256, block=False)
    rays = frames.directions(256, 512).astype(np.float64)
    points = rays * made["depth"][..., None]
    wall = (made["normal"][..., 0] > 0.5) & (np.abs(points[..., 0] + 3.0) < 1e-3)
    y, z = points[..., 1], points[..., 2]
    window = wall & (np.abs(y - 0.8) < 0.6) & (np.abs(z) < 0.8)
    pane, bar = window & (z < -0.05), window & (np.abs(z) <= 0.05)
    door = wall & (y < 0.12) & (y > -0.8) & (z < 0.8)
    made["depth"][window & ~bar] = 0.0
    made["depth"][pane] = 12.0
    made["depth"][door] *= 2.5
    made["normal"][door & (z > 0.5)] = (0.0, 0.0, -1.0)
    cells = grid(made, 512)
    hull, _ = enclosure(cells, fill=0.0)
    shut = np.zeros((64, 128), bool)
    shut.ravel()[np.concatenate((hull.quad_cells, hull.triangle_cells))] = True
    fine = shut.repeat(4, axis=0).repeat(4, axis=1)
    assert not fine[pane].any()
    assert fine[door & (y < -0.3)].all()
    assert fine[door].mean() > 0.6


@pytest.mark.parametrize("rows", [64, 128, 256])
def test_the_corners_of_a_room_are_inside(rows):
    cells = grid(box_room.room(rows, block=False, window=True), 2 * rows)
    hull, _ = enclosure(cells, fill=0.0)
    coarse = (cells.depth <= 0).reshape(64, rows // 64, 128, rows // 64).any(axis=(1, 3))
    wide = np.logical_or.reduce([np.roll(coarse, k, axis=1) for k in (-1, 0, 1)])
    wide[1:-1] |= wide[:-2] | wide[2:]
    there = np.zeros((64, 128), bool)
    there.ravel()[np.concatenate((hull.quad_cells, hull.triangle_cells))] = True
    assert np.array_equal(there, ~wide)


def _face_layers(shell: geometry.Shell) -> np.ndarray:
    return shell.layer[np.concatenate((shell.quads[:, 0], shell.triangles[:, 0]))]


def _shows(points: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Which points (N, 3) lie in the directions of a mask (H, W)."""
    u, v = frames.project(points)
    return mask[(v * mask.shape[0]).astype(int), (u * mask.shape[1]).astype(int)]


def test_rooms_are_enclosed_and_fields_are_not():
    assert geometry.is_enclosed(grid(box_room.room(64, window=True)))
    made = box_room.room(64)
    made["depth"][:32] = 0.0
    assert not geometry.is_enclosed(grid(made))


def test_lamps_are_the_cells_that_give_the_light():
    made = box_room.room(128)
    made["emission"][100, :] = 1e-4
    cells = grid(made, 128)
    lamps = geometry.lamp_cells(made["emission"], cells).reshape(cells.shape)
    assert lamps.any()
    assert not lamps[32:].any()
    assert not geometry.lamp_cells(np.zeros_like(made["emission"]), cells).any()
    # Whatever a renderer has left in a pixel of the lamp and of the sky.
    cells.depth[20] = 0.0
    for value in (np.nan, np.inf):
        for pixel in (np.unravel_index(made["emission"][..., 0].argmax(), (128, 256)), (40, 50)):
            emission = made["emission"].copy()
            emission[pixel] = value
            assert np.array_equal(geometry.lamp_cells(emission, cells), lamps.ravel())


def test_cells_without_a_normal_lie_where_the_map_says():
    made = box_room.room(128, block=False)
    made["normal"][:] = 0.0
    cells = geometry.reduce(made["depth"], made["normal"], 128)
    exact = box_room.room(64, block=False)["depth"]
    assert np.median(np.abs(cells.depth / exact - 1)) < 0.01


def test_a_turned_panorama_gives_the_turned_shell():
    made = box_room.room(64)
    shell = surfaces(grid(made, 128))
    rolled = {name: np.roll(made[name], 37, axis=1) for name in ("depth", "normal")}
    angle = -2 * np.pi * 37 / 128
    turn = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    rolled["normal"] = rolled["normal"] @ turn.T
    other = surfaces(grid(rolled, 128))
    assert len(other.vertices) == len(shell.vertices)
    a, b = (np.sort(np.linalg.norm(s.vertices, axis=1)) for s in (shell, other))
    assert np.allclose(a, b, atol=1e-3)


def test_a_round_thing_has_a_back_and_a_flat_one_has_none():
    """A pillar of 20 cm radius in front of a far wall: its back closes it."""
    rows = 128
    rays = frames.directions(rows, 2 * rows).astype(np.float64)
    flat = np.hypot(rays[..., 0], rays[..., 1])
    centre, radius = 1.5, 0.2
    # The ray meets the upright cylinder around (centre, 0) in the horizontal plane.
    ahead = rays[..., 0] * centre / flat
    under = ahead**2 - centre**2 + radius**2
    hit = (under > 0) & (ahead > 0) & (np.abs(rays[..., 2]) < 0.5)
    near = (ahead - np.sqrt(np.maximum(under, 0.0))) / flat
    depth = np.where(hit, near, 4.0)
    points = rays * depth[..., None]
    outward = (points - (centre, 0.0, 0.0)) / radius * (1.0, 1.0, 0.0)
    normal = np.where(hit[..., None], outward, -rays)
    made = {"depth": depth.astype(np.float32), "normal": normal.astype(np.float32)}
    shell = surfaces(grid(made))
    back = shell.vertices[shell.layer == geometry.BACK]
    from_axis = np.hypot(back[:, 0] - centre, back[:, 1])
    assert len(back) > 200
    assert from_axis.max() < radius + 0.01
    # Mirrored in the line between the outermost cells' centres it would not reach past the axis.
    assert back[:, 0].max() > centre + 0.03
    steepness = back[:, 2] / np.hypot(back[:, 0], back[:, 1])
    top = back[steepness > steepness.max() - 1e-3]
    assert len(top) > 8 and (top[:, 0] < centre).all()  # closed there: it ends on the front

    made["depth"] = np.where(hit, 1.5 / rays[..., 0].clip(0.1), 4.0).astype(np.float32)
    made["normal"] = np.where(hit[..., None], (-1.0, 0.0, 0.0), -rays).astype(np.float32)
    board = surfaces(grid(made))
    assert (board.layer == geometry.BACKGROUND).any()
    assert not (board.layer == geometry.BACK).any()


# By less than a jump, and by more: the edge is a gap to the mesh then, not to the corner.
@pytest.mark.parametrize("beyond", [1.04, 1.09])
def test_walls_that_reach_below_the_floor_end_on_it(beyond):
    exact = grid(box_room.room(256, block=False), 512)
    upright = np.abs(exact.normal[..., 2]) < 0.5
    off = geometry.Grid(exact.rays, exact.depth * np.where(upright, beyond, 1.0), exact.normal)

    def below_floor(cells: geometry.Grid) -> np.ndarray:
        return upright & (cells.rays[..., 2] * cells.depth < box_room.ROOM[0][2] - 0.005)

    met = geometry.meet(off, JUMP)
    # What is left lies in the four corners, where three surfaces meet.
    assert below_floor(met).sum() < 0.05 * below_floor(off).sum()
    high = upright & (np.abs(exact.rays[..., 2]) < 0.2)
    np.testing.assert_array_equal(met.depth[high], off.depth[high])
    assert (met.depth[~upright] != off.depth[~upright]).mean() < 1e-3
    assert (met.depth <= off.depth).all() and (met.depth > off.depth / (1 + 1.5 * JUMP)).all()


def test_a_step_larger_than_a_jump_is_no_trench():
    exact = grid(box_room.room(256, block=False), 512)
    upright = np.abs(exact.normal[..., 2]) < 0.5
    off = geometry.Grid(exact.rays, exact.depth * np.where(upright, 1.3, 1.0), exact.normal)
    foot = upright & (exact.rays[..., 2] < 0)
    moved = np.abs(geometry.meet(off, JUMP).depth[foot] / off.depth[foot] - 1) > 1e-6
    assert moved.mean() < 0.02


@pytest.mark.parametrize("block", [False, True])
def test_surfaces_that_meet_stay_where_they_are(block):
    """A room with inner corners, and a block with outer ones that stands in front of a wall."""
    cells = grid(box_room.room(256, block=block), 512)
    met = geometry.meet(cells, JUMP)
    np.testing.assert_allclose(met.depth, cells.depth, rtol=5e-3)
    assert (np.abs(met.depth / cells.depth - 1) > 1e-3).mean() < 0.005


def test_a_shallow_recess_stays_open():
    cells = grid(box_room.room(256, block=False), 512)
    azimuth, elevation = cells.rays[..., 1], cells.rays[..., 2]
    ahead = (cells.normal[..., 0] < -0.5) & (np.abs(azimuth) < 0.1) & (np.abs(elevation) < 0.1)
    recess = geometry.Grid(cells.rays, cells.depth * np.where(ahead, 1.03, 1.0), cells.normal)
    np.testing.assert_allclose(geometry.meet(recess, JUMP).depth, recess.depth, rtol=2e-3)
