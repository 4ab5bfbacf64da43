# SPDX-License-Identifier: GPL-3.0-or-later
"""From a file to a map set, with an engine that knows the room exactly."""

from __future__ import annotations

import json

import numpy as np
import pytest

from blender_omnix import checks, images, maps
from blender_omnix.errors import Cancelled, OmnixError
from blender_omnix.extract import Renews, Settings, extract
from blender_omnix.panorama import frames
from tests.fakes import BoxRoomEngine, box_room


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "room.exr"
    images.write(path, box_room(128)["picture"] * 3, "float")
    return path


def run(source, out, **settings):
    return extract(source, out, Settings(**settings), engine=BoxRoomEngine())


def test_a_map_that_is_changed_while_others_are_made_is_not_lost(tmp_path, source):
    out = tmp_path / "out"
    run(source, out)

    def paint(stage, _fraction):
        if stage == "Checking":
            (out / "albedo.png").write_bytes(b"mine")

    with pytest.raises(OmnixError, match=r"The albedo in .* changed while"):
        extract(source, out, engine=BoxRoomEngine(), progress=paint)
    assert (out / "albedo.png").read_bytes() == b"mine"


def test_the_whole_set_is_written_at_the_sources_size(tmp_path, source):
    report = run(source, tmp_path / "out")
    loaded = maps.load(tmp_path / "out")
    assert set(loaded) == {*maps.DEFAULT_MAPS, "panorama"}
    assert all(array.shape[:2] == (128, 256) for array in loaded.values())
    maps.check_arrays(loaded)
    assert json.loads((tmp_path / "out" / maps.REPORT).read_text()) == json.loads(
        json.dumps(report)
    )
    assert report["source"]["size"] == [256, 128]
    assert len(report["source"]["sha256"]) == 64


def test_the_contact_sheet_of_a_renewed_map_is_that_of_the_set_it_is_for(tmp_path, source):
    whole = tmp_path / "whole"
    run(source, whole)
    sheet = images.read_raw(whole / maps.PREVIEW)

    def renew(name):
        settings = Settings(maps=("albedo", "normal", "depth"))
        out = tmp_path / name
        renews = Renews(name, whole)
        report = extract(source, out, settings, engine=BoxRoomEngine(), renews=renews)
        return images.read_raw(out / maps.PREVIEW), report["warnings"]

    drawn, warnings = renew("albedo")
    # Seen through the files, a normal may be one step off.
    assert np.abs(drawn - sheet).max() < 1.5 / 255
    assert warnings == maps.read_report(whole)["warnings"]
    # Of three maps made again one is for the set, which lacks another and has a third damaged.
    (whole / "depth.exr").unlink()
    (whole / "metallic.png").write_bytes(b"damaged")
    drawn, warnings = renew("normal")
    assert drawn.shape[0] == 3 * 278
    assert np.ptp(drawn[2 * 278 :, :512]) > 0
    assert np.ptp(drawn[2 * 278 :, 512:]) == 0
    (warning,) = set(warnings) - set(maps.read_report(whole)["warnings"])
    assert warning.startswith(f"The contact sheet lacks a map. {whole / 'metallic.png'}")


def test_depth_is_metric_by_the_camera_height(tmp_path, source):
    truth = box_room(128)["depth"]
    for height in (1.6, 0.8):
        run(source, tmp_path / "out", camera_height=height)
        depth = maps.load(tmp_path / "out")["depth"]
        assert np.median(depth / truth) == pytest.approx(height / 1.6, rel=0.02)


def test_normals_come_out_as_the_room_has_them(tmp_path, source):
    run(source, tmp_path / "out")
    normal = maps.load(tmp_path / "out")["normal"]
    cosine = (normal * box_room(128)["normal"]).sum(-1)
    assert np.median(cosine) > 0.999
    assert (cosine > 0.9).mean() > 0.9


def test_sky_is_stored_as_the_contract_says(tmp_path, source):
    class Open(BoxRoomEngine):
        def predict(self, *args, **kwargs):
            room = super().predict(*args, **kwargs)
            room["sky"][:24] = 1.0
            return room

    extract(source, tmp_path / "out", Settings(), engine=Open())
    loaded = maps.load(tmp_path / "out")
    sky = loaded["depth"] == 0
    assert sky[:40].all()
    assert not sky[64:].any()
    assert loaded["albedo"][sky].max() == 0
    assert loaded["roughness"][sky].min() == 1
    assert loaded["metallic"][sky].max() == 0
    assert np.abs(loaded["normal"] + frames.directions(128, 256))[sky].max() < 2e-3


def test_a_bright_curtain_is_no_hole(tmp_path, source):
    class Unsure(BoxRoomEngine):
        def predict(self, *args, **kwargs):
            room = super().predict(*args, **kwargs)
            room["sky"][20:30, 40:60] = 0.78
            room["sky"][:10] = 0.9
            room["sky"][2:6, 30:40] = 0.99
            return room

    extract(source, tmp_path / "out", Settings(), engine=Unsure())
    depth = maps.load(tmp_path / "out")["depth"]
    assert (depth[:18] == 0).all()
    assert (depth[36:] > 0).all()


def test_a_smaller_size_and_fewer_maps(tmp_path, source):
    report = run(source, tmp_path / "out", size=128, maps=("albedo", "depth"))
    assert report["size"] == [128, 64]
    assert not any("128 x 64" in warning for warning in report["warnings"])
    assert set(maps.load(tmp_path / "out")) == {"albedo", "depth", "panorama"}


def test_emission_alone_is_that_of_the_whole_set(tmp_path, source):
    class Frugal(BoxRoomEngine):
        def predict(self, panorama, maps, *rest):
            room = super().predict(panorama, maps, *rest)
            return {name: room[name] for name in (*maps, "sky")}

    alone, whole = (
        extract(source, tmp_path / "out", Settings(maps=names), engine=Frugal())
        and maps.load(tmp_path / "out", ("emission",))["emission"]
        for names in (("emission",), maps.DEFAULT_MAPS)
    )
    np.testing.assert_array_equal(alone, whole)


def test_a_source_that_vanishes_gives_a_sentence(tmp_path, source, monkeypatch):
    read = images.read_panorama

    def read_and_lose(*given):
        result = read(*given)
        source.unlink()
        return result

    monkeypatch.setattr(images, "read_panorama", read_and_lose)
    with pytest.raises(OmnixError, match=f"{source.name} cannot be read"):
        run(source, tmp_path / "out")


def test_a_larger_size_than_the_source_is_not_invented(tmp_path, source):
    report = run(source, tmp_path / "out", size=1024)
    assert report["size"] == [256, 128]
    assert any("not made larger" in warning for warning in report["warnings"])


@pytest.mark.parametrize("link", [False, True])
def test_a_set_is_not_replaced_by_maps_of_its_own_panorama(tmp_path, source, link):
    run(source, tmp_path / "maps")
    panorama = tmp_path / "maps" / "panorama.png"
    before = panorama.read_bytes()
    if link:
        panorama = tmp_path / "link.png"
        panorama.symlink_to(tmp_path / "maps" / "panorama.png")
    with pytest.raises(OmnixError, match="belongs to the map set"):
        run(panorama, tmp_path / "maps", size=64)
    assert panorama.read_bytes() == before
    run(panorama, tmp_path / "other")


def test_what_the_engine_warns_of_is_in_the_report(tmp_path, source):
    class Modest(BoxRoomEngine):
        def warnings(self, maps):
            return [f"The {name} map is a guess." for name in maps]

    report = extract(source, tmp_path / "out", Settings(maps=("depth",)), engine=Modest())
    assert "The depth map is a guess." in report["warnings"]


def test_what_the_maps_themselves_show_to_be_wrong_is_told(tmp_path, source):
    class Sideways(BoxRoomEngine):
        def predict(self, *arguments, **named):
            prediction = super().predict(*arguments, **named)
            prediction["normal"] = np.zeros_like(prediction["normal"])
            prediction["normal"][..., 0] = 1.0
            return prediction

    report = extract(source, tmp_path / "out", engine=Sideways())
    failed = {check["name"]: check["message"] for check in report["checks"] if not check["passed"]}
    assert "normal_floor" in failed
    assert set(failed.values()) <= set(report["warnings"])
    assert any(note.startswith("No level floor was found") for note in report["warnings"])


def test_the_report_names_the_source_wherever_one_stands(tmp_path, source, monkeypatch):
    monkeypatch.chdir(tmp_path)
    report = extract(source.name, "out", engine=BoxRoomEngine())
    assert report["source"]["path"] == str(tmp_path / source.name)


@pytest.mark.parametrize("name", ["normal", "depth"])
def test_a_map_that_is_no_number_is_refused(tmp_path, source, name):
    """Finishing would make it look sound: no direction is one that faces the viewer."""

    class Overflown(BoxRoomEngine):
        def predict(self, *arguments, **named):
            prediction = super().predict(*arguments, **named)
            prediction[name] = prediction[name].copy()
            prediction[name][0, 0] = np.nan
            return prediction

    with pytest.raises(OmnixError, match=f"gave no numbers for {name}"):
        extract(source, tmp_path / "out", engine=Overflown())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("exposure", [-1.0, 1.0])
def test_what_emits_in_a_picture_does_not_depend_on_the_exposure(tmp_path, exposure):
    from PIL import Image

    picture = (box_room(128)["picture"] * 255).astype(np.uint8)
    picture[20:30, 40:60], picture[20:30, 140:160] = 255, 237  # clipped, and bright
    Image.fromarray(picture).save(tmp_path / "room.png")
    found = []
    for stops in (0.0, exposure):
        run(tmp_path / "room.png", tmp_path / "out", exposure=stops)
        found.append(maps.load(tmp_path / "out", ("emission",))["emission"])
    assert found[0][22:28, 44:56].min() > 0.9
    assert found[0][22:28, 144:156].max() == 0.0
    np.testing.assert_array_equal(*found)


def test_a_picture_of_limited_range_in_a_float_file_emits_where_it_is_clipped(tmp_path):
    picture = box_room(128)["picture"]
    picture[20:30, 40:60] = 1.0
    images.write(tmp_path / "room.exr", picture, "float")
    run(tmp_path / "room.exr", tmp_path / "out")
    assert maps.load(tmp_path / "out", ("emission",))["emission"][22:28, 44:56].min() > 0.9


@pytest.mark.parametrize("unit", [1e-5, 1.0])
def test_lamps_emit_in_whatever_unit_radiance_is(tmp_path, unit):
    radiance = box_room(128)["picture"] * 0.3
    radiance[20:24, 40:44] = np.linspace(2e3, 8e3, 16).reshape(4, 4, 1)
    images.write(tmp_path / "room.exr", radiance * unit, "float")
    run(tmp_path / "room.exr", tmp_path / "out")
    lamp = maps.load(tmp_path / "out", ("emission",))["emission"][20:24, 40:44]
    np.testing.assert_allclose(lamp, radiance[20:24, 40:44] * unit, rtol=1e-4)


def test_what_is_black_or_white_at_an_exposure_is_told_or_refused(tmp_path, source):
    with pytest.raises(OmnixError, match="is all black and white at this exposure"):
        run(source, tmp_path / "out", exposure=20.0)
    radiance = np.zeros((64, 128, 3), np.float32)
    radiance[30, 60] = 1.0
    images.write(tmp_path / "spark.exr", radiance, "float")
    report = run(tmp_path / "spark.exr", tmp_path / "out")
    assert any("% of the picture are black or white" in note for note in report["warnings"])


def test_a_picture_is_shown_to_the_engine_as_it_is(tmp_path):
    picture = np.float32(0.5) * box_room(128)["picture"]
    images.write(tmp_path / "room.png", picture, "uint8")
    report = run(tmp_path / "room.png", tmp_path / "out")
    assert report["source"]["exposure_stops"] == 0.0
    shown = maps.load(tmp_path / "out", ("panorama",))["panorama"]
    np.testing.assert_allclose(shown, picture, atol=1.5 / 255)


def test_the_engine_gets_the_seed(tmp_path, source):
    class Random(BoxRoomEngine):
        def predict(self, panorama, maps, progress, cancelled, seed=0):
            given.append(seed)
            return super().predict(panorama, maps, progress, cancelled, seed)

    given = []
    extract(source, tmp_path / "out", Settings(maps=("depth",), seed=7), engine=Random())
    assert given == [7]


def test_noise_in_depth_is_smoothed_along_the_planes(tmp_path, source):
    class Noisy(BoxRoomEngine):
        def predict(self, *arguments, **named):
            room = super().predict(*arguments, **named)
            noise = np.random.default_rng(0).normal(1.0, 0.05, room["depth"].shape)
            room["depth"] = room["depth"] * noise.astype(np.float32)
            return room

    settings = Settings(maps=("depth",), size=128)
    extract(source, tmp_path / "out", settings, engine=Noisy())
    depth = maps.load(tmp_path / "out")["depth"]
    assert np.median(np.abs(depth / box_room(64)["depth"] - 1.0)) < 0.015


def test_what_is_checked_of_large_maps_is_no_average(tmp_path, monkeypatch):
    class Windows(BoxRoomEngine):
        def predict(self, *arguments, **named):
            room = super().predict(*arguments, **named)
            room["sky"][20:40, ::8] = 1.0
            return room

    def spy(small, panorama):
        seen.update(small)
        return check(small, panorama)

    seen, check = {}, checks.check
    monkeypatch.setattr(checks, "check", spy)
    images.write(tmp_path / "room.exr", box_room(544)["picture"] * 3, "float")
    settings = Settings(maps=("normal", "depth"))
    report = extract(tmp_path / "room.exr", tmp_path / "out", settings, engine=Windows())
    assert all(check["passed"] for check in report["checks"])
    assert seen["depth"].shape == (512, 1024)
    assert (seen["depth"] == 0).any()
    assert np.isin(seen["depth"], maps.load(tmp_path / "out", ("depth",))["depth"]).all()
    np.testing.assert_allclose(np.linalg.norm(seen["normal"], axis=-1), 1.0, atol=1e-5)


def test_a_map_the_engine_cannot_make_is_refused(tmp_path, source):
    with pytest.raises(OmnixError, match="makes no semantic map"):
        run(source, tmp_path / "out", maps=("albedo", "semantic"))
    assert not (tmp_path / "out").exists()


def test_cancelling_at_any_stage_leaves_nothing(tmp_path, source):
    images.write(source, box_room(32)["picture"] * 3, "float")
    stages = []
    run_through = extract(
        source,
        tmp_path / "whole",
        engine=BoxRoomEngine(),
        progress=lambda stage, _fraction: stages.append(stage),
    )
    assert run_through["seconds"].keys() >= {"Reading", "Upsampling", "Saving", "Checking"}
    for stop in range(len(stages)):
        seen = []
        with pytest.raises(Cancelled):
            extract(
                source,
                tmp_path / "out",
                engine=BoxRoomEngine(),
                progress=lambda stage, _fraction, seen=seen: seen.append(stage),
                cancelled=lambda seen=seen, stop=stop: len(seen) > stop,
            )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["room.exr", "whole"]


def test_progress_only_rises(tmp_path, source):
    fractions = []
    extract(
        source,
        tmp_path / "out",
        engine=BoxRoomEngine(),
        progress=lambda _stage, fraction: fractions.append(fraction),
    )
    assert fractions == sorted(fractions)
    assert fractions[0] == 0.0
    assert fractions[-1] <= 1.0


def test_loading_has_its_share_of_the_progress(tmp_path, source):
    class Slow(BoxRoomEngine):
        def load(self, progress):
            for part in (0.0, 0.5, 1.0):
                progress("Loading", part)

    told = []
    extract(source, tmp_path / "out", engine=Slow(), progress=lambda *event: told.append(event))
    first, middle, last = (fraction for stage, fraction in told if stage == "Loading")
    assert first < middle < last


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"maps": ()}, "No map is chosen"),
        ({"maps": ("albedo", "shine")}, "no map called shine"),
        ({"size": 101}, "not an even width"),
        ({"size": 20000}, "not an even width"),
        ({"camera_height": 0.0}, "camera height"),
        ({"exposure": 99.0}, "exposure"),
        ({"seed": 2**64}, "seed"),
    ],
)
def test_settings_out_of_range_are_named(wrong, words):
    with pytest.raises(OmnixError, match=words):
        Settings(**wrong)


def test_exposure_brightens_what_the_engine_sees(tmp_path, source):
    means = []
    for stops in (-2.0, 0.0, 2.0):
        run(source, tmp_path / "out", exposure=stops)
        means.append(maps.load(tmp_path / "out", ("panorama",))["panorama"].mean())
    assert means[0] < means[1] < means[2]
