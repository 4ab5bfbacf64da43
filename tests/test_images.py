# SPDX-License-Identifier: GPL-3.0-or-later
"""Panoramas from disk: kinds of file, colour, truncation, reduction."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from blender_omnix import images
from blender_omnix.errors import OmnixError


@pytest.fixture
def ramp():
    u, v = np.meshgrid(np.linspace(0, 1, 128), np.linspace(0, 1, 64))
    return np.stack([u, v, 1 - u], -1).astype(np.float32)


def save_png(path, ramp, mode):
    Image.fromarray((ramp * 255).astype(np.uint8)).convert(mode).save(path)
    return path


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "LA"])
def test_every_png_mode_gives_three_encoded_channels(tmp_path, ramp, mode):
    source = images.read_panorama(save_png(tmp_path / "a.png", ramp, mode))
    assert source.pixels.shape == (64, 128, 3)
    assert not source.linear
    if mode in ("RGB", "RGBA"):
        assert np.abs(source.pixels - ramp).max() < 2 / 255
    assert any("grey" in note for note in source.notes) == (mode in ("L", "LA"))
    assert any("alpha" in note for note in source.notes) == (mode in ("RGBA", "LA"))


def test_alpha_does_not_darken_the_colour(tmp_path, ramp):
    rgba = np.dstack([(ramp * 255).astype(np.uint8), np.full((64, 128), 10, np.uint8)])
    Image.fromarray(rgba).save(tmp_path / "a.png")
    assert np.abs(images.read_panorama(tmp_path / "a.png").pixels - ramp).max() < 2 / 255


@pytest.mark.parametrize("suffix", [".exr", ".hdr"])
def test_linear_files_keep_values_above_one(tmp_path, ramp, suffix):
    images.write(tmp_path / f"a{suffix}", ramp * 500, "float")
    source = images.read_panorama(tmp_path / f"a{suffix}")
    assert source.linear
    assert np.abs(source.pixels - ramp * 500).max() < 4.0


@pytest.mark.parametrize("suffix", [".exr", ".hdr", ".png", ".jpg", ".tif"])
def test_a_truncated_file_is_refused(tmp_path, ramp, suffix):
    path = tmp_path / f"a{suffix}"
    noise = np.random.default_rng(0).random((64, 128, 3)).astype(np.float32)
    if suffix == ".jpg":
        Image.fromarray((noise * 255).astype(np.uint8)).save(path)
    else:
        images.write(path, noise, "float" if suffix in (".exr", ".hdr") else "uint8")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(OmnixError, match=r"a\.(exr|hdr|png|jpg|tif)"):
        images.read_panorama(path)


def test_a_file_whose_name_is_not_text_is_refused(tmp_path):
    with pytest.raises(OmnixError, match=r"a\\udcff.exr has a name that is not valid UTF-8"):
        images.read_panorama(tmp_path / "a\udcff.exr")


def test_wide_images_are_reduced_by_averaging_and_keep_their_mean(tmp_path, ramp):
    images.write(tmp_path / "a.exr", ramp, "float")
    source = images.read_panorama(tmp_path / "a.exr", max_width=96)
    assert source.pixels.shape == (48, 96, 3)
    assert (source.width, source.height) == (128, 64)
    assert np.abs(source.pixels.mean((0, 1)) - ramp.mean((0, 1))).max() < 1e-4


def test_an_image_two_pixels_off_becomes_exactly_two_to_one(tmp_path, ramp):
    images.write(tmp_path / "a.exr", ramp[:, :127], "float")
    assert images.read_panorama(tmp_path / "a.exr").pixels.shape == (63, 126, 3)


def test_grey_exr_depth_channel_reads_as_stored(tmp_path, ramp):
    images.write(tmp_path / "depth.exr", ramp[..., 0] * 9, "float")
    assert np.array_equal(images.read_raw(tmp_path / "depth.exr")[..., 0], ramp[..., 0] * 9)
