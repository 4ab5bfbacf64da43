# SPDX-License-Identifier: GPL-3.0-or-later
"""No line shows in a render of a place across the panorama's seam or at its poles.

The place is smooth: a ball around the viewpoint, off centre, in slowly changing colours, so that
the gradient of its pictures hardly changes from pixel to pixel. A line is where it does.
"""

from __future__ import annotations

import numpy as np
import pytest

from blender_omnix.panorama import frames, tonemap
from tests import box_room, pictures

pytestmark = pytest.mark.blender

HEIGHT = 128  # of the maps
SIDE = 42  # of the pictures, whose pixels are as large as those of the maps
CENTRE, RADIUS = np.array([0.4, -0.3, 0.2]), 2.5
# How much the picture may change across a line beyond what it does from pixel to pixel.
LIMIT = 1.0
# Rotations of a camera that looks at the seam (-X), up and down; the seam runs upright through
# the middle of each picture.
VIEWS = {
    "seam": (np.pi / 2, 0.0, np.pi / 2),
    "zenith": (np.pi, 0.0, -np.pi / 2),
    "nadir": (0.0, 0.0, np.pi / 2),
}


@pytest.fixture
def ball():
    """Maps of the ball."""
    rays = frames.directions(HEIGHT, 2 * HEIGHT).astype(np.float64)
    along = rays @ CENTRE
    depth = along + np.sqrt(along**2 - CENTRE @ CENTRE + RADIUS**2)
    x, y, z = np.moveaxis(rays, -1, 0)
    albedo = 0.45 + 0.15 * np.stack((x + 0.5 * y * z, y - 0.5 * x * z, z + 0.5 * x * y), axis=-1)
    made = {
        "albedo": tonemap.srgb_encode(albedo),
        "normal": (CENTRE - rays * depth[..., None]) / RADIUS,
        "roughness": np.ones_like(depth),
        "metallic": np.zeros_like(depth),
        "depth": depth,
    }
    made = {name: np.ascontiguousarray(array, np.float32) for name, array in made.items()}
    made["panorama"] = made["albedo"]
    return made


@pytest.fixture
def look(blender, host, tmp_path):
    """A function from maps and a mode to what is seen of the place built from them."""
    build = host("build.place")

    def look(made, mode="ORIGINAL", spoil=lambda collection: None):
        box_room.save(tmp_path / "ball", made)
        settings = build.Settings(detail=2 * HEIGHT, mode=mode)
        source = blender.data.images.new("source", 2 * HEIGHT, HEIGHT, float_buffer=True)
        source.colorspace_settings.name = "Linear Rec.709"
        rgba = np.ones((HEIGHT, 2 * HEIGHT, 4), np.float32)
        rgba[..., :3] = tonemap.srgb_decode(made["panorama"])[::-1]
        source.pixels.foreach_set(rgba.ravel())
        collection = build.build_place(
            blender.context, tmp_path / "ball", name="ball", settings=settings, source=source
        )
        spoil(build.part(collection, "surface").data)
        lamp = blender.data.objects.new("lamp", blender.data.lights.new("lamp", "POINT"))
        lamp.data.energy, lamp.data.shadow_soft_size = 100.0, 0.0
        blender.context.scene.collection.objects.link(lamp)
        lamp.location = (0.0, 0.0, 1.6)
        camera = build.add_camera(blender.context, collection)
        camera.data.lens_unit, camera.data.angle = "FOV", np.radians(60)
        seen = {}
        for view, rotation in VIEWS.items():
            camera.rotation_euler = rotation
            seen[view] = render(blender)
        return seen

    return look


def render(blender) -> np.ndarray:
    """Luminance (SIDE, SIDE) of what the camera sees, free of noise."""
    cycles = blender.context.scene.cycles
    cycles.samples, cycles.max_bounces = 16, 0
    return tonemap.luminance(pictures.render(blender, SIDE, SIDE)[..., :3])


def lines(seen: dict[str, np.ndarray]) -> dict[str, float]:
    """By view, the most that the gradient changes across the seam, averaged along it, or within
    two pixels of the pole, as a multiple of the usual step from one pixel to the next."""
    found = {}
    for view, picture in seen.items():
        across = picture[1:-1, 2:] + picture[1:-1, :-2] - 2.0 * picture[1:-1, 1:-1]
        along = picture[2:, 1:-1] + picture[:-2, 1:-1] - 2.0 * picture[1:-1, 1:-1]
        # The line lies between the two pixels in the middle of the picture.
        near = slice(SIDE // 2 - 4, SIDE // 2 + 2)
        if view == "seam":
            change = np.abs(across.mean(axis=0)[near]).max()
        else:
            change = np.abs(np.stack((across, along))[:, near, near]).max()
        usual = np.median(np.hypot(np.diff(picture)[1:], np.diff(picture, axis=0)[:, 1:]))
        found[view] = float(change / usual)
    return found


@pytest.mark.parametrize("mode", ["ORIGINAL", "RELIGHT"])
def test_no_line_shows_at_the_seam_or_the_poles(look, ball, mode):
    seen = look(ball, mode)
    assert all(picture.min() > 0.02 for picture in seen.values())
    found = lines(seen)
    assert max(found.values()) < LIMIT, found


def darker_column(made):
    made["panorama"][:, 0] *= 0.95


def darker_pole(made):
    made["panorama"][0] *= 0.9


@pytest.mark.parametrize(("spoil", "view"), [(darker_column, "seam"), (darker_pole, "zenith")])
def test_a_line_in_a_map_is_found(look, ball, spoil, view):
    spoil(ball)
    assert lines(look(ball))[view] > LIMIT


def test_a_seam_that_is_not_joined_is_found(look, ball):
    """The vertices of the seam look up the middle of the panorama, as where u runs back to 0."""

    def cross(mesh):
        lookup = mesh.attributes["omnix_direction"].data
        for vertex, item in zip(mesh.vertices, lookup, strict=True):
            if vertex.co.x < 0.0 and abs(vertex.co.y) < 1e-4:
                item.vector[0] *= -1.0

    assert lines(look(ball, spoil=cross))["seam"] > LIMIT
