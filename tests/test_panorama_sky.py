# SPDX-License-Identifier: GPL-3.0-or-later
"""The sky's mask follows the skyline in the picture, not the engine's coarse idea of it."""

import numpy as np
import pytest

from blender_omnix.panorama import frames, resample, sky

HEIGHT = 256


def skyline() -> tuple[np.ndarray, np.ndarray]:
    """Where the sky is, above jagged roofs, and a picture of it (H, 2H, 3)."""
    rays = frames.directions(HEIGHT, 2 * HEIGHT)
    azimuth = np.arctan2(rays[..., 1], rays[..., 0])
    roofs = 0.25 + 0.15 * np.sign(np.sin(9 * azimuth)) + 0.05 * np.sin(31 * azimuth)
    above = rays[..., 2] > roofs
    texture = 0.05 * np.sin(40 * rays @ np.array([1.0, 2.0, 3.0], np.float32))
    walls = np.array([0.45, 0.4, 0.3]) + texture[..., None]
    picture = np.where(above[..., None], np.array([0.6, 0.75, 0.95]), walls)
    return above, picture.astype(np.float32)


def coarse(above: np.ndarray, columns: int) -> np.ndarray:
    """The probability of an engine of 64 rows that is off by so many of its pixels."""
    small = resample.resize(above.astype(np.float32), 64, 128)
    return np.roll(0.1 + 0.8 * small, columns, axis=1)


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union, by solid angle."""
    weight = frames.solid_angles(*a.shape)[:, None]
    return float((weight * (a & b)).sum() / (weight * (a | b)).sum())


@pytest.mark.parametrize("roll", [0, 100])
@pytest.mark.parametrize(("columns", "least"), [(1, 0.99), (2, 0.955)])
def test_the_mask_follows_the_skyline(roll, columns, least):
    above, picture = skyline()
    chance = coarse(np.roll(above, roll, 1), columns)
    above, picture = np.roll(above, roll, 1), np.roll(picture, roll, 1)
    plain = resample.upsample(chance, picture, kind="scalar") > 0.5
    found = sky.mask(chance, picture)
    assert found.shape == above.shape
    assert overlap(plain, above) < least - 0.03
    assert overlap(found, above) > least


def test_what_has_half_the_colour_of_the_sky_is_no_hole():
    above, picture = skyline()
    pale = np.where(above[..., None], picture, (picture + picture[0, 0]) / 2)
    assert not (sky.mask(coarse(above, 1), pale) & ~above).any()


def test_an_even_sky_reaches_as_far_as_the_engine_is_not_sure_of_a_surface():
    above, picture = skyline()
    chance = coarse(above, 0)
    even = np.full_like(picture, 0.5)
    doubt = resample.upsample(chance, even, kind="scalar")
    assert overlap(sky.mask(chance, even), doubt > 0.25) > 0.999


def test_a_blown_out_sky_is_filled_up_to_what_stands_before_it():
    """Sure of it in the middle, in doubt all around, as under a roof; a tree stands in it."""
    rays = frames.directions(HEIGHT, 2 * HEIGHT)
    opening = (rays[..., 0] > 0.6) & (rays[..., 2] > -0.1)
    trunk = opening & (np.abs(rays[..., 1] - 0.2) < 0.05)
    rng = np.random.default_rng(0)
    bark = rng.uniform(0.1, 0.3, (HEIGHT, 2 * HEIGHT, 3))
    picture = np.where((opening & ~trunk)[..., None], 0.98, bark).astype(np.float32)
    small = resample.resize(opening.astype(np.float32), 64, 128)
    chance = 0.02 + 0.43 * small
    core = (rays[..., 0] > 0.9) & (rays[..., 1] < 0.0) & (rays[..., 2] > 0.0)
    chance[resample.resize(core.astype(np.float32), 64, 128) > 0.5] = 0.97
    assert overlap(sky.mask(chance, picture), opening & ~trunk) > 0.95


@pytest.mark.parametrize(
    ("side", "texture", "whole"), [(4, 0.0, True), (4, 0.2, False), (10, 0.0, False)]
)
def test_a_doubt_in_an_even_sky_is_no_island_unless_something_is_seen(side, texture, whole):
    above, picture = skyline()
    chance = resample.nearest(coarse(above, 0), 128, 256)
    chance[16 : 16 + side, 80 : 80 + side] = 0.05
    doubt = resample.nearest(chance, *above.shape) < 0.1
    noise = np.random.default_rng(0).uniform(-texture, texture, (*above.shape, 1))
    picture = picture + np.where((doubt & above)[..., None], noise, 0.0).astype(np.float32)
    assert sky.mask(chance, picture)[doubt & above].all() == whole


def test_no_sky_stays_none_and_nothing_but_sky_stays_all():
    _, picture = skyline()
    assert not sky.mask(np.full((64, 128), 0.05), picture).any()
    assert sky.mask(np.full((64, 128), 0.95), picture).all()


def test_a_region_in_doubt_all_over_is_taken_for_surface():
    chance = np.full((32, 64), 0.1)
    chance[10:15, 5:15] = 0.78
    chance[2:6, 30:40] = 0.7
    chance[3, 35] = 0.95
    kept = sky.keep_certain(chance)
    assert (kept[10:15, 5:15] < 0.5).all()
    assert (kept[2:6, 30:40] > 0.5).all()
