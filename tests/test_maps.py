# SPDX-License-Identifier: GPL-3.0-or-later
"""The map set: round trip, atomic replacement, refusals."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from blender_omnix import maps
from blender_omnix.errors import OmnixError
from tests.fakes import box_room

REPORT = {"engine": "test", "warnings": []}


@pytest.fixture
def room():
    arrays = box_room(32)
    arrays["panorama"] = arrays.pop("picture")
    arrays["emission"] = np.full((32, 64, 3), 70000.0, np.float32)
    return arrays


@pytest.mark.parametrize(
    "wrong",
    [
        {"settings": None},
        {"source": None},
        {"source": {"path": 5}},
        {"settings": {"camera_height": "high"}},
        {"warnings": "none"},
    ],
)
def test_a_report_of_another_shape_is_told(tmp_path, room, wrong):
    maps.save(tmp_path / "set", room, REPORT | wrong)
    with pytest.raises(OmnixError, match=r"report\.json is damaged; extract the panorama again"):
        maps.read_report(tmp_path / "set")


def test_round_trip_keeps_every_map(tmp_path, room):
    room["depth"][:4] = 0.0
    maps.save(tmp_path / "set", room, REPORT)
    loaded = maps.load(tmp_path / "set")
    tolerance = {
        "albedo": 1 / 255,
        "panorama": 1 / 255,
        "normal": 2e-3,
        "roughness": 1e-4,
        "metallic": 1e-4,
        "depth": 0.0,
        "emission": 0.0,
    }
    assert set(loaded) == set(tolerance)
    for name, limit in tolerance.items():
        assert np.abs(loaded[name] - room[name]).max() <= limit, name
    assert (tmp_path / "set" / maps.PREVIEW).is_file()
    report = maps.read_report(tmp_path / "set")
    assert set(report.pop("files")) == {spec.filename for spec in maps.MAPS.values()} - {
        "semantic.png"
    }
    assert report == REPORT


def test_a_set_that_a_dead_process_moved_away_comes_back_before_the_next_is_written(tmp_path, room):
    folder = tmp_path / "set"
    maps.save(folder, room, REPORT)
    (folder / "notes.txt").write_text("mine")
    folder.rename(tmp_path / ".set.0123abcd.earlier")
    maps.save(folder, {"albedo": room["albedo"]}, REPORT)
    assert (folder / "notes.txt").read_text() == "mine"
    assert set(maps.map_files(folder)) == {"albedo"}
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_map_that_was_changed_is_known(tmp_path, room):
    maps.save(tmp_path / "set", room, REPORT)
    file = tmp_path / "set" / "albedo.png"
    report = maps.read_report(tmp_path / "set")
    os.utime(file, (1e9, 1e9))  # a copy
    assert not maps.was_changed(file, report)
    file.write_bytes(file.read_bytes() + b"\0")
    assert maps.was_changed(file, report)
    assert not maps.was_changed(file, REPORT)  # of a set that does not say


def test_nothing_but_the_set_is_left_beside_it(tmp_path, room):
    maps.save(tmp_path / "set", room, REPORT)
    maps.save(tmp_path / "set", room, REPORT)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_crash_leaves_the_earlier_set_bit_for_bit(tmp_path, room):
    folder = tmp_path / "set"
    maps.save(folder, room, REPORT)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(RuntimeError), maps.MapSetWriter(folder) as writer:
        writer.write("albedo", room["albedo"] * 0)
        raise RuntimeError
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_set_that_cannot_be_put_in_place_brings_the_earlier_one_back(tmp_path, room, monkeypatch):
    folder = tmp_path / "set"
    maps.save(folder, room, REPORT)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    replace = os.replace

    def refuse(old, new):
        if Path(old).suffix == ".partial":
            raise OSError(28, "No space left on device")
        replace(old, new)

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OmnixError, match="No space left"):
        maps.save(folder, {"albedo": room["albedo"]}, REPORT)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_map_that_was_changed_meanwhile_is_not_replaced(tmp_path, room):
    folder = tmp_path / "set"
    maps.save(folder, room, REPORT)
    standing = maps.times(folder)
    mine = folder / "albedo.png"
    mine.write_bytes(mine.read_bytes() + b"\0")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with (
        pytest.raises(OmnixError, match=r"The albedo in .* changed") as told,
        maps.MapSetWriter(folder) as writer,
    ):
        writer.write("depth", room["depth"])
        writer.publish(REPORT, standing)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    (beside,) = (path for path in tmp_path.iterdir() if path != folder)
    assert str(beside) in str(told.value)
    assert maps.is_map_set(beside) and set(maps.map_files(beside)) == {"depth"}


@pytest.mark.parametrize("name", ["depth", "albedo"])
def test_a_map_that_is_cut_short_is_refused(tmp_path, room, name):
    maps.save(tmp_path / "set", room, REPORT)
    file = maps.map_files(tmp_path / "set")[name]
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(OmnixError, match=f"{file.name} is truncated or damaged; extract"):
        maps.load(tmp_path / "set")


def test_replacing_keeps_the_users_own_files_and_drops_stale_maps(tmp_path, room):
    folder = tmp_path / "set"
    maps.save(folder, room, REPORT)
    (folder / "notes.txt").write_text("mine")
    maps.save(folder, {"albedo": room["albedo"]}, REPORT)
    assert (folder / "notes.txt").read_text() == "mine"
    assert set(maps.map_files(folder)) == {"albedo"}


def test_a_folder_of_other_things_is_refused_and_not_touched(tmp_path, room):
    (tmp_path / "holiday.jpg").write_bytes(b"beach")
    with pytest.raises(OmnixError, match="not empty and holds no map set"):
        maps.save(tmp_path, room, REPORT)
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.jpg"]


def test_a_report_of_another_program_makes_no_map_set(tmp_path, room):
    (tmp_path / "report.json").write_text('{"tests": 12}')
    (tmp_path / "holiday.jpg").write_bytes(b"beach")
    with pytest.raises(OmnixError, match="not empty and holds no map set"):
        maps.save(tmp_path, room, REPORT)
    assert (tmp_path / "report.json").read_text() == '{"tests": 12}'
    assert len(list(tmp_path.iterdir())) == 2


def test_what_is_put_into_the_folder_meanwhile_stays(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    with pytest.raises(OmnixError, match="not empty"), maps.MapSetWriter(folder) as writer:
        (folder / "holiday.jpg").write_bytes(b"beach")
        writer.publish(REPORT)
    assert [path.name for path in folder.iterdir()] == ["holiday.jpg"]
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_folder_whose_name_is_not_text_is_refused(tmp_path):
    with pytest.raises(OmnixError, match=r"maps\\udcff has a name that is not valid UTF-8"):
        maps.refuse_unless_writable(tmp_path / "maps\udcff")


def test_a_file_in_the_folders_place_is_refused(tmp_path, room):
    (tmp_path / "set").write_text("a file")
    with pytest.raises(OmnixError, match="is a file; choose a folder"):
        maps.save(tmp_path / "set", room, REPORT)


def test_a_folder_that_vanishes_meanwhile_gives_a_sentence(tmp_path, room):
    import shutil

    (tmp_path / "parent").mkdir()
    with (
        pytest.raises(OmnixError, match="cannot be written to"),
        maps.MapSetWriter(tmp_path / "parent" / "set") as writer,
    ):
        shutil.rmtree(tmp_path / "parent")
        writer.write("albedo", room["albedo"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda room: room.update(depth=room["depth"][:, :-1]), "not 2:1"),
        (lambda room: room["albedo"].__setitem__((0, 0, 0), np.nan), "not finite"),
        (lambda room: room.update(normal=room["normal"] * 0.5), "not of unit length"),
        (lambda room: room.update(roughness=room["roughness"] + 1), "roughness runs from"),
        (lambda room: room.update(metallic=box_room(16)["metallic"]), "differ in size"),
        (lambda room: room.update(depth=room["normal"]), "wanted 1 channel"),
    ],
)
def test_arrays_that_break_the_contract_are_not_saved(tmp_path, room, change, words):
    change(room)
    with pytest.raises(ValueError, match=words):
        maps.save(tmp_path / "set", room, REPORT)
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    ("text", "words"), [("", "damaged"), ("[1]", "not a report"), (None, "not a map set")]
)
def test_folders_without_a_sound_report_are_named(tmp_path, text, words):
    if text is not None:
        (tmp_path / maps.REPORT).write_text(text)
    with pytest.raises(OmnixError, match=words):
        maps.load(tmp_path)


def test_of_a_link_the_folder_behind_it_is_replaced(tmp_path, room):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there")
    for _ in range(2):
        maps.save(tmp_path / "link", room, REPORT)
        assert (tmp_path / "link").is_symlink()
        assert maps.is_map_set(tmp_path / "there")
        (tmp_path / "there" / "notes.txt").write_text("mine")
    assert {path.name for path in tmp_path.iterdir()} == {"link", "there"}


def test_the_root_of_a_disk_is_refused_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(os.path, "ismount", lambda path: path == tmp_path)
    with pytest.raises(OmnixError, match="is the root of a disk"):
        maps.MapSetWriter(tmp_path).__enter__()


def test_the_current_folder_is_refused_before_the_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in (".", "", tmp_path):
        with pytest.raises(OmnixError, match=r"is the current folder, .* choose a folder inside"):
            maps.MapSetWriter(folder).__enter__()


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps a folder that somebody stands in")
def test_a_current_folder_that_is_gone_is_told(tmp_path, room, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(OmnixError, match="set cannot be found, for the current folder is gone"):
        maps.MapSetWriter("set")
    maps.save(tmp_path / "set", room, REPORT)
    maps.save(tmp_path / "set", room, REPORT)


def test_a_file_of_the_users_that_does_not_move_is_told_of(tmp_path, room, monkeypatch):
    folder = tmp_path / "set"
    maps.save(folder, room, REPORT)
    (folder / "notes.txt").write_text("mine")
    replace = os.replace

    def stuck(path, target):
        if Path(path).name == "notes.txt":
            raise PermissionError(13, "Permission denied")
        return replace(path, target)

    monkeypatch.setattr(os, "replace", stuck)
    with pytest.raises(OmnixError, match=r"your own notes\.txt stayed in"):
        maps.save(folder, room, REPORT)
    assert maps.is_map_set(folder)
    assert [path.read_text() for path in tmp_path.glob(".set.*.earlier/notes.txt")] == ["mine"]


@pytest.mark.parametrize("refusals", [2, 9])
def test_a_set_that_somebody_looks_at_is_put_in_place_once_he_is_through(
    tmp_path, room, monkeypatch, refusals
):
    # As Windows does while a virus scanner reads what was just written.
    left = iter([True] * refusals)
    replace = os.replace

    def refuse(old, new):
        if next(left, False):
            raise PermissionError(13, "Access is denied", str(old))
        replace(old, new)

    monkeypatch.setattr(maps, "_TRIES", 5)
    monkeypatch.setattr(maps, "_PAUSE", 0.0)
    monkeypatch.setattr(os, "replace", refuse)
    if refusals < 5:
        maps.save(tmp_path / "set", room, REPORT)
        assert maps.is_map_set(tmp_path / "set")
    else:
        with pytest.raises(OmnixError, match="Access is denied"):
            maps.save(tmp_path / "set", room, REPORT)


def test_what_systems_leave_in_a_folder_does_not_occupy_it(tmp_path, room):
    (tmp_path / ".DS_Store").write_bytes(b"")
    (tmp_path / "Thumbs.db").write_bytes(b"")
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "desktop.ini").write_text("-")
    maps.save(folder, room, REPORT)
    assert maps.is_map_set(folder) and (folder / "desktop.ini").exists()
    (tmp_path / "notes.txt").write_text("-")
    with pytest.raises(OmnixError, match="not empty"):
        maps.refuse_unless_writable(tmp_path)
