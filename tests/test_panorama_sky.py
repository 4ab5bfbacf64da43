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
    small = resample.shrink(above.astype(np.float32), 64, 128)
    return np.roll(0.1 + 0.8 * small, columns, axis=1)


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union, by solid angle."""
    weight = frames.solid_angles(*a.shape)[:, None]
    return float((weight * (a & b)).sum() / (weight * (a | b)).sum())


@pytest.mark.parametrize("roll", [0, 100])
def test_the_mask_follows_the_skyline(roll):
    above, picture = skyline()
    chance = coarse(np.roll(above, roll, 1), 2)
    above, picture = np.roll(above, roll, 1), np.roll(picture, roll, 1)
    plain = resample.upsample(chance, picture, kind="scalar") > 0.5
    found = sky.mask(chance, picture)
    assert found.shape == above.shape
    assert overlap(plain, above) < 0.95
    assert overlap(found, above) > 0.99


def test_colours_that_do_not_differ_change_nothing():
    above, picture = skyline()
    chance = coarse(above, 0)
    even = np.full_like(picture, 0.5)
    plain = resample.upsample(chance, even, kind="scalar") > 0.5
    assert overlap(sky.mask(chance, even), plain) > 0.999


def test_no_sky_stays_none_and_nothing_but_sky_stays_all():
    _, picture = skyline()
    assert not sky.mask(np.full((64, 128), 0.05), picture).any()
    assert sky.mask(np.full((64, 128), 0.95), picture).all()


def test_a_region_in_doubt_all_over_is_taken_for_surface():
    chance = np.full((32, 64), 0.1)
    chance[10:15, 5:15] = 0.8
    chance[2:6, 30:40] = 0.7
    chance[3, 35] = 0.95
    kept = sky.keep_certain(chance)
    assert (kept[10:15, 5:15] < 0.5).all()
    assert (kept[2:6, 30:40] > 0.5).all()
