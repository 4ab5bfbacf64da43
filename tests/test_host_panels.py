# SPDX-License-Identifier: GPL-3.0-or-later
"""What the panels show: every button is an operator that takes what it is given."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import pytest

from tests import box_room

pytestmark = pytest.mark.blender


class Layout:
    """Stands in for a UILayout: keeps the buttons and the texts that a panel draws."""

    def __init__(self, bpy, buttons=None, texts=None):
        self.bpy = bpy
        self.buttons = [] if buttons is None else buttons
        self.texts = [] if texts is None else texts

    def operator(self, name, *, text=None, icon="NONE", depress=False):
        kind = getattr(self.bpy.ops.omnix, name.removeprefix("omnix.")).get_rna_type()
        functions = self.bpy.types.UILayout.bl_rna.functions
        assert icon in functions["operator"].parameters["icon"].enum_items
        button = SimpleNamespace()
        self.buttons.append((name, kind, button, depress))
        return button

    def prop(self, owner, name, *, text=None):
        assert owner.path_resolve(name) is not None

    def label(self, *, text, icon="NONE"):
        self.texts.append(text)

    def progress(self, *, factor, text):
        self.texts.append(text)

    def __getattr__(self, name):
        # Rows, columns, boxes, grids and what else only arranges.
        assert name in self.bpy.types.UILayout.bl_rna.functions
        return lambda *_, **__: Layout(self.bpy, self.buttons, self.texts)


class Context:
    """Blender's context, and what there is none of without a window."""

    region = SimpleNamespace(width=300)
    preferences = SimpleNamespace(system=SimpleNamespace(ui_scale=1.0))

    def __init__(self, bpy):
        self.bpy = bpy

    def __getattr__(self, name):
        return getattr(self.bpy.context, name)


@pytest.fixture
def draw(blender):
    def drawn(panel):
        layout = Layout(blender)
        panel.draw(SimpleNamespace(layout=layout), Context(blender))
        for name, kind, button, _depress in layout.buttons:
            unknown = set(vars(button)) - set(kind.properties.keys())
            assert not unknown, f"{name} has no {unknown}"
        return layout

    return drawn


def test_the_place_panels_offer_what_can_be_done(blender, draw, host, tmp_path):
    box_room.save(tmp_path / "room", box_room.room(64))
    blender.ops.omnix.load_maps(directory=str(tmp_path / "room"))
    panels = host("place_panels")
    buttons = [button for panel in panels.CLASSES for button in draw(panel).buttons]
    names = {name.removeprefix("omnix.") for name, *_ in buttons}
    without_button = {"apply_geometry", "keep_geometry"}
    offered = {kind.bl_idname.removeprefix("omnix.") for kind in host("place_operators").CLASSES}
    assert names == offered - without_button
    again = {button.map for name, _, button, _ in buttons if name == "omnix.extract_map"}
    assert again >= {"albedo", "normal", "roughness", "metallic", "depth", "emission"}
    assert "panorama" not in again

    blender.ops.omnix.adjust_geometry()
    blender.ops.omnix.use_place(shadow_catcher=True)
    layout = draw(panels.OMNIX_PT_place_geometry)
    assert without_button <= {name.removeprefix("omnix.") for name, *_ in layout.buttons}
    (use, _) = (button for name, _, button, _ in layout.buttons if name == "omnix.use_place")
    assert use.shadow_catcher is False


def test_the_panels_of_a_damaged_place_say_so(blender, draw, host, tmp_path):
    box_room.save(tmp_path / "room", box_room.room(64))
    blender.ops.omnix.load_maps(directory=str(tmp_path / "room"))
    panels, place = host("place_panels"), host("build.place")
    (collection,) = place.places()
    stand_in = place.start_adjusting(collection)
    stand_in.modifiers.clear()
    layout = draw(panels.OMNIX_PT_place_geometry)
    assert "The stand-in has lost its modifier" in layout.texts
    blender.data.node_groups.remove(place.part(collection, "surface_group"))
    for panel in panels.CLASSES:
        layout = draw(panel)
        if panel is panels.OMNIX_PT_place:
            assert "were deleted; undo that" in " ".join(text.strip() for text in layout.texts)
            assert "omnix.remove_place" in [name for name, *_ in layout.buttons]


def test_maps_whose_report_says_little_are_shown(blender, draw, host, tmp_path):
    box_room.save(tmp_path / "room", box_room.room(64))
    (tmp_path / "room" / "report.json").write_text('{"engine": "other"}')
    blender.ops.omnix.load_maps(directory=str(tmp_path / "room"))
    texts = draw(host("panels").OMNIX_PT_sidebar_maps).texts
    assert "other engine" in texts and "Albedo" in texts


def test_a_report_is_parsed_once_for_all_that_is_drawn(blender, draw, host, tmp_path, monkeypatch):
    box_room.save(tmp_path / "room", box_room.room(64))
    blender.ops.omnix.load_maps(directory=str(tmp_path / "room"))
    panel = host("panels").OMNIX_PT_sidebar_maps
    texts = draw(panel).texts
    monkeypatch.setattr(host("report").maps, "read_report", None)
    assert draw(panel).texts == texts


def test_maps_that_uninstalling_would_take_are_told(blender, draw, host, tmp_path):
    folder, _ = host("destination").default_folder("room")
    box_room.save(folder, box_room.room(64))
    blender.ops.omnix.load_maps(directory=str(folder))
    panel = host("panels").OMNIX_PT_sidebar_maps
    assert "uninstalled" not in " ".join(draw(panel).texts)
    blender.ops.wm.save_as_mainfile(filepath=str(tmp_path / "place.blend"))
    assert "uninstalled" in " ".join(draw(panel).texts)
    blender.ops.omnix.move_maps()
    assert "uninstalled" not in " ".join(draw(panel).texts)
    shutil.rmtree(folder)


def test_the_follow_button_says_whether_the_place_follows(blender, draw, host, tmp_path):
    from tests.test_build_place import show_room

    box_room.save(tmp_path / "room", box_room.room(64))
    show_room(blender)
    blender.ops.omnix.load_maps(directory=str(tmp_path / "room"))
    for follows in (False, True):
        if follows:
            blender.ops.omnix.follow_world()
        buttons = draw(host("place_panels").OMNIX_PT_place).buttons
        ((button, depress),) = (
            (button, depress)
            for name, _, button, depress in buttons
            if name == "omnix.follow_world"
        )
        assert (depress, button.follow) == (follows, not follows)


def test_the_panel_tells_that_the_world_is_gone(blender, draw, host, tmp_path):
    from tests.test_build_place import show_room

    box_room.save(tmp_path / "room", box_room.room(64))
    show_room(blender)
    blender.ops.omnix.load_maps(directory=str(tmp_path / "room"))
    blender.ops.omnix.follow_world()
    sentence = "The world it followed is gone"
    panel = host("place_panels").OMNIX_PT_place
    assert sentence not in draw(panel).texts
    blender.data.worlds.remove(blender.context.scene.world)
    assert sentence in draw(panel).texts
    blender.ops.omnix.follow_world(follow=False)
    assert sentence not in draw(panel).texts


@pytest.mark.parametrize(
    ("silence", "state", "text"),
    [
        (1.0, "RUNNING", "Albedo, 3 s left"),
        (42.0, "RUNNING", "Albedo, no answer for 42 s"),
        (42.0, "DONE", "Waiting for the render to end"),
    ],
)
def test_what_is_waited_for_is_told(draw, host, monkeypatch, silence, state, text):
    job, panels = host("job"), host("panels")
    running = {"state": state, "stage": "Albedo", "fraction": 0.5, "seconds_left": 3.0}
    told = {"cancelling": False, "concluded": False, "message": ""}
    monkeypatch.setattr(job, "_job", SimpleNamespace(**running, **told))
    monkeypatch.setattr(host("operators"), "is_rendering", lambda: True)
    monkeypatch.setattr(job, "_client", SimpleNamespace(silence=silence, close=lambda: None))
    layout = draw(panels.OMNIX_PT_sidebar)
    assert text in layout.texts
