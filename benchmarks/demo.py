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
# Azimuth in degrees of the free floor of interior.exr; its bed, too, may be taken for floor.
TOWARDS = 130.0
# Radius and height of what the objects take up, in metres.
CHAIR_ROOM, BALL_ROOM = (0.35, 1.0), (0.3, 0.5)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--panorama", type=Path, help="default: Blender's own interior.exr")
    parser.add_argument("--out", type=Path, default=Path("demo"))
    parser.add_argument(
        "--towards",
        type=float,
        default=TOWARDS,
        help="look within 50 degrees of this azimuth, 0 = the panorama's middle, 90 = to its left",
    )
    parser.add_argument("--samples", type=int, default=SAMPLES, help="render samples a pixel")
    arguments = parser.parse_args()
    if arguments.panorama and not arguments.panorama.is_file():
        print(f"There is no file {arguments.panorama}; choose an image file.", file=sys.stderr)
        return 1

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

    for picture in _pictures(bpy, place, collection, math.radians(arguments.towards)):
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
    # Pictures that are passed on tell nobody where they were made.
    scene.render.use_stamp_filename = False


def _pictures(bpy, place, collection, towards: float):
    """Set the scene up for one picture after the other; yields the name of each."""
    scene = bpy.context.scene
    camera = scene.camera
    chair, ball = _free_floor(place, collection, towards)
    middle = (chair + ball) / 2.0
    azimuth, free = math.atan2(middle[1], middle[0]), float(np.hypot(*middle))
    ahead = np.array([math.cos(azimuth), math.sin(azimuth), 0.0])
    left = np.array([-ahead[1], ahead[0], 0.0])
    # So wide and so far down that the feet of what stands 1.4 m away are in the picture.
    camera.data.lens = 14.0
    camera.rotation_euler = (math.radians(66), 0.0, azimuth - math.pi / 2)

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
    floor = -_root(collection).location.z
    _chair(bpy, collection, chair, floor)
    _chrome_ball(bpy, collection, ball, floor)
    yield "objects"


def _free_floor(place, collection, towards: float) -> tuple[np.ndarray, np.ndarray]:
    """Where the chair and the ball stand, (x, y) from the viewpoint: on the floor, in full view,
    beside each other, within 50 degrees of the azimuth `towards`."""
    image = place.part(collection, "map_depth")
    pixels = np.empty((image.size[1], image.size[0], image.channels), np.float32)
    image.pixels.foreach_get(pixels.ravel())
    depth = pixels[::-1, :, 0]
    floor = -_root(collection).location.z
    aside = np.radians(np.arange(-50, 51, 5))
    azimuth, distance = np.meshgrid(towards + aside, np.arange(1.4, 3.01, 0.2))
    spots = np.stack((np.cos(azimuth), np.sin(azimuth)), axis=-1) * distance[..., None]
    spots = spots.reshape(-1, 2)
    for_chair = _free_share(depth, spots, floor, *CHAIR_ROOM)
    for_ball = _free_share(depth, spots, floor, *BALL_ROOM)

    between = spots[:, None] - spots
    apart = np.hypot(between[..., 0], between[..., 1])
    far = np.hypot(spots[:, 0], spots[:, 1])
    cosine = spots @ spots.T / np.outer(far, far)
    # Free floor above all; then about two metres away.
    cost = 0.05 * np.abs(far - 2.0)
    score = np.minimum(for_chair[:, None], for_ball) - cost[:, None] - cost
    beside = (cosine < math.cos(math.radians(22))) & (cosine > math.cos(math.radians(50)))
    score[~beside | (apart < 0.8) | (apart > 1.4)] = -1.0
    chair, ball = np.unravel_index(score.argmax(), score.shape)
    return spots[chair], spots[ball]


def _free_share(
    depth: np.ndarray, spots: np.ndarray, floor: float, radius: float, height: float
) -> np.ndarray:
    """(N,) how much of an upright cylinder on each of the spots (N, 2) is seen to be free: its foot
    shows the floor and nothing stands in front of the rest of it."""
    turn = np.radians(np.arange(0, 360, 30))
    ring = radius * np.stack((np.cos(turn), np.sin(turn)), axis=-1)
    free = []
    for rise in (0.0, 0.3 * height, 0.65 * height, height):
        around = spots[:, None] + ring
        points = np.concatenate((around, np.full((*around.shape[:2], 1), floor + rise)), axis=-1)
        away = np.linalg.norm(points, axis=-1)
        u = (0.5 - np.arctan2(points[..., 1], points[..., 0]) / (2.0 * np.pi)) % 1.0
        v = 0.5 - np.arcsin(points[..., 2] / away) / np.pi
        seen = depth[(v * depth.shape[0]).astype(int), (u * depth.shape[1]).astype(int)]
        clear = (seen == 0.0) | (seen > 0.95 * away)
        if rise == 0.0:
            clear &= np.abs(seen * points[..., 2] / away - floor) < 0.12
        free.append(clear.mean(axis=1))
    return np.mean(free, axis=0)


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


def _chair(bpy, collection, position, floor: float) -> None:
    """A plain chair of boxes that looks at the viewpoint."""
    turn = math.atan2(position[1], position[0])
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
    item.parent = _root(collection)


def _root(collection):
    """The empty at the viewpoint."""
    return next(part for part in collection.objects if part.type == "EMPTY")


if __name__ == "__main__":
    sys.exit(main())
