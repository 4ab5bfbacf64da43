# SPDX-License-Identifier: GPL-3.0-or-later
"""Normals of large level and upright planes become exactly theirs; everything else stays."""

import numpy as np
import pytest

from blender_omnix.panorama import frames, planes
from tests.box_room import room

HEIGHT = 64
CLEAR = np.zeros((HEIGHT, 2 * HEIGHT))


def turned_room(columns: int) -> tuple[np.ndarray, np.ndarray]:
    """True normals and depth of the box room, seen after a yaw roll by so many columns."""
    seen = room(HEIGHT, block=False)
    angle = -columns * np.pi / HEIGHT  # azimuth falls with u
    c, s = np.cos(angle), np.sin(angle)
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]], np.float32)
    return np.roll(seen["normal"] @ turn.T, columns, 1), np.roll(seen["depth"], columns, 1)


def wavering(normal: np.ndarray) -> np.ndarray:
    """The normals bent by up to some ten degrees, differently in each place."""
    rays = frames.directions(HEIGHT, 2 * HEIGHT)
    bend = np.sin(rays @ np.array([[5, 3, 2], [2, 7, 4], [9, 1, 6]], np.float32))
    bent = normal + 0.12 * bend
    return bent / np.linalg.norm(bent, axis=-1, keepdims=True)


def degrees(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.degrees(np.arccos(np.clip((a * b).sum(-1), -1, 1)))


@pytest.mark.parametrize("columns", [0, 9, 17])
def test_the_planes_of_a_room_become_flat_however_it_is_turned(columns):
    normal, depth = turned_room(columns)
    bent = wavering(normal)
    snapped = planes.snap_normals(bent, depth, CLEAR)
    assert np.median(degrees(bent, normal)) > 5
    assert np.median(degrees(snapped, normal)) < 1
    assert np.quantile(degrees(snapped, normal), 0.9) < 3
    assert np.abs(np.linalg.norm(snapped, axis=-1) - 1).max() < 1e-5


def test_what_leans_keeps_its_normal():
    slope = np.array([np.sin(0.7), 0, np.cos(0.7)], np.float32)
    rays = frames.directions(HEIGHT, 2 * HEIGHT)
    facing = -(rays @ slope)
    normal = np.where(facing[..., None] > 0.1, slope, -rays)
    depth = np.where(facing > 0.1, 1.5 / np.maximum(facing, 0.1), 15.0)
    snapped = planes.snap_normals(normal, depth, facing <= 0.1)
    assert np.allclose(snapped[facing > 0.1], normal[facing > 0.1], atol=1e-6)


def test_what_is_small_keeps_its_normal():
    """A level table top of few pixels between floor and ceiling, a little off the vertical."""
    normal, depth = turned_room(0)
    normal = normal.copy()
    leaning = np.array([0.2, 0, np.sqrt(1 - 0.2**2)], np.float32)
    table = (slice(42, 45), slice(60, 66))
    normal[table], depth[table] = leaning, 1.0
    snapped = planes.snap_normals(normal, depth, CLEAR)
    assert degrees(snapped[table], leaning).max() < 0.1


def test_walls_that_share_no_direction_keep_theirs():
    """The inside of a cylinder: upright everywhere, and every azimuth as common as the next."""
    rays = frames.directions(HEIGHT, 2 * HEIGHT)
    level = np.linalg.norm(rays[..., :2], axis=-1)
    depth = np.minimum(2.0 / level, 1.5 / np.abs(rays[..., 2]))
    wall = depth == 2.0 / level
    normal = np.where(wall[..., None], -rays * [1, 1, 0], -np.sign(rays) * [0, 0, 1])
    normal = (normal / np.linalg.norm(normal, axis=-1, keepdims=True)).astype(np.float32)
    snapped = planes.snap_normals(normal, depth, CLEAR)
    assert np.allclose(snapped[wall], normal[wall], atol=1e-6)


def test_the_sky_takes_no_part():
    normal, depth = turned_room(0)
    bent = wavering(normal)
    ceiling = normal[..., 2] < -0.5
    snapped = planes.snap_normals(bent, depth, ceiling)
    assert np.allclose(snapped[ceiling], bent[ceiling], atol=1e-6)
    assert np.allclose(planes.snap_normals(bent, depth, np.ones_like(depth)), bent, atol=1e-6)
