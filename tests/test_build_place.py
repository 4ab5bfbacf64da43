# SPDX-License-Identifier: GPL-3.0-or-later
"""Places in Blender: what is built, what it looks like, and that nothing else is touched."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from blender_omnix import maps
from tests import box_room, pictures
from tests.test_host_source import make_world

pytestmark = pytest.mark.blender

SMALL = {"detail": 128}


@pytest.fixture
def build(blender, host):
    return host("build.place")


@pytest.fixture
def room_folder(tmp_path):
    folder = tmp_path / "room"
    box_room.save(folder, box_room.room(64))
    return folder


def make(blender, build, folder, name="room", mode="RELIGHT", enclosed="AUTO", **arguments):
    settings = build.Settings(**SMALL, mode=mode, enclosed=enclosed)
    return build.build_place(blender.context, folder, name=name, settings=settings, **arguments)


def panorama_of(blender, build, collection, samples=4, offset=(0.0, 0.0, 0.0)) -> np.ndarray:
    """A linear equirectangular render (64, 128, 3) from the viewpoint, row 0 on top."""
    scene = blender.context.scene
    camera = build.add_camera(blender.context, collection, panoramic=True)
    camera.location = [a + b for a, b in zip(camera.location, offset, strict=True)]
    scene.camera = camera
    return render(blender, samples)


def render(blender, samples=4, *, transparent=False) -> np.ndarray:
    """What the scene's camera sees, linear (64, 128, 3), with alpha where that is transparent."""
    scene = blender.context.scene
    scene.cycles.samples, scene.cycles.max_bounces = samples, 4
    scene.render.film_transparent = transparent
    seen = pictures.render(blender, 128, 64)
    return seen if transparent else seen[..., :3]


def everything(blender) -> dict[str, set[str]]:
    """Names of all datablocks in the file, by kind."""
    kinds = (
        "objects",
        "meshes",
        "materials",
        "node_groups",
        "images",
        "collections",
        "worlds",
        "lights",
        "cameras",
    )
    return {kind: {item.name for item in getattr(blender.data, kind)} for kind in kinds}


def test_the_relit_room_is_lit_by_its_own_lamp(blender, build, room_folder):
    made = box_room.room(64)
    seen = panorama_of(blender, build, make(blender, build, room_folder), samples=16)
    assert seen.mean() > 0.05 * box_room.radiance(made).mean()
    # Not the lamp alone: every wall is lit.
    dark = seen[made["emission"].max(axis=-1) == 0].mean(axis=-1)
    assert np.percentile(dark, 5) > 0.01


def test_original_light_shows_the_panorama(blender, build, room_folder, tmp_path):
    made = box_room.room(64)
    source = blender.data.images.new("source", 128, 64, float_buffer=True)
    source.colorspace_settings.name = "Linear Rec.709"
    rgba = np.ones((64, 128, 4), np.float32)
    rgba[..., :3] = box_room.radiance(made)[::-1]
    source.pixels.foreach_set(rgba.ravel())
    collection = make(blender, build, room_folder, mode="ORIGINAL", source=source)
    seen = panorama_of(blender, build, collection, samples=16)
    wanted = box_room.radiance(made)
    smooth = np.abs(np.diff(wanted, axis=1, append=wanted[:, :1])).max(axis=-1) < 0.02
    smooth &= np.roll(smooth, 1, axis=1)
    smooth[1:-1] &= np.abs(wanted[2:] - wanted[:-2]).max(axis=-1) < 0.02
    smooth[[0, -1]] = False
    assert smooth.mean() > 0.3
    assert np.percentile(np.abs(seen - wanted)[smooth], 95) < 0.01


@pytest.mark.parametrize("stops", [0.0, -1.0])
def test_the_tone_mapped_panorama_stands_in_for_a_lost_source(blender, build, room_folder, stops):
    report = maps.read_report(room_folder)
    report["source"]["exposure_stops"] = stops
    (room_folder / maps.REPORT).write_text(json.dumps(report))
    collection = make(blender, build, room_folder, mode="ORIGINAL")
    wanted = np.minimum(box_room.radiance(box_room.room(64)), 1.0) * 2.0**-stops
    seen = panorama_of(blender, build, collection)
    assert np.median(np.abs(seen - wanted)) < 0.02 * 2.0**-stops


def show_room(blender):
    """Let the scene's world show the room; its image and its nodes."""
    image = blender.data.images.new("hdri", 128, 64, float_buffer=True)
    image.colorspace_settings.name = "Linear Rec.709"
    rgba = np.ones((64, 128, 4), np.float32)
    rgba[..., :3] = np.minimum(box_room.radiance(box_room.room(64)), 1.0)[::-1]
    image.pixels.foreach_set(rgba.ravel())
    return image, make_world(blender, image)[1]


@pytest.fixture
def follow(blender, build, host):
    """Let a place follow the scene's world."""
    showing = host("world_nodes").showing
    return lambda place: build.follow_world(place, showing(blender.context.scene.world))


@pytest.mark.parametrize(
    ("kind", "mirror"),
    [("POINT", (1, 1, 1)), ("TEXTURE", (1, 1, 1)), ("POINT", (1, -1, 1)), ("TEXTURE", (-1, 1, 1))],
)
def test_the_place_lines_up_with_a_world_that_is_turned_later(
    blender, build, room_folder, follow, kind, mirror
):
    image, nodes = show_room(blender)
    nodes["mapping"].vector_type = kind
    nodes["mapping"].inputs["Scale"].default_value = mirror
    nodes["mapping"].inputs["Rotation"].default_value = (0.1, 0.2, 0.3)
    collection = make(blender, build, room_folder, mode="ORIGINAL", source=image)
    follow(collection)
    rotation = (math.radians(20), math.radians(-10), math.radians(70))
    nodes["mapping"].inputs["Rotation"].default_value = rotation
    nodes["background"].inputs["Strength"].default_value = 1.5
    camera = blender.data.objects.new("camera", blender.data.cameras.new("camera"))
    blender.context.scene.collection.objects.link(camera)
    camera.location = (0.0, 0.0, 1.6)
    camera.rotation_euler = (math.radians(75), 0.0, math.radians(-120))
    blender.context.scene.camera = camera
    camera.data.lens = 18.0
    dome = render(blender, 16)
    for item in collection.objects:
        item.hide_render = True
    sky = render(blender, 16)
    assert sky.std() > 0.03
    assert np.abs(dome - sky).mean() < 0.01


def turn_of(blender, build, collection) -> np.ndarray:
    """Where a place is turned to, once the drivers have run."""
    blender.context.view_layer.update()
    return np.array(build.part(collection, "root").matrix_world.to_3x3().normalized())


def test_a_place_follows_its_world_after_saving_and_loading(
    blender, build, room_folder, follow, tmp_path
):
    from mathutils import Euler

    image, nodes = show_room(blender)
    image.pack()
    nodes["background"].inputs["Strength"].default_value = 2.0
    follow(make(blender, build, room_folder, source=image))
    blender.ops.wm.save_as_mainfile(filepath=str(tmp_path / "place.blend"))
    blender.ops.wm.open_mainfile(filepath=str(tmp_path / "place.blend"), use_scripts=False)

    collection = build.find("room")
    assert build.is_following(collection)
    assert build.control(collection, "Strength").default_value == pytest.approx(2.0)
    nodes = blender.data.worlds["World"].node_tree.nodes
    turn = (0.3, -0.5, 1.1)
    nodes["Mapping"].inputs["Rotation"].default_value = turn
    nodes["Background"].inputs["Strength"].default_value = 0.5
    turned = turn_of(blender, build, collection)
    np.testing.assert_allclose(turned, np.array(Euler(turn).to_matrix()).T, atol=1e-6)
    assert build.control(collection, "Strength").default_value == pytest.approx(0.5)
    # A node that is gone leaves the place as it was when it began to follow.
    nodes.remove(nodes["Background"])
    turn_of(blender, build, collection)
    assert build.control(collection, "Strength").default_value == pytest.approx(2.0)


def test_a_place_keeps_the_world_it_follows_when_the_scene_gets_another(
    blender, build, room_folder, follow, tmp_path
):
    image, nodes = show_room(blender)
    image.pack()
    nodes["background"].inputs["Strength"].default_value = 2.0
    follow(make(blender, build, room_folder, source=image))
    blender.context.scene.world = blender.data.worlds.new("Another")
    blender.ops.wm.save_as_mainfile(filepath=str(tmp_path / "place.blend"))
    blender.ops.wm.open_mainfile(filepath=str(tmp_path / "place.blend"))
    collection = build.find("room")
    blender.context.view_layer.update()
    assert build.control(collection, "Strength").default_value == pytest.approx(2.0)
    build.stop_following(collection)
    assert blender.data.worlds["World"].users == 0


@pytest.mark.parametrize("strength", [2.0, 1e6])
def test_a_place_outlives_the_world_that_it_follows(
    blender, build, room_folder, follow, tmp_path, capfd, strength
):
    image, nodes = show_room(blender)
    image.pack()
    nodes["mapping"].inputs["Rotation"].default_value = (0.1, 1e-6, -0.7)
    nodes["background"].inputs["Strength"].default_value = strength
    follow(make(blender, build, room_folder, mode="ORIGINAL"))
    collection = build.find("room")
    turned = turn_of(blender, build, collection)
    seen = panorama_of(blender, build, collection)
    curve = build.part(collection, "controls_group").animation_data.drivers[0]
    assert curve.driver.is_simple_expression
    assert not build.has_lost_world(collection)
    # A world of zeros is followed, and is none that is gone.
    nodes["background"].inputs["Strength"].default_value = 0.0
    turn_of(blender, build, collection)
    assert build.control(collection, "Strength").default_value == 0.0
    capfd.readouterr()

    blender.data.worlds.remove(blender.context.scene.world)
    np.testing.assert_allclose(turn_of(blender, build, collection), turned, atol=1e-6)
    np.testing.assert_allclose(panorama_of(blender, build, collection), seen, rtol=1e-3)
    assert build.has_lost_world(collection)
    said = "".join(capfd.readouterr())
    assert "rror" not in said
    assert "nvalid" not in said
    blender.ops.wm.save_as_mainfile(filepath=str(tmp_path / "place.blend"))
    blender.ops.wm.open_mainfile(filepath=str(tmp_path / "place.blend"), use_scripts=False)
    collection = build.find("room")
    np.testing.assert_allclose(turn_of(blender, build, collection), turned, atol=1e-6)
    assert build.control(collection, "Strength").default_value == pytest.approx(strength)
    assert build.has_lost_world(collection)
    # It can be let go, and follow another.
    blender.ops.omnix.follow_world(follow=False)
    assert not build.has_lost_world(collection)
    show_room(blender)
    blender.ops.omnix.follow_world()
    assert not build.has_lost_world(collection)
    assert build.control(collection, "Strength").default_value == pytest.approx(1.0)


def test_a_surface_too_small_for_the_detail_is_refused(blender, build, tmp_path):
    made = box_room.room(256)
    made["depth"] = np.where(np.arange(512) == 300, made["depth"], 0.0).astype(np.float32)
    box_room.save(tmp_path / "slit", made)
    with pytest.raises(Exception, match="raise the detail"):
        make(blender, build, tmp_path / "slit")
    assert not any(name.startswith("OmniX") for name in everything(blender)["images"])


def test_a_depth_map_of_nothing_but_sky_is_refused(blender, build, room_folder, tmp_path):
    collection = make(blender, build, room_folder)
    before = build.part(collection, "map_depth").filepath
    made = box_room.room(64)
    made["depth"] = np.zeros_like(made["depth"])
    box_room.save(tmp_path / "sky", made)
    file = tmp_path / "sky" / "depth.exr"
    count = len(blender.data.images)
    with pytest.raises(Exception, match="sky everywhere"):
        build.check_map("depth", file)
    with pytest.raises(Exception, match="sky everywhere"):
        build.replace_map(collection, "depth", file)
    assert build.part(collection, "map_depth").filepath == before
    assert len(blender.data.images) == count


def test_a_place_that_was_told_not_to_follows_no_more(blender, build, room_folder, follow):
    _image, nodes = show_room(blender)
    collection = make(blender, build, room_folder)
    follow(collection)
    nodes["mapping"].inputs["Rotation"].default_value = (0.0, 0.0, 1.0)
    nodes["background"].inputs["Strength"].default_value = 3.0
    turned = turn_of(blender, build, collection)
    blender.ops.omnix.follow_world(follow=False)
    assert not build.is_following(collection)
    nodes["mapping"].inputs["Rotation"].default_value = (0.5, 0.0, 0.0)
    nodes["background"].inputs["Strength"].default_value = 1.0
    # Nor does a new extraction make it follow again.
    blender.ops.omnix.load_maps(directory=str(room_folder), name="room", world="World")
    np.testing.assert_array_equal(turn_of(blender, build, collection), turned)
    assert build.control(collection, "Strength").default_value == 3.0
    blender.ops.omnix.follow_world()
    assert build.control(collection, "Strength").default_value == 1.0
    assert np.abs(turn_of(blender, build, collection) - turned).max() > 0.1


@pytest.fixture
def open_place(blender, build, tmp_path):
    """A place without a roof whose panorama came from a file: no world shows its sky."""
    made = box_room.room(64)
    made["depth"][:24] = 0.0
    radiance = np.minimum(box_room.radiance(box_room.room(64)), 1.0)
    source = write_exr(blender, tmp_path / "sky.exr", radiance)
    box_room.save(tmp_path / "open", made, source)
    return make(blender, build, tmp_path / "open", name="open", mode="ORIGINAL")


def picture_of(world):
    (texture,) = (node for node in world.node_tree.nodes if node.type == "TEX_ENVIRONMENT")
    return texture.image


def test_a_world_of_its_panorama_fits_a_place(blender, build, open_place):
    build.part(open_place, "root").rotation_euler = (0.1, -0.2, 0.7)
    build.control(open_place, "Strength").default_value = 3.0
    assert panorama_of(blender, build, open_place)[:20].max() == 0.0
    blender.ops.omnix.use_as_world()
    world = blender.context.scene.world
    assert build.is_following(open_place)
    seen = panorama_of(blender, build, open_place)
    wanted = 3.0 * np.minimum(box_room.radiance(box_room.room(64)), 1.0)
    for rows in (slice(0, 20), slice(28, 64)):
        assert np.median(np.abs(seen - wanted)[rows]) < 0.03
    world.node_tree.nodes["Background"].inputs["Strength"].default_value = 1.0
    np.testing.assert_allclose(panorama_of(blender, build, open_place), seen / 3.0, atol=0.01)


@pytest.mark.parametrize("scale", [(-1, 1, 1), (2, -2, 2), (-1, -1, 1), (-3, -3, -3)])
def test_a_mirrored_place_stands_as_it_did_under_a_world_of_its_panorama(
    blender, build, open_place, scale
):
    root = build.part(open_place, "root")
    root.scale, root.rotation_euler = scale, (0.1, -0.2, 0.7)
    blender.context.view_layer.update()
    before = np.array(root.matrix_world)
    blender.ops.omnix.use_as_world()
    blender.context.view_layer.update()
    assert np.allclose(root.matrix_world, before, atol=1e-5)
    assert root.scale[:] == scale


def test_a_world_of_its_panorama_is_not_the_places(blender, build, open_place, tmp_path):
    """Neither renewing nor removing a place changes what the user's world shows."""
    blender.ops.omnix.use_as_world()
    world = blender.context.scene.world
    assert picture_of(world).name == "sky.exr"
    other = blender.data.images.new("other", 128, 64, float_buffer=True)
    build.build_place(blender.context, tmp_path / "open", name="open", source=other)
    assert picture_of(world).name == "sky.exr"
    build.remove(blender.context, open_place)
    assert picture_of(world).size[:] == (128, 64)
    left = everything(blender)
    assert left["worlds"] == {"open"}
    assert left["images"] == {"sky.exr", "other"}


def test_a_place_extracted_again_from_its_own_world_is_the_same_place(
    blender, build, host, open_place, tmp_path
):
    for _ in range(2):
        blender.ops.omnix.use_as_world()
        found = host("source").from_world(blender.context.scene.world)
        assert (found.name, found.file) == ("sky", tmp_path / "sky.exr")


def test_a_place_on_a_users_object_stays_as_it_is_under_a_world_of_its_panorama(
    blender, build, open_place
):
    parent = blender.data.objects.new("parent", None)
    blender.context.scene.collection.objects.link(parent)
    parent.rotation_euler.z = 0.5
    root = build.part(open_place, "root")
    root.parent = parent
    root.rotation_euler.z = 0.3
    blender.context.view_layer.update()
    blender.ops.omnix.use_as_world()
    assert root.rotation_euler.z == pytest.approx(0.3)
    assert not build.is_following(open_place)
    mapping = blender.context.scene.world.node_tree.nodes["Mapping"]
    assert mapping.inputs["Rotation"].default_value[2] == pytest.approx(-0.8)


@pytest.mark.parametrize("hide", ["exclude", "hide_viewport"])
def test_what_no_view_layer_shows_stands_where_it_did_when_the_file_is_opened_again(
    blender, build, open_place, tmp_path, hide
):
    parent, mine = (blender.data.objects.new(name, None) for name in ("parent", "mine"))
    blender.context.scene.collection.objects.link(parent)
    open_place.objects.link(mine)
    parent.rotation_euler.z, parent.location.x = math.radians(90), 5.0
    root = build.part(open_place, "root")
    root.parent, mine.parent = parent, build.part(open_place, "surface")
    mine.matrix_parent_inverse.translation.z = 2.0
    mine.location = (1.0, 2.0, 0.5)
    layer = blender.context.view_layer.layer_collection.children[open_place.name]
    setattr(layer if hide == "exclude" else open_place, hide, True)
    blender.ops.wm.save_as_mainfile(filepath=str(tmp_path / "place.blend"))
    blender.ops.wm.open_mainfile(filepath=str(tmp_path / "place.blend"))
    blender.ops.omnix.use_as_world()
    mapping = blender.context.scene.world.node_tree.nodes["Mapping"]
    assert mapping.inputs["Rotation"].default_value[2] == pytest.approx(math.radians(-90))
    blender.ops.omnix.remove_place()
    mine = blender.data.objects["mine"]
    assert mine.matrix_basis.translation[:] == pytest.approx((3.0, 1.0, 4.1))


@pytest.mark.parametrize("held_by", ["VERTEX", "constraint"])
def test_what_hangs_on_a_vertex_or_a_constraint_stays_where_it_is(
    blender, build, room_folder, held_by
):
    collection = make(blender, build, room_folder)
    mine, aim = (blender.data.objects.new(name, None) for name in ("mine", "aim"))
    for item in (mine, aim):
        blender.context.scene.collection.objects.link(item)
    aim.location = (7.0, 8.0, 9.0)
    mine.parent, mine.location.x = build.part(collection, "surface"), 0.25
    if held_by == "VERTEX":
        mine.parent_type = held_by
    else:
        mine.constraints.new("COPY_LOCATION").target = aim
    blender.context.view_layer.update()
    before = mine.matrix_world.translation.copy()
    blender.ops.omnix.remove_place()
    assert mine.matrix_basis.translation[:] == pytest.approx(before[:])


def test_a_panorama_that_is_gone_makes_no_world(blender, build, open_place, room_folder, tmp_path):
    (tmp_path / "sky.exr").unlink()
    make(blender, build, room_folder)
    before = everything(blender)
    for name in ("open", "room"):
        with pytest.raises(RuntimeError, match="was made from is gone"):
            blender.ops.omnix.use_as_world(name=name)
    assert everything(blender) == before
    assert blender.context.scene.world is None


def test_outside_light_enters_a_closed_room_through_the_window_alone(blender, build, tmp_path):
    """Without emission and under a bright world, a room with no window is black."""
    bright = blender.context.scene.world = blender.data.worlds.new("bright")
    if blender.app.version < (5, 0):
        bright.use_nodes = True
    bright.node_tree.nodes["Background"].inputs["Color"].default_value = (10.0, 10.0, 10.0, 1.0)
    seen = {}
    for window in (False, True):
        folder = tmp_path / f"room{window}"
        box_room.save(folder, box_room.room(64, window=window))
        collection = make(blender, build, folder)
        build.control(collection, "Emission Strength").default_value = 0.0
        seen[window] = panorama_of(blender, build, collection, samples=16)
    assert seen[False].max() < 1e-3
    made = box_room.room(64, window=True)
    wall = made["depth"] > 0
    assert seen[True][wall].mean() > 0.01


def test_a_window_stays_in_its_wall_and_lets_light_in_when_relit(blender, build, tmp_path):
    box_room.save(tmp_path / "room", box_room.room(64, window=True))
    collection = make(blender, build, tmp_path / "room", mode="ORIGINAL")
    panes = build.part(collection, "panes")
    assert panes.visible_shadow
    assert panes.visible_diffuse
    build.set_mode(collection, "RELIGHT")
    assert panes.visible_camera
    assert not panes.visible_shadow
    assert not panes.visible_diffuse
    build.rebuild(collection, enclosed="NO")
    assert build.part(collection, "panes") is None


def box(blender, location, half):
    """A box of the user's in the scene."""
    corners = [(x, y, z) for x in (-half, half) for y in (-half, half) for z in (-half, half)]
    sides = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    data = blender.data.meshes.new("box")
    data.from_pydata(corners, [], sides)
    item = blender.data.objects.new("box", data)
    item.location = location
    blender.context.scene.collection.objects.link(item)
    return item


def test_a_shadow_catcher_shows_shadows_alone_whatever_is_rebuilt(blender, build, tmp_path):
    box_room.save(tmp_path / "room", box_room.room(64, window=True))
    collection = make(blender, build, tmp_path / "room", enclosed="NO")
    blender.ops.omnix.use_place(shadow_catcher=True)
    # Rebuilt as a closed place, it gets a hull and panes.
    build.rebuild(collection, enclosed="YES")
    make(blender, build, tmp_path / "room", enclosed="YES")
    for key in ("surface", "hull", "panes"):
        assert build.part(collection, key).is_shadow_catcher
    camera = build.add_camera(blender.context, collection)
    camera.data.lens = 14.0
    camera.rotation_euler = (math.pi / 2 - 0.5, 0.0, -math.pi / 2)
    item = box(blender, (1.0, 1.0, 0.3), 0.15)
    alpha = render(blender, transparent=True)[..., 3]
    assert (alpha > 0.99).any()
    assert ((alpha > 0.05) & (alpha < 0.95)).mean() > 0.01
    item.hide_render = True
    assert render(blender, transparent=True)[..., 3].max() < 0.01
    blender.ops.omnix.use_place(shadow_catcher=False)
    assert not build.is_shadow_catcher(collection)
    assert render(blender, transparent=True)[..., 3].mean() > 0.9


def test_cloth_falls_on_a_place_that_collides(blender, build, room_folder):
    collection = make(blender, build, room_folder)
    scene = blender.context.scene
    heights = {}
    for collides in (True, False):
        blender.ops.omnix.use_place(collision=collides)
        assert build.has_collision(collection) == collides
        build.rebuild(collection, detail=64)
        make(blender, build, room_folder)
        assert build.has_collision(collection) == collides
        cloth = box(blender, (-1.0, 0.5, 0.3), 0.1)
        cloth.modifiers.new("Cloth", "CLOTH")
        for frame in range(1, 25):
            scene.frame_set(frame)
        fallen = cloth.evaluated_get(blender.context.evaluated_depsgraph_get())
        heights[collides] = min((fallen.matrix_world @ v.co).z for v in fallen.data.vertices)
        blender.data.objects.remove(cloth)
        scene.frame_set(1)
    assert heights[True] == pytest.approx(0.0, abs=0.1)
    assert heights[False] < -1.0


def test_building_twice_replaces_only_its_own(blender, build, room_folder):
    collection = make(blender, build, room_folder)
    mine = blender.data.objects.new("mine", None)
    collection.objects.link(mine)
    before = everything(blender)
    again = make(blender, build, room_folder)
    assert again == collection
    assert everything(blender) == before
    assert mine.name in again.objects


def test_what_the_user_has_done_to_a_place_survives_a_new_extraction(
    blender, build, room_folder, follow
):
    show_room(blender)
    collection = make(blender, build, room_folder)
    follow(collection)
    place = build
    root, surface = place.part(collection, "root"), place.part(collection, "surface")
    surface.name = "My Room"
    surface.modifiers.new("Mine", "SUBSURF")
    place.part(collection, "hull").hide_render = True
    mine = blender.data.objects.new("mine", None)
    mine.parent = root
    root.location, root.scale = (5.0, 0.0, 3.2), (2.0, 2.0, 2.0)
    camera = place.add_camera(blender.context, collection)
    camera.location.x = 0.3
    place.control(collection, "Roughness Gain").default_value = 0.5
    place.control(collection, "Normal Strength").keyframe_insert("default_value")
    animated = place.part(collection, "controls_group").animation_data.action
    place.rebuild(collection, detail=64, jump=0.2)
    place.show_map(collection, "normal")
    albedo = place.part(collection, "map_albedo")
    texture = blender.data.textures.new("mine", "IMAGE")
    texture.image = albedo

    build.build_place(blender.context, room_folder, name="room", camera_height=2.0)

    assert place.part(collection, "surface") == surface
    assert surface.name == "My Room"
    assert "Mine" in surface.modifiers
    assert place.part(collection, "hull").hide_render
    assert mine.parent == root
    # The height above the floor has grown by 0.4 m, which the user has doubled.
    assert root.location[:] == pytest.approx((5.0, 0.0, 4.0))
    assert camera.location.x == pytest.approx(0.3)
    assert place.control(collection, "Roughness Gain").default_value == 0.5
    assert place.part(collection, "controls_group").animation_data.action == animated
    assert (place.settings_of(collection).detail, place.is_following(collection)) == (64, True)
    assert place.shown_map(collection) == "normal"
    assert texture.image == place.part(collection, "map_albedo")
    assert texture.image.name == "OmniX room Albedo"


def test_a_surface_that_was_shaded_flat_is_smooth_when_rebuilt(blender, build, room_folder):
    mesh = build.part(make(blender, build, room_folder), "surface").data
    smooth = np.zeros(len(mesh.polygons), bool)
    mesh.polygons.foreach_set("use_smooth", smooth)
    mesh = build.part(make(blender, build, room_folder), "surface").data
    mesh.polygons.foreach_get("use_smooth", smooth)
    assert smooth.all()


def test_removing_leaves_the_file_as_it_was(blender, build, room_folder):
    scene = blender.context.scene
    scene.world = blender.data.worlds.new("world")
    users = blender.data.images.load(str(room_folder / "albedo.png"))
    users.colorspace_settings.name = "Non-Color"
    before = everything(blender)
    collection = make(blender, build, room_folder)
    build.add_camera(blender.context, collection)
    build.mark_asset(collection)
    build.set_collision(collection, True)
    build.replace_map(collection, "roughness", room_folder / "metallic.png")
    build.start_adjusting(collection)
    mine = blender.data.objects.new("mine", None)
    collection.objects.link(mine)
    mine.parent = collection.objects["OmniX room"]
    mine.location = (1.0, 2.0, 0.5)
    blender.context.view_layer.update()
    collection.objects["OmniX room"].name = "renamed"
    build.remove(blender.context, build.find("room"))
    after = everything(blender)
    assert after.pop("objects") == before.pop("objects") | {"mine"}
    assert after == before
    # Half a metre above the viewpoint, where it was.
    assert mine.location[:] == pytest.approx((1.0, 2.0, 2.1))
    assert users.colorspace_settings.name == "Non-Color"
    assert scene.world.name == "world"
    assert mine.name in scene.collection.objects


def test_collections_of_the_users_outlive_the_place(blender, build, room_folder):
    collection = make(blender, build, room_folder)
    props = blender.data.collections.new("props")
    collection.children.link(props)
    chair = blender.data.objects.new("chair", None)
    props.objects.link(chair)
    build.remove(blender.context, collection)
    assert props.name in blender.context.scene.collection.children
    assert chair.name in blender.context.scene.objects


def delete_in_script(blender, item):
    blender.data.objects.remove(item)


def delete_by_hand(blender, item):
    """As the X key does it, which leaves what something refers to in the file."""
    with blender.context.temp_override(selected_objects=[item]):
        blender.ops.object.delete()


DELETE = pytest.mark.parametrize("delete", [delete_in_script, delete_by_hand])


@DELETE
def test_what_was_deleted_comes_back_and_leaves_nothing_behind(blender, build, room_folder, delete):
    empty = everything(blender)
    collection = make(blender, build, room_folder)
    camera = build.add_camera(blender.context, collection)
    before = everything(blender)
    for key in ("surface", "hull"):
        delete(blender, build.part(collection, key))
        assert build.part(collection, key) is None
    delete(blender, camera)
    build.add_camera(blender.context, collection)
    make(blender, build, room_folder)
    assert everything(blender) == before
    for key in ("surface", "hull", "camera"):
        assert build.part(collection, key).name in blender.context.scene.objects
    # A stand-in hides the mesh for as long as it is there.
    blender.ops.omnix.adjust_geometry()
    delete(blender, build.part(collection, "preview"))
    blender.ops.omnix.rebuild_place()
    assert everything(blender) == before
    assert not build.part(collection, "surface").hide_viewport
    # A hull that is deleted and not wanted any more.
    delete(blender, build.part(collection, "hull"))
    build.rebuild(collection, enclosed="NO")
    assert not any("Hull" in item.name for item in blender.data.meshes)
    delete(blender, build.part(collection, "surface"))
    build.remove(blender.context, build.find("room"))
    assert everything(blender) == empty


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        ("node_groups", "controls_group"),
        ("node_groups", "surface_group"),
        ("materials", "material"),
        ("images", "map_depth"),
    ],
)
def test_a_place_of_which_a_part_was_deleted_says_so_and_is_mended(
    blender, build, host, room_folder, kind, key
):
    """As one does in the Outliner's Blender File view."""
    place, operators = build, host("place_operators")
    arguments = {"directory": str(room_folder), "name": "room"}
    blender.ops.omnix.load_maps(**arguments)
    (collection,) = place.places()
    seen = panorama_of(blender, build, collection)
    before = everything(blender)
    getattr(blender.data, kind).remove(place.part(collection, key))
    choices = {"extract_map": {"map": "albedo"}, "show_map": {"map": "albedo"}}
    choices["replace_map"] = {"map": "albedo", "filepath": str(room_folder / "albedo.png")}
    whole = [item for item in operators.CLASSES if not item.takes_damage]
    for name in (item.bl_idname.removeprefix("omnix.") for item in whole):
        with pytest.raises(RuntimeError, match=r"were deleted; undo that, or load the maps"):
            getattr(blender.ops.omnix, name)(**choices.get(name, {}))
    blender.ops.omnix.load_maps(**arguments)
    after = everything(blender)
    # The first images had their names until the second ones were there.
    assert {kind: len(names) for kind, names in after.items()} == {
        kind: len(names) for kind, names in before.items()
    }
    np.testing.assert_allclose(panorama_of(blender, build, collection), seen, atol=1e-3)
    getattr(blender.data, kind).remove(place.part(collection, key))
    blender.ops.omnix.remove_place()
    assert not list(place.places())


def test_a_place_that_is_not_there_is_told(blender, build, room_folder):
    make(blender, build, room_folder)
    with pytest.raises(RuntimeError, match="There is no place called other in this file"):
        blender.ops.omnix.set_mode(name="other", mode="ORIGINAL")
    scene = blender.data.scenes.new("Elsewhere")
    with (
        blender.context.temp_override(scene=scene),
        pytest.raises(RuntimeError, match="There is no place in this scene"),
    ):
        blender.ops.omnix.set_mode(mode="ORIGINAL")
    instance = blender.data.objects.new("Set", None)
    instance.instance_type, instance.instance_collection = "COLLECTION", build.find("room")
    scene.collection.objects.link(instance)
    with (
        blender.context.temp_override(scene=scene),
        pytest.raises(RuntimeError, match="Set is an instance of one: link its collection"),
    ):
        blender.ops.omnix.set_mode(mode="ORIGINAL")


@pytest.mark.parametrize("override", [False, True])
def test_a_place_of_which_the_collection_alone_was_made_local_is_left_alone(
    blender, build, room_folder, tmp_path, override
):
    """Blender crashes when a mesh of another file is filled."""
    make(blender, build, room_folder)
    blender.ops.wm.save_as_mainfile(filepath=str(tmp_path / "library.blend"))
    blender.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)
    with blender.data.libraries.load(str(tmp_path / "library.blend"), link=True) as (_, linked):
        linked.collections = ["OmniX room"]
    (collection,) = linked.collections
    scene = blender.context.scene
    scene.collection.children.link(collection)
    if override:
        layer = blender.context.view_layer
        collection = collection.override_hierarchy_create(scene, layer)
    collection.make_local()
    assert list(build.places()) == []
    assert not blender.ops.omnix.rebuild_place.poll()


def write_layers(blender, path):
    """A rendered panorama as Blender's own OpenEXR of several layers."""
    scene = blender.context.scene
    scene.render.engine, scene.cycles.samples = "CYCLES", 1
    scene.render.resolution_x, scene.render.resolution_y = 128, 64
    scene.world = blender.data.worlds.new("Grey")
    settings = scene.render.image_settings
    if blender.app.version >= (5, 0):
        settings.media_type = "MULTI_LAYER_IMAGE"
    settings.file_format = "OPEN_EXR_MULTILAYER"
    scene.camera = blender.data.objects.new("Eye", blender.data.cameras.new("Eye"))
    scene.collection.objects.link(scene.camera)
    scene.render.filepath = str(path)
    blender.ops.render.render(write_still=True)
    if blender.app.version >= (5, 0):
        settings.media_type = "IMAGE"
    return path


def test_a_panorama_of_several_layers_is_the_original_light_but_no_map(
    blender, build, tmp_path, room_folder
):
    file = write_layers(blender, tmp_path / "layers.exr")
    report = maps.read_report(room_folder)
    report["source"] = {"path": str(file), "linear": True, "exposure_stops": 0.0}
    (room_folder / maps.REPORT).write_text(json.dumps(report))
    collection = make(blender, build, room_folder, mode="ORIGINAL")
    grey = blender.context.scene.world.color[0]
    seen = panorama_of(blender, build, collection)
    np.testing.assert_allclose(np.median(seen), grey, rtol=0.02)
    with pytest.raises(RuntimeError, match=r"layers\.exr holds several layers; save the one"):
        blender.ops.omnix.replace_map(map="albedo", filepath=str(file))


@pytest.mark.parametrize(
    ("file", "sentence"),
    [
        ("", "Nothing is chosen"),
        ("folder", "folder is not an image file; choose one"),
        ("tiny.exr", r"tiny\.exr is 4 x 2 pixels, too small"),
    ],
)
def test_what_can_be_no_map_is_refused(blender, build, room_folder, tmp_path, file, sentence):
    make(blender, build, room_folder)
    (tmp_path / "folder").mkdir()
    write_exr(blender, tmp_path / "tiny.exr", np.ones((2, 4), np.float32))
    with pytest.raises(RuntimeError, match=sentence):
        blender.ops.omnix.replace_map(map="depth", filepath=file and str(tmp_path / file))


def test_a_place_without_the_node_of_a_map_says_so(blender, build, room_folder):
    collection = make(blender, build, room_folder)
    nodes = build.part(collection, "surface_group").nodes
    nodes.remove(nodes["albedo"])
    assert build.shown_map(collection) is None
    with pytest.raises(RuntimeError, match=r"The node of the albedo map was deleted.*load the"):
        blender.ops.omnix.show_map(map="albedo")


def test_what_the_user_has_done_to_the_shading_survives_other_maps(
    blender, build, room_folder, tmp_path
):
    collection = make(blender, build, room_folder, mode="ORIGINAL")
    group = build.part(collection, "surface_group")
    nodes = group.nodes
    hue = nodes.new("ShaderNodeHueSaturation")
    (base,) = [link for link in nodes["albedo"].outputs[0].links if link.to_node.name != "Map"]
    target = base.to_socket
    group.links.new(nodes["albedo"].outputs[0], hue.inputs["Color"])
    group.links.new(hue.outputs[0], target)
    nodes["albedo"].interpolation = "Cubic"
    mine = blender.data.images.new("mine", 128, 64)
    nodes["metallic"].image = mine
    build.show_map(collection, "roughness")

    collection["omnix"]["source_gain"] = 4.0
    white = np.ones((32, 64, 3), np.float32)
    build.replace_map(collection, "depth", write_exr(blender, tmp_path / "d.exr", white[..., 0]))
    assert nodes["Source Gain"].inputs[1].default_value == 4.0
    build.replace_map(collection, "roughness", write_exr(blender, tmp_path / "r.exr", white))
    build.build_place(blender.context, room_folder, name="room", source=mine)

    assert build.part(collection, "surface_group") == group
    assert target.links[0].from_node == hue
    assert (nodes["albedo"].interpolation, nodes["metallic"].image) == ("Cubic", mine)
    assert build.source_of(collection) == mine
    images = build.images_of(collection)
    shown = [node.image for node in nodes if node.bl_idname == "ShaderNodeTexEnvironment"]
    assert set(shown) == set(images.values()) - {images["metallic"]} | {mine}
    assert nodes["Poles"].inputs[1].default_value == pytest.approx(np.tan(np.pi / 2 * 31 / 32))
    assert np.median(panorama_of(blender, build, collection)) == pytest.approx(1.0, abs=0.01)
    # What is asked for by name is shown, and what is gone comes back.
    build.replace_map(collection, "metallic", room_folder / "metallic.png")
    assert nodes["metallic"].image == build.part(collection, "map_metallic")
    blender.data.images.remove(build.part(collection, "map_albedo"))
    build.build_place(blender.context, room_folder, name="room")
    nodes = build.part(collection, "surface_group").nodes
    assert nodes["albedo"].image == build.part(collection, "map_albedo")


def test_copies_of_a_place_are_switched_together(blender, build, tmp_path):
    """They have one material; so the windows of both must let light in, or neither's."""
    box_room.save(tmp_path / "room", box_room.room(128, window=True))
    first = make(blender, build, tmp_path / "room", enclosed="YES")
    blender.ops.scene.new(type="FULL_COPY")
    second = build.find("room")
    assert second != first
    build.set_mode(second, "ORIGINAL")
    for item in (first, second):
        assert build.settings_of(item).mode == "ORIGINAL"
        assert build.part(item, "panes").visible_diffuse


def test_a_stand_in_that_lost_its_modifier_can_be_left(blender, build, room_folder):
    collection = make(blender, build, room_folder)
    surface = build.part(collection, "surface")
    surface.hide_render = True
    stand_in = build.start_adjusting(collection)
    stand_in.modifiers.clear()
    surface.name = "Walls"
    with pytest.raises(RuntimeError, match=r"lost the modifier.*Keep Geometry"):
        blender.ops.omnix.apply_geometry()
    blender.ops.omnix.keep_geometry()
    assert build.part(collection, "preview") is None
    assert surface.hide_render and not surface.hide_viewport


@DELETE
def test_the_users_own_outlives_what_it_hung_on(blender, build, room_folder, delete):
    """A linked duplicate and a child of a surface that is deleted, and then of its place."""
    collection = make(blender, build, room_folder)
    surface = build.part(collection, "surface")
    mesh = surface.data
    twin = blender.data.objects.new("twin", mesh)
    mine = blender.data.objects.new("mine", None)
    for item in (twin, mine):
        blender.context.scene.collection.objects.link(item)
    mine.parent = build.part(collection, "hull")
    mine.location = (1.0, 2.0, 0.5)
    # What nothing uses is not ours for that.
    blender.data.meshes.new("unused")
    blender.context.view_layer.update()
    count = len(mesh.polygons)
    delete(blender, surface)
    build.rebuild(collection, detail=64, enclosed="NO")
    build.rebuild(collection, enclosed="YES")
    assert (twin.data, len(mesh.polygons)) == (mesh, count)
    assert build.part(collection, "surface").data != mesh
    # Half a metre above the viewpoint, where it was.
    assert mine.matrix_world.translation[:] == pytest.approx((1.0, 2.0, 2.1))
    twin.data = build.part(collection, "surface").data
    build.remove(blender.context, build.find("room"))
    assert {item.name for item in blender.data.objects} == {"twin", "mine"}
    assert len(twin.data.polygons) > 0
    assert "unused" in blender.data.meshes


@DELETE
def test_a_deleted_viewpoint_is_told_and_comes_back(blender, build, room_folder, delete):
    collection = make(blender, build, room_folder)
    delete(blender, build.part(collection, "root"))
    before = everything(blender)
    for operator in ("add_camera", "set_scale", "adjust_geometry"):
        with pytest.raises(RuntimeError, match="viewpoint of room was deleted"):
            getattr(blender.ops.omnix, operator)()
    assert everything(blender) == before
    blender.ops.omnix.load_maps(directory=str(room_folder), name="room")
    surface = build.part(collection, "surface")
    assert surface.parent == build.part(collection, "root")
    blender.context.view_layer.update()
    assert surface.matrix_world.translation.z == pytest.approx(1.6)


def test_two_places_live_side_by_side(blender, build, room_folder):
    first = make(blender, build, room_folder, name="one")
    second = make(blender, build, room_folder, name="two")
    place, omnix = build, blender.ops.omnix
    # The place of the active object, the one that is named, and else the first.
    blender.context.view_layer.objects.active = place.part(second, "surface")
    omnix.set_mode(mode="ORIGINAL")
    omnix.replace_map(name="one", map="albedo", filepath=str(room_folder / "panorama.png"))
    blender.context.view_layer.objects.active = None
    omnix.set_scale(distance=2.0)
    assert place.control(first, "Relit").default_value == 1.0
    assert place.control(second, "Relit").default_value == 0.0
    assert place.part(first, "map_albedo").filepath == str(room_folder / "panorama.png")
    assert place.part(second, "map_albedo").filepath == str(room_folder / "albedo.png")
    assert [place.viewpoint(item).translation.z for item in (first, second)] == pytest.approx(
        [3.2, 1.6]
    )
    build.remove(blender.context, build.find("one"))
    assert [item.name for item in build.places()] == ["OmniX two"]
    assert all(item.data.materials[0] for item in second.objects if item.type == "MESH")


@pytest.mark.parametrize(("system", "unit"), [("METRIC", 1.0), ("METRIC", 0.01), ("NONE", 0.01)])
def test_the_viewpoint_is_at_camera_height_above_the_floor(
    blender, build, room_folder, system, unit
):
    units = blender.context.scene.unit_settings
    units.system, units.scale_length = system, unit
    metre = 100.0 if (system, unit) == ("METRIC", 0.01) else 1.0
    collection = make(blender, build, room_folder, camera_height=1.6)
    blender.context.view_layer.update()
    surface = build.part(collection, "surface")
    lowest = min((surface.matrix_world @ vertex.co).z for vertex in surface.data.vertices)
    # Background cells at the foot of a wall reach half a cell below the floor.
    assert lowest == pytest.approx(0.0, abs=0.08 * metre)
    assert build.viewpoint(collection).translation.z == pytest.approx(1.6 * metre)


@pytest.mark.parametrize("scale", [1 / 32, 1.0, 500.0])
def test_the_camera_sees_all_of_a_place(blender, build, tmp_path, scale):
    made = box_room.room(64)
    made["depth"] *= scale
    box_room.save(tmp_path / "room", made)
    collection = make(blender, build, tmp_path / "room")
    build.part(collection, "root").scale = (2.0, 2.0, 2.0)
    lens = build.add_camera(blender.context, collection).data
    assert lens.clip_start < min(0.1001, 2.0 * made["depth"].min())
    assert lens.clip_end > max(999.0, 2.0 * made["depth"].max())
    if scale == 1.0:
        usual = blender.data.cameras.new("usual")
        assert (lens.clip_start, lens.clip_end) == (usual.clip_start, usual.clip_end)
    lens.clip_start = 0.5
    assert build.add_camera(blender.context, collection).data.clip_start == 0.5
    build.scale(collection, 0.01)
    assert lens.clip_start < 0.02 * made["depth"].min()


def test_a_replaced_depth_map_is_followed(blender, build, room_folder, tmp_path):
    collection = make(blender, build, room_folder)
    surface = build.part(collection, "surface")
    before = max(vertex.co.z for vertex in surface.data.vertices)
    made = box_room.room(64)
    made["depth"] = made["depth"] * 2.0
    box_room.save(tmp_path / "twice", made)
    build.replace_map(collection, "depth", tmp_path / "twice" / "depth.exr")
    after = max(vertex.co.z for vertex in surface.data.vertices)
    assert after == pytest.approx(2.0 * before, rel=1e-3)
    with pytest.raises(Exception, match="report"):
        build.replace_map(collection, "depth", tmp_path / "twice" / "report.json")
    assert max(vertex.co.z for vertex in surface.data.vertices) == after


def test_settings_change_the_geometry_in_place(blender, build, room_folder):
    collection = make(blender, build, room_folder)
    surface = build.part(collection, "surface")
    before = len(surface.data.polygons)
    build.rebuild(collection, detail=64, fill=0.0, enclosed="NO")
    assert build.part(collection, "surface") == surface
    assert len(surface.data.polygons) == 64 * 32 < before
    assert build.part(collection, "hull") is None
    build.rebuild(collection, enclosed="YES")
    assert build.part(collection, "hull") is not None


@pytest.mark.parametrize("missing", ["depth.exr", "report.json"])
def test_what_cannot_be_built_changes_nothing(blender, build, room_folder, missing):
    make(blender, build, room_folder)
    before = everything(blender)
    (room_folder / missing).unlink()
    with pytest.raises(Exception, match=r"depth|report\.json") as caught:
        make(blender, build, room_folder)
    assert type(caught.value).__name__ == "OmnixError"
    assert everything(blender) == before


def test_a_map_set_without_normals_or_light_still_stands(blender, build, tmp_path):
    made = box_room.room(64)
    box_room.save(tmp_path / "bare", {"depth": made["depth"], "panorama": made["panorama"]})
    collection = make(blender, build, tmp_path / "bare", mode="ORIGINAL")
    assert panorama_of(blender, build, collection).mean() > 0.1


def test_undo_takes_the_place_back(blender, room_folder, enabled_extension):
    blender.ops.ed.undo_push(message="before")
    blender.ops.omnix.load_maps(
        "EXEC_DEFAULT", True, directory=str(room_folder), name="room", build=True
    )
    assert "OmniX room" in blender.data.collections
    blender.ops.ed.undo()
    assert "OmniX room" not in blender.data.collections


def test_operators_do_what_the_functions_do(blender, build, room_folder, tmp_path):
    collection = make(blender, build, room_folder, mode="ORIGINAL")
    omnix, place = blender.ops.omnix, build
    omnix.set_mode(mode="RELIGHT")
    assert place.control(collection, "Relit").default_value == 1.0
    omnix.rebuild_place(detail=64)
    assert place.settings_of(collection).detail == 64
    omnix.set_scale(measured=1.0, distance=2.0)
    assert place.viewpoint(collection).translation.z == pytest.approx(3.2)
    omnix.show_map(map="normal")
    assert place.shown_map(collection) == "normal"
    omnix.show_map(map="NONE")
    assert place.shown_map(collection) is None
    with pytest.raises(RuntimeError, match="no semantic map"):
        omnix.show_map(map="semantic")
    omnix.replace_map(map="albedo", filepath=str(room_folder / "panorama.png"))
    omnix.save_maps(directory=str(tmp_path / "saved"))
    saved = (tmp_path / "saved" / "albedo.png").read_bytes()
    assert saved == (room_folder / "panorama.png").read_bytes()
    report = maps.read_report(tmp_path / "saved")
    assert report["replaced"] == {"albedo": str(room_folder / "panorama.png")}
    assert set(maps.map_files(tmp_path / "saved")) == set(place.images_of(collection))
    with pytest.raises(RuntimeError, match="not empty"):
        omnix.save_maps(directory=str(tmp_path))
    # An earlier set goes, with the maps that this place has not.
    box_room.save(tmp_path / "saved", box_room.room(64) | {"semantic": box_room.room(64)["albedo"]})
    omnix.save_maps(directory=str(tmp_path / "saved"))
    assert (tmp_path / "saved" / "albedo.png").read_bytes() == saved
    assert set(maps.map_files(tmp_path / "saved")) == set(place.images_of(collection))
    place.part(collection, "root").rotation_euler.z = 0.7
    omnix.add_camera()
    blender.context.view_layer.update()
    camera = blender.context.scene.camera
    assert camera == place.part(collection, "camera")
    assert camera.matrix_world.translation[:] == pytest.approx((0.0, 0.0, 3.2))
    towards = -camera.matrix_world.col[2].xyz.normalized()
    # The middle of the panorama: +X, turned as the place is.
    assert towards[:] == pytest.approx((math.cos(0.7), math.sin(0.7), 0.0), abs=1e-6)
    omnix.mark_asset()
    assert collection.asset_data is not None
    assert collection.preview.image_size[:] == (256, 256)
    preview = np.empty((256, 256, 4), np.float32)
    collection.preview.image_pixels_float.foreach_get(preview.ravel())
    picture = box_room.room(64)["panorama"]
    # The middle square, four pixels for one, upside down.
    np.testing.assert_allclose(preview[::-4, ::4, :3], picture[:, 32:96], atol=0.02)
    with pytest.raises(RuntimeError, match="no world"):
        omnix.follow_world()
    omnix.remove_place()
    assert "OmniX room" not in blender.data.collections
    with pytest.raises(RuntimeError, match="no place in this file"):
        omnix.remove_place()


def test_saved_maps_have_a_contact_sheet_where_it_is_true(
    blender, build, room_folder, tmp_path, capfd
):
    collection = make(blender, build, room_folder)
    there, sheet = tmp_path / "saved", tmp_path / "saved" / maps.PREVIEW
    true = (room_folder / maps.PREVIEW).read_bytes()
    blender.ops.omnix.save_maps(directory=str(there))
    assert sheet.read_bytes() == true
    assert "contact sheet" not in capfd.readouterr().out
    blender.ops.omnix.replace_map(map="albedo", filepath=str(room_folder / "panorama.png"))
    build.part(collection, "map_roughness").pixels[0] = 0.25
    blender.ops.omnix.save_maps(directory=str(there))
    assert not sheet.exists()
    assert "no contact sheet, which would not show your own albedo, roughness." in (
        capfd.readouterr().out
    )
    # Nor is one left that belongs to an earlier set.
    sheet.write_bytes(true)
    (room_folder / maps.PREVIEW).unlink()
    make(blender, build, room_folder)
    blender.ops.omnix.save_maps(directory=str(there))
    assert not sheet.exists()


def test_saved_maps_are_known_by_what_was_saved(blender, build, room_folder, tmp_path):
    collection = make(blender, build, room_folder)
    build.replace_map(collection, "albedo", room_folder / "panorama.png")
    build.save_maps(collection, tmp_path / "saved")
    known = maps.read_report(tmp_path / "saved")["files"]
    assert {name: entry["sha256"] for name, entry in known.items()} == {
        file.name: maps.sha256(file) for file in maps.map_files(tmp_path / "saved").values()
    }


def test_maps_that_cannot_be_saved_leave_the_earlier_set(blender, build, room_folder, tmp_path):
    collection = make(blender, build, room_folder)
    there = tmp_path / "saved"
    build.save_maps(collection, there)
    before = {file.name: file.read_bytes() for file in there.iterdir()}
    own = tmp_path / "own.exr"
    own.write_bytes((room_folder / "depth.exr").read_bytes())
    build.replace_map(collection, "depth", own)
    build.replace_map(collection, "albedo", room_folder / "panorama.png")
    own.unlink()
    build.part(collection, "map_depth").reload()
    with pytest.raises(RuntimeError, match=r"own.exr cannot be read"):
        blender.ops.omnix.save_maps(directory=str(there))
    assert {file.name: file.read_bytes() for file in there.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["room", "saved"]


def test_a_colour_space_that_blender_has_not_is_named(blender, build, room_folder, tmp_path):
    with pytest.raises(build.building.OmnixError, match="no Linear Mars, which the maps"):
        build.building.images.load(room_folder / "albedo.png", "albedo", "Linear Mars")
    assert not blender.data.images


def test_a_map_shown_is_unlit(blender, build, room_folder):
    collection = make(blender, build, room_folder)
    build.show_map(collection, "roughness")
    assert np.median(panorama_of(blender, build, collection)) == pytest.approx(0.6, abs=0.01)


def test_a_place_shows_itself_again_when_the_map_shown_is_gone(
    blender, build, room_folder, tmp_path, capfd
):
    collection = make(blender, build, room_folder)
    seen = panorama_of(blender, build, collection)
    made = box_room.room(64)
    box_room.save(tmp_path / "fewer", {key: made[key] for key in made if key != "roughness"})
    box_room.save(tmp_path / "bare", {key: made[key] for key in ("depth", "panorama")})
    build.show_map(collection, "roughness")
    capfd.readouterr()

    blender.ops.omnix.load_maps(directory=str(tmp_path / "fewer"), name="room")
    assert build.shown_map(collection) is None
    told = "Warning: The place showed its roughness map, which the new maps lack"
    assert told in capfd.readouterr().out
    # The roughness alone is another now.
    difference = np.abs(panorama_of(blender, build, collection) - seen).mean()
    assert difference < 0.1 * seen.mean()
    # A map that is there goes on being shown, and what is not shown is not missed.
    build.show_map(collection, "depth")
    blender.ops.omnix.load_maps(directory=str(tmp_path / "bare"), name="room")
    assert build.shown_map(collection) == "depth"
    build.show_map(collection, None)
    blender.ops.omnix.load_maps(directory=str(room_folder), name="room")
    build.show_map(collection, "albedo")
    build.show_map(collection, None)
    blender.ops.omnix.load_maps(directory=str(tmp_path / "bare"), name="room")
    assert build.shown_map(collection) is None
    assert "showed" not in capfd.readouterr().out


def test_the_stand_in_follows_its_sliders_and_applies_them(blender, host, build, room_folder):
    collection = make(blender, build, room_folder)
    surface = build.part(collection, "surface")
    before = everything(blender)
    blender.ops.omnix.adjust_geometry()
    item = build.part(collection, "preview")
    modifier = item.modifiers[0]
    names = host("build.stand_in").inputs(modifier)
    modifier[names["Detail"]], modifier[names["Jump"]] = 64, 0.5
    item.update_tag()
    graph = blender.context.evaluated_depsgraph_get()
    mesh = item.evaluated_get(graph).to_mesh()
    points = np.empty((len(mesh.vertices), 3), np.float32)
    mesh.vertices.foreach_get("co", points.ravel())
    assert 0.9 * 64 * 32 < len(mesh.polygons) <= 64 * 32
    assert np.allclose(points.min(axis=0), box_room.ROOM[0], atol=0.1)
    directions = np.empty_like(points)
    mesh.attributes["omnix_direction"].data.foreach_get("vector", directions.ravel())
    assert np.array_equal(points, directions)
    used = mesh.materials[mesh.polygons[0].material_index]
    assert used.name == surface.data.materials[0].name
    assert surface.hide_viewport
    item.evaluated_get(graph).to_mesh_clear()
    blender.ops.omnix.apply_geometry()
    assert everything(blender) == before
    applied = len(surface.data.polygons)
    build.rebuild(collection, detail=64, jump=0.5)
    assert applied == len(surface.data.polygons)
    build.rebuild(collection, fill=0.0)
    # The block hides part of the wall, which the full mesh has.
    assert applied > len(surface.data.polygons)
    assert build.settings_of(collection).detail == 64
    assert build.settings_of(collection).jump == pytest.approx(0.5)
    assert not surface.hide_viewport


def vertices(build, collection, key="surface") -> np.ndarray:
    data = build.part(collection, key).data
    values = np.empty(3 * len(data.vertices), np.float32)
    data.vertices.foreach_get("co", values)
    return values


def write_exr(blender, path, values):
    """Values (H, W) or (H, W, 3), row 0 on top, as they are in a float OpenEXR file."""
    height, width = values.shape[:2]
    image = blender.data.images.new(path.stem, width, height, float_buffer=True, is_data=True)
    rgba = np.ones((height, width, 4), np.float32)
    rgba[..., :3] = values.reshape(height, width, -1)[::-1]
    image.pixels.foreach_set(rgba.ravel())
    image.filepath_raw, image.file_format = str(path), "OPEN_EXR"
    image.save()
    blender.data.images.remove(image)
    return path


@pytest.mark.parametrize("beyond", [1e10, np.inf, np.nan])
def test_a_rendered_depth_pass_is_sky_where_it_hits_nothing(blender, build, tmp_path, beyond):
    made = box_room.room(64, window=True)
    box_room.save(tmp_path / "room", made)
    collection = make(blender, build, tmp_path / "room")
    wanted = vertices(build, collection)
    assert build.part(collection, "panes") is not None
    depth = np.where(made["depth"] > 0, made["depth"], np.float32(beyond))
    own = write_exr(blender, tmp_path / "own.exr", depth)
    build.replace_map(collection, "depth", own)
    np.testing.assert_allclose(vertices(build, collection), wanted, atol=1e-4)


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_a_normal_that_is_no_number_spoils_nothing(blender, build, room_folder, tmp_path, value):
    collection = make(blender, build, room_folder)
    normal = box_room.room(64)["normal"] / 2 + 0.5
    normal[20, 30] = value
    build.replace_map(collection, "normal", write_exr(blender, tmp_path / "own.exr", normal))
    assert np.isfinite(vertices(build, collection)).all()
    assert np.isfinite(vertices(build, collection, "hull")).all()


def test_own_files_keep_their_colours(blender, build, room_folder, tmp_path):
    """A linear albedo is read as such, and comes out encoded in a map set of its own."""
    collection = make(blender, build, room_folder)
    linear = np.full((64, 128, 3), 0.25, np.float32)
    own = write_exr(blender, tmp_path / "baked.exr", linear)
    build.replace_map(collection, "albedo", own)
    build.show_map(collection, "albedo")
    assert np.median(panorama_of(blender, build, collection)) == pytest.approx(0.25, abs=0.01)
    build.save_maps(collection, tmp_path / "saved")
    build.replace_map(collection, "albedo", tmp_path / "saved" / "albedo.png")
    assert np.median(panorama_of(blender, build, collection)) == pytest.approx(0.25, abs=0.01)
    # And the other way round: an encoded picture as the light that surfaces give off.
    build.replace_map(collection, "emission", tmp_path / "saved" / "albedo.png")
    build.show_map(collection, "emission")
    assert np.median(panorama_of(blender, build, collection)) == pytest.approx(0.25, abs=0.01)


def test_what_was_painted_on_a_map_is_saved(blender, build, room_folder, tmp_path):
    collection = make(blender, build, room_folder)
    image = build.part(collection, "map_roughness")
    image.pixels.foreach_set(np.full(4 * 128 * 64, 0.25, np.float32))
    build.save_maps(collection, tmp_path / "painted")
    image.pack()
    assert not image.is_dirty
    build.save_maps(collection, tmp_path / "packed")
    for folder in ("painted", "packed"):
        saved = blender.data.images.load(str(tmp_path / folder / "roughness.png"))
        assert saved.pixels[0] == pytest.approx(0.25, abs=0.003), folder


def test_packed_maps_are_saved_as_they_are(blender, build, room_folder, tmp_path):
    collection = make(blender, build, room_folder)
    for name in build.images_of(collection):
        build.part(collection, f"map_{name}").pack()
    build.save_maps(collection, tmp_path / "saved")
    for name, file in maps.map_files(room_folder).items():
        assert (tmp_path / "saved" / file.name).read_bytes() == file.read_bytes(), name


def test_a_packed_map_can_be_replaced(blender, build, room_folder, tmp_path):
    collection = make(blender, build, room_folder)
    build.part(collection, "map_depth").pack()
    near = write_exr(blender, tmp_path / "near.exr", np.full((64, 128), 0.5, np.float32))
    build.replace_map(collection, "depth", near)
    lengths = np.linalg.norm(vertices(build, collection).reshape(-1, 3), axis=1)
    assert np.median(lengths) == pytest.approx(0.5, abs=0.05)
    assert not any(image.packed_file for image in blender.data.images)


def test_the_panorama_can_be_replaced_where_it_is_the_original_light(
    blender, build, room_folder, tmp_path
):
    collection = make(blender, build, room_folder, mode="ORIGINAL")
    assert build.source_of(collection) == build.part(collection, "map_panorama")
    build.replace_map(collection, "panorama", room_folder / "albedo.png")
    assert build.source_of(collection) == build.part(collection, "map_panorama")
    assert build.source_of(collection).filepath.endswith("albedo.png")


def test_depth_is_shown_as_its_inverse(blender, build, room_folder):
    collection = make(blender, build, room_folder)
    build.show_map(collection, "depth")
    assert build.shown_map(collection) == "depth"
    seen = panorama_of(blender, build, collection)
    wanted = 1.0 / (1.0 + box_room.room(64)["depth"])
    assert np.median(np.abs(seen.mean(axis=-1) - wanted)) < 0.02


@pytest.mark.parametrize(
    ("mode", "told"), [("EDIT", "in Edit Mode"), ("SCULPT", "being sculpted with Dyntopo")]
)
def test_geometry_is_not_cut_under_the_users_hands(blender, build, room_folder, mode, told):
    collection = make(blender, build, room_folder)
    surface = build.part(collection, "surface")
    before, names = vertices(build, collection), everything(blender)
    blender.context.view_layer.objects.active = surface
    blender.ops.object.mode_set(mode=mode)
    if mode == "SCULPT":
        blender.ops.sculpt.dynamic_topology_toggle()
    for change in (
        lambda: make(blender, build, room_folder),
        lambda: build.rebuild(collection, detail=64),
        lambda: build.replace_map(collection, "depth", room_folder / "depth.exr"),
    ):
        with pytest.raises(Exception, match=f"{told}; leave that first"):
            change()
    blender.ops.object.mode_set(mode="OBJECT")
    assert everything(blender) == names
    # Dyntopo puts them in another order.
    assert (np.sort(vertices(build, collection), axis=0) == np.sort(before, axis=0)).all()


def test_scaling_leaves_a_lifted_floor_where_it_is(blender, build, room_folder):
    collection = make(blender, build, room_folder)
    root = build.part(collection, "root")
    root.location.z += 5.0
    build.scale(collection, 2.0)
    build.scale(collection, 1.5)
    assert root.location.z - 1.6 * root.scale.z == pytest.approx(5.0, abs=1e-5)


def test_what_the_user_blends_and_hides_survives_a_rebuild(blender, build, tmp_path):
    box_room.save(tmp_path / "room", box_room.room(64, window=True))
    collection = make(blender, build, tmp_path / "room")
    build.control(collection, "Relit").default_value = 0.25
    hull = build.part(collection, "hull")
    hull.hide_render = True
    build.rebuild(collection, detail=64)
    build.replace_map(collection, "normal", tmp_path / "room" / "normal.exr")
    build.build_place(blender.context, tmp_path / "room", name="room")
    for apply in (True, False):
        build.start_adjusting(collection)
        assert hull.hide_viewport
        build.finish_adjusting(collection, apply=apply)
        assert (hull.hide_viewport, hull.hide_render) == (False, True)
    assert build.control(collection, "Relit").default_value == 0.25
    assert not build.part(collection, "panes").visible_diffuse


def test_a_copy_can_be_removed_without_the_place(blender, build, room_folder):
    collection = make(blender, build, room_folder)
    before = everything(blender)
    blender.ops.scene.new(type="FULL_COPY")
    (copy,) = (other for other in build.places() if other != collection)
    build.remove(blender.context, copy)
    assert collection in build.places()
    for key in ("root", "surface", "map_depth", "material"):
        assert build.part(collection, key) is not None, key
    assert before["objects"] <= everything(blender)["objects"]


def test_a_map_can_be_mended_while_others_are_missing(blender, build, room_folder, tmp_path):
    collection = make(blender, build, room_folder)
    for name in ("roughness", "metallic"):
        (room_folder / f"{name}.png").rename(tmp_path / f"{name}.png")
        build.part(collection, f"map_{name}").reload()
    source = build.source_of(collection)
    source.filepath = str(tmp_path / "gone.exr")
    build.replace_map(collection, "roughness", tmp_path / "roughness.png")
    assert build.part(collection, "map_roughness").size[0] == 128


def test_a_deleted_panorama_is_told_before_a_map_is_replaced(blender, build, room_folder):
    collection = make(blender, build, room_folder)
    blender.data.images.remove(build.source_of(collection))
    count = len(blender.data.images)
    with pytest.raises(RuntimeError, match="The panorama of room was deleted; undo that, or load"):
        blender.ops.omnix.replace_map(map="roughness", filepath=str(room_folder / "metallic.png"))
    assert len(blender.data.images) == count
    blender.ops.omnix.replace_map(map="panorama", filepath=str(room_folder / "panorama.png"))
    assert build.source_of(collection) == build.part(collection, "map_panorama")


def test_what_the_user_uses_of_a_place_outlives_it(blender, build, room_folder):
    collection = make(blender, build, room_folder)
    albedo, ours = (build.part(collection, key) for key in ("map_albedo", "material"))
    own = blender.data.materials.new("own")
    own.use_nodes = True
    texture = own.node_tree.nodes.new("ShaderNodeTexImage")
    texture.image = albedo
    prop = blender.data.meshes.new("prop")
    prop.materials.append(ours)
    blender.ops.omnix.remove_place()
    assert texture.image == albedo and prop.materials[0] == ours
    assert "OmniX room Depth" in blender.data.images  # for the material of the prop
    blender.data.materials.remove(own)
    blender.data.meshes.remove(prop)


def test_a_surface_with_shapes_of_the_users_is_not_cut_anew(blender, build, room_folder):
    collection = make(blender, build, room_folder)
    surface = build.part(collection, "surface")
    surface.shape_key_add(name="Basis")
    before = len(surface.data.vertices)
    with pytest.raises(RuntimeError, match="has shape keys"):
        blender.ops.omnix.rebuild_place(detail=64)
    assert len(surface.data.vertices) == before
    surface.shape_key_clear()
    blender.ops.omnix.rebuild_place(detail=64)
    assert len(surface.data.vertices) < before


def test_drivers_of_the_users_are_left_alone(blender, build, room_folder, follow):
    show_room(blender)
    collection = make(blender, build, room_folder)
    root = build.part(collection, "root")
    build.control(collection, "Emission Strength").driver_add("default_value")
    root.driver_add("location", 2)
    assert not build.is_following(collection)
    follow(collection)
    assert build.is_following(collection)
    blender.ops.omnix.follow_world(follow=False)
    assert not build.is_following(collection)
    root.driver_add("rotation_euler", 2)
    blender.ops.omnix.follow_world(follow=False)
    assert {curve.data_path for curve in root.animation_data.drivers} == {
        "location",
        "rotation_euler",
    }


def test_what_a_copy_follows_leaves_the_place_following(blender, build, room_folder, follow):
    """They have one material, so its strength is the place's for as long as that follows."""
    image, nodes = show_room(blender)
    first = make(blender, build, room_folder, source=image)
    follow(first)
    blender.ops.scene.new(type="FULL_COPY")
    copy = build.find("room")
    strength = build.control(copy, "Strength")
    assert copy != first and build.shared_strength(first) is None
    for on in (False, True):
        blender.ops.omnix.follow_world(follow=on)
        assert build.is_following(copy) == on
        assert "still follows World, as OmniX room does" in build.shared_strength(copy)
        nodes["background"].inputs["Strength"].default_value = 2.0 + on
        blender.context.view_layer.update()
        assert strength.default_value == 2.0 + on
    # What nobody follows any more is free.
    build.stop_following(first)
    blender.ops.omnix.follow_world()
    assert not build.is_following(first) and build.shared_strength(copy) is None
    copied = blender.context.scene.world.node_tree.nodes["Background"]
    copied.inputs["Strength"].default_value = 5.0
    blender.context.view_layer.update()
    assert strength.default_value == 5.0


def test_a_copy_has_not_lost_the_world_that_its_strength_never_followed(
    blender, build, room_folder, follow
):
    image, nodes = show_room(blender)
    blender.context.scene.world.node_tree.nodes.remove(nodes["mapping"])
    first = make(blender, build, room_folder, source=image)
    follow(first)
    blender.ops.scene.new(type="FULL_COPY")
    copy = build.find("room")
    assert build.is_following(first) and not build.is_following(copy)
    blender.data.worlds.remove(blender.context.scene.world)
    assert not build.has_lost_world(copy)


def test_a_place_that_a_parent_turns_follows_no_world(blender, build, room_folder):
    show_room(blender)
    collection = make(blender, build, room_folder)
    parent = blender.data.objects.new("turntable", None)
    blender.context.scene.collection.objects.link(parent)
    build.part(collection, "root").parent = parent
    with pytest.raises(RuntimeError, match="turned by turntable"):
        blender.ops.omnix.follow_world()
    assert not build.is_following(collection)


def test_loading_the_maps_again_keeps_the_panorama_that_a_place_was_given(
    blender, build, room_folder
):
    image, _nodes = show_room(blender)
    collection = make(blender, build, room_folder, source=image)
    blender.ops.omnix.load_maps(directory=str(room_folder))
    assert build.source_of(collection) == image


def test_of_places_of_one_name_that_of_the_maps_is_meant(
    blender, build, host, room_folder, tmp_path
):
    destination = host("destination")
    other = tmp_path / "other"
    box_room.save(other, box_room.room(64))
    first = make(blender, build, room_folder)
    second = make(blender, build, other, name="other")
    second["omnix"]["name"] = "room"  # as if it were appended from another file
    for folder, meant in {room_folder: first, other: second}.items():
        blender.ops.omnix.load_maps(directory=str(folder), name="room")
        file = folder / "roughness.png"
        blender.ops.omnix.replace_map(name="room", map="albedo", filepath=str(file))
        assert build.part(meant, "map_albedo").filepath == str(file)
    assert build.folder_of(first) == room_folder
    assert build.folder_of(second) == other
    build.replace_map(first, "roughness", other / "roughness.png")
    noted = {folder: destination.kept_and_lost("room", folder) for folder in (room_folder, other)}
    assert "keeps your own albedo, roughness" in noted[room_folder][0]
    assert "roughness" not in noted[other][0]


def test_a_file_that_was_saved_on_windows_finds_its_maps(blender, host, build, tmp_path):
    blender.ops.wm.save_as_mainfile(filepath=str(tmp_path / "place.blend"))
    folder = tmp_path / "omnix" / "room"
    box_room.save(folder, box_room.room(64))
    collection = make(blender, build, folder)
    collection["omnix"]["folder"] = "//omnix\\room"
    for name in build.images_of(collection):
        image = build.part(collection, f"map_{name}")
        image.filepath_raw = f"//omnix\\room\\{maps.MAPS[name].filename}"
    assert build.folder_of(collection) == folder
    assert build.made_from(folder) == [collection]
    assert build.own_maps(collection) == {}
    assert host("paths").stored(folder) == "//omnix/room"


def test_the_maps_of_a_file_saved_elsewhere_are_those_of_its_place(blender, host, build, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    blender.ops.wm.save_as_mainfile(filepath=str(tmp_path / "place.blend"))
    folder = tmp_path / "omnix" / "room"
    box_room.save(folder, box_room.room(64))
    blender.ops.omnix.load_maps(directory=str(folder))
    assert not blender.ops.omnix.move_maps.poll()
    blender.ops.wm.save_as_mainfile(filepath=str(tmp_path / "elsewhere" / "place.blend"))
    assert host("report").current_folder(blender.context) == folder
    blender.ops.omnix.move_maps()
    there = tmp_path / "elsewhere" / "omnix" / "room"
    assert maps.is_map_set(there)
    assert host("report").current_folder(blender.context) == there
    assert not blender.ops.omnix.move_maps.poll()


def test_folders_are_remembered_as_the_user_prefers(blender, room_folder, tmp_path):
    files = blender.context.preferences.filepaths
    blender.ops.wm.save_as_mainfile(filepath=str(tmp_path / "place.blend"))
    try:
        for relative, folder in ((True, "//room"), (False, str(room_folder))):
            files.use_relative_paths = relative
            blender.ops.omnix.load_maps(directory=str(room_folder))
            assert blender.context.scene.omnix.folder == folder
    finally:
        files.use_relative_paths = True


def test_moving_maps_leaves_images_of_other_files_alone(blender, room_folder, tmp_path):
    image = blender.data.images.load(str(room_folder / "albedo.png"))
    image.use_fake_user = True
    library = str(tmp_path / "library.blend")
    blender.ops.wm.save_as_mainfile(filepath=library, relative_remap=False)
    blender.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)
    with blender.data.libraries.load(library, link=True) as (_, linked):
        linked.images = ["albedo.png"]
    (image,) = linked.images
    blender.ops.omnix.load_maps(directory=str(room_folder))
    (tmp_path / "project").mkdir()
    blender.ops.wm.save_as_mainfile(filepath=str(tmp_path / "project" / "place.blend"))
    before = image.filepath
    blender.ops.omnix.move_maps()
    assert maps.is_map_set(tmp_path / "project" / "omnix" / "room")
    assert image.filepath == before


def test_a_packed_map_of_the_same_length_and_other_content_was_changed(blender, build, room_folder):
    collection = make(blender, build, room_folder)
    image = build.part(collection, "map_roughness")
    image.pack()
    assert build.changed_maps(collection) == []
    data = (room_folder / "roughness.png").read_bytes()
    image.pack(data=data[:-1] + b"\0", data_len=len(data))
    assert build.changed_maps(collection) == ["roughness"]
