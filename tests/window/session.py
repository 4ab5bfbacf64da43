# SPDX-License-Identifier: GPL-3.0-or-later
"""A user's session in a window, run by `blender --python session.py -- OUT PYTHON`.

Extracts a panorama from the world through the panel's operator, takes screenshots on the way, and
quits with exit code 0 when the place is there, can be undone in one step and leaves no worker.
"""

import importlib
import os
import subprocess
import sys
import time
import traceback
from pathlib import Path

import bpy
from mathutils import Euler

EXTENSION = "bl_ext.user_default.blender_omnix"
PATIENCE = 300.0

out, python = sys.argv[sys.argv.index("--") + 1 :]
job = importlib.import_module(f"{EXTENSION}.blender_omnix.host.job")


def session():
    """The steps; each yields the seconds to wait before the next."""
    yield 2.0
    show_world("interior.exr")
    yield from show_sidebar()

    window = bpy.context.window_manager.windows[0]
    with bpy.context.temp_override(window=window):
        assert bpy.ops.omnix.extract_pbr("INVOKE_DEFAULT") == {"FINISHED"}
    started = job.running()
    assert started is not None
    yield from wait_until(lambda: started.fraction > 0.05 or started.state != job.RUNNING)
    screenshot("progress.png")
    yield from wait_until(lambda: started.state != job.RUNNING)
    assert started.state == job.DONE, started.message
    yield from wait_until(lambda: "OmniX interior" in bpy.data.collections)
    look_from_the_viewpoint()
    for _ in range(12):  # thumbnails are made between redraws
        redraw()
        yield 1.0
    screenshot("panel.png")

    with bpy.context.temp_override(window=window):
        bpy.ops.ed.undo()
    yield 1.0
    assert "OmniX interior" not in bpy.data.collections
    assert bpy.context.scene.world.node_tree.nodes["Environment Texture"].image
    with bpy.context.temp_override(window=window):
        bpy.ops.ed.redo()
    yield 1.0
    assert "OmniX interior" in bpy.data.collections

    albedo = Path(out, "maps", "albedo.png")
    albedo.unlink()
    with bpy.context.temp_override(window=window):
        assert bpy.ops.omnix.extract_map("INVOKE_DEFAULT", map="albedo") == {"FINISHED"}
    yield from wait_until(albedo.exists)
    yield 1.0
    assert job.running() is None

    worker = int(job._client.hello["pid"])
    bpy.ops.preferences.addon_disable(module=EXTENSION)
    assert not Path(f"/proc/{worker}").exists()


def show_world(name):
    """The world shows one of Blender's own panoramas."""
    chosen = bpy.context.preferences.addons[EXTENSION].preferences
    chosen.python = python
    folder = bpy.utils.system_resource("DATAFILES", path="studiolights/world")
    tree = bpy.context.scene.world.node_tree
    texture = tree.nodes.new("ShaderNodeTexEnvironment")
    texture.image = bpy.data.images.load(str(Path(folder, name)))
    tree.links.new(texture.outputs["Color"], tree.nodes["Background"].inputs["Color"])
    bpy.data.objects.remove(bpy.data.objects["Cube"])
    bpy.context.scene.omnix.directory = str(Path(out, "maps"))
    bpy.ops.ed.undo_push(message="Scene")


def show_sidebar():
    """The OmniX tab of the 3D View; its category exists once the region was drawn."""
    (area,) = areas("VIEW_3D")
    area.spaces.active.show_region_ui = True
    region = next(region for region in area.regions if region.type == "UI")
    yield 0.5
    # Blender draws a region when the mouse has moved over it.
    move_mouse(area)
    yield 0.5
    region.active_panel_category = "OmniX"
    move_mouse(area)
    yield 0.5


def look_from_the_viewpoint():
    """The view stands where the panorama was taken and shows the geometry."""
    (area,) = areas("VIEW_3D")
    space = area.spaces.active
    # Not the material preview: without a graphics card its shaders take minutes to compile.
    space.shading.show_cavity = True
    space.shading.cavity_type = "BOTH"
    space.overlay.show_overlays = False
    space.lens = 18.0
    view = space.region_3d
    view.view_perspective = "PERSP"
    view.view_rotation = Euler((1.5, 0.0, -1.2)).to_quaternion()
    view.view_distance = 0.01
    view.view_location = (0.0, 0.0, bpy.context.scene.omnix.camera_height)


def redraw():
    for area in areas("VIEW_3D"):
        area.tag_redraw()


def areas(kind):
    windows = bpy.context.window_manager.windows
    return [area for window in windows for area in window.screen.areas if area.type == kind]


def move_mouse(area):
    for step in range(3):
        x, y = area.x + area.width // 2 + 5 * step, 1000 - area.y - area.height // 2
        subprocess.run(["xdotool", "mousemove", str(x), str(y)], check=True)


def wait_until(condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it took too long"
        yield 0.1


def screenshot(name):
    subprocess.run(["import", "-window", "root", str(Path(out, name))], check=True)


steps = session()


def advance():
    try:
        return next(steps)
    except StopIteration:
        print("The session went well.", flush=True)
        os._exit(0)
    except BaseException:  # noqa: BLE001 - Blender would print it and go on waiting
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


bpy.context.preferences.view.show_splash = False
bpy.app.timers.register(advance, first_interval=1.0)
