# SPDX-License-Identifier: GPL-3.0-or-later
"""A relit place is shaded by the normals of its map, also where two surfaces meet."""

from __future__ import annotations

import numpy as np
import pytest

from blender_omnix.panorama import frames
from tests import box_room
from tests.test_build_emission import HEIGHT, render

pytestmark = pytest.mark.blender


def test_no_bevel_shines_where_walls_meet(blender, host, tmp_path):
    """Under a lamp at the viewpoint a pixel is as bright as its own wall shows it there. Along a
    corner a normal half-way between those of two walls would face the lamp more than either."""
    build = host("build.place")
    made = box_room.room(HEIGHT, block=False)
    made["albedo"][:] = 0.3
    made["emission"][:] = 0.0
    made["roughness"][:] = 1.0
    box_room.save(tmp_path / "room", made)
    collection = build.build_place(
        blender.context,
        tmp_path / "room",
        name="room",
        settings=build.Settings(detail=2 * HEIGHT, mode="RELIGHT"),
    )
    build.add_camera(blender.context, collection, panoramic=True)
    data = blender.data.lights.new("lamp", "POINT")
    data.energy, data.shadow_soft_size = 100.0, 0.01
    lamp = blender.data.objects.new("lamp", data)
    lamp.location = (0.0, 0.0, 1.6)
    blender.context.scene.collection.objects.link(lamp)
    seen = render(blender, bounces=0)[..., 0]

    rays = frames.directions(HEIGHT, 2 * HEIGHT)
    expected = -(made["normal"] * rays).sum(axis=-1) / made["depth"] ** 2
    ratio = seen / expected
    ratio /= np.median(ratio)
    corner = np.zeros(ratio.shape, bool)
    for axis in (0, 1):
        for step in (-1, 1):
            corner |= (made["normal"] * np.roll(made["normal"], step, axis)).sum(axis=-1) < 0.5
    assert ratio[corner].mean() < 1.08
