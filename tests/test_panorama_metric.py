# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import numpy as np
import pytest

from blender_omnix.panorama import frames, metric, seams, smooth

HALF_ROOM = np.array([3.0, 2.5, 1.6])  # from the viewpoint to the walls, floor and ceiling


def _room(height: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Euclidean depth in metres and normals of a box room seen from its centre."""
    rays = frames.directions(height, 2 * height)
    far = HALF_ROOM / np.maximum(np.abs(rays), 1e-6)
    wall = far.argmin(axis=-1)
    normal = -np.sign(np.take_along_axis(rays, wall[..., None], -1)) * np.eye(3)[wall]
    return far.min(axis=-1).astype(np.float32), normal.astype(np.float32)


def _with_table(share: float) -> tuple[np.ndarray, np.ndarray]:
    """The room with a table top 0.8 m below the camera that hides a share of the columns."""
    depth, normal = _room()
    fall = -frames.directions(64, 128)[..., 2]
    top = (fall > 0.6) & (np.arange(128) < share * 128)
    depth[top] = 0.8 / fall[top]
    normal[top] = [0.0, 0.0, 1.0]
    return depth, normal


def test_floor_below_the_camera_sets_the_scale():
    depth, normal = _room()
    factor, warning = metric.scale_to_camera_height(0.37 * depth, normal, 1.6)
    assert factor == pytest.approx(1.0 / 0.37, rel=1e-3)
    assert warning is None
    factor, warning = metric.scale_to_camera_height(depth, None, 2.4)
    assert factor == pytest.approx(1.5, rel=0.01)
    assert warning is None


def test_noise_and_tilt_move_the_scale_little():
    random = np.random.default_rng(1)
    depth, normal = _room()
    depth *= 1.0 + 0.1 * random.standard_normal(depth.shape).astype(np.float32)
    normal += 0.1 * random.standard_normal(normal.shape).astype(np.float32)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    factor, warning = metric.scale_to_camera_height(depth, normal, 1.6)
    assert factor == pytest.approx(1.0, abs=0.03)
    assert warning is None


def test_a_floor_of_two_layers_lies_at_its_median_height():
    fall = -frames.directions(64, 128)[..., 2]
    drop = np.random.default_rng(0).uniform(1.0, 1.148, fall.shape)
    depth = np.where(fall > 0.4, drop / fall, 0.0)
    factor, _ = metric.scale_to_camera_height(depth, None, 1.6)
    assert 1.6 / factor == pytest.approx(1.074, rel=0.005)


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_a_table_below_the_camera_is_not_the_floor(share):
    factor, warning = metric.scale_to_camera_height(*_with_table(share), 1.6)
    assert factor == pytest.approx(1.0, rel=0.02)
    assert warning is None


def test_without_a_level_floor_the_guess_is_named():
    depth, _ = _room()
    walls = np.broadcast_to(np.float32([1.0, 0.0, 0.0]), (*depth.shape, 3))
    factor, warning = metric.scale_to_camera_height(depth, walls, 1.6)
    assert 0.5 < factor < 2.0
    assert warning is not None and "No level floor" in warning


def test_sky_below_and_sky_everywhere():
    depth, normal = _room()
    sky = np.zeros(depth.shape)
    sky[32:] = 1.0
    factor, warning = metric.scale_to_camera_height(depth, normal, 1.6, sky)
    assert 0.5 < factor < 3.0
    assert warning is not None and "guess" in warning
    factor, warning = metric.scale_to_camera_height(depth, normal, 1.6, np.ones(depth.shape))
    assert factor == 1.0
    assert warning is not None and "no scale" in warning


def test_planes_come_out_flat_and_edges_sharp():
    random = np.random.default_rng(2)
    truth, normal = _room()
    noisy = truth * (1.0 + 0.05 * random.standard_normal(truth.shape).astype(np.float32))
    tilted = normal + 0.03 * random.standard_normal(normal.shape).astype(np.float32)
    tilted /= np.linalg.norm(tilted, axis=-1, keepdims=True)
    smoothed = smooth.plane_guided(noisy, tilted)
    before, after = np.abs(noisy / truth - 1.0), np.abs(smoothed / truth - 1.0)
    assert after.mean() < 0.15 * before.mean()
    # No exception at the edges where floor, walls and ceiling meet.
    edge = np.abs(np.roll(normal, 1, axis=1) - normal).max(-1) > 0.5
    assert edge.any()
    assert after[edge].mean() < 0.3 * before[edge].mean()


def test_smoothing_keeps_true_depth_steps_and_sky():
    depth, normal = _with_table(0.5)
    depth[:5] = 0.0
    smoothed = smooth.plane_guided(depth, normal)
    assert np.array_equal(smoothed[:5], depth[:5])
    assert np.abs(smoothed[5:] / depth[5:] - 1.0).max() < 1e-3


def test_smoothing_has_no_seam_and_commutes_with_a_yaw_roll():
    random = np.random.default_rng(3)
    depth, normal = _room()
    depth = depth * (1.0 + 0.05 * random.standard_normal(depth.shape).astype(np.float32))
    turn = np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 1]], np.float32)
    rolled = smooth.plane_guided(np.roll(depth, 32, axis=1), np.roll(normal, 32, axis=1) @ turn.T)
    straight = smooth.plane_guided(depth, normal)
    assert np.abs(rolled - np.roll(straight, 32, axis=1)).max() < 1e-4 * depth.max()


def test_seam_error_tells_a_seam_from_none():
    rays = frames.directions(64, 128)
    smooth_map = rays @ np.float32([0.3, 0.2, 0.5])
    for shift in (0, 17, 64):
        error = seams.seam_error(np.roll(smooth_map, shift, axis=1))
        assert 0.5 < error["seam"] < 1.5
        assert 0.0 <= error["poles"] < 1.5
    assert seams.seam_error(rays)["seam"] < 1.5
    ramp = smooth_map + np.linspace(0.0, 0.5, 128)
    assert seams.seam_error(ramp)["seam"] > 5.0
    assert seams.seam_error(ramp)["poles"] > 5.0
    assert seams.seam_error(np.full((16, 32, 3), 0.3)) == {"seam": 0.0, "poles": 0.0}
