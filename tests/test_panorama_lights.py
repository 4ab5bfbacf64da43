# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import numpy as np
import pytest

from blender_omnix.panorama import emitters, frames, lights, regions, tonemap


def _place(height: int = 128, ambient: float = 0.3) -> np.ndarray:
    """A scene of even light whose surfaces differ by a factor of four."""
    random = np.random.default_rng(5)
    albedo = random.uniform(0.2, 0.8, (height, 2 * height, 1)).astype(np.float32)
    return np.repeat(ambient * albedo, 3, axis=2)


def _disc(height: int, direction, degrees: float) -> np.ndarray:
    direction = np.asarray(direction) / np.linalg.norm(direction)
    return frames.directions(height, 2 * height) @ direction > np.cos(np.radians(degrees))


def _pixel_flux(mask: np.ndarray) -> float:
    return float((frames.solid_angles(*mask.shape)[:, None] * mask).sum())


@pytest.mark.parametrize("direction", [(1, 0.2, 0.5), (-1, 0.01, 0.3), (0.02, 0.01, 1), (0, -1, 0)])
def test_a_sun_is_found_with_its_energy(direction):
    scene = _place(256)
    disc = _disc(256, direction, 1.5)
    colour = np.float32([3000.0, 2500.0, 2000.0])
    scene[disc] = colour
    (light,) = lights.find(scene)
    direction = np.asarray(direction) / np.linalg.norm(direction)
    assert np.degrees(np.arccos(min(1.0, light.direction @ direction))) < 0.4
    assert np.allclose(light.irradiance, colour * _pixel_flux(disc), rtol=0.01)
    assert np.degrees(light.radius) == pytest.approx(1.5, abs=0.3)
    assert light.kind == "sun" and light.position is None


def test_lamps_are_placed_and_ordered_by_their_peak():
    scene = _place(256)
    ways = [(1.0, 0.3, 0.2), (-1.0, 0.02, 0.6)]
    for way, value in zip(ways, (400.0, 900.0), strict=True):
        scene[_disc(256, way, 2.0)] = value
    depth = np.full((64, 128), 3.0, np.float32)
    found = lights.find(scene, depth)
    assert [light.kind for light in found] == ["lamp", "lamp"]
    for light, way in zip(found, ways[::-1], strict=True):
        expected = (3.0 * (1.0 + 0.7 * np.sin(light.radius))) * np.array(way) / np.linalg.norm(way)
        assert np.linalg.norm(light.position - expected) < 0.05
    assert [light.kind for light in lights.find(scene, 0.0 * depth)] == ["sun", "sun"]


def test_wide_glows_and_even_light_are_no_lights():
    scene = _place()
    assert lights.find(scene) == []
    scene[_disc(128, (1, 0, 0.5), 9.0)] = 50.0
    assert lights.find(scene) == []


def test_faint_lights_stay_ambient_and_eight_is_the_limit():
    scene = _place(256)
    scene[_disc(256, (1, 0, 0), 1.0)] = 1e5
    scene[_disc(256, (0, 1, 0), 1.0)] = 1e3
    assert len(lights.find(scene)) == 1
    scene = _place(256)
    for turn in np.arange(10) * (2 * np.pi / 10):
        scene[_disc(256, (np.cos(turn), np.sin(turn), 0.1), 1.0)] = 1e4
    assert len(lights.find(scene)) == 8


def test_regions_connect_around_the_seam_and_over_a_pole():
    within = np.zeros((16, 32), bool)
    within[5, 28:] = within[5, :4] = True
    within[:5, 2] = True
    within[:7, 18] = True
    within[10:12, 10:14] = True
    seeds = np.zeros_like(within)
    seeds[5, 29] = True
    reached = regions.connected(seeds, within)
    expected = within.copy()
    expected[10:12] = False
    assert np.array_equal(reached, expected)
    assert not regions.connected(np.zeros_like(seeds), within).any()
    assert regions.connected(seeds, np.ones_like(within)).all()


def test_regions_connect_a_winding_path():
    within = np.zeros((33, 64), bool)
    within[1:32:2] = True
    within[1:32:2, 60:] = False
    within[1:32:2, 0] = False
    within[2:32:4, 59] = within[4:32:4, 1] = True
    seeds = np.zeros_like(within)
    seeds[1, 1] = True
    assert np.array_equal(regions.connected(seeds, within), within)


def test_each_region_has_a_label_of_its_own():
    mask = np.zeros((16, 32), bool)
    mask[5, 30:] = mask[5, :3] = mask[8, 4:9] = mask[12:14, 20] = True
    labels = regions.label(mask)
    assert np.array_equal(labels > 0, mask)
    numbers = [np.unique(labels[5, [30, 31, 0, 1, 2]]), np.unique(labels[8, 4:9])]
    numbers.append(np.unique(labels[12:14, 20]))
    assert [len(found) for found in numbers] == [1, 1, 1]
    assert len(np.unique(np.concatenate(numbers))) == 3


def test_grow_crosses_seam_and_pole():
    mask = np.zeros((8, 16), bool)
    mask[0, 0] = True
    grown = regions.grow(mask)
    assert grown[0, [15, 0, 1, 7, 8, 9]].all() and grown[1, [15, 0, 1]].all()
    assert np.count_nonzero(grown) == 9


def test_emission_keeps_lights_and_sky_and_leaves_walls():
    scene = _place()
    lamp = _disc(128, (-1, 0.02, 0.4), 3.0)
    window = _disc(128, (0, 1, 0.1), 12.0)
    wall = _disc(128, (1, 0, 0), 30.0)
    sky = _disc(128, (0, 0, 1), 30.0)
    scene[wall], scene[window], scene[lamp], scene[sky] = 0.3, 3.0, 300.0, 0.5
    emission, mask = emitters.emission(scene, sky.astype(np.float32), is_hdr=True)
    assert mask[sky].min() == 1.0
    assert mask[lamp].min() > 0.99 and mask[window].min() > 0.99
    assert mask[~(sky | lamp | window)].max() == 0.0
    assert np.array_equal(emission, scene * mask[..., None])


def test_sun_on_the_floor_is_no_emitter_where_normals_are_known():
    scene = _place()
    patch = _disc(128, (0.7, 0, -1), 10.0)
    scene[patch] = 6.0
    no_sky = np.zeros(patch.shape, np.float32)
    floor = np.broadcast_to(np.float32([0, 0, 1]), (32, 64, 3))
    assert emitters.emission(scene, no_sky, is_hdr=True)[1][patch].max() == 1.0
    assert emitters.emission(scene, no_sky, normal=floor, is_hdr=True)[1].max() == 0.0


def test_dark_surroundings_and_true_albedo_make_a_white_object_no_emitter():
    scene = np.full((64, 128, 3), 0.02, np.float32)
    white = _disc(64, (1, 0, 0), 15.0)
    scene[white] = 0.6
    albedo = np.full((64, 128, 3), tonemap.srgb_encode(np.float32([0.02] * 3)), np.float32)
    albedo[white] = tonemap.srgb_encode(np.float32([0.7] * 3))
    no_sky = np.zeros(white.shape, np.float32)
    assert emitters.emission(scene, no_sky, albedo, is_hdr=True)[1].max() == 0.0


def test_the_light_of_a_lamp_on_a_wall_is_no_emitter_but_a_window_as_bright_is():
    scene = np.full((128, 256, 3), 0.4, np.float32)
    angle = np.degrees(np.arccos(np.clip(frames.directions(128, 256)[..., 0], -1, 1)))
    scene += 7.0 * np.exp(-((angle / 15.0) ** 2))[..., None]
    window = _disc(128, (-1, 0.1, 0.2), 10.0)
    scene[window] = 7.4
    _, mask = emitters.emission(scene, np.zeros(window.shape, np.float32), is_hdr=True)
    assert mask[window].min() == 1.0
    assert mask[~window].max() == 0.0


def test_in_a_limited_range_picture_what_is_clipped_emits():
    encoded = tonemap.srgb_encode(_place())
    lamp = _disc(128, (1, 1, 0.4), 6.0)
    wall = _disc(128, (-1, 0, 0), 20.0)
    encoded[wall], encoded[lamp] = 0.93, 1.0
    linear = tonemap.srgb_decode(encoded)
    _, mask = emitters.emission(linear, np.zeros(lamp.shape, np.float32), is_hdr=False)
    assert mask[lamp].min() > 0.99
    assert mask[~lamp].max() < 0.2
