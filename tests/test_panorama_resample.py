# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import numpy as np
import pytest

from blender_omnix.panorama import frames, resample, weighted


def _noise(height: int, width: int, channels: int = 3, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).random((height, width, channels), np.float32)


def test_pad_continues_around_and_over_the_poles():
    # A function of the direction is continued by its values at the padded pixels' directions.
    rays = frames.directions(16, 32)
    padded = resample.pad(rays, 3)
    u = (np.arange(-3, 35) + 0.5) / 32
    v = (np.arange(-3, 19) + 0.5)[:, None] / 16
    azimuth, elevation = np.pi - 2 * np.pi * u, np.pi / 2 - np.pi * v
    expected = np.stack(
        np.broadcast_arrays(
            np.cos(elevation) * np.cos(azimuth),
            np.cos(elevation) * np.sin(azimuth),
            np.sin(elevation),
        ),
        axis=-1,
    )
    assert padded.shape == (22, 38, 3)
    assert np.abs(padded - expected).max() < 1e-6


def test_pad_bounds():
    image = _noise(8, 16, 1)[..., 0]
    assert np.array_equal(resample.pad(image, 0), image)
    assert resample.pad(image, 8).shape == (24, 32)
    with pytest.raises(ValueError, match="pad"):
        resample.pad(image, 9)


@pytest.mark.parametrize("size", [(16, 32), (17, 23), (48, 96), (47, 95), (1, 1)])
def test_a_smaller_picture_conserves_the_mean(size):
    image = _noise(48, 96)
    small = resample.resize(image, *size)
    assert small.shape == (*size, 3)
    assert small.dtype == np.float32
    assert np.abs(small.mean((0, 1)) - image.mean((0, 1), dtype=float)).max() < 3e-6


def test_a_picture_made_smaller_by_an_integer_is_the_block_mean():
    image = _noise(48, 96)
    blocks = image.reshape(16, 3, 32, 3, 3).mean((1, 3))
    assert np.abs(resample.resize(image, 16, 32) - blocks).max() < 1e-6


def test_a_picture_made_smaller_by_a_fraction_is_exact():
    image = _noise(20, 30)
    height, width = 7, 11
    # Every source pixel cut into 7 x 11 equal parts makes the factor an integer.
    fine = np.repeat(np.repeat(image.astype(float), height, axis=0), width, axis=1)
    expected = fine.reshape(height, 20, width, 30, 3).mean((1, 3))
    assert np.abs(resample.resize(image, height, width) - expected).max() < 1e-6


def test_resizing_commutes_with_a_yaw_roll():
    image = _noise(48, 96)
    rolled = resample.resize(np.roll(image, 24, axis=1), 16, 32)
    assert np.array_equal(rolled, np.roll(resample.resize(image, 16, 32), 8, axis=1))


def test_enlarging_interpolates_around_the_seam_and_over_the_poles():
    rays = frames.directions(32, 64)
    large = resample.resize(rays, 96, 160)
    assert np.abs(large - frames.directions(96, 160)).max() < 0.01


def test_nearest_takes_pixels_as_they_are():
    image = np.arange(16 * 32).reshape(16, 32)
    assert np.array_equal(resample.nearest(image, 4, 8), image[2::4, 2::4])
    assert np.array_equal(resample.nearest(image, 32, 64), image.repeat(2, 0).repeat(2, 1))


def test_the_largest_value_of_a_block_counts_however_small():
    image = np.zeros((32, 64), np.float32)
    image[13, 41] = 7.0
    small = resample.block_max(image, 8, 16)
    assert np.argwhere(small).tolist() == [[3, 10]]
    assert small.max() == 7.0
    assert np.array_equal(resample.block_max(small, 16, 32), resample.nearest(small, 16, 32))


def test_weighted_quantiles_go_by_the_weight():
    values, weights = np.array([[5.0, 1.0], [3.0, 9.0]]), np.array([[1.0, 2.0], [4.0, 1.0]])
    assert weighted.quantile(values, weights, (0.2, 0.5, 0.8, 1.0)).tolist() == [1, 3, 5, 9]
    assert weighted.median(values, weights) == 3.0
