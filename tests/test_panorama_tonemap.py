# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import numpy as np
import pytest

from blender_omnix.panorama import tonemap

EVERY_CODE = np.arange(256, dtype=np.float32).reshape(8, 32) / 255.0


def _scene(height: int = 64) -> np.ndarray:
    """Grey radiance of about four decades without the sun."""
    random = np.random.default_rng(7)
    light = 10.0 ** random.uniform(-2.0, 0.5, (height, 2 * height, 1))
    return np.repeat(light, 3, axis=2).astype(np.float32)


def test_srgb_known_values():
    encoded = tonemap.srgb_encode(np.array([0.0, 0.0031308, 0.18, 0.5, 1.0, 7.0], np.float32))
    assert np.allclose(encoded, [0.0, 0.04045, 0.46136, 0.73536, 1.0, 1.0], atol=1e-4)


def test_srgb_round_trip():
    back = tonemap.srgb_encode(tonemap.srgb_decode(EVERY_CODE))
    assert np.abs(back - EVERY_CODE).max() < 1e-5


def test_srgb_bands_do_not_change_the_result():
    tall = np.linspace(0.0, 1.0, 700 * 4, dtype=np.float32).reshape(700, 4)
    assert np.array_equal(tonemap.srgb_encode(tall)[513], tonemap.srgb_encode(tall[513]))


def test_ldr_picture_comes_back_at_zero_ev():
    picture = np.repeat(EVERY_CODE[..., None], 3, axis=2)
    encoded, stops = tonemap.expose(tonemap.srgb_decode(picture), display_referred=True)
    assert stops == 0.0
    assert np.abs(encoded - picture).max() < 1e-5


@pytest.mark.parametrize("ev", [-2.0, 0.5, 3.0])
def test_ldr_offset_keeps_order_and_full_white(ev):
    picture = np.repeat(EVERY_CODE[..., None], 3, axis=2)
    encoded, stops = tonemap.expose(tonemap.srgb_decode(picture), ev, display_referred=True)
    assert stops == ev
    steps = np.diff(encoded[..., 0].ravel())
    assert (steps > 0).all()
    assert encoded.max() <= 1.0
    if ev > 0:
        assert encoded.max() == pytest.approx(1.0, abs=1e-5)


def test_curve_keeps_the_lower_range_and_rises_smoothly_to_white():
    linear = np.linspace(0.0, 2.0 * tonemap.WHITE, 20001, dtype=np.float32).reshape(1, -1)
    shown = tonemap.srgb_decode(tonemap.expose_with(linear, 0.0)).astype(np.float64)[0]
    below = linear[0] <= tonemap.KNEE
    assert np.abs(shown[below] - linear[0][below]).max() < 1e-4
    slope = np.diff(shown) / np.diff(linear[0])
    assert slope.min() > -1e-3
    assert np.abs(np.diff(slope)).max() < 0.02
    assert shown[linear[0] > tonemap.WHITE].min() > 0.9999


def test_exposure_follows_the_scene_and_the_offset():
    scene = _scene()
    encoded, stops = tonemap.expose(scene)
    brighter, fewer = tonemap.expose(8.0 * scene)
    assert fewer == pytest.approx(stops - 3.0, abs=1e-4)
    assert np.abs(encoded - brighter).max() < 1e-4
    lifted, more = tonemap.expose(scene, 1.0)
    assert more == pytest.approx(stops + 1.0)
    assert (lifted >= encoded).all() and lifted.mean() > encoded.mean() + 0.02


def test_a_sun_does_not_darken_the_picture():
    scene = _scene()
    _, stops = tonemap.expose(scene)
    scene[10:12, 30:32] = 60000.0
    _, with_sun = tonemap.expose(scene)
    assert with_sun == pytest.approx(stops, abs=0.05)


def test_black_pixels_and_extremes_stay_finite():
    scene = _scene() * 1e-6
    scene[:20] = 0.0
    scene[40, 40] = 3e38
    encoded, _ = tonemap.expose(scene)
    assert np.isfinite(encoded).all() and encoded.min() >= 0.0 and encoded.max() <= 1.0
    assert 0.2 < encoded[20:].mean() < 0.7
    assert tonemap.auto_stops(np.zeros((32, 64, 3), np.float32)) == 0.0


def test_a_white_studio_is_not_burnt_out():
    studio = np.full((64, 128, 3), 0.001, np.float32)
    studio[30:] = 0.8
    encoded, _ = tonemap.expose(studio)
    assert 0.8 < encoded[40].mean() < 0.97


def test_white_below_one_is_refused():
    with pytest.raises(ValueError, match="white"):
        tonemap.expose_with(np.zeros((2, 4, 3), np.float32), 0.0, 0.5)
