# SPDX-License-Identifier: GPL-3.0-or-later
"""Extract PBR from Panorama and its companions, as a script uses them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from blender_omnix import maps
from tests import pictures

from . import conftest
from .test_host_source import TURN, make_world, write_image

pytestmark = pytest.mark.blender

ROOT = Path(__file__).parents[1]


@pytest.fixture
def panorama(blender, tmp_path):
    return write_varied_png(blender, tmp_path / "hall.png")


def write_varied_png(bpy, path):
    """A panorama that is not constant, which would be refused."""
    image = bpy.data.images.new("Varied", 128, 64)
    pixels = np.random.default_rng(0).random(128 * 64 * 4, np.float32)
    image.pixels.foreach_set(pixels)
    image.filepath_raw, image.file_format = str(path), "PNG"
    image.save()
    bpy.data.images.remove(image)
    return path


def datablocks(bpy):
    """Names of all that a file holds, by collection of bpy.data."""
    kinds = (p.identifier for p in bpy.data.bl_rna.properties if p.type == "COLLECTION")
    return {kind: sorted(item.name for item in getattr(bpy.data, kind)) for kind in kinds}


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_file_becomes_maps_and_a_place(blender, fake_worker, panorama, tmp_path):
    out = tmp_path / "maps"
    result = blender.ops.omnix.extract_pbr(
        filepath=str(panorama),
        directory=str(out),
        maps={"depth", "normal"},
        exposure=0.5,
        camera_height=2.0,
    )
    assert result == {"FINISHED"}
    assert set(maps.map_files(out)) == {"depth", "normal", "panorama"}
    report = maps.read_report(out)
    assert report["settings"]["exposure"] == 0.5
    assert report["settings"]["camera_height"] == 2.0
    assert blender.context.scene.omnix.folder == str(out)
    collection = blender.data.collections["OmniX hall"]
    assert any(item.type == "MESH" for item in collection.all_objects)


def test_maps_alone_leave_the_scene_as_it_is(blender, fake_worker, panorama, tmp_path):
    before = datablocks(blender)
    blender.ops.omnix.extract_pbr(
        filepath=str(panorama), directory=str(tmp_path / "maps"), build=False
    )
    assert datablocks(blender) == before
    assert maps.is_map_set(tmp_path / "maps")


def test_the_result_is_one_undo_step(blender, fake_worker, panorama, tmp_path):
    blender.data.objects.new("Mine", None)
    blender.ops.ed.undo_push(message="Before")
    before = datablocks(blender)
    # Scripts make undo steps only where they ask for it.
    blender.ops.omnix.extract_pbr(
        "EXEC_DEFAULT", True, filepath=str(panorama), directory=str(tmp_path / "maps")
    )
    assert datablocks(blender) != before
    blender.ops.ed.undo()
    assert datablocks(blender) == before
    assert blender.context.scene.omnix.folder == ""


def test_twice_replaces_the_place(blender, fake_worker, panorama, tmp_path):
    arguments = {"filepath": str(panorama), "directory": str(tmp_path / "maps")}
    blender.ops.omnix.extract_pbr(**arguments)
    before = datablocks(blender)
    blender.ops.omnix.extract_pbr(**arguments)
    assert datablocks(blender) == before


def test_a_new_extraction_tells_of_the_map_shown_that_it_lacks(
    blender, fake_worker, host, panorama, tmp_path, capfd
):
    arguments = {"filepath": str(panorama), "directory": str(tmp_path / "maps")}
    blender.ops.omnix.extract_pbr(**arguments)
    blender.ops.omnix.show_map(map="albedo")
    capfd.readouterr()
    blender.ops.omnix.extract_pbr(**arguments, maps={"depth"})
    assert host("build.place").shown_map(blender.data.collections["OmniX hall"]) is None
    # At the end of the job's own message, which the window shows.
    said = capfd.readouterr().out
    assert re.search(r"Maps are in .* showed its albedo map, which the new maps lack", said)


def test_invoked_without_a_window_it_runs_to_the_end(blender, fake_worker, panorama, tmp_path):
    result = blender.ops.omnix.extract_pbr(
        "INVOKE_DEFAULT", filepath=str(panorama), directory=str(tmp_path / "maps")
    )
    assert result == {"FINISHED"}
    assert maps.is_map_set(tmp_path / "maps")


def test_the_worlds_panorama_turned_and_packed(blender, fake_worker, panorama, tmp_path):
    from mathutils import Euler

    image = blender.data.images.load(str(panorama))
    image.pack()
    panorama.unlink()
    _world, nodes = make_world(blender, image)
    nodes["mapping"].inputs["Rotation"].default_value = TURN
    nodes["background"].inputs["Strength"].default_value = 2.0

    blender.ops.omnix.extract_pbr(directory=str(tmp_path / "maps"), camera_height=1.7)

    (root,) = (o for o in blender.data.collections["OmniX hall"].objects if o.type == "EMPTY")
    np.testing.assert_allclose(
        root.rotation_euler.to_matrix(), Euler(TURN).to_matrix().inverted(), atol=1e-6
    )
    assert root.location.z == pytest.approx(1.7)
    # It goes on following.
    nodes["mapping"].inputs["Rotation"].default_value = (0.0, 0.0, 0.5)
    blender.context.view_layer.update()
    assert root.matrix_world.to_euler().z == pytest.approx(-0.5)
    assert image.name in blender.data.images
    # The file that was written for the worker has served.
    written = Path(maps.read_report(tmp_path / "maps")["source"]["path"])
    assert not written.exists()


def test_maps_go_beside_a_saved_file(blender, fake_worker, panorama, tmp_path):
    project = tmp_path / "Plätze für alle"
    project.mkdir()
    blender.ops.wm.save_as_mainfile(filepath=str(project / "place.blend"))
    blender.ops.omnix.extract_pbr(filepath=str(panorama))
    assert maps.is_map_set(project / "omnix" / "hall")


def test_maps_of_an_unsaved_file_can_be_moved_beside_it(
    blender, host, fake_worker, panorama, tmp_path, capfd
):
    blender.ops.omnix.extract_pbr(filepath=str(panorama))
    assert (
        "which goes when the extension is uninstalled; save the file and use Move Maps Next to "
        ".blend" in capfd.readouterr().out
    )
    first = Path(blender.context.scene.omnix.folder)
    assert first.is_relative_to(os.environ["BLENDER_USER_RESOURCES"])
    assert not blender.ops.omnix.move_maps.poll()

    blender.ops.wm.save_as_mainfile(filepath=str(tmp_path / "place.blend"))
    blender.ops.scene.new(type="LINK_COPY")
    assert blender.ops.omnix.move_maps() == {"FINISHED"}

    there = tmp_path / "omnix" / "hall"
    assert maps.is_map_set(there)
    for scene in blender.data.scenes:
        assert Path(blender.path.abspath(scene.omnix.folder)).samefile(there)
    files = {Path(blender.path.abspath(image.filepath)) for image in blender.data.images}
    assert {path.resolve() for path in files} == {*maps.map_files(there).values(), panorama}
    assert not blender.ops.omnix.move_maps.poll()
    # What is on disk may need them where they were.
    assert maps.is_map_set(first)
    shutil.rmtree(first)


def test_a_move_can_be_undone(blender, host, fake_worker, panorama, tmp_path):
    blender.ops.wm.save_as_mainfile(filepath=str(tmp_path / "place.blend"))
    there = tmp_path / "else" / "hall"
    blender.ops.omnix.extract_pbr(filepath=str(panorama), directory=str(there))
    blender.ops.ed.undo_push(message="Before")
    # Of a set from before reports told of their files.
    report = maps.read_report(there)
    del report["files"]
    (there / "report.json").write_text(json.dumps(report))
    blender.ops.omnix.move_maps("EXEC_DEFAULT", True)
    blender.ops.ed.undo()
    blender.ops.wm.save_mainfile()
    place = host("build.place")
    assert place.folder_of(place.find("hall")) == there
    assert all(Path(blender.path.abspath(i.filepath)).is_file() for i in blender.data.images)
    # And done again, with what was painted meanwhile.
    painted = place.part(place.find("hall"), "map_roughness")
    painted.pixels[0] = 0.25
    worked_on = tmp_path / "omnix" / "hall" / "albedo.png"
    worked_on.write_bytes(b"mine")
    (worked_on.parent / "sketches").mkdir()
    blender.ops.omnix.move_maps()
    assert worked_on.read_bytes() == b"mine"
    assert place.folder_of(place.find("hall")) == tmp_path / "omnix" / "hall"
    assert painted.is_dirty and painted.pixels[0] == pytest.approx(0.25)


def test_maps_are_not_moved_into_themselves(blender, fake_worker, panorama, tmp_path):
    project = tmp_path / "project"
    blender.ops.omnix.extract_pbr(filepath=str(panorama), directory=str(project))
    blender.ops.wm.save_as_mainfile(filepath=str(project / "place.blend"))
    before = sorted(project.iterdir())
    with pytest.raises(RuntimeError, match="lies in the folder of the maps"):
        blender.ops.omnix.move_maps()
    assert sorted(project.iterdir()) == before


def test_moving_refuses_to_overwrite(blender, fake_worker, panorama, tmp_path):
    blender.ops.omnix.extract_pbr(filepath=str(panorama))
    blender.ops.wm.save_as_mainfile(filepath=str(tmp_path / "place.blend"))
    there = tmp_path / "omnix" / "hall"
    there.mkdir(parents=True)
    (there / "mine.txt").write_text("mine")
    with pytest.raises(RuntimeError, match="not empty and holds no map set"):
        blender.ops.omnix.move_maps()
    assert [path.name for path in there.iterdir()] == ["mine.txt"]
    assert maps.is_map_set(blender.context.scene.omnix.folder)


def test_maps_can_be_loaded_again(blender, fake_worker, panorama, tmp_path):
    out = tmp_path / "my maps"
    blender.ops.omnix.extract_pbr(filepath=str(panorama), directory=str(out), build=False)
    blender.ops.omnix.load_maps(directory=str(out))
    assert "OmniX my maps" in blender.data.collections
    with pytest.raises(RuntimeError, match="is not a map set"):
        blender.ops.omnix.load_maps(directory=str(tmp_path))


def test_maps_are_loaded_for_the_place_that_stands_on_them(
    blender, fake_worker, host, panorama, tmp_path
):
    place, out = host("build.place"), tmp_path / "maps"
    blender.ops.omnix.extract_pbr(filepath=str(panorama), directory=str(out), camera_height=2.5)
    root = place.part(place.find("hall"), "root")
    blender.ops.omnix.load_maps(directory=str(out))
    assert [place.name_of(item) for item in place.places()] == ["hall"]
    # As high as the set was made for, unless another height is asked for.
    assert root.location.z == pytest.approx(2.5)
    blender.ops.omnix.load_maps(directory=str(out), camera_height=2.0)
    assert root.location.z == pytest.approx(2.0)
    # Folders that are called alike are of two places.
    for parent in ("one", "two"):
        shutil.copytree(out, tmp_path / parent / "maps")
        blender.ops.omnix.load_maps(directory=str(tmp_path / parent / "maps"))
    blender.ops.omnix.load_maps(directory=str(tmp_path / "one" / "maps"))
    folders = {place.name_of(item): place.folder_of(item) for item in place.places()}
    assert folders == {
        "hall": out,
        "maps": tmp_path / "one" / "maps",
        "maps-2": tmp_path / "two" / "maps",
    }


def test_maps_that_a_place_uses_are_not_left_out(blender, hall, panorama, tmp_path):
    before = content(tmp_path / "maps")
    arguments = {"filepath": str(panorama), "directory": str(tmp_path / "maps")}
    with pytest.raises(RuntimeError, match="built from a depth map"):
        blender.ops.omnix.extract_pbr(**arguments, maps={"albedo"})
    with pytest.raises(RuntimeError, match=r"place hall uses the .*normal.* which would be lost"):
        blender.ops.omnix.extract_pbr(**arguments, maps={"albedo", "depth"}, build=False)
    assert content(tmp_path / "maps") == before
    # A map of one's own from elsewhere is not in the folder.
    mine = write_varied_png(blender, tmp_path / "mine.png")
    blender.ops.omnix.replace_map(map="semantic", filepath=str(mine))
    assert blender.ops.omnix.extract_pbr(**arguments, build=False) == {"FINISHED"}


def test_maps_that_were_changed_are_not_overwritten(blender, hall, host, panorama, tmp_path):
    arguments = {"filepath": str(panorama), "directory": str(tmp_path / "maps")}
    image = host("build.place").part(hall, "map_roughness")
    image.pixels[0] = 0.25
    image.pack()
    with pytest.raises(RuntimeError, match=r"The roughness of the place hall .* changed since"):
        blender.ops.omnix.extract_pbr(**arguments)
    image.unpack(method="REMOVE")
    # A copy has other times and the same content.
    file = tmp_path / "maps" / "albedo.png"
    original = file.read_bytes()
    for each in (tmp_path / "maps").iterdir():
        os.utime(each, (1e9, 1e9))
    blender.ops.omnix.extract_pbr(**arguments)
    write_varied_png(blender, file)
    # It is remembered over what is written meanwhile.
    blender.ops.omnix.extract_map(map="metallic")
    before = content(tmp_path / "maps")
    with pytest.raises(RuntimeError, match=r"The albedo of the place hall .* changed since"):
        blender.ops.omnix.extract_pbr(**arguments, maps={"depth"})
    assert content(tmp_path / "maps") == before
    blender.ops.wm.save_as_mainfile(filepath=str(tmp_path / "place.blend"))
    blender.ops.omnix.move_maps()
    arguments["directory"] = str(tmp_path / "omnix" / "maps")
    with pytest.raises(RuntimeError, match=r"The albedo of the place hall .* changed since"):
        blender.ops.omnix.extract_pbr(**arguments)
    file = tmp_path / "omnix" / "maps" / "albedo.png"
    assert file.read_bytes() != original
    # Copies in their place are the user's own.
    mine = shutil.copy(file, tmp_path / "mine.png")
    blender.ops.omnix.replace_map(map="albedo", filepath=str(mine))
    assert blender.ops.omnix.extract_pbr(**arguments) == {"FINISHED"}


def test_what_was_packed_is_not_lost_to_maps_elsewhere(blender, hall, host, panorama, tmp_path):
    image = host("build.place").part(hall, "map_roughness")
    image.pixels[0] = 0.25
    image.pack()
    with pytest.raises(RuntimeError, match=r"The roughness of the place hall .* changed since"):
        blender.ops.omnix.extract_pbr(filepath=str(panorama), directory=str(tmp_path / "two"))
    assert image.pixels[0] == pytest.approx(0.25, abs=0.003)


def test_maps_that_are_changed_while_a_job_runs_are_not_overwritten(
    blender, hall, host, panorama, tmp_path
):
    folder, place = tmp_path / "maps", host("build.place")
    # One that is there when the job begins; the worker has not looked at it yet.
    started = start(blender, host, panorama, folder)
    write_varied_png(blender, folder / "albedo.png")
    before = content(folder)
    told = conclude(blender, host, started)
    assert f"The albedo in {folder} changed" in told
    assert content(folder) == before
    (beside,) = tmp_path.glob("maps-new-*")
    assert str(beside) in told and maps.is_map_set(beside)
    assert place.folder_of(hall) == folder


@pytest.mark.parametrize("lacking", [False, True])
def test_a_map_that_is_changed_while_it_is_extracted_again_stays(
    blender, hall, host, tmp_path, lacking
):
    renewal, folder = host("renewal"), tmp_path / "maps"
    made = shutil.copytree(folder, tmp_path / "made")
    if lacking:
        (folder / "albedo.png").unlink()
    planned, _, _ = renewal.plan(hall, "albedo")
    planned.scratch.cleanup()
    write_varied_png(blender, folder / "albedo.png")
    before = content(folder)
    with pytest.raises(host("job").OmnixError, match="The albedo map changed while"):
        renewal.put(planned, made)
    assert content(folder) == before


@pytest.mark.parametrize("built", [True, False])
def test_maps_that_were_changed_are_kept_without_a_place(
    blender, fake_worker, panorama, tmp_path, built
):
    arguments = {"filepath": str(panorama), "directory": str(tmp_path / "maps"), "build": built}
    blender.ops.omnix.extract_pbr(**arguments)
    if built:
        blender.ops.omnix.remove_place()
    mine = write_varied_png(blender, tmp_path / "maps" / "albedo.png").read_bytes()
    with pytest.raises(RuntimeError, match=r"The albedo in .* changed since"):
        blender.ops.omnix.extract_pbr(**arguments)
    assert (tmp_path / "maps" / "albedo.png").read_bytes() == mine


def test_a_file_saved_elsewhere_gets_new_maps_there(blender, fake_worker, host, panorama, tmp_path):
    place = host("build.place")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        blender.ops.wm.save_as_mainfile(filepath=str(tmp_path / name / "place.blend"))
        blender.ops.omnix.extract_pbr(filepath=str(panorama))
        (collection,) = place.places()
        assert place.folder_of(collection) == tmp_path / name / "omnix" / "hall"
        assert not place.own_maps(collection)
        shown = Path(blender.path.abspath(place.part(collection, "map_depth").filepath))
        assert shown.parent == tmp_path / name / "omnix" / "hall"
    # A map of one's own stays one, wherever it lies.
    saved = tmp_path / "saved"
    blender.ops.omnix.save_maps(directory=str(saved))
    blender.ops.omnix.replace_map(map="albedo", filepath=str(saved / "albedo.png"))
    (tmp_path / "three").mkdir()
    blender.ops.wm.save_as_mainfile(filepath=str(tmp_path / "three" / "place.blend"))
    blender.ops.omnix.extract_pbr(filepath=str(panorama))
    assert list(place.own_maps(collection)) == ["albedo"]


def test_maps_loaded_by_hand_are_renewed_whatever_their_place_is_called(
    blender, fake_worker, host, tmp_path
):
    place = host("build.place")
    file = write_varied_png(blender, tmp_path / "living room.png")
    blender.ops.wm.save_as_mainfile(filepath=str(tmp_path / "place.blend"))
    blender.ops.omnix.extract_pbr(filepath=str(file), build=False)
    blender.ops.omnix.load_maps(directory=blender.context.scene.omnix.folder)
    for _ in range(2):
        blender.ops.omnix.extract_pbr(filepath=str(file))
        assert [place.name_of(item) for item in place.places()] == ["living_room"]


def test_an_own_map_that_is_gone_is_given_up(blender, hall, host, panorama, tmp_path):
    place = host("build.place")
    mine = write_varied_png(blender, tmp_path / "mine.png")
    blender.ops.omnix.replace_map(map="albedo", filepath=str(mine))
    mine.unlink()
    place.part(hall, "map_albedo").reload()
    arguments = {"filepath": str(panorama), "directory": str(tmp_path / "maps")}
    assert blender.ops.omnix.extract_pbr(**arguments) == {"FINISHED"}
    shown = Path(place.part(hall, "map_albedo").filepath)
    assert shown == tmp_path / "maps" / "albedo.png"


def test_a_new_extraction_keeps_the_users_own_maps(blender, hall, host, panorama, tmp_path, capfd):
    place = host("build.place")
    mine = write_varied_png(blender, tmp_path / "mine.png")
    blender.ops.omnix.replace_map(map="albedo", filepath=str(mine))
    painted = place.part(hall, "map_roughness")
    painted.pixels[0] = 0.25
    blender.ops.omnix.show_map(map="albedo")
    count = len(blender.data.images)
    capfd.readouterr()
    blender.ops.omnix.extract_pbr(filepath=str(panorama), directory=str(tmp_path / "maps"))
    assert "keeps your own albedo, roughness;" in capfd.readouterr().out
    assert len(blender.data.images) == count
    assert Path(place.part(hall, "map_albedo").filepath) == mine
    assert place.shown_map(hall) == "albedo"
    assert place.part(hall, "map_roughness") == painted
    assert painted.pixels[0] == pytest.approx(0.25)
    # They are given up one by one.
    blender.ops.omnix.extract_map(map="roughness")
    assert place.part(hall, "map_roughness").pixels[0] != pytest.approx(0.25)
    assert list(place.own_maps(hall)) == ["albedo"]


@pytest.mark.parametrize("build", [True, False])
@pytest.mark.parametrize("operator", ["extract_pbr", "load_maps"])
def test_maps_that_were_packed_and_unpacked_are_renewed(
    blender, hall, host, tmp_path, operator, build
):
    place = host("build.place")
    blender.ops.wm.save_as_mainfile(filepath=str(tmp_path / "place.blend"))
    for image in place.images_of(hall).values():
        image.pack()
    blender.ops.file.unpack_all(method="USE_LOCAL")
    images = place.images_of(hall).values()
    assert {image.filepath for image in images} >= {"//textures/albedo.png", "//textures/depth.exr"}
    assert not place.own_maps(hall)
    saved = tmp_path / "saved"
    blender.ops.omnix.save_maps(directory=str(saved))
    assert json.loads((saved / maps.REPORT).read_text("utf-8"))["replaced"] == {}
    # Another file there, and one that was painted, are the user's.
    write_varied_png(blender, tmp_path / "textures" / "roughness.png")
    place.part(hall, "map_metallic").pixels[0] = 0.25
    assert list(place.own_maps(hall)) == ["roughness", "metallic"]

    given = {"filepath": str(tmp_path / "hall.png")} if operator == "extract_pbr" else {}
    getattr(blender.ops.omnix, operator)(directory=str(tmp_path / "maps"), build=build, **given)
    own = {"roughness", "metallic"}
    assert set(place.own_maps(hall)) == own
    for name, image in place.images_of(hall).items():
        folder = tmp_path / ("textures" if name in own else "maps")
        assert Path(blender.path.abspath(image.filepath)).parent == folder, name


# One map again.


@pytest.fixture
def hall(blender, fake_worker, panorama, tmp_path, monkeypatch):
    """The place of `panorama`, its maps in `tmp_path / "maps"`; no scratch file may stay."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    blender.ops.omnix.extract_pbr(
        filepath=str(panorama), directory=str(tmp_path / "maps"), exposure=0.5
    )
    yield blender.data.collections["OmniX hall"]
    assert list(scratch.iterdir()) == []


def test_one_map_is_extracted_again(blender, hall, host, tmp_path):
    place, out = host("build.place"), tmp_path / "maps"
    # The map was edited on disk, and the place has been shown a file of the user's, and another.
    earlier, before = content(out), datablocks(blender)
    write_varied_png(blender, out / "albedo.png")
    mine = write_varied_png(blender, tmp_path / "mine.png")
    blender.ops.omnix.replace_map(map="albedo", filepath=str(mine))
    blender.ops.omnix.replace_map(map="roughness", filepath=str(mine))
    assert blender.ops.omnix.extract_map(map="albedo") == {"FINISHED"}
    after = content(out)
    old, new = json.loads(earlier.pop("report.json")), json.loads(after.pop("report.json"))
    assert after == earlier
    files = [report["files"].pop("albedo.png") for report in (old, new)]
    assert files[0]["sha256"] == files[1]["sha256"]
    renewed = new.pop("renewed")["albedo"]
    assert new == old
    assert renewed["settings"] == old["settings"] | {"maps": ["albedo"]}
    assert Path(place.part(hall, "map_albedo").filepath) == out / "albedo.png"
    assert Path(place.part(hall, "map_roughness").filepath) == mine
    assert datablocks(blender) == before
    written = pictures.read(blender, out / "albedo.png")
    shown = np.empty_like(written)
    place.part(hall, "map_albedo").pixels.foreach_get(shown.ravel())
    np.testing.assert_array_equal(shown[::-1], written)


def test_the_contact_sheet_shows_the_set_with_the_map_extracted_again(blender, hall, tmp_path):
    out = tmp_path / "maps"
    # What is in the set counts: a map edited there, one that is gone, but none that the place shows
    # from elsewhere. And the sheet is another's.
    write_varied_png(blender, out / "roughness.png")
    (out / "metallic.png").unlink()
    mine = write_varied_png(blender, tmp_path / "mine.png")
    blender.ops.omnix.replace_map(map="panorama", filepath=str(mine))
    (out / "albedo.png").write_bytes((out / "panorama.png").read_bytes())
    write_varied_png(blender, out / maps.PREVIEW)

    assert blender.ops.omnix.extract_map(map="albedo") == {"FINISHED"}

    names = ["albedo", "normal", "roughness", "depth", "emission", "panorama"]
    assert list(maps.map_files(out)) == names
    # Two columns of 512 x 256 under a label of 22 pixels.
    sheet = pictures.read(blender, out / maps.PREVIEW)
    assert sheet.shape[:2] == (3 * 278, 2 * 512)
    for name in ("albedo", "roughness", "panorama"):
        row, column = divmod(names.index(name), 2)
        tile = sheet[row * 278 + 22 : (row + 1) * 278, column * 512 : (column + 1) * 512]
        wanted = pictures.read(blender, out / maps.MAPS[name].filename)[..., :3]
        if name == "roughness":
            wanted = wanted[..., :1]
        assert np.abs(tile[2::4, 2::4, :3] - wanted).max() < 1e-3, name


def test_a_map_is_extracted_again_with_the_recorded_options(
    blender, hall, host, tmp_path, monkeypatch
):
    operators = host("operators")
    recorded = maps.read_report(tmp_path / "maps")["settings"]["options"]
    usual = operators.engine_options
    preferences = {"weights": "", "device": "", "height": 64, "fp8": True}
    monkeypatch.setattr(
        operators, "engine_options", lambda *arguments: usual(*arguments) | preferences
    )
    blender.ops.omnix.extract_map(map="albedo")
    renewed = maps.read_report(tmp_path / "maps")["renewed"]["albedo"]
    assert renewed["settings"]["options"] == recorded


def test_a_relative_path_stays_so(blender, hall, host, tmp_path):
    blender.ops.wm.save_as_mainfile(filepath=str(tmp_path / "place.blend"))
    hall = blender.data.collections["OmniX hall"]
    place = host("build.place")
    place.part(hall, "map_albedo").filepath = "//maps/albedo.png"
    blender.ops.omnix.extract_map(map="albedo")
    assert place.part(hall, "map_albedo").filepath == "//maps/albedo.png"


def test_a_new_extraction_leaves_a_place_turned_as_the_user_has_turned_it(
    blender, fake_worker, panorama, tmp_path
):
    make_world(blender, blender.data.images.load(str(panorama)))
    blender.ops.omnix.extract_pbr(directory=str(tmp_path / "maps"))
    (root,) = (o for o in blender.data.collections["OmniX hall"].objects if o.type == "EMPTY")
    root.driver_remove("rotation_euler")
    root.rotation_euler.z = 1.0
    blender.ops.omnix.extract_pbr(directory=str(tmp_path / "maps"))
    assert root.rotation_euler.z == pytest.approx(1.0)


def test_geometry_follows_a_depth_that_is_extracted_again(blender, hall, host, tmp_path):
    surface = host("build.place").part(hall, "surface")
    before = np.array([vertex.co for vertex in surface.data.vertices])
    blender.ops.omnix.replace_map(map="depth", filepath=str(tmp_path / "maps" / "roughness.png"))
    # Everything is about 0.6 m away.
    assert max(vertex.co.length for vertex in surface.data.vertices) < 1.0
    blender.ops.omnix.extract_map(map="depth")
    after = np.array([vertex.co for vertex in surface.data.vertices])
    np.testing.assert_allclose(after, before, atol=1e-5)


def test_a_map_that_was_left_out_joins_the_others(blender, fake_worker, host, panorama, tmp_path):
    place = host("build.place")
    blender.ops.omnix.extract_pbr(
        filepath=str(panorama), directory=str(tmp_path / "maps"), maps={"depth", "normal"}
    )
    hall = blender.data.collections["OmniX hall"]
    place.control(hall, "Roughness Gain").default_value = 0.5
    assert "albedo" not in place.images_of(hall)
    blender.ops.omnix.extract_map(map="albedo")
    assert "albedo" in place.images_of(hall)
    shader = next(
        node
        for node in place.part(hall, "surface_group").nodes
        if node.bl_idname == "ShaderNodeBsdfPrincipled"
    )
    assert shader.inputs["Base Color"].is_linked
    assert place.control(hall, "Roughness Gain").default_value == 0.5
    place.remove(blender.context, place.find("hall"))
    assert not blender.data.images


def test_a_packed_panorama_serves_again(blender, fake_worker, panorama, tmp_path):
    image = blender.data.images.load(str(panorama))
    image.pack()
    panorama.unlink()
    make_world(blender, image)
    blender.ops.omnix.extract_pbr(directory=str(tmp_path / "maps"))
    before = content(tmp_path / "maps")
    (tmp_path / "maps" / "metallic.png").unlink()
    blender.ops.omnix.extract_map(map="metallic")
    assert content(tmp_path / "maps")["metallic.png"] == before["metallic.png"]


@pytest.mark.parametrize("refused", ["copy of the last", "move of the first"])
def test_a_map_that_cannot_be_exchanged_leaves_the_set_as_it_is(
    blender, hall, tmp_path, monkeypatch, refused
):
    folder = next(tmp_path.rglob("report.json")).parent
    (folder / "albedo.png").unlink()
    before = content(folder)
    copy, replace = shutil.copyfile, os.replace

    def copy_or_not(new, old):
        if refused == "copy of the last" and new.name == maps.PREVIEW:
            raise OSError(28, "No space left on device", str(old))
        copy(new, old)

    def replace_or_not(old, new):
        if refused == "move of the first" and Path(new) == folder / "albedo.png":
            raise OSError(28, "No space left on device", str(new))
        replace(old, new)

    monkeypatch.setattr(shutil, "copyfile", copy_or_not)
    monkeypatch.setattr(os, "replace", replace_or_not)
    with pytest.raises(RuntimeError, match="No space left on device"):
        blender.ops.omnix.extract_map(map="albedo")
    assert content(folder) == before


def test_a_map_extracted_again_is_no_more_said_to_be_the_users(blender, hall, tmp_path):
    saved = tmp_path / "saved"
    for name in ("albedo", "roughness"):
        mine = write_varied_png(blender, tmp_path / f"{name}.png")
        blender.ops.omnix.replace_map(map=name, filepath=str(mine))
    blender.ops.omnix.save_maps(directory=str(saved))
    blender.ops.omnix.load_maps(directory=str(saved), name="saved")
    blender.ops.omnix.extract_map(name="saved", map="albedo")
    assert list(maps.read_report(saved)["replaced"]) == ["roughness"]


def test_a_map_that_the_place_could_not_use_leaves_the_good_one(
    blender, hall, fake_worker, tmp_path
):
    before = content(tmp_path / "maps")
    fake_worker("sky")
    with pytest.raises(RuntimeError, match="sky everywhere"):
        blender.ops.omnix.extract_map(map="depth")
    assert content(tmp_path / "maps") == before


def test_a_panorama_that_has_changed_since_is_told(blender, hall, panorama, tmp_path, capfd):
    blender.ops.omnix.extract_map(map="normal")
    assert "has changed" not in capfd.readouterr().out
    panorama.write_bytes(panorama.read_bytes() + b"more")
    blender.ops.omnix.extract_map(map="normal")
    assert "has changed since the other maps" in capfd.readouterr().out


@pytest.mark.parametrize("reason", ["defect", "panorama", "maps", "semantic"])
def test_a_map_that_cannot_be_extracted_again_stays(
    blender, hall, fake_worker, panorama, tmp_path, reason
):
    words = {
        "defect": r"worker\.log",
        "panorama": r"hall\.png",
        "maps": "is not a map set",
        "semantic": "makes no semantic map",
    }
    if reason == "defect":
        fake_worker("defect")
    elif reason == "panorama":
        panorama.unlink()
    elif reason == "maps":
        (tmp_path / "maps").rename(tmp_path / "elsewhere")
    folder = tmp_path / ("elsewhere" if reason == "maps" else "maps")
    earlier, before = content(folder), datablocks(blender)
    with pytest.raises(RuntimeError, match=words[reason]) as refusal:
        blender.ops.omnix.extract_map(map="semantic" if reason == "semantic" else "albedo")
    assert len(str(refusal.value).strip().splitlines()) == 1
    assert content(folder) == earlier
    assert datablocks(blender) == before


def test_panoramas_of_one_name_have_places_of_their_own(blender, fake_worker, host, tmp_path):
    place = host("build.place")
    files = []
    for number in range(2):
        (tmp_path / str(number)).mkdir()
        files.append(write_varied_png(blender, tmp_path / str(number) / "lobby.png"))
        files[number].write_bytes(files[number].read_bytes() + bytes(number))  # not a copy
        blender.ops.omnix.extract_pbr(filepath=str(files[number]))
    first, second = (place.find(name) for name in ("lobby", "lobby-2"))
    assert place.folder_of(first) != place.folder_of(second)
    # The same again renews its own.
    blender.ops.omnix.extract_pbr(filepath=str(files[1]))
    assert {place.name_of(item) for item in place.places()} == {"lobby", "lobby-2"}
    for collection, file in ((first, files[0]), (second, files[1])):
        assert maps.read_report(place.folder_of(collection))["source"]["path"] == str(file)


def test_maps_that_another_file_has_made_otherwise_stay(blender, fake_worker, panorama, tmp_path):
    first = tmp_path / "omnix" / "hall"

    def extract(file, **settings):
        blender.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)
        blender.ops.wm.save_as_mainfile(filepath=str(tmp_path / file))
        for _ in range(2):  # the second renews the first
            blender.ops.omnix.extract_pbr(filepath=str(panorama), **settings)
        folder = Path(blender.path.abspath(blender.context.scene.omnix.folder))
        return folder.relative_to(tmp_path).as_posix()

    assert extract("one.blend") == "omnix/hall"
    before = content(first)
    assert extract("two.blend", maps={"depth"}, size=64) == "omnix/hall-2"
    assert content(first) == before
    # The same maps serve both.
    assert extract("three.blend") == "omnix/hall"
    assert extract("four.blend", maps={"depth"}, size=64) == "omnix/hall-2"
    report = maps.read_report(first)
    report["versions"]["blender_omnix"] = "0.0.1"
    (first / maps.REPORT).write_text(json.dumps(report))
    assert extract("five.blend") == "omnix/hall-3"


def test_a_place_shows_new_maps_that_were_extracted_without_it(
    blender, hall, host, panorama, tmp_path, capfd
):
    place, out = host("build.place"), str(tmp_path / "maps")
    image = place.part(hall, "map_panorama")
    assert image.size[0] == 128
    blender.ops.omnix.extract_pbr(filepath=str(panorama), directory=out, build=False, size=64)
    assert image.size[0] == 64
    assert "shows the new maps on its earlier geometry" in capfd.readouterr().out


def test_a_packed_panorama_and_a_file_of_one_name_are_two(blender, fake_worker, host, tmp_path):
    place = host("build.place")
    file = write_varied_png(blender, tmp_path / "attic.png")
    blender.ops.omnix.extract_pbr(filepath=str(file))
    packed = blender.data.images.new("attic.exr", 128, 64)
    packed.pixels.foreach_set(np.random.default_rng(1).random(128 * 64 * 4, np.float32))
    packed.pack()
    make_world(blender, packed)
    for _ in range(2):  # the second renews its own, though what it was made from is gone
        blender.ops.omnix.extract_pbr()
        assert {place.name_of(item) for item in place.places()} == {"attic", "attic-2"}
    # An image that is given another file shows another panorama; the same one packed does not.
    (tmp_path / "other").mkdir()
    other = tmp_path / "other" / "attic.png"
    other.write_bytes(file.read_bytes() + b"\0")
    image = blender.data.images.load(str(file))
    make_world(blender, image)
    twin = Path(shutil.copy(file, tmp_path / "other" / "twin.png"))
    for shown, pack in ((file, False), (other, False), (twin, False), (file, True)):
        image.filepath = str(shown)
        if pack:
            image.pack()
        blender.ops.omnix.extract_pbr()
    assert {place.name_of(item) for item in place.places()} == {"attic", "attic-2", "attic-3"}
    # Maps that no place of this file stands on, made from a file that is gone.
    for collection in list(place.places()):
        place.remove(blender.context, collection)
    (tmp_path / "sub").mkdir()
    moved = file.rename(tmp_path / "sub" / "attic.png")
    blender.ops.omnix.extract_pbr(filepath=str(moved))
    assert [place.name_of(item) for item in place.places()] == ["attic"]
    shutil.rmtree(place.folder_of(place.find("attic")).parent)


def test_a_panorama_that_cannot_be_read_is_a_sentence(
    blender, hall, host, panorama, tmp_path, monkeypatch
):
    """Also where its content must tell whether it is that of a place."""
    (tmp_path / "other").mkdir()
    twin = Path(shutil.copy(panorama, tmp_path / "other" / "hall.png"))
    usual = Path.open

    def refused(path, *arguments, **named):
        if path == twin:
            raise PermissionError(13, "Permission denied", str(path))
        return usual(path, *arguments, **named)

    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(RuntimeError, match=r"other/hall.png cannot be read \(Permission denied"):
        blender.ops.omnix.extract_pbr(filepath=str(twin))


def test_images_whose_names_blender_numbered_are_two(blender, host):
    for _ in range(2):
        blender.data.images.new("pano", 128, 64)
    names = [host("source").from_image(blender.data.images[n]).name for n in ("pano", "pano.001")]
    assert names == ["pano", "pano.001"]


def test_the_maps_of_a_place_are_not_replaced_by_those_of_another(
    blender, hall, fake_worker, tmp_path
):
    earlier = content(tmp_path / "maps")
    other = write_varied_png(blender, tmp_path / "other.png")
    other.write_bytes(other.read_bytes() + b"\0")  # not a copy
    with pytest.raises(RuntimeError, match="holds the maps of the place hall"):
        blender.ops.omnix.extract_pbr(filepath=str(other), directory=str(tmp_path / "maps"))
    assert content(tmp_path / "maps") == earlier


def test_a_project_can_be_moved_as_a_whole(blender, fake_worker, host, tmp_path):
    project = tmp_path / "project"
    project.mkdir()
    file = write_varied_png(blender, project / "attic.png")
    blender.ops.wm.save_as_mainfile(filepath=str(project / "place.blend"))
    blender.ops.omnix.extract_pbr(filepath=str(file))
    blender.ops.wm.save_mainfile()
    project.rename(tmp_path / "moved")
    blender.ops.wm.open_mainfile(filepath=str(tmp_path / "moved" / "place.blend"))
    place, there = host("build.place"), tmp_path / "moved" / "omnix" / "attic"
    collection = place.find("attic")
    assert place.folder_of(collection).samefile(there)
    assert Path(blender.path.abspath(blender.context.scene.omnix.folder)).samefile(there)
    place.rebuild(collection, detail=64)
    # Saved elsewhere, the file finds the maps where they are.
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    blender.ops.wm.save_as_mainfile(filepath=str(elsewhere / "place.blend"))
    assert place.folder_of(place.find("attic")).samefile(there)


def test_a_project_is_reached_through_a_link(blender, fake_worker, host, tmp_path):
    (tmp_path / "disk").mkdir()
    project = tmp_path / "project"
    project.symlink_to(tmp_path / "disk")
    file = write_varied_png(blender, project / "attic.png")
    blender.ops.wm.save_as_mainfile(filepath=str(project / "place.blend"))
    blender.ops.omnix.extract_pbr(filepath=str(file))
    assert blender.context.scene.omnix.folder == "//omnix/attic"
    place = host("build.place")
    collection = place.find("attic")
    assert all(image.filepath.startswith("//") for image in place.own_maps(collection).values())
    assert not place.own_maps(collection)
    assert place.part(collection, "map_depth").filepath == "//omnix/attic/depth.exr"
    # By its other path it is the same folder.
    blender.ops.omnix.load_maps(directory=str(tmp_path / "disk" / "omnix" / "attic"))
    assert blender.context.scene.omnix.folder == "//omnix/attic"
    blender.ops.omnix.save_maps(directory=str(tmp_path / "disk" / "omnix" / "attic"))
    assert maps.is_map_set(project / "omnix" / "attic")


def test_a_relative_output_is_remembered_where_it_is(
    blender, fake_worker, panorama, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    blender.ops.omnix.extract_pbr(filepath="hall.png", directory="maps")
    assert blender.context.scene.omnix.folder == str(tmp_path / "maps")
    with pytest.raises(RuntimeError, match=r"//maps is beside the .blend file, which is not saved"):
        blender.ops.omnix.extract_pbr(filepath=str(panorama), directory="//maps")
    (tmp_path / "maps").rename(tmp_path / "gone")
    with pytest.raises(RuntimeError, match="cannot be opened; see whether it is still there"):
        blender.ops.omnix.open_folder()


def test_scenes_that_were_copied_have_a_place_each(blender, fake_worker, host, panorama, tmp_path):
    place, out = host("build.place"), str(tmp_path / "maps")
    blender.ops.omnix.extract_pbr(filepath=str(panorama), directory=out)
    first = place.find("hall")
    blender.ops.scene.new(type="FULL_COPY")
    second = place.find("hall")
    assert second != first
    cut = [len(place.part(item, "surface").data.vertices) for item in (first, second)]
    blender.ops.omnix.rebuild_place(name="hall", detail=64)
    blender.ops.omnix.load_maps(directory=out, name="hall")
    assert len(place.part(first, "surface").data.vertices) == cut[0]
    assert len(place.part(second, "surface").data.vertices) < cut[1]
    assert place.find("hall") == second
    # The maps are of both.
    arguments = {"filepath": str(panorama), "directory": out, "maps": {"depth"}}
    with pytest.raises(RuntimeError, match="which would be lost"):
        blender.ops.omnix.extract_pbr(**arguments)
    here = blender.context.scene.collection.children_recursive
    assert [item for item in here if place.is_place(item)] == [second]


def test_a_linked_place_is_left_to_its_own_file(blender, fake_worker, host, panorama, tmp_path):
    place, out = host("build.place"), str(tmp_path / "maps")
    blender.ops.omnix.extract_pbr(filepath=str(panorama), directory=out)
    blender.ops.wm.save_as_mainfile(filepath=str(tmp_path / "library.blend"))
    blender.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)
    with blender.data.libraries.load(str(tmp_path / "library.blend"), link=True) as (_, linked):
        linked.collections = ["OmniX hall"]
    (library,) = linked.collections
    blender.context.scene.collection.children.link(library)
    assert not blender.ops.omnix.remove_place.poll()
    assert list(place.places()) == []
    with pytest.raises(RuntimeError, match="holds the maps of the place hall"):
        blender.ops.omnix.extract_pbr(filepath=str(panorama), directory=out)
    assert list(place.linked_from(Path(out))) == ["hall"]
    blender.ops.omnix.load_maps(directory=out)
    (own,) = place.places()
    assert own.library is None and place.name_of(own) == "maps"
    place.remove(blender.context, own)
    blender.ops.omnix.load_maps(directory=out, name="hall")
    other = blender.data.scenes.new("other")
    other.collection.children.link(library)
    with (
        blender.context.temp_override(scene=other),
        pytest.raises(RuntimeError, match="OmniX hall is linked from another file"),
    ):
        blender.ops.omnix.remove_place()


def test_nothing_is_put_into_a_linked_scene(blender, hall, panorama, tmp_path):
    out = str(tmp_path / "maps")
    blender.context.scene.name = "Stage"
    library = str(tmp_path / "library.blend")
    blender.ops.wm.save_as_mainfile(filepath=library)
    blender.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)
    blender.ops.omnix.load_maps(directory=out, name="mine")
    with blender.data.libraries.load(library, link=True) as (_, linked):
        linked.scenes = ["Stage"]
    before = datablocks(blender)
    for change in (
        lambda: blender.ops.omnix.load_maps(directory=out, name="another"),
        lambda: blender.ops.omnix.load_maps(directory=out, name="mine"),
        lambda: blender.ops.omnix.extract_pbr(filepath=str(panorama)),
        lambda: blender.ops.omnix.remove_place(name="mine"),
    ):
        with (
            blender.context.temp_override(scene=linked.scenes[0]),
            pytest.raises(RuntimeError, match="The scene Stage is linked from another file"),
        ):
            change()
    assert datablocks(blender) == before


def test_a_linked_world_is_not_taken_for_one_of_the_same_name(
    blender, fake_worker, host, panorama, tmp_path
):
    place = host("build.place")
    other = write_image(blender, tmp_path / "other.png")

    def show(file):
        image = blender.data.images.load(str(file))
        image.name, image.use_fake_user = "Pano", True
        world, _ = make_world(blender, image)
        world.use_fake_user = True

    show(panorama)
    blender.ops.wm.save_as_mainfile(filepath=str(tmp_path / "library.blend"))
    blender.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)
    show(other)
    with blender.data.libraries.load(str(tmp_path / "library.blend"), link=True) as (_, linked):
        linked.worlds = ["World"]
    (world,) = linked.worlds
    blender.context.scene.world = world
    blender.ops.omnix.extract_pbr(directory=str(tmp_path / "maps"))
    (collection,) = place.places()
    assert place.source_of(collection).library == world.library
    assert set(collection["omnix_followed"].values()) == {world}


def test_a_place_chosen_by_name_is_not_remembered(blender, enabled_extension):
    """What Blender remembers of a call it gives to the next: another place's button."""
    kinds = [name for name in dir(blender.ops.omnix) if not name.startswith("_")]
    named = [
        kind.properties["name"]
        for kind in (getattr(blender.ops.omnix, name).get_rna_type() for name in kinds)
        if "name" in kind.properties
    ]
    assert len(named) > 10 and all(item.is_skip_save for item in named)


def test_a_map_is_extracted_again_where_the_maps_were_moved_to(
    blender, fake_worker, panorama, tmp_path
):
    blender.ops.omnix.extract_pbr(filepath=str(panorama))
    blender.ops.wm.save_as_mainfile(filepath=str(tmp_path / "place.blend"))
    blender.ops.omnix.move_maps()
    file = Path(blender.path.abspath(blender.context.scene.omnix.folder)) / "albedo.png"
    assert file.parent.parent == tmp_path / "omnix"
    earlier = file.read_bytes()
    file.unlink()
    blender.ops.omnix.extract_map(map="albedo")
    assert file.read_bytes() == earlier


# Bad input: the sentence, and everything as it was.


def wide(bpy, folder):
    return write_image(bpy, folder / "wide.png", 300, 100), "300 x 100"


def small(bpy, folder):
    return write_image(bpy, folder / "small.png", 32, 16), "32 x 16"


def constant(bpy, folder):
    return write_image(bpy, folder / "even.png"), "even.png"


def missing(_bpy, folder):
    return folder / "none.exr", "none.exr does not exist"


def directory(_bpy, folder):
    return folder, "is a folder"


def empty(_bpy, folder):
    (folder / "empty.png").touch()
    return folder / "empty.png", "empty.png is empty"


def truncated(bpy, folder):
    path = write_varied_png(bpy, folder / "cut.png")
    path.write_bytes(path.read_bytes()[:2000])
    return path, "cut.png"


def text(_bpy, folder):
    (folder / "note.txt").write_text("no image")
    return folder / "note.txt", "note.txt"


def overlong(_bpy, folder):
    return folder / f"{'long' * 80}.png", "more than 255 bytes"


BAD = [wide, small, constant, missing, directory, empty, truncated, text, overlong]


@pytest.mark.parametrize("make", BAD, ids=lambda make: make.__name__)
def test_bad_input_is_refused_with_a_sentence(blender, fake_worker, panorama, tmp_path, make):
    out = tmp_path / "maps"
    blender.ops.omnix.extract_pbr(filepath=str(panorama), directory=str(tmp_path / "standing"))
    blender.ops.omnix.extract_pbr(filepath=str(panorama), directory=str(out), build=False)
    file, words = make(blender, tmp_path)
    earlier, before = content(out), datablocks(blender)
    with pytest.raises(RuntimeError, match=words) as refusal:
        blender.ops.omnix.extract_pbr(filepath=str(file), directory=str(out))
    assert len(str(refusal.value).strip().splitlines()) == 1
    assert content(out) == earlier
    assert datablocks(blender) == before


def test_a_world_without_an_image_is_refused(blender):
    make_world(blender)
    before = datablocks(blender)
    with pytest.raises(RuntimeError, match="The world World has no environment image"):
        blender.ops.omnix.extract_pbr()
    assert datablocks(blender) == before


def test_a_folder_of_the_users_is_not_touched(blender, fake_worker, panorama, tmp_path):
    out = tmp_path / "thesis"
    out.mkdir()
    (out / "chapter.txt").write_text("one")
    with pytest.raises(RuntimeError, match="holds no map set"):
        blender.ops.omnix.extract_pbr(filepath=str(panorama), directory=str(out))
    assert content(out) == {"chapter.txt": b"one"}


def test_maps_that_cannot_be_built_are_kept(blender, hall, host, panorama, tmp_path):
    out = tmp_path / "maps"
    surface = host("build.place").part(hall, "surface")
    blender.context.view_layer.objects.active = surface
    blender.ops.object.mode_set(mode="EDIT")
    (out / "albedo.png").unlink()
    with pytest.raises(RuntimeError, match=r"Edit Mode.*The maps are in"):
        blender.ops.omnix.extract_pbr(filepath=str(panorama), directory=str(out))
    assert (out / "albedo.png").is_file()
    blender.ops.object.mode_set(mode="OBJECT")


def test_the_worker_is_as_the_preferences_want_it_now(
    blender, host, panorama, tmp_path, monkeypatch
):
    job, chosen = host("job"), host("preferences").get(blender.context)
    system = blender.context.preferences.system
    made, closed = [], []

    def client(**options):
        made.append(options)
        return SimpleNamespace(extract=lambda *_: None, close=lambda: closed.append(options))

    def started_with():
        start(blender, host, panorama, tmp_path / "maps").concluded = True
        return made[-1]

    job.close()
    monkeypatch.setattr(job, "WorkerClient", client)
    earlier = chosen.python, chosen.idle_seconds, system.use_online_access
    try:
        chosen.python, chosen.idle_seconds, system.use_online_access = "", 7.0, False
        first = started_with()
        assert first["python"] == sys.executable
        (packages,) = first["extra_paths"]
        assert packages.match("extensions/.local/lib/*/site-packages")
        assert (first["idle_seconds"], first["online"]) == (7.0, False)
        assert started_with() is first and not closed  # it stays while nothing changes
        # Packages for Blender's own Python fit no other.
        chosen.python = "/opt/cuda/bin/python"
        second = started_with()
        assert (second["python"], second["extra_paths"]) == ("/opt/cuda/bin/python", ())
        system.use_online_access = True
        assert started_with()["online"] is True
        assert closed == [first, second]
    finally:
        chosen.python, chosen.idle_seconds, system.use_online_access = earlier
        job.close()


def test_an_external_python_that_is_none_is_named(blender, host, panorama, monkeypatch):
    chosen = host("preferences").get(blender.context)
    earlier = chosen.python
    chosen.python = "/nowhere/python"
    try:
        with pytest.raises(RuntimeError, match="/nowhere/python, cannot be started"):
            blender.ops.omnix.extract_pbr(filepath=str(panorama))
    finally:
        chosen.python = earlier
        host("job").close()


def test_a_worker_without_a_folder_of_its_own_writes_nowhere(
    blender, host, panorama, tmp_path, monkeypatch
):
    host("job").close()
    monkeypatch.setattr(blender.utils, "_user_resource", lambda *_, **__: str(tmp_path))
    own = Path(blender.utils.extension_path_user(host("preferences").ADDON, path="worker"))
    own.parent.mkdir(parents=True)
    own.write_text("in the way")
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    try:
        with pytest.raises(RuntimeError, match=rf"cannot write to {own} .* that folder writable"):
            blender.ops.omnix.extract_pbr(filepath=str(panorama))
    finally:
        host("job").close()
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("mode", ["killed", "exit", "defect"])
def test_a_worker_that_dies_says_where_its_log_is(blender, fake_worker, panorama, tmp_path, mode):
    fake_worker(mode)
    before = datablocks(blender)
    with pytest.raises(RuntimeError, match=r"worker\.log") as failure:
        blender.ops.omnix.extract_pbr(filepath=str(panorama), directory=str(tmp_path / "maps"))
    assert len(str(failure.value).strip().splitlines()) == 1
    assert not (tmp_path / "maps").exists()
    assert datablocks(blender) == before
    fake_worker("quick")
    blender.ops.omnix.extract_pbr(filepath=str(panorama), directory=str(tmp_path / "maps"))


# The window's way: start, look now and then, conclude.


def start(blender, host, file, folder, panorama=None):
    """A job as `invoke` starts it."""
    job = host("job")
    started = job.Job(
        source=panorama or host("source").from_file(str(file)),
        folder=folder,
        camera_height=1.6,
        build=True,
        scene=blender.context.scene.session_uid,
        notes=[],
    )
    options = host("operators").engine_options(blender.context, "COMPACT")
    job.start(blender.context, started, {"options": options})
    return started


def advance_until(job, condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)
        job.advance()


def test_a_running_job_can_be_cancelled(blender, host, fake_worker, panorama, tmp_path):
    job = host("job")
    assert not blender.ops.omnix.cancel.poll()
    fake_worker("slow")
    started = start(blender, host, panorama, tmp_path / "maps")
    advance_until(job, lambda: started.fraction > 0.1)
    assert started.stage == "Albedo"
    assert not blender.ops.omnix.extract_pbr.poll()
    assert blender.ops.omnix.cancel() == {"FINISHED"}
    assert not blender.ops.omnix.cancel.poll()
    advance_until(job, lambda: started.state != job.RUNNING)
    assert started.state == job.CANCELLED
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hall.png"]
    assert "nothing was changed" in conclude(blender, host, started)
    assert blender.ops.omnix.extract_pbr.poll()


def test_a_job_that_hears_nothing_is_cancelled_all_the_same(
    blender, host, fake_worker, panorama, tmp_path
):
    job = host("job")
    fake_worker("deaf")
    started = start(blender, host, panorama, tmp_path / "maps")
    advance_until(job, lambda: started.stage == "Albedo")
    blender.ops.omnix.cancel()
    advance_until(job, lambda: started.state != job.RUNNING)
    assert started.state == job.CANCELLED
    assert not job.worker_lives()


def test_ctrl_c_cancels_the_job_that_a_script_waits_for(
    blender, host, fake_worker, panorama, tmp_path, monkeypatch
):
    job, sleep = host("job"), time.sleep

    def interrupt(seconds):
        sleep(seconds)
        if job.last().stage == "Albedo" and not job.last().cancelling:
            raise KeyboardInterrupt

    fake_worker("slow")
    monkeypatch.setattr(host("operators"), "time", SimpleNamespace(sleep=interrupt))
    with pytest.raises(RuntimeError, match="KeyboardInterrupt"):
        blender.ops.omnix.extract_pbr(filepath=str(panorama), directory=str(tmp_path / "maps"))
    assert job.last().state == job.CANCELLED
    assert job.current() is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hall.png"]


def test_a_click_that_is_repeated_does_not_wait(blender, host):
    extraction = host("operators").Extraction
    invoked = SimpleNamespace(
        options=SimpleNamespace(is_repeat_last=True), invoke=lambda *_: {"RUNNING_MODAL"}
    )
    assert extraction.execute(invoked, blender.context) == {"RUNNING_MODAL"}
    options = blender.types.OperatorOptions.bl_rna.properties
    assert "is_repeat_last" in options


def conclude(blender, host, started):
    """Let a job end as the window does; what is told of it."""
    job, told = host("job"), []
    advance_until(job, lambda: started.state != job.RUNNING)
    operator = SimpleNamespace(report=lambda _level, message: told.append(message))
    host("operators").conclude(operator, blender.context, started)
    return " ".join(told)


def test_another_file_does_not_get_the_place(blender, host, fake_worker, panorama, tmp_path):
    started = start(blender, host, panorama, tmp_path / "maps")
    blender.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)
    assert "The scene that they were for is gone" in conclude(blender, host, started)
    assert maps.is_map_set(tmp_path / "maps")
    assert not list(host("build.place").places())


def test_a_file_that_cannot_be_opened_takes_no_place_away(
    blender, host, fake_worker, panorama, tmp_path
):
    started = start(blender, host, panorama, tmp_path / "maps")
    (tmp_path / "damaged.blend").write_text("damaged")
    with pytest.raises(RuntimeError, match=r"damaged\.blend"):
        blender.ops.wm.open_mainfile(filepath=str(tmp_path / "damaged.blend"))
    conclude(blender, host, started)
    assert [item.name for item in host("build.place").places()] == ["OmniX hall"]


def test_what_is_renamed_meanwhile_is_found(blender, host, fake_worker, panorama, tmp_path):
    image = blender.data.images.load(str(panorama))
    world, nodes = make_world(blender, image)
    nodes["mapping"].inputs["Rotation"].default_value = TURN
    source, place = host("source"), host("build.place")
    folder = tmp_path / "maps"
    started = start(blender, host, panorama, folder, source.from_world(world))
    blender.context.scene.name, world.name, image.name = "Stage", "Sky", "Sky.png"
    assert "gone" not in conclude(blender, host, started)
    (collection,) = place.places()
    assert place.source_of(collection) == image
    assert place.is_following(collection)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("no texture", "has no environment image"),
        ("no image", "has no environment image"),
        ("mirror ball", "is a mirror ball"),
        ("another image", "which shows Another by now"),
    ],
)
def test_a_place_stands_whatever_became_of_its_world(
    blender, host, fake_worker, panorama, tmp_path, change, why
):
    image = blender.data.images.load(str(panorama))
    world, nodes = make_world(blender, image)
    nodes["mapping"].inputs["Rotation"].default_value = TURN
    folder, place = tmp_path / "maps", host("build.place")
    started = start(blender, host, panorama, folder, host("source").from_world(world))
    if change == "no texture":
        world.node_tree.nodes.remove(nodes["texture"])
    elif change == "no image":
        blender.data.images.remove(image)
    elif change == "mirror ball":
        nodes["texture"].projection = "MIRROR_BALL"
    else:
        nodes["texture"].image = blender.data.images.new("Another", 64, 32)
    told = conclude(blender, host, started)
    assert "The place does not follow the world" in told and why in told
    assert started.message == ""
    assert blender.context.scene.omnix.folder == str(folder)
    (collection,) = place.places()
    assert not place.is_following(collection)
    assert place.part(collection, "root").rotation_euler[:] == (0.0, 0.0, 0.0)
    # As little does a script lose it, which names the world alone.
    if change != "another image":
        place.remove(blender.context, collection)
        given = {"directory": str(folder), "world": world.name}
        assert blender.ops.omnix.load_maps(**given) == {"FINISHED"}
        assert len(list(place.places())) == 1


def test_the_place_is_built_in_the_scene_that_asked_for_it(
    blender, host, fake_worker, panorama, tmp_path
):
    started = start(blender, host, panorama, tmp_path / "maps")
    scene, other = blender.context.scene, blender.data.scenes.new("Other")
    with blender.context.temp_override(scene=other):
        conclude(blender, host, started)
    (place,) = host("build.place").places()
    assert place in scene.collection.children_recursive
    assert not other.collection.children_recursive
    assert (scene.omnix.folder, other.omnix.folder) == (str(tmp_path / "maps"), "")


def test_two_at_a_time_are_refused(blender, host, fake_worker, panorama, tmp_path):
    fake_worker("slow")
    start(blender, host, panorama, tmp_path / "maps")
    with pytest.raises(host("job").OmnixError, match="An extraction is running"):
        start(blender, host, panorama, tmp_path / "other")


def test_what_waits_for_a_render_is_not_lost_to_another(
    blender, host, fake_worker, panorama, tmp_path, monkeypatch
):
    job, operators, timers = host("job"), host("operators"), []
    monkeypatch.setattr(operators, "is_rendering", lambda: True)
    monkeypatch.setattr(blender.app.timers, "register", lambda tick, **_: timers.append(tick))
    monkeypatch.setattr(blender.app.timers, "is_registered", timers.__contains__)

    def click(folder):
        """What is told of it."""
        told = []
        operator = SimpleNamespace(
            begin=lambda *_, **__: start(blender, host, panorama, folder),
            report=lambda _level, text: told.append(text),
        )
        operators.Extraction.invoke(operator, blender.context, None)
        return told

    assert click(tmp_path / "maps") == []
    first = job.current()
    assert not blender.ops.omnix.conclude.poll()
    operators.conclude(None, blender.context, first)
    assert job.current() == first
    advance_until(job, lambda: first.state != job.RUNNING)
    assert not blender.ops.omnix.extract_pbr.poll()
    assert not blender.ops.omnix.cancel.poll()
    (refusal,) = click(tmp_path / "other")
    assert "An extraction is running" in refusal
    assert timers == [operators._tick]
    assert operators._tick() == job.INTERVAL
    assert blender.ops.omnix.conclude.poll()
    assert "Maps are in" in conclude(blender, host, first)
    assert [item.name for item in host("build.place").places()] == ["OmniX hall"]
    assert conclude(blender, host, first) == ""
    assert blender.ops.omnix.extract_pbr.poll()
    # One that is left from before is enough for the next.
    assert click(tmp_path / "other") == []
    assert timers == [operators._tick]


def test_the_model_can_be_unloaded(blender, host, fake_worker, panorama, tmp_path):
    assert not blender.ops.omnix.unload_model.poll()
    blender.ops.omnix.extract_pbr(filepath=str(panorama), directory=str(tmp_path / "maps"))
    assert blender.ops.omnix.unload_model() == {"FINISHED"}
    assert host("job").log_path().is_file()


# The real worker.


@pytest.mark.slow
def test_operator_and_command_line_give_equal_maps(blender, host, tmp_path):
    conftest.skip_without_worker_packages()
    world = Path(blender.utils.resource_path("LOCAL"), "datafiles", "studiolights", "world")
    file = world / "interior.exr"
    try:
        blender.ops.omnix.extract_pbr(
            filepath=str(file), directory=str(tmp_path / "operator"), size=256, exposure=0.25
        )
        # Extracted again alone, a map is what it was among the others.
        for name in ("albedo", "emission", "depth"):
            (tmp_path / "operator" / maps.MAPS[name].filename).unlink()
            blender.ops.omnix.extract_map(map=name)
    finally:
        host("job").close()
    command = [os.environ.get("OMNIX_TEST_PYTHON", sys.executable), "-m", "blender_omnix"]
    command += ["extract", str(file), "--out", str(tmp_path / "command"), "--quiet"]
    command += ["--size", "256", "--exposure", "0.25"]
    subprocess.run(command, cwd=ROOT, check=True)
    first, second = maps.map_files(tmp_path / "operator"), maps.map_files(tmp_path / "command")
    assert set(first) == set(second) == {*maps.DEFAULT_MAPS, "panorama"}
    for name in first:
        # Not the bytes: OpenEXR files hold the time at which they were written.
        np.testing.assert_array_equal(
            pictures.read(blender, first[name]), pictures.read(blender, second[name])
        )
    reports = [maps.read_report(tmp_path / folder) for folder in ("operator", "command")]
    assert reports[0]["settings"] == reports[1]["settings"]
    assert all(report["adapters"] for report in reports)
    assert "OmniX interior" in blender.data.collections
