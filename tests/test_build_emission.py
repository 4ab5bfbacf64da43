# SPDX-License-Identifier: GPL-3.0-or-later
"""A relit place gives off the light that its emission map holds, from where it shows it."""

from __future__ import annotations

import numpy as np
import pytest

from tests import box_room, pictures

pytestmark = pytest.mark.blender

HEIGHT = 64
SKY = 1000.0


@pytest.fixture
def relit(blender, host, tmp_path):
    """A function from maps to a picture, from its viewpoint, of the place built from them."""
    build = host("build.place")

    def relit(made, **settings):
        box_room.save(tmp_path / "room", made)
        collection = build.build_place(
            blender.context,
            tmp_path / "room",
            name="room",
            settings=build.Settings(detail=2 * HEIGHT, mode="RELIGHT", **settings),
        )
        build.add_camera(blender.context, collection, panoramic=True)
        return render(blender)

    return relit


def render(blender, bounces: int = 1) -> np.ndarray:
    """A linear panorama (HEIGHT, 2 HEIGHT, 3), row 0 on top."""
    cycles = blender.context.scene.cycles
    cycles.samples, cycles.max_bounces = 64, bounces
    return pictures.render(blender, 2 * HEIGHT, HEIGHT)[..., :3]


def test_the_sky_does_not_make_the_frame_of_its_window_glow(relit):
    """There is a bright sky in the picture and none in the scene's world: the room stays dark."""
    made = box_room.room(HEIGHT, window=True)
    sky = made["depth"] == 0
    made["emission"][:] = 0.0
    made["emission"][sky] = SKY
    seen = relit(made)
    beside = sky.copy()
    for axis in (0, 1):
        beside |= np.roll(beside, 1, axis) | np.roll(beside, -1, axis)
    assert seen[sky].mean() == pytest.approx(SKY, rel=0.2)
    assert seen[~beside].max() < 1e-6


def test_what_is_hidden_gives_off_no_light(relit):
    """The wall behind the block is a lamp: the part that the block hides adds nothing."""
    made = box_room.room(HEIGHT)
    wall = (made["normal"][..., 0] < -0.9) & (made["depth"] > 2.0)
    made["emission"][:] = 0.0
    made["emission"][wall] = 1.0
    little, much = (relit(made, fill=fill)[~wall].mean() for fill in (1 / 128, 1 / 8))
    assert 0.01 < much < 1.003 * little


def test_a_window_is_black_at_night(relit, blender):
    """A lamp at the viewpoint shows on the walls and not on the pane, which has no emission."""
    made = box_room.room(HEIGHT, window=True)
    sky = made["depth"] == 0
    made["emission"][:] = 0.0
    lamp = blender.data.objects.new("lamp", blender.data.lights.new("lamp", "POINT"))
    lamp.data.energy, lamp.location = 100.0, (0.0, 0.3, 1.6)
    blender.context.scene.collection.objects.link(lamp)
    seen = relit(made)
    assert np.median(seen[~sky]) > 0.1
    assert np.median(seen[sky]) < 1e-3
