# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import numpy as np
import pytest

from blender_omnix.errors import OmnixError
from blender_omnix.panorama import clean


def _ramp(height: int = 64) -> np.ndarray:
    """Radiance that varies smoothly around the sphere and from pole to pole."""
    u = np.arange(2 * height) / (2 * height)
    v = np.arange(height)[:, None] / height
    grey = 2.0 + np.cos(2.0 * np.pi * u) * np.sin(np.pi * v) + v
    return np.repeat(grey[..., None], 3, axis=2).astype(np.float32)


@pytest.mark.parametrize("size", [(64, 32), (1024, 512), (1026, 512), (1022, 512), (101, 50)])
def test_sizes_accepted(size):
    clean.check_size(*size)


@pytest.mark.parametrize(
    ("size", "words"),
    [
        ((1000, 600), "1000 x 600 .* 1000 x 500$"),
        ((1027, 512), "1027 x 512 .* 1026 x 513$"),
        ((512, 512), "512 x 512 .* 512 x 256$"),
        ((62, 31), "62 x 31 .* 64 x 32"),
        ((4096, 20), "4096 x 20 .* 64 x 32"),
    ],
)
def test_sizes_refused_with_the_nearest_fix(size, words):
    with pytest.raises(OmnixError, match=words):
        clean.check_size(*size)


def test_suggested_size_is_itself_accepted():
    for width in (64, 65, 999, 1000, 16383):
        with pytest.raises(OmnixError) as error:
            clean.check_size(width, width)
        suggested = str(error.value).split(" to ")[-1].split(" x ")
        clean.check_size(int(suggested[0]), int(suggested[1]))


def test_a_sound_picture_passes_unchanged():
    source = _ramp()
    repaired, notes = clean.repair(source)
    assert notes == []
    assert np.array_equal(repaired, source)
    assert repaired is not source


def test_negative_values_become_zero():
    source = _ramp()
    source[3, 4, 1] = -0.25
    source[9, 4] = -0.25
    repaired, notes = clean.repair(source)
    assert repaired.min() == 0.0
    assert source.min() < 0
    assert len(notes) == 1 and "2 pixels" in notes[0] and "negative" in notes[0]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [(20, 0), (20, 127), (0, 50), (63, 50), (30, 64)])
def test_non_finite_pixels_take_their_neighbours_colour(value, place):
    source = _ramp()
    broken = source.copy()
    y, x = place
    broken[y, x, 1] = value
    broken[y, (x + 1) % 128] = value
    repaired, notes = clean.repair(broken)
    assert np.abs(repaired[y, x] - source[y, x]).max() < 0.1
    assert np.abs(repaired - source).max() < 0.1
    assert len(notes) == 1 and "2 pixels" in notes[0]


def test_a_block_is_filled_from_its_rim_inwards():
    source = _ramp(128)
    broken = source.copy()
    broken[60:65, 254:] = np.nan
    broken[60:65, :3] = np.nan
    repaired, _ = clean.repair(broken)
    assert np.abs(repaired - source).max() < 0.15


@pytest.mark.parametrize(("pole", "rows"), [(0, slice(0, 3)), (-1, slice(-3, None))])
def test_a_hole_at_a_pole_is_filled_from_beyond_it(pole, rows):
    source = np.random.default_rng(0).random((128, 256, 3)).astype(np.float32)
    source[rows, 8:13] = np.nan
    repaired, _ = clean.repair(source)
    beyond = source[pole, 137:140].mean(axis=0)  # half way round
    np.testing.assert_allclose(repaired[pole, 10], beyond, rtol=1e-5)


def test_too_many_non_finite_pixels_are_refused():
    source = _ramp()
    allowed = int(0.001 * 64 * 128)
    source[10, :allowed] = np.nan
    clean.repair(source)
    source[10, allowed] = np.nan
    with pytest.raises(OmnixError, match="9 pixels that are not finite"):
        clean.repair(source)


def test_a_constant_picture_is_refused():
    flat = np.full((32, 64, 3), [0.2, 0.5, 0.7], np.float32)
    with pytest.raises(OmnixError, match="constant"):
        clean.repair(flat)
    flat[3, 3] = np.nan
    with pytest.raises(OmnixError, match="constant"):
        clean.repair(flat)
    with pytest.raises(OmnixError, match="constant"):
        clean.repair(np.full((32, 64, 3), -1.0, np.float32))


def test_the_limit_goes_by_the_file_and_not_by_its_reduced_copy():
    source = np.random.default_rng(0).random((32, 64, 3)).astype(np.float32)
    source[3:6, 3:6] = np.nan  # 0.4 % of the copy
    flaws = clean.Flaws(pixels=64 * source[..., 0].size, non_finite=100, negative=7)
    repaired, notes = clean.repair(source, flaws)
    assert np.isfinite(repaired).all()
    assert notes[0].startswith("7 pixels") and notes[1].startswith("100 pixels")
    with pytest.raises(OmnixError, match="has 9 pixels"):
        clean.repair(source)
