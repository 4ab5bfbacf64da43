# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import numpy as np
import pytest

from blender_omnix.panorama import frames


def test_directions_are_unit_and_look_where_blender_looks():
    rays = frames.directions(64, 128)
    assert rays.dtype == np.float32
    assert np.abs(np.linalg.norm(rays, axis=-1) - 1.0).max() < 1e-6
    middle = 0.5 * (rays[31, 63] + rays[32, 64])
    assert np.allclose(middle, [1, 0, 0], atol=1e-3)
    assert np.allclose(rays[31:33, 31:33].mean((0, 1)), [0, 1, 0], atol=1e-3)
    assert np.allclose(rays[0].mean(0), [0, 0, 1], atol=1e-3)
    assert np.allclose(rays[31:33, [0, -1]].mean((0, 1)), [-1, 0, 0], atol=1e-3)


@pytest.mark.parametrize(("height", "width"), [(64, 128), (33, 66), (50, 101)])
def test_project_inverts_directions(height, width):
    u, v = frames.project(3.0 * frames.directions(height, width))
    assert np.abs(u * width - (np.arange(width) + 0.5)).max() < 1e-3
    assert np.abs(v * height - (np.arange(height) + 0.5)[:, None]).max() < 1e-3


def test_rays_of_single_places_are_those_of_the_whole():
    row, column = np.array([0, 17, 49]), np.array([100, 0, 50])
    rays = frames.rays_at(row + 0.5, column + 0.5, (50, 101))
    assert np.array_equal(rays, frames.directions(50, 101)[row, column])
    u, v = frames.project(frames.rays_at(np.array(12.0), np.array(9.0), (50, 101)))
    assert (u * 101, v * 50) == pytest.approx((9.0, 12.0), abs=1e-3)


def test_project_stays_below_one():
    tiny = np.float32(1e-30)
    corners = np.array([[-1, tiny, 0], [-1, -tiny, 0], [-1, 0, 0], [0, 0, -1], [0, 0, 1]])
    for kind in (np.float32, np.float64):
        u, v = frames.project(corners.astype(kind))
        assert u.dtype == v.dtype == kind
        assert (u >= 0).all() and (u < 1).all() and (v >= 0).all() and (v < 1).all()
    assert v[3] > 0.999 and v[4] == 0.0


@pytest.mark.parametrize(("height", "width"), [(32, 64), (512, 1024), (51, 101)])
def test_solid_angles_sum_to_the_sphere(height, width):
    omega = frames.solid_angles(height, width)
    assert omega.shape == (height,)
    assert omega.sum() * width == pytest.approx(4 * np.pi, rel=1e-12)
    assert np.allclose(omega, omega[::-1])


def test_gravity_basis_is_right_handed_and_follows_the_columns():
    basis = frames.gravity_basis(16, 32).astype(np.float64)
    assert np.abs(basis @ np.swapaxes(basis, -1, -2) - np.eye(3)).max() < 1e-6
    assert np.linalg.det(basis) == pytest.approx(1.0)
    east, outward, up = np.moveaxis(basis, -2, 0)
    rays = frames.directions(16, 32)
    assert np.allclose(np.cross(east, outward), up, atol=1e-6)
    assert np.abs((rays * east).sum(-1)).max() < 1e-6
    assert (rays * outward).sum(-1).min() > 0
    assert (
        np.abs(
            np.linalg.norm(rays - (rays * up).sum(-1, keepdims=True) * up, axis=-1)
            - (rays * outward).sum(-1)
        ).max()
        < 1e-6
    )
    right = np.roll(rays, -1, axis=1) - rays
    assert ((right * east).sum(-1) > 0).all()


def test_gravity_basis_makes_yaw_rolls_label_free():
    rays = frames.directions(16, 32)
    basis = frames.gravity_basis(16, 32)
    local = np.einsum("hwij,hwj->hwi", basis, -rays)
    assert np.abs(local - local[:, :1]).max() < 1e-6


def test_omnix_colours_decode_to_blender_axes():
    floor = 2.0 * np.array([0.5, 1.0, 0.5]) - 1.0
    ceiling = 2.0 * np.array([0.5, 0.0, 0.5]) - 1.0
    assert np.array_equal(frames.blender_from_omnix(floor), [0, 0, 1])
    assert np.array_equal(frames.blender_from_omnix(ceiling), [0, 0, -1])
    front, left = np.array([1, 0, 0]), np.array([0, 0, 1])
    assert np.array_equal(frames.blender_from_omnix(front), [1, 0, 0])
    assert np.array_equal(frames.blender_from_omnix(left), [0, 1, 0])
    rays = frames.directions(8, 16)
    assert np.array_equal(frames.blender_from_omnix(frames.omnix_from_blender(rays)), rays)


@pytest.fixture(scope="module")
def blender_render(tmp_path_factory):
    """Cycles' panoramic picture of a world whose colour is its own direction, 64 x 32, linear."""
    bpy = pytest.importorskip("bpy")
    bpy.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)
    scene = bpy.context.scene
    scene.render.engine = "CYCLES"
    scene.cycles.samples = 4
    scene.cycles.use_denoising = False
    scene.render.resolution_x, scene.render.resolution_y = 64, 32
    scene.render.resolution_percentage = 100
    scene.view_settings.view_transform = "Raw"
    scene.render.image_settings.file_format = "OPEN_EXR"
    scene.render.image_settings.color_depth = "32"
    return bpy, scene, tmp_path_factory.mktemp("render")


def _render(bpy, scene, path) -> np.ndarray:
    scene.render.filepath = str(path)
    bpy.ops.render.render(write_still=True)
    image = bpy.data.images.load(str(path))
    image.colorspace_settings.name = "Non-Color"
    width, height = image.size
    pixels = np.empty(width * height * 4, np.float32)
    image.pixels.foreach_get(pixels)
    bpy.data.images.remove(image)
    return pixels.reshape(height, width, 4)[::-1, :, :3]


def _world_nodes(bpy, scene):
    world = bpy.data.worlds.new("Test")
    scene.world = world
    world.use_nodes = True
    nodes, links = world.node_tree.nodes, world.node_tree.links
    nodes.clear()
    background = nodes.new("ShaderNodeBackground")
    output = nodes.new("ShaderNodeOutputWorld")
    links.new(background.outputs["Background"], output.inputs["Surface"])
    return nodes, links, background


def _camera(bpy, scene, **settings):
    """A camera looking along +X with +Z up."""
    data = bpy.data.cameras.new("Test")
    camera = bpy.data.objects.new("Test", data)
    scene.collection.objects.link(camera)
    camera.rotation_euler = (np.pi / 2.0, 0.0, -np.pi / 2.0)
    for name, value in settings.items():
        # Before 4.5 the panorama type belonged to the Cycles add-on.
        setattr(data if hasattr(data, name) else data.cycles, name, value)
    scene.camera = camera
    return camera


@pytest.mark.blender
def test_a_panoramic_camera_sees_our_directions(blender_render):
    bpy, scene, folder = blender_render
    nodes, links, background = _world_nodes(bpy, scene)
    place = nodes.new("ShaderNodeTexCoord")
    shift = nodes.new("ShaderNodeVectorMath")
    shift.operation = "MULTIPLY_ADD"
    shift.inputs[1].default_value = shift.inputs[2].default_value = (0.5, 0.5, 0.5)
    links.new(place.outputs["Generated"], shift.inputs[0])
    links.new(shift.outputs[0], background.inputs["Color"])
    _camera(bpy, scene, type="PANO", panorama_type="EQUIRECTANGULAR")
    seen = 2.0 * _render(bpy, scene, folder / "direction.exr") - 1.0
    seen /= np.linalg.norm(seen, axis=-1, keepdims=True)
    # Four jittered samples per pixel of 5.6 deg: the mean ray is off by a fraction of a pixel.
    error = np.degrees(np.arccos(np.clip((seen * frames.directions(32, 64)).sum(-1), -1, 1)))
    assert np.median(error) < 2.0
    assert error.max() < 5.6


@pytest.mark.blender
def test_an_environment_texture_is_looked_up_where_project_says(blender_render):
    bpy, scene, folder = blender_render
    height, width = 64, 128
    u = (np.arange(width) + 0.5) / width
    v = np.broadcast_to(((np.arange(height) + 0.5) / height)[:, None], (height, width))
    # The angle as cosine and sine, which stay continuous across the seam.
    code = np.ones((height, width, 4), np.float32)
    code[..., 0] = 0.5 + 0.5 * np.cos(2.0 * np.pi * u)
    code[..., 1] = 0.5 + 0.5 * np.sin(2.0 * np.pi * u)
    code[..., 2] = v
    image = bpy.data.images.new("Code", width, height, float_buffer=True, is_data=True)
    image.pixels.foreach_set(np.ascontiguousarray(code[::-1]).ravel())
    image.pack()
    nodes, links, background = _world_nodes(bpy, scene)
    texture = nodes.new("ShaderNodeTexEnvironment")
    texture.image = image
    links.new(texture.outputs["Color"], background.inputs["Color"])
    camera = _camera(bpy, scene, type="PERSP", angle=np.radians(2.0))
    for direction in ([1, 0, 0], [0, 1, 0], [-1, -0.1, 0.3], [0.3, -0.8, -0.9], [0.2, 0.5, 0.6]):
        direction = np.array(direction) / np.linalg.norm(direction)
        from mathutils import Vector

        camera.rotation_euler = Vector(direction).to_track_quat("-Z", "Y").to_euler()
        seen = _render(bpy, scene, folder / "lookup.exr")[15:17, 31:33].mean((0, 1))
        found_u = np.mod(np.arctan2(2 * seen[1] - 1, 2 * seen[0] - 1) / (2 * np.pi), 1.0)
        u_, v_ = frames.project(direction)
        assert abs((found_u - u_ + 0.5) % 1.0 - 0.5) < 0.5 / width
        assert abs(seen[2] - v_) < 0.5 / height
