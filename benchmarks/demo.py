# SPDX-License-Identifier: GPL-3.0-or-later
"""The whole way, on one panorama: extract it in the background worker, build the place, render it.

Leaves in the output folder the map set `<stem>/`, the file `<stem>.blend`, and pictures: the view
as photographed (`original.png`), a step aside (`aside.png`), another light from there
(`relit.png`), night with one lamp (`night.png`), a chrome ball and a chair (`objects.png`).
"""

from __future__ import annotations

import argparse
import importlib
import math
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import extension

WIDTH, HEIGHT, SAMPLES = 480, 270, 32
STEP_ASIDE = 0.5  # metres


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--panorama", type=Path, help="default: Blender's own interior.exr")
    parser.add_argument("--out", type=Path, default=Path("demo"))
    parser.add_argument("--samples", type=int, default=SAMPLES, help="render samples a pixel")
    arguments = parser.parse_args()

    bpy = extension.enable()
    package = f"{extension.MODULE}.blender_omnix"
    place = importlib.import_module(f"{package}.host.build.place")
    worlds = Path(bpy.utils.resource_path("LOCAL")) / "datafiles" / "studiolights" / "world"
    panorama = (arguments.panorama or worlds / "interior.exr").resolve()
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)

    bpy.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)
    scene = bpy.context.scene
    _show_panorama(bpy, scene, panorama)
    try:
        bpy.ops.omnix.extract_pbr(directory=str(out / panorama.stem))
    except RuntimeError as error:
        print(str(error).strip(), file=sys.stderr)
        return 1
    collection = next(place.places())
    place.add_camera(bpy.context, collection)
    _prepare_render(scene, arguments.samples)
    blend = out / f"{panorama.stem}.blend"
    bpy.context.preferences.filepaths.save_version = 0
    with extension.quiet():
        bpy.ops.wm.save_as_mainfile(filepath=str(blend), compress=True)
        # Only a file that has a place of its own can name others relative to it.
        bpy.ops.file.make_paths_relative()
        bpy.ops.wm.save_mainfile(compress=True)
    print(f"Saved {blend}", flush=True)

    for picture in _pictures(bpy, place, collection):
        print(f"Rendering {out / picture}.png", flush=True)
        scene.render.filepath = str(out / f"{picture}.png")
        with extension.quiet():
            bpy.ops.render.render(write_still=True)
    return 0


def _show_panorama(bpy, scene, panorama: Path) -> None:
    """A world that shows the panorama, as an artist would set it up."""
    world = scene.world = bpy.data.worlds.new(panorama.stem)
    if bpy.app.version < (5, 0):
        world.use_nodes = True
    tree = world.node_tree
    tree.nodes.clear()
    environment = tree.nodes.new("ShaderNodeTexEnvironment")
    environment.image = bpy.data.images.load(str(panorama))
    background, output = (tree.nodes.new(f"ShaderNode{n}") for n in ("Background", "OutputWorld"))
    tree.links.new(environment.outputs["Color"], background.inputs["Color"])
    tree.links.new(background.outputs["Background"], output.inputs["Surface"])


def _prepare_render(scene, samples: int) -> None:
    scene.render.engine = "CYCLES"
    scene.cycles.samples = samples
    scene.cycles.use_denoising = True
    scene.cycles.max_bounces = 4
    scene.render.resolution_x, scene.render.resolution_y = WIDTH, HEIGHT
    scene.render.image_settings.file_format = "PNG"


def _pictures(bpy, place, collection):
    """Set the scene up for one picture after the other; yields the name of each."""
    scene = bpy.context.scene
    camera = scene.camera
    azimuth, free = _open_direction(place, collection)
    ahead = np.array([math.cos(azimuth), math.sin(azimuth), 0.0])
    left = np.array([-ahead[1], ahead[0], 0.0])
    camera.data.lens = 14.0
    camera.rotation_euler = (math.radians(72), 0.0, azimuth - math.pi / 2)

    place.set_mode(collection, place.ORIGINAL)
    yield "original"
    camera.location = left * STEP_ASIDE
    yield "aside"

    place.set_mode(collection, place.RELIGHT)
    background = scene.world.node_tree.nodes["Background"].inputs
    emission = place.control(collection, "Emission Strength")
    _lamp(bpy, collection, -0.5 * left, 0.5, 150.0, (0.35, 0.55, 1.0))
    _lamp(bpy, collection, 0.45 * free * ahead + 0.5 * left, 0.35, 60.0, (1.0, 0.55, 0.25))
    emission.default_value = background["Strength"].default_value = 0.02
    yield "relit"

    for lamp in [item for item in collection.objects if item.type == "LIGHT"]:
        bpy.data.lights.remove(lamp.data)
    emission.default_value = background["Strength"].default_value = 0.0
    camera.location = (0.0, 0.0, 0.0)
    _lamp(bpy, collection, 0.5 * free * ahead + 0.3 * left, 0.2, 60.0, (1.0, 0.72, 0.45))
    yield "night"

    emission.default_value = background["Strength"].default_value = 0.3
    distance = min(0.75 * free, 2.2)
    floor = -collection.objects[0].location.z
    _chair(bpy, collection, distance * ahead + 0.45 * left, floor, azimuth)
    _chrome_ball(bpy, collection, 0.9 * distance * ahead - 0.45 * left, floor)
    yield "objects"


def _open_direction(place, collection) -> tuple[float, float]:
    """Azimuth, within 60 degrees of the panorama's middle, with the most room on the floor, and
    the metres there are."""
    image = place.part(collection, "map_depth")
    pixels = np.empty((image.size[1], image.size[0], image.channels), np.float32)
    image.pixels.foreach_get(pixels.ravel())
    depth = pixels[..., 0]
    height, width = depth.shape
    rows = (np.array([0.28, 0.32, 0.36, 0.4, 0.45, 0.5]) * height).astype(int)
    elevation = ((rows + 0.5) / height - 0.5) * np.pi
    # A window in a room is as far away as its wall, which is not known; take what is usual.
    usual = np.median(depth[depth > 0])
    reach = np.where(depth[rows] > 0, depth[rows], usual) * np.cos(elevation)[:, None]
    # The floor itself is no obstacle: where a row meets it, the row above says how far it goes.
    on_floor = depth[rows] * -np.sin(elevation)[:, None] > 1.35
    reach = np.where(on_floor, np.inf, reach).min(axis=0)
    reach = np.minimum(reach, 50.0)
    window = width // 16
    smallest = np.min([np.roll(reach, s) for s in range(-window, window + 1, 4)], axis=0)
    azimuth = (0.5 - (np.arange(width) + 0.5) / width) * 2 * np.pi
    smallest[np.abs(azimuth) > math.radians(60)] = 0.0
    best = int(smallest.argmax())
    return float(azimuth[best]), float(smallest[best])


def _lamp(bpy, collection, position, rise: float, power: float, colour) -> None:
    """A lamp, placed in the frame of the viewpoint."""
    light = bpy.data.lights.new("Demo Lamp", "POINT")
    light.energy, light.color, light.shadow_soft_size = power, colour, 0.08
    item = bpy.data.objects.new("Demo Lamp", light)
    item.location = (position[0], position[1], rise)
    _add(collection, item)


def _chrome_ball(bpy, collection, position, floor: float, radius: float = 0.25) -> None:
    bpy.ops.mesh.primitive_uv_sphere_add(segments=48, ring_count=24, radius=radius)
    ball = bpy.context.object
    bpy.ops.object.shade_smooth()
    ball.location = (position[0], position[1], floor + radius)
    ball.data.materials.append(_material(bpy, "Chrome", (0.9, 0.9, 0.9), 1.0, 0.03))
    _add(collection, ball)


def _chair(bpy, collection, position, floor: float, turn: float) -> None:
    """A plain chair of boxes that looks at the viewpoint."""
    parts = [((0.0, 0.0, 0.45), (0.45, 0.45, 0.05)), ((0.21, 0.0, 0.72), (0.04, 0.45, 0.5))]
    parts += [((x, y, 0.215), (0.04, 0.04, 0.43)) for x in (-0.2, 0.2) for y in (-0.2, 0.2)]
    wood = _material(bpy, "Wood", (0.45, 0.18, 0.07), 0.0, 0.4)
    for (x, y, z), size in parts:
        bpy.ops.mesh.primitive_cube_add(size=1.0)
        part = bpy.context.object
        part.scale = size
        turned = (math.cos(turn) * x - math.sin(turn) * y, math.sin(turn) * x + math.cos(turn) * y)
        part.location = (position[0] + turned[0], position[1] + turned[1], floor + z)
        part.rotation_euler = (0.0, 0.0, turn)
        part.data.materials.append(wood)
        _add(collection, part)


def _material(bpy, name: str, colour, metallic: float, roughness: float):
    made = bpy.data.materials.new(name)
    if bpy.app.version < (5, 0):
        made.use_nodes = True
    inputs = made.node_tree.nodes["Principled BSDF"].inputs
    inputs["Base Color"].default_value = (*colour, 1.0)
    inputs["Metallic"].default_value, inputs["Roughness"].default_value = metallic, roughness
    return made


def _add(collection, item) -> None:
    """Put an object into the place, its location counted from the viewpoint."""
    for other in item.users_collection:
        other.objects.unlink(item)
    collection.objects.link(item)
    item.parent = next(part for part in collection.objects if part.type == "EMPTY")


if __name__ == "__main__":
    sys.exit(main())
