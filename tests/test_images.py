# SPDX-License-Identifier: GPL-3.0-or-later
"""Panoramas from disk: kinds of file, colour, truncation, reduction."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import OpenImageIO as oiio
import pytest
from PIL import Image

from blender_omnix import images
from blender_omnix.errors import OmnixError
from blender_omnix.panorama import tonemap


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


@pytest.mark.parametrize(
    ("suffix", "pixel_type"),
    [(".exr", "float"), (".hdr", "float"), (".tif", "float"), (".tif", "double")],
)
def test_linear_files_keep_values_above_one(tmp_path, ramp, suffix, pixel_type):
    images.write(tmp_path / f"a{suffix}", ramp * 500, pixel_type)
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


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("suffix", [".exr", ".hdr"])
def test_a_file_is_what_it_holds_whatever_it_is_called(tmp_path, ramp, kind, suffix):
    path = tmp_path / f"room{suffix}"
    Image.fromarray((ramp * 255).astype(np.uint8)).save(path, kind)
    source = images.read_panorama(path)
    assert not source.linear
    assert any(f"called {suffix} but holds a {kind.lower()}" in note for note in source.notes)


def test_an_image_of_alpha_alone_is_refused(tmp_path):
    spec = oiio.ImageSpec(64, 32, 1, "float")
    spec.channelnames, spec.alpha_channel = ["A"], 0
    output = oiio.ImageOutput.create(str(tmp_path / "a.exr"))
    assert output.open(str(tmp_path / "a.exr"), spec)
    assert output.write_image(np.ones((32, 64, 1), np.float32))
    assert output.close()
    with pytest.raises(OmnixError, match="nothing but an alpha channel"):
        images.read_panorama(tmp_path / "a.exr")


def test_grey_exr_depth_channel_reads_as_stored(tmp_path, ramp):
    images.write(tmp_path / "depth.exr", ramp[..., 0] * 9, "float")
    assert np.array_equal(images.read_raw(tmp_path / "depth.exr")[..., 0], ramp[..., 0] * 9)


def test_half_floats_stay_finite(tmp_path):
    images.write(tmp_path / "a.exr", np.float32([[1e6, -1e6], [1.0, 0.0]]), "half")
    stored = images.read_raw(tmp_path / "a.exr")[..., 0]
    assert stored.tolist() == [[65504.0, -65504.0], [1.0, 0.0]]


def save_layers(path, layers, title="", attributes=None, **window):
    """An EXR of named layers of three channels each."""
    names = [f"{layer}{'.' if layer else ''}{c}" for layer in layers for c in "RGB"]
    height, width = next(iter(layers.values())).shape[:2]
    spec = oiio.ImageSpec(width, height, len(names), "float")
    spec.channelnames = names
    if title:
        spec.attribute("oiio:subimagename", title)
    for name, value in (attributes or {}).items():
        spec.attribute(name, *value)
    for name, value in window.items():
        setattr(spec, name, value)
    output = oiio.ImageOutput.create(str(path))
    assert output.open(str(path), spec)
    assert output.write_image(np.concatenate(list(layers.values()), -1))
    assert output.close()
    return path


def test_of_a_renderers_layers_the_picture_is_taken(tmp_path, ramp):
    layers = {"ViewLayer.AO": ramp * 0, "ViewLayer.Combined": ramp, "ViewLayer.Emit": ramp * 0}
    source = images.read_panorama(save_layers(tmp_path / "a.exr", layers))
    assert np.array_equal(source.pixels, ramp)
    assert any("ViewLayer.Combined was taken" in note for note in source.notes)


def test_channels_without_a_layer_are_the_picture(tmp_path, ramp):
    source = images.read_panorama(save_layers(tmp_path / "a.exr", {"AO": ramp * 0, "": ramp}))
    assert np.array_equal(source.pixels, ramp)


def test_channels_without_a_layer_are_the_picture_in_a_file_with_a_title(tmp_path, ramp):
    path = save_layers(tmp_path / "a.exr", {"AO": ramp * 0, "": ramp}, title="beauty")
    assert np.array_equal(images.read_panorama(path).pixels, ramp)


def test_the_only_layer_is_the_picture(tmp_path, ramp):
    source = images.read_panorama(save_layers(tmp_path / "a.exr", {"beauty": ramp}))
    assert np.array_equal(source.pixels, ramp) and source.notes == ()


def test_of_several_unnamed_pictures_none_is_guessed(tmp_path, ramp):
    save_layers(tmp_path / "a.exr", {"left": ramp, "right": ramp})
    with pytest.raises(OmnixError, match=r"a\.exr holds several layers \(left, right\)"):
        images.read_panorama(tmp_path / "a.exr")


@pytest.mark.parametrize(
    ("space", "colour"),
    [
        ("lin_rec709_scene", (0.4, 3.2, 1.2)),
        ("data", (0.4, 3.2, 1.2)),
        ("lin_ap1_scene", (-1.408, 3.586, 0.961)),
        ("lin_rec2020_scene", (-1.304, 3.565, 1.013)),
    ],
)
def test_a_colour_space_that_the_file_names_is_converted(
    tmp_path, ramp, space, colour, monkeypatch
):
    monkeypatch.setenv("OCIO", str(tmp_path / "none.ocio"))
    layers = {"": ramp * 0 + (0.4, 3.2, 1.2)}
    path = save_layers(tmp_path / "a.exr", layers, attributes={"colorInteropID": [space]})
    source = images.read_panorama(path)
    assert source.pixels.dtype == np.float32
    np.testing.assert_allclose(source.pixels[5, 7], colour, atol=2e-3)
    told = [f"in the colour space {space}; it was converted" in note for note in source.notes]
    assert told == [True] * (colour[0] < 0)


@pytest.mark.parametrize(
    ("attribute", "words"),
    [
        ({"colorInteropID": ["srgb_rec709_display"]}, "in the colour space srgb_rec709_display"),
        ({"colorInteropID": ["lin_of_mine"]}, "in the colour space lin_of_mine, which cannot"),
        (
            {"chromaticities": ["float[8]", (0.713, 0.293, 0.165, 0.83, 0.128, 0.044, 0.32, 0.34)]},
            "chromaticities other than",
        ),
    ],
)
def test_colours_that_are_not_converted_are_told(tmp_path, ramp, attribute, words):
    path = save_layers(tmp_path / "a.exr", {"": ramp}, attributes=attribute)
    source = images.read_panorama(path)
    assert np.array_equal(source.pixels, ramp)
    (note,) = source.notes
    assert words in note


def test_the_usual_chromaticities_are_no_news(tmp_path, ramp):
    rec709 = {"chromaticities": ["float[8]", (0.64, 0.33, 0.3, 0.6, 0.15, 0.06, 0.3127, 0.329)]}
    path = save_layers(tmp_path / "a.exr", {"": ramp}, attributes=rec709)
    assert images.read_panorama(path).notes == ()


@pytest.mark.parametrize("first", [-10, 10])
def test_a_data_window_may_begin_anywhere(tmp_path, ramp, first):
    source = images.read_panorama(save_layers(tmp_path / "a.exr", {"": ramp}, y=first))
    assert np.array_equal(source.pixels, ramp)


@pytest.mark.parametrize("suffix", [".png", ".exr"])
def test_a_reduced_picture_keeps_its_radiance(tmp_path, suffix):
    lines = np.zeros((64, 128, 3), np.float32)
    lines[:, ::2] = 1.0
    images.write(tmp_path / f"a{suffix}", lines, "float" if suffix == ".exr" else "uint8")
    source = images.read_panorama(tmp_path / f"a{suffix}", max_width=64)
    radiance = source.pixels if source.linear else tonemap.srgb_decode(source.pixels)
    np.testing.assert_allclose(radiance, 0.5, atol=1e-3)


def test_what_a_picture_is_a_part_of_is_told(tmp_path, ramp):
    height, width = ramp.shape[:2]
    path = save_layers(tmp_path / "a.exr", {"": ramp}, full_width=2 * width, full_height=2 * height)
    (note,) = images.read_panorama(path).notes
    assert f"{width} x {height} pixels of a picture of {2 * width} x {2 * height}" in note


def test_a_picture_that_is_not_quite_twice_as_wide_is_told(tmp_path):
    images.write(tmp_path / "a.exr", np.random.default_rng(0).random((32, 66, 3)), "float")
    source = images.read_panorama(tmp_path / "a.exr")
    assert source.pixels.shape == (32, 64, 3)
    assert source.notes == ("The image is 66 x 32; it was brought to twice as wide as high.",)


def test_tiles_are_read_as_rows_are(tmp_path):
    """600 rows of tiles of 48: the bands of rows end where tiles do, and the picture does not."""
    noise = np.random.default_rng(0).random((600, 1200, 3)).astype(np.float32)
    tiles = {"tile_width": 48, "tile_height": 48}
    source = images.read_panorama(save_layers(tmp_path / "a.exr", {"": noise}, **tiles))
    assert np.array_equal(source.pixels, noise)


@pytest.mark.parametrize("height", [256, 600])  # one band of rows, and three
def test_one_bad_pixel_spoils_no_others_of_a_reduced_picture(tmp_path, height):
    grey = np.full((height, 2 * height, 3), 0.5, np.float32)
    grey[100, 200], grey[30, 40] = np.nan, -6e4
    images.write(tmp_path / "a.exr", grey, "float")
    source = images.read_panorama(tmp_path / "a.exr", max_width=128)
    assert (source.flaws.pixels, source.flaws.non_finite) == (2 * height**2, 1)
    assert source.flaws.negative == 1
    assert np.nanmin(source.pixels) > 0.4 and np.isfinite(source.pixels).all()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device that is always full")
@pytest.mark.parametrize("height", [32, 512])  # less than is written at once, and more
@pytest.mark.parametrize("suffix", [".png", ".exr"])
def test_a_full_disk_is_told(tmp_path, suffix, height, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
    (tmp_path / f"a{suffix}").symlink_to("/dev/full")
    noise = np.random.default_rng(0).random((height, 2 * height, 3), np.float32)
    with pytest.raises(OSError, match="No space left"):
        images.write(tmp_path / f"a{suffix}", noise, "uint8" if suffix == ".png" else "half")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device that is always full")
def test_another_failure_is_told_without_the_temporary_folder(tmp_path):
    (tmp_path / "a.exr").symlink_to("/dev/full")
    noise = np.random.default_rng(0).random((512, 1024, 3), np.float32)
    with pytest.raises(OSError, match=r'Failed .*"a\.exr"') as caught:
        images.write(tmp_path / "a.exr", noise, "half")
    assert str(tmp_path) not in str(caught.value)


def test_a_name_too_long_for_any_disk_is_refused(tmp_path):
    with pytest.raises(OmnixError, match="has a name of more than 255 bytes"):
        images.read_panorama(tmp_path / f"{'a' * 252}.exr")
