# SPDX-License-Identifier: GPL-3.0-or-later
"""A place looks alike in EEVEE and in Cycles, unlit and under a lamp.

Under the lamp both show direct light alone: how the engines bounce light is theirs, what they make
of the maps is ours.
"""

from __future__ import annotations

import numpy as np
import pytest

from blender_omnix.panorama import tonemap
from tests import box_room, pictures

pytestmark = pytest.mark.blender

SIDE = 128


@pytest.fixture
def room(blender, host, tmp_path):
    """A function from a mode to the box room under a lamp, before the scene's camera."""
    build = host("build.place")

    def room(mode):
        box_room.save(tmp_path / "room", box_room.room(128))
        collection = build.build_place(
            blender.context,
            tmp_path / "room",
            name="room",
            settings=build.Settings(detail=256, mode=mode),
        )
        build.control(collection, "Emission Strength").default_value = 0.0
        lamp = blender.data.objects.new("lamp", blender.data.lights.new("lamp", "POINT"))
        lamp.data.energy, lamp.data.shadow_soft_size = 60.0, 0.05
        lamp.location = (-0.5, 0.8, 2.0)
        blender.context.scene.collection.objects.link(lamp)
        camera = build.add_camera(blender.context, collection)
        camera.data.lens_unit, camera.data.angle = "FOV", np.radians(90)
        camera.rotation_euler.x -= np.radians(20)
        return collection

    return room


def looks(blender, side: int = SIDE) -> tuple[np.ndarray, np.ndarray]:
    """What EEVEE and Cycles show, (side, side, 3) each, linear."""
    scene = blender.context.scene
    scene.cycles.samples, scene.cycles.max_bounces = 32, 0
    scene.eevee.taa_render_samples = 16
    scene.eevee.use_raytracing = False
    eevee = "BLENDER_EEVEE" if blender.app.version >= (5, 0) else "BLENDER_EEVEE_NEXT"
    seen = (pictures.render(blender, side, side, engine) for engine in (eevee, "CYCLES"))
    return tuple(picture[..., :3] for picture in seen)


@pytest.mark.parametrize(("mode", "least"), [("ORIGINAL", 40.0), ("RELIGHT", 30.0)])
def test_eevee_and_cycles_look_alike(blender, room, mode, least):
    room(mode)
    eevee, cycles = looks(blender)
    assert cycles.mean() > 0.02
    ratio = eevee.mean() / cycles.mean()
    stops = float(np.log2(0.18 / np.median(tonemap.luminance(cycles))))
    one, other = (tonemap.expose_with(picture, stops) for picture in (eevee, cycles))
    decibels = -10.0 * np.log10(np.mean((one - other) ** 2))
    print(f"{mode}: EEVEE / Cycles {ratio:.3f} in the mean, {decibels:.1f} dB")
    assert 0.8 < ratio < 1.25
    assert decibels > least


def test_the_normals_of_a_sheared_place_are_those_of_its_mesh(blender, host, room):
    place, collection = host("build.place"), room("RELIGHT")
    root = place.part(collection, "root")
    root.parent = blender.data.objects.new("parent", None)
    blender.context.scene.collection.objects.link(root.parent)
    root.parent.scale, root.rotation_euler = (1.0, 2.0, 1.0), (0.0, 0.0, 0.9)
    mapped = looks(blender, 32)
    place.control(collection, "Normal Strength").default_value = 0.0
    for shown, meant in zip(mapped, looks(blender, 32), strict=True):
        assert np.abs(shown - meant).mean() < 0.05 * meant.mean()
