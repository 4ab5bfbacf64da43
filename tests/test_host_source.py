# SPDX-License-Identifier: GPL-3.0-or-later
"""Finding the panorama: worlds, images and files, and how a world turns what it shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests import pictures

pytestmark = pytest.mark.blender

TURN = (0.3, -0.5, 1.1)


@pytest.fixture
def source(host):
    return host("source")


@pytest.fixture
def showing(host):
    return host("world_nodes").showing


@pytest.fixture
def refusal(source):
    """The exception as the installed package knows it."""
    return source.OmnixError


def generated(bpy, name="Sky", width=64, height=32, is_float=True):
    return bpy.data.images.new(name, width, height, float_buffer=is_float)


def direction_image(bpy, height=64):
    """A panorama whose colour is the direction: rgb = 0.5 + 0.5 (x, y, z)."""
    from blender_omnix.panorama import frames

    image = generated(bpy, "Directions", 2 * height, height)
    pixels = np.ones((height, 2 * height, 4), np.float32)
    pixels[::-1, :, :3] = 0.5 + 0.5 * frames.directions(height, 2 * height)
    image.pixels.foreach_set(pixels.ravel())
    return image


def write_image(bpy, path, width=64, height=32):
    image = generated(bpy, "Written", width, height, is_float=False)
    image.filepath_raw = str(path)
    image.file_format = {".png": "PNG", ".tif": "TIFF"}[path.suffix]
    image.save()
    bpy.data.images.remove(image)
    return path


def make_world(bpy, image=None):
    """A world of Texture Coordinate > Mapping > Environment Texture > Background; its nodes."""
    world = bpy.data.worlds.new("World")
    bpy.context.scene.world = world
    if bpy.app.version < (5, 0, 0):
        world.use_nodes = True
    tree = world.node_tree
    nodes = {
        "output": tree.get_output_node("ALL"),
        "background": next(n for n in tree.nodes if n.bl_idname == "ShaderNodeBackground"),
        "coordinates": tree.nodes.new("ShaderNodeTexCoord"),
        "mapping": tree.nodes.new("ShaderNodeMapping"),
        "texture": tree.nodes.new("ShaderNodeTexEnvironment"),
    }
    nodes["texture"].image = image
    link = tree.links.new
    link(nodes["coordinates"].outputs["Generated"], nodes["mapping"].inputs["Vector"])
    link(nodes["mapping"].outputs["Vector"], nodes["texture"].inputs["Vector"])
    link(nodes["texture"].outputs["Color"], nodes["background"].inputs["Color"])
    return world, nodes


def test_an_image_on_disk_is_used_as_it_is(blender, source, tmp_path):
    path = write_image(blender, tmp_path / "Große Halle.png")
    image = blender.data.images.load(str(path))
    found = source.from_image(image)
    assert (found.file, found.name, found.image) == (path, "Große Halle", image.session_uid)
    assert found.scratch is None


def test_a_packed_image_reaches_the_worker_byte_for_byte(blender, source, tmp_path):
    path = write_image(blender, tmp_path / "packed.png")
    content = path.read_bytes()
    image = blender.data.images.load(str(path))
    image.pack()
    path.unlink()
    found = source.from_image(image)
    assert found.file.read_bytes() == content
    assert found.file.name == "packed.png"
    found.scratch.cleanup()
    assert not found.file.exists()


@pytest.mark.parametrize("is_float", [True, False], ids=["float", "byte"])
def test_a_generated_image_is_written_without_loss(blender, source, is_float):
    image = generated(blender, "Made Here", is_float=is_float)
    values = np.linspace(0.0, 1.0, 64 * 32 * 4, dtype=np.float32)
    values = values * 9.0 if is_float else np.round(values * 255) / 255
    values[3::4] = 1.0
    image.pixels.foreach_set(values)
    before = (image.filepath, image.file_format, image.source, set(blender.data.images.keys()))

    found = source.from_image(image)

    after = (image.filepath, image.file_format, image.source, set(blender.data.images.keys()))
    assert after == before
    written = blender.data.images.load(str(found.file))
    assert tuple(written.size) == (64, 32)
    read = np.empty(values.size, np.float32)
    written.pixels.foreach_get(read)
    np.testing.assert_allclose(read, values, rtol=1e-6)


def test_painted_pixels_win_over_the_file(blender, source, tmp_path):
    image = blender.data.images.load(str(write_image(blender, tmp_path / "painted.png")))
    pixels = np.ones(64 * 32 * 4, np.float32)
    image.pixels.foreach_set(pixels)
    assert image.is_dirty
    found = source.from_image(image)
    assert found.file.parent != tmp_path
    written = blender.data.images.load(str(found.file))
    read = np.empty_like(pixels)
    written.pixels.foreach_get(read)
    assert (read == 1.0).all()


@pytest.mark.parametrize("packed", [False, True])
def test_colours_of_another_space_reach_the_worker_as_blender_shows_them(
    blender, source, tmp_path, packed
):
    image = blender.data.images.new("Wide", 64, 32, float_buffer=True, is_data=True)
    image.pixels.foreach_set(np.tile(np.float32([2.0, 1.0, 0.5, 1.0]), 64 * 32))
    image.filepath_raw, image.file_format = str(tmp_path / "wide.exr"), "OPEN_EXR"
    image.save()
    image = blender.data.images.load(str(tmp_path / "wide.exr"))
    assert source.from_image(image).file == tmp_path / "wide.exr"
    image.colorspace_settings.name = "ACEScg"
    if packed:
        image.pack()
    found = source.from_image(image)
    written = blender.data.images.load(str(found.file))
    written.colorspace_settings.name = "Linear Rec.709"
    assert written.pixels[0] > 2.3
    np.testing.assert_allclose(written.pixels[:3], image.pixels[:3], rtol=1e-5)


@pytest.mark.parametrize("space", ["sRGB", "Linear Rec.709", "Non-Color"])
@pytest.mark.parametrize("pixel_type", ["uint16", "float"])
def test_a_tiff_reaches_the_worker_as_blender_shows_it(
    blender, source, tmp_path, pixel_type, space
):
    pytest.importorskip("OpenImageIO")
    from blender_omnix import images

    colour = np.float32([0.1, 0.8, 0.3])
    images.write(tmp_path / "hall.tif", np.tile(colour, (32, 64, 1)), pixel_type)
    image = blender.data.images.load(str(tmp_path / "hall.tif"))
    image.colorspace_settings.name = space
    found = source.from_image(image)
    panorama = images.read_panorama(found.file)
    assert panorama.linear and panorama.notes == found.notes == ()
    np.testing.assert_allclose(panorama.pixels[0, 0], image.pixels[:3], rtol=1e-4)


@pytest.mark.parametrize("saved", [False, True])
def test_colours_leave_a_file_of_another_working_space_as_rec709(
    blender, host, source, tmp_path, saved
):
    if blender.app.version < (5, 0, 0):
        pytest.skip("This Blender has no other working space.")
    blender.ops.wm.set_working_color_space(working_space="ACEScg", convert_colors=False)
    image = generated(blender)
    image.pixels.foreach_set(np.tile(np.float32([0.4, 3.2, 1.2, 1.0]), 64 * 32))
    if saved:
        host("build.images").save(image, tmp_path / "sky.exr", "Linear Rec.709")
    else:
        found = source.from_image(image)
    written = blender.data.images.load(str(tmp_path / "sky.exr" if saved else found.file))
    written.colorspace_settings.name = "Non-Color"
    np.testing.assert_allclose(written.pixels[:3], (-1.408, 3.586, 0.961), atol=2e-3)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("packed", [False, True])
def test_encoded_colours_of_another_space_are_told(blender, source, tmp_path, packed, suffix):
    image = blender.data.images.load(str(write_image(blender, tmp_path / f"hall{suffix}")))
    image.colorspace_settings.name = "Linear Rec.709"
    if packed:
        image.pack()
    (note,) = source.from_image(image).notes
    assert f"hall{suffix} is in the colour space Linear Rec.709" in note


@pytest.mark.parametrize("packed", [False, True])
def test_what_blender_alone_can_read_is_written_for_the_worker(blender, source, tmp_path, packed):
    image = generated(blender, is_float=False)
    image.pixels.foreach_set(np.tile(np.float32([1.0, 0.2, 0.4, 1.0]), 64 * 32))
    image.filepath_raw, image.file_format = str(tmp_path / "hall.tga"), "TARGA"
    image.save()
    image = blender.data.images.load(str(tmp_path / "hall.tga"))
    if packed:
        image.pack()
    found = source.from_image(image)
    assert (found.file.suffix, found.name, found.notes) == (".png", "hall", ())
    written = blender.data.images.load(str(found.file))
    np.testing.assert_allclose(written.pixels[:3], (1.0, 0.2, 0.4), atol=1e-6)


def test_a_missing_file_is_named(blender, source, refusal, tmp_path):
    path = write_image(blender, tmp_path / "gone.png")
    image = blender.data.images.load(str(path))
    path.unlink()
    with pytest.raises(refusal, match=r"gone\.png"):
        source.from_image(image)


@pytest.mark.parametrize("kind", ["TILED", "SEQUENCE", "MOVIE"])
def test_anything_but_one_still_image_is_refused(blender, source, refusal, tmp_path, kind):
    image = blender.data.images.load(str(write_image(blender, tmp_path / "tile.1001.png")))
    image.source = kind
    with pytest.raises(refusal, match="single still image"):
        source.from_image(image)


def test_no_image_no_world_and_no_texture_are_told_apart(blender, source, refusal):
    with pytest.raises(refusal, match="No image is chosen"):
        source.from_image(None)
    with pytest.raises(refusal, match="The scene has no world"):
        source.from_world(None)
    world, nodes = make_world(blender)
    with pytest.raises(refusal, match="The world World has no environment image"):
        source.from_world(world)
    nodes["texture"].image = generated(blender)
    nodes["texture"].mute = True
    with pytest.raises(refusal, match="has no environment image"):
        source.from_world(world)


def test_a_texture_that_the_world_does_not_show_is_not_taken(blender, source, refusal):
    world, nodes = make_world(blender, generated(blender))
    world.node_tree.links.remove(nodes["background"].inputs["Color"].links[0])
    with pytest.raises(refusal, match="has no environment image"):
        source.from_world(world)


@pytest.mark.parametrize("kind", ["ShaderNodeGamma", "ShaderNodeHueSaturation"])
def test_a_muted_node_passes_the_picture_on(blender, source, showing, kind):
    world, nodes = make_world(blender, generated(blender, "Hall"))
    link = world.node_tree.links.new
    muted = world.node_tree.nodes.new(kind)
    link(nodes["texture"].outputs["Color"], muted.inputs["Color"])
    link(muted.outputs["Color"], nodes["background"].inputs["Color"])
    assert showing(world).notes
    muted.mute = True
    assert source.from_world(world).name == "Hall"
    assert showing(world).notes == ()


def test_what_a_muted_link_would_bring_is_not_there(blender, source, showing, refusal):
    world, nodes = make_world(blender, generated(blender))
    nodes["mapping"].inputs["Rotation"].default_value = TURN
    (turning,) = nodes["texture"].inputs["Vector"].links
    turning.is_muted = True
    assert showing(world).rotation == (0.0, 0.0, 0.0)
    assert showing(world).turned_by is None
    (colour,) = nodes["background"].inputs["Color"].links
    colour.is_muted = True
    with pytest.raises(refusal, match="has no environment image"):
        source.from_world(world)


@pytest.mark.parametrize("engine", ["CYCLES", "EEVEE"])
def test_the_output_for_one_engine_counts(blender, source, engine):
    world, nodes = make_world(blender, generated(blender, "Hall"))
    own = world.node_tree.nodes.new("ShaderNodeOutputWorld")
    own.target = engine
    world.node_tree.links.new(nodes["background"].outputs[0], own.inputs["Surface"])
    world.node_tree.links.remove(nodes["output"].inputs["Surface"].links[0])
    assert source.from_world(world).name == "Hall"
    world.node_tree.nodes.remove(nodes["output"])
    assert source.from_world(world).name == "Hall"


def test_a_mirror_ball_is_refused(blender, source, refusal):
    world, nodes = make_world(blender, generated(blender))
    nodes["texture"].projection = "MIRROR_BALL"
    with pytest.raises(refusal, match="mirror ball"):
        source.from_world(world)


def test_strength_and_name_come_along(blender, source, showing):
    world, nodes = make_world(blender, generated(blender, "Hall.exr"))
    nodes["background"].inputs["Strength"].default_value = 2.5
    found = source.from_world(world)
    image = nodes["texture"].image
    assert (found.name, found.image, found.world) == ("Hall", image.session_uid, world.session_uid)
    assert found.notes == ()
    shown = showing(world)
    assert shown.strength == 2.5
    assert shown.strengthened_by.owner == world
    assert world.path_resolve(shown.strengthened_by.path) == 2.5


def test_the_texture_is_found_through_mixes_reroutes_and_groups(blender, source, showing):
    world, nodes = make_world(blender, generated(blender, "Inside"))
    tree = world.node_tree
    group = blender.data.node_groups.new("Sky", "ShaderNodeTree")
    group.interface.new_socket("Color", in_out="OUTPUT", socket_type="NodeSocketColor")
    inner = group.nodes.new("ShaderNodeTexEnvironment")
    inner.image = generated(blender, "Grouped")
    group.links.new(inner.outputs["Color"], group.nodes.new("NodeGroupOutput").inputs[0])
    node = tree.nodes.new("ShaderNodeGroup")
    node.node_tree = group
    reroute = tree.nodes.new("NodeReroute")
    tree.links.new(node.outputs[0], reroute.inputs[0])
    tree.links.new(reroute.outputs[0], nodes["background"].inputs["Color"])
    mix = tree.nodes.new("ShaderNodeMixShader")
    tree.links.new(nodes["background"].outputs[0], mix.inputs[1])
    tree.links.new(mix.outputs[0], nodes["output"].inputs["Surface"])
    nodes["background"].inputs["Strength"].default_value = 3.0
    assert source.from_world(world).name == "Grouped"
    assert showing(world).strength == 3.0


@pytest.mark.parametrize("kind", ["ShaderNodeMixShader", "ShaderNodeMix"])
@pytest.mark.parametrize(("factor", "name"), [(0.0, "Day"), (0.5, "Day"), (1.0, "Night")])
def test_of_two_panoramas_the_one_that_is_shown_is_taken(blender, source, kind, factor, name):
    world, nodes = make_world(blender, generated(blender, "Day"))
    link, new = world.node_tree.links.new, world.node_tree.nodes.new
    other, mix = new("ShaderNodeTexEnvironment"), new(kind)
    other.image = generated(blender, "Night")
    if kind == "ShaderNodeMix":
        mix.data_type = "RGBA"
        wanted = ("Factor_Float", "A_Color", "B_Color")
        fac, a, b = (socket for socket in mix.inputs if socket.identifier in wanted)
        (mixed,) = (socket for socket in mix.outputs if socket.identifier == "Result_Color")
        link(mixed, nodes["background"].inputs["Color"])
    else:
        fac, a, b = mix.inputs
        link(mix.outputs[0], nodes["output"].inputs["Surface"])
    link(nodes["texture"].outputs["Color"], a)
    link(other.outputs["Color"], b)
    fac.default_value = factor
    found = source.from_world(world)
    assert found.name == name
    # That it is mixed, and with what.
    assert len(found.notes) == (2 if factor == 0.5 else 0)
    # A factor from other nodes may be anything.
    link(new("ShaderNodeValue").outputs[0], fac)
    assert "The world also shows Night; Day alone was taken." in source.from_world(world).notes


@pytest.mark.parametrize("mirror", [(1.0, 1.0, 1.0), (-1.0, 1.0, 1.0)])
@pytest.mark.parametrize("kind", ["POINT", "TEXTURE", "VECTOR", "NORMAL"])
def test_the_rotation_is_the_one_that_is_seen(blender, showing, kind, mirror):
    """A panoramic render of the world shows, in every direction d, the panorama at R M d."""
    from mathutils import Euler

    from blender_omnix.panorama import frames

    world, nodes = make_world(blender, direction_image(blender))
    nodes["mapping"].vector_type = kind
    nodes["mapping"].inputs["Rotation"].default_value = TURN
    nodes["mapping"].inputs["Scale"].default_value = mirror
    nodes["texture"].interpolation = "Closest"
    found = showing(world)
    told = ["mirrors the panorama; the place is mirrored too" in note for note in found.notes]
    assert told == [True] * (min(mirror) < 0)
    assert found.turned_by.inverse == (kind == "TEXTURE")

    seen = 2.0 * render_panorama(blender, 32) - 1.0
    turn = np.array(Euler(found.rotation, "XYZ").to_matrix())
    assert found.mirror == mirror
    expected = frames.directions(32, 64) * mirror @ turn.T
    # Two pixels of the panorama.
    assert np.abs(seen - expected).max() < 2 * np.pi / 64
    assert np.abs(seen - frames.directions(32, 64)).mean() > 0.3


def render_panorama(bpy, height):
    """What is seen around the origin, (H, 2 H, 3) linear, image centre = +X."""
    scene = bpy.context.scene
    camera = bpy.data.objects.new("Camera", bpy.data.cameras.new("Camera"))
    camera.rotation_euler = (np.pi / 2, 0.0, -np.pi / 2)
    camera.data.type = "PANO"
    panorama = camera.data if hasattr(camera.data, "panorama_type") else camera.data.cycles
    panorama.panorama_type = "EQUIRECTANGULAR"
    scene.collection.objects.link(camera)
    scene.camera = camera
    scene.cycles.samples = 64
    scene.world.cycles.sampling_method = "NONE"
    scene.render.threads_mode, scene.render.threads = "FIXED", 1
    return pictures.render(bpy, 2 * height, height)[..., :3]


def test_mappings_in_a_row_are_followed(blender, showing):
    from mathutils import Euler

    world, nodes = make_world(blender, generated(blender))
    second = world.node_tree.nodes.new("ShaderNodeMapping")
    world.node_tree.links.new(nodes["mapping"].outputs[0], second.inputs["Vector"])
    world.node_tree.links.new(second.outputs[0], nodes["texture"].inputs["Vector"])
    nodes["mapping"].inputs["Rotation"].default_value = (0.4, 0.0, 0.0)
    second.inputs["Rotation"].default_value = (0.0, 0.0, 1.0)
    found = showing(world)
    turn = Euler(found.rotation).to_matrix()
    both = Euler((0.0, 0.0, 1.0)).to_matrix() @ Euler((0.4, 0.0, 0.0)).to_matrix()
    np.testing.assert_allclose(turn, both, atol=1e-6)
    assert found.turned_by is None
    (note,) = found.notes
    assert "Mapping and Mapping.001" in note or "Mapping.001 and Mapping" in note
    nodes["mapping"].mute = True
    found = showing(world)
    assert second.name in found.turned_by.path
    assert not found.notes


def test_what_cannot_be_followed_is_said(blender, source, showing):
    world, nodes = make_world(blender, generated(blender))
    nodes["mapping"].inputs["Scale"].default_value = (2.0, 1.0, 1.0)
    (note,) = source.from_world(world).notes
    assert "Mapping" in note
    value = world.node_tree.nodes.new("ShaderNodeValue")
    world.node_tree.links.new(value.outputs[0], nodes["background"].inputs["Strength"])
    world.node_tree.links.new(value.outputs[0], nodes["mapping"].inputs["Rotation"])
    found = showing(world)
    assert len(found.notes) == 3
    assert found.turned_by is None
    assert found.strengthened_by is None
    noise = world.node_tree.nodes.new("ShaderNodeVectorMath")
    world.node_tree.links.new(noise.outputs[0], nodes["texture"].inputs["Vector"])
    assert any("Vector Math" in note for note in source.from_world(world).notes)


def test_a_world_turned_by_an_object_turns_the_place(blender, showing):
    """The usual empty in the Texture Coordinate node, as a render shows it."""
    from mathutils import Euler

    from blender_omnix.panorama import frames

    world, nodes = make_world(blender, direction_image(blender))
    links, coordinates = world.node_tree.links, nodes["coordinates"]
    empty = blender.data.objects.new("Sun Dial", None)
    blender.context.scene.collection.objects.link(empty)
    empty.rotation_euler = TURN
    blender.context.view_layer.update()
    coordinates.object = empty
    links.new(coordinates.outputs["Object"], nodes["mapping"].inputs["Vector"])
    nodes["mapping"].inputs["Rotation"].default_value = (0.0, 0.0, 0.3)
    found = showing(world)
    assert found.turned_by is None
    (note,) = found.notes
    assert "Sun Dial turns the world's panorama" in note
    nodes["texture"].interpolation = "Closest"
    seen = 2.0 * render_panorama(blender, 32) - 1.0
    turn = np.array(Euler(found.rotation, "XYZ").to_matrix())
    assert np.abs(seen - frames.directions(32, 64) @ turn.T).max() < 2 * np.pi / 64
    empty.location.x = 1.0
    blender.context.view_layer.update()
    assert any("also shifts or scales" in note for note in showing(world).notes)
    links.new(coordinates.outputs["Normal"], nodes["mapping"].inputs["Vector"])
    assert any("by Normal coordinates" in note for note in showing(world).notes)


def test_nodes_that_change_the_colours_of_a_world_are_told(blender, source, showing):
    world, nodes = make_world(blender, generated(blender))
    assert showing(world).notes == ()
    colours = world.node_tree.nodes.new("ShaderNodeHueSaturation")
    links = world.node_tree.links
    links.new(nodes["texture"].outputs["Color"], colours.inputs["Color"])
    links.new(colours.outputs["Color"], nodes["background"].inputs["Color"])
    (note,) = source.from_world(world).notes
    assert "also changes the panorama" in note and colours.name in note
    # So does what is mixed with it, or shows it in place of a Background.
    mix = world.node_tree.nodes.new("ShaderNodeMixShader")
    emission = world.node_tree.nodes.new("ShaderNodeEmission")
    links.new(colours.outputs["Color"], emission.inputs["Color"])
    links.new(emission.outputs[0], mix.inputs[1])
    links.new(mix.outputs[0], nodes["output"].inputs["Surface"])
    told = " ".join(showing(world).notes)
    assert all(node.name in told for node in (mix, emission, colours))


def test_scratch_files_that_cannot_be_written_are_told(
    blender, host, source, refusal, tmp_path, monkeypatch
):
    image = generated(blender, is_float=False)
    image.pixels[0] = 0.5
    image.pack()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(refusal, match=r"temporary files, .*No space left.*free some space"):
        source.from_image(image)
    painted = generated(blender, "Painted")
    monkeypatch.setattr(host("build.images"), "write", full)
    with pytest.raises(refusal, match=r"temporary files, .*No space left"):
        source.from_image(painted)
    monkeypatch.setattr(host("paths").tempfile, "TemporaryDirectory", full)
    with pytest.raises(refusal, match=r"No space left.*free some space"):
        source.from_image(image)


def test_the_panel_chooses(blender, source, refusal, tmp_path):
    scene = blender.context.scene
    with pytest.raises(refusal, match="has no world"):
        source.from_choices(scene)
    scene.omnix.source = "FILE"
    with pytest.raises(refusal, match="No file is chosen"):
        source.from_choices(scene)
    scene.omnix.filepath = str(tmp_path / "any.exr")
    assert source.from_choices(scene).file == tmp_path / "any.exr"
    scene.omnix.source = "IMAGE"
    scene.omnix.image = generated(blender, "Picked")
    assert source.from_choices(scene).image == scene.omnix.image.session_uid
