# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import numpy as np
import pytest

from blender_omnix.panorama import frames, resample, seams, tonemap

KINDS = resample.KINDS
HALF_ROOM = np.array([3.0, 2.5, 1.6])


def _room(height: int) -> tuple[np.ndarray, np.ndarray]:
    """Euclidean depth in metres and normals of a box room seen from its centre."""
    rays = frames.directions(height, 2 * height)
    far = HALF_ROOM / np.maximum(np.abs(rays), 1e-6)
    wall = far.argmin(axis=-1)
    normal = -np.sign(np.take_along_axis(rays, wall[..., None], -1)) * np.eye(3)[wall]
    return far.min(axis=-1).astype(np.float32), normal.astype(np.float32)


def _picture(height: int, seed: int = 0) -> np.ndarray:
    """The room with a colour to each wall, shaded, under a fine texture."""
    _, normal = _room(height)
    paint = 0.5 + 0.3 * normal
    texture = np.random.default_rng(seed).uniform(0.85, 1.15, (height, 2 * height, 1))
    shade = 0.8 + 0.2 * frames.directions(height, 2 * height)[..., :1]
    return (paint * texture * shade).astype(np.float32)


def _map(kind: str, height: int) -> np.ndarray:
    depth, normal = _room(height)
    return {
        "colour": 0.5 + 0.3 * normal,
        "scalar": 0.5 + 0.3 * normal[..., 0],
        "normal": normal,
        "depth": depth,
    }[kind]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("height", [128, 125, 48, 40])
def test_shape_range_and_kind(kind, height):
    guide = _picture(height)
    small = _map(kind, 48)
    full = resample.upsample(small, guide, kind=kind)
    assert full.shape == (height, 2 * height, *small.shape[2:])
    assert full.dtype == np.float32
    assert np.isfinite(full).all()
    if kind == "colour":
        assert full.min() >= 0.0 and full.max() <= 1.0
    if kind in ("scalar", "depth"):
        assert full.min() >= small.min() - 1e-5 and full.max() <= small.max() * (1 + 1e-5)
    if kind == "normal":
        assert np.abs(np.linalg.norm(full, axis=-1) - 1.0).max() < 1e-5
        assert (full * frames.directions(height, 2 * height)).sum(-1).max() < 0.0


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="albedo"):
        resample.upsample(np.zeros((2, 4)), np.zeros((4, 8, 3)), kind="albedo")


@pytest.mark.parametrize("kind", ["scalar", "depth"])
def test_a_constant_map_stays_constant(kind):
    full = resample.upsample(np.full((32, 64), 0.7, np.float32), _picture(128), kind=kind)
    assert np.abs(full - 0.7).max() < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_true_maps_come_back_better_than_by_interpolation(kind):
    truth = _map(kind, 256)
    blurred = resample.pad(_map(kind, 64), 1)
    blurred = (blurred[:-2] + 2 * blurred[1:-1] + blurred[2:]) / 4
    blurred = (blurred[:, :-2] + 2 * blurred[:, 1:-1] + blurred[:, 2:]) / 4
    guide = _picture(256)
    if kind == "colour":
        truth = truth * (guide / _picture_without_texture(256))
    full = resample.upsample(blurred, guide, kind=kind)
    plain = resample.resize(blurred, 256, 512)
    # The room has creases but no jumps in depth, where interpolation does well.
    gain = 0.95 if kind == "depth" else 0.7
    assert np.abs(full - truth).mean() < gain * np.abs(plain - truth).mean()


def _picture_without_texture(height: int) -> np.ndarray:
    _, normal = _room(height)
    shade = 0.8 + 0.2 * frames.directions(height, 2 * height)[..., :1]
    return ((0.5 + 0.3 * normal) * shade).astype(np.float32)


def test_edges_snap_to_the_picture():
    # The picture's edge lies at no edge of the map's pixels, and the map is blurred besides.
    guide = np.full((128, 256, 3), 0.2, np.float32)
    guide[:, 99:] = 0.6
    mask = resample.resize((guide[..., 0] > 0.4).astype(np.float32), 32, 64)
    wrapped = resample.pad(mask, 1)[1:-1]
    mask = (wrapped[:, :-2] + 2 * wrapped[:, 1:-1] + wrapped[:, 2:]) / 4
    full = resample.upsample(mask, guide, kind="scalar")[40:90]
    assert full[:, 94:99].max() < 0.25
    assert full[:, 99:104].min() > 0.65
    assert np.diff(full[:, 98:100]).min() > 0.5


def test_a_pattern_does_not_take_after_the_plain_thing_beside_it():
    """A dark thing before a rug with dark and light stripes, finer than the map."""
    row, column = np.mgrid[:128, :256]
    beside = column - 100 - 0.37 * row  # of an oblique edge
    thing = (beside > 0) & (beside < 60)
    stripes = np.where((row + column) % 6 < 3, 0.05, 0.9)
    guide = np.repeat(np.where(thing, 0.08, stripes)[..., None], 3, 2).astype(np.float32)
    depth = np.where(thing, 1.0, 2.0).astype(np.float32)
    found = resample.upsample(1.0 / resample.resize(1.0 / depth, 32, 64), guide, kind="depth")
    rug = ((beside < -3) | (beside > 63)) & (row > 16) & (row < 112)
    assert np.abs(found - 2.0)[rug].max() < 0.5


def test_texture_does_not_reach_geometry():
    depth, normal = _room(256)
    small_depth, small_normal = _room(64)
    floor = frames.directions(256, 512)[..., 2] < -0.6
    checks = ((np.arange(256)[:, None] // 5 + np.arange(512) // 7) % 2).astype(np.float32)
    guide = np.repeat(0.2 + 0.6 * checks[..., None], 3, axis=2)
    # Against the map without texture: interpolation's own error is not the question.
    flat = np.full_like(guide, 0.5)
    for small, kind, truth in ((small_depth, "depth", depth), (small_normal, "normal", normal)):
        textured = resample.upsample(small, guide, kind=kind)[floor]
        untouched = resample.upsample(small, flat, kind=kind)[floor]
        assert np.abs(textured - untouched).max() < 0.005 * np.abs(truth).max()
        assert np.abs(textured - truth[floor]).mean() < 0.003 * np.abs(truth).max()


def test_texture_finer_than_the_map_reaches_the_albedo():
    texture = np.random.default_rng(4).uniform(0.2, 0.6, (128, 256, 1)).astype(np.float32)
    albedo = np.repeat(texture, 3, axis=2)
    guide = 1.5 * albedo
    full = resample.upsample(resample.resize(albedo, 16, 32), guide, kind="colour")
    assert np.abs(full - albedo).mean() < 0.1 * albedo.std()


def test_a_shadow_that_the_map_lacks_is_not_baked_in():
    guide = np.full((128, 256, 3), 0.7, np.float32)
    guide[50:78, 99:152] = 0.3
    albedo = np.full((32, 64, 3), 0.5, np.float32)
    full = resample.upsample(albedo, guide, kind="colour")
    assert np.abs(full - 0.5).max() < 0.08
    assert np.abs(full - 0.5).mean() < 0.005


def test_sky_depth_stays_zero():
    depth, _ = _room(32)
    depth[:8] = 0.0
    guide = np.full((128, 256, 3), 0.2, np.float32)
    guide[:32] = 0.9
    full = resample.upsample(depth, guide, kind="depth")
    assert full[:31].max() == 0.0
    assert full[33:].min() > 1.0
    assert resample.upsample(np.zeros_like(depth), guide, kind="depth").max() == 0.0


@pytest.mark.parametrize("kind", KINDS)
def test_no_seam_for_any_yaw_roll(kind):
    # Structure in every direction, so that some crosses the seam at each roll.
    random = np.random.default_rng(9)
    guide = tonemap.srgb_encode(resample.resize(random.random((24, 48, 3), np.float32), 256, 512))
    small = resample.resize(guide, 64, 128)
    if kind == "normal":
        small = small - 0.5 - 2.0 * frames.directions(64, 128)
        small /= np.linalg.norm(small, axis=-1, keepdims=True)
    elif kind != "colour":
        small = 1.0 + small[..., 0]
    for shift in (0, 20, 64, 101):
        rolled = resample.upsample(
            np.roll(small, shift, axis=1) if kind != "normal" else _yaw(small, shift),
            np.roll(guide, 4 * shift, axis=1),
            kind=kind,
        )
        # The seam lies between two map pixels, where more changes than within one.
        error = seams.seam_error(rolled)
        assert error["seam"] < 2.0
        assert error["poles"] < 2.0
        if shift == 0:
            straight = rolled
        back = np.roll(rolled, -4 * shift, axis=1) if kind != "normal" else _yaw(rolled, -4 * shift)
        # Slopes are limited in each component, so a turn of normals may change them a little.
        assert np.abs(back - straight).mean() < (2e-3 if kind == "normal" else 1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shift", [0, 1, 77, 255])
def test_a_smooth_place_stays_smooth_over_seam_and_poles(kind, shift):
    ray = _yaw(frames.directions(128, 256), shift)
    field = 0.5 + 0.2 * ray @ np.float32([0.3, 0.6, 0.5])
    guide = np.repeat(field[..., None], 3, axis=2)
    small = resample.resize({"colour": guide, "normal": -ray}.get(kind, field), 32, 64)
    full = resample.upsample(small, guide, kind=kind)
    error = seams.seam_error(full)
    assert error["seam"] < 1.3
    assert error["poles"] < 1.3


def test_normals_that_lean_towards_the_viewer_meet_at_the_poles():
    basis = frames.gravity_basis(32, 64)
    lean = -0.15 * basis[..., 1, :] - np.sign(frames.directions(32, 64)[..., 2:]) * basis[..., 2, :]
    lean /= np.linalg.norm(lean, axis=-1, keepdims=True)
    assert seams.seam_error(lean)["poles"] > 5.0
    full = resample.upsample(lean, np.full((256, 512, 3), 0.5, np.float32), kind="normal")
    assert seams.seam_error(full)["poles"] < 1.0
    assert np.allclose(full[0], [0, 0, -1], atol=0.02)
    assert np.allclose(full[-1], [0, 0, 1], atol=0.02)


def _yaw(normal: np.ndarray, shift: int) -> np.ndarray:
    """The normals of a place turned about the vertical so that its picture rolls by ``shift``."""
    angle = -2.0 * np.pi * shift / normal.shape[1]
    c, s = np.cos(angle), np.sin(angle)
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    return (np.roll(normal, shift, axis=1) @ turn.T).astype(np.float32)
