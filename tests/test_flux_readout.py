# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import numpy as np
import pytest

from blender_omnix.engines.flux import conditions, readout
from blender_omnix.engines.flux.tasks import MAPS, TASKS, needed
from blender_omnix.panorama import frames
from tests.fakes import box_room

H, W = 32, 64


def coloured(colour) -> np.ndarray:
    return np.broadcast_to(np.float32(colour), (H, W, 3)).copy()


def test_saturated_green_is_a_floor_and_magenta_a_ceiling():
    floor = readout.read("rgb_to_normal", coloured((0.5, 1.0, 0.5)))["normal"]
    ceiling = readout.read("rgb_to_normal", coloured((0.5, 0.0, 0.5)))["normal"]
    np.testing.assert_allclose(floor[H * 3 // 4 :], np.broadcast_to((0, 0, 1), (H // 4, W, 3)))
    np.testing.assert_allclose(ceiling[: H // 4], np.broadcast_to((0, 0, -1), (H // 4, W, 3)))


def test_walls_keep_their_side():
    """OmniX's left is +Z; Blender's +Y lies at u = 0.25, left of the centre."""
    rays = frames.directions(H, W)
    left_wall = readout.read("rgb_to_normal", coloured((0.5, 0.5, 0.0)))["normal"]
    np.testing.assert_allclose(left_wall[H // 2, W // 4], (0, -1, 0), atol=1e-6)
    assert rays[H // 2, W // 4, 1] > 0.99


def test_normals_are_unit_and_face_the_viewer():
    image = np.random.default_rng(0).random((H, W, 3), np.float32)
    image[0, 0] = 0.5
    normal = readout.read("rgb_to_normal", image)["normal"]
    assert normal.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(normal, axis=-1), 1, atol=1e-5)
    assert (np.sum(normal * frames.directions(H, W), axis=-1) <= 1e-6).all()


def test_normals_of_a_room_survive_the_round_trip():
    truth = box_room(H)["normal"]
    image = (frames.omnix_from_blender(truth) + 1) / 2
    np.testing.assert_allclose(readout.read("rgb_to_normal", image)["normal"], truth, atol=1e-6)


def test_camera_rays_are_in_the_official_frame():
    """Front +X, up +Y, left +Z; longitude falls from pi to -pi, latitude from pi/2 to -pi/2."""
    rays = conditions.camera_rays(H, W)
    assert rays.shape == (1, 3, H, W)
    longitude = (0.5 - (np.arange(W) + 0.5) / W) * 2 * np.pi
    latitude = (0.5 - (np.arange(H) + 0.5)[:, None] / H) * np.pi
    expected = np.stack(
        np.broadcast_arrays(
            np.cos(latitude) * np.cos(longitude),
            np.sin(latitude),
            np.cos(latitude) * np.sin(longitude),
        )
    )
    np.testing.assert_allclose(rays[0].numpy(), expected, atol=1e-6)


def test_depth_is_the_mean_and_stays_positive():
    image = np.zeros((H, W, 3), np.float32)
    image[:, : W // 2] = (0.2, 0.4, 0.6)
    prediction = readout.read("rgb_to_depth", image)
    np.testing.assert_allclose(prediction["depth"][:, : W // 2], 0.4, atol=1e-6)
    assert (prediction["depth"][:, W // 2 :] == np.float32(readout.NEAREST)).all()
    assert not prediction["sky"].any()


def test_open_sky_is_depth_at_its_maximum_above_the_horizon():
    image = coloured((0.3, 0.3, 0.3))
    image[: H // 2 - 2] = 1.0
    image[H - 4 :] = 1.0
    sky = readout.read("rgb_to_depth", image)["sky"]
    assert (sky[: H // 2 - 2] == 1).all()
    assert not sky[H // 2 - 2 :].any()


def test_the_far_end_of_a_room_is_no_sky():
    depth = box_room(H)["depth"]
    image = np.repeat((depth / depth.max())[..., None], 3, axis=-1)
    assert image.max() == 1.0
    assert not readout.read("rgb_to_depth", image)["sky"].any()


def test_pbr_channels():
    prediction = readout.read("rgb_to_pbr", coloured((0.7, 0.1, 0.9)))
    assert np.allclose(prediction["roughness"], 0.7)
    assert np.allclose(prediction["metallic"], 0.1)
    assert set(prediction) == {"roughness", "metallic"}


@pytest.mark.parametrize("task", TASKS)
def test_every_task_reads_its_maps(task):
    assert set(TASKS[task].maps) <= set(readout.read(task, coloured((0.2, 0.5, 0.7))))


def test_the_tasks_of_a_map_and_of_its_sky():
    assert needed(("roughness", "metallic"), camera_rays=False) == ["rgb_to_pbr", "rgb_to_depth"]
    assert needed(("depth",), camera_rays=False) == ["rgb_to_depth"]
    assert needed(("normal",), camera_rays=True) == ["rgb_camray_to_normal", "rgb_to_depth"]
    assert len(needed(MAPS, camera_rays=False)) == 5
