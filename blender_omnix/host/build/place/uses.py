# SPDX-License-Identifier: GPL-3.0-or-later
"""What an artist does with a place that stands: look at its maps, catch shadows, save, remove."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import bpy
import numpy as np

from .... import maps
from ....errors import OmnixError
from ....panorama import resample
from ... import paths
from ...identity import BUILT, STATE
from .. import images, material
from ..cycles import set_cycles
from .record import (
    built_of,
    control,
    delete,
    delete_unused,
    folder_of,
    has_controls,
    images_of,
    keep,
    name_of,
    own_maps,
    part,
    places,
    recorded,
    refuse_linked,
    release,
    root_of,
    shells_of,
    tidy,
    viewpoint,
)


def show_map(collection: bpy.types.Collection, name: str | None) -> None:
    """Show one map, unlit, on the surface; None shows the place again.

    Raises OmnixError where the user has deleted the node of that map.
    """
    if name is not None:
        try:
            material.show_map(built_of(collection)["surface_group"], name)
        except KeyError:
            raise OmnixError(
                f"The node of the {name} map was deleted from the material of "
                f"{name_of(collection)}; load the maps in {folder_of(collection)} again."
            ) from None
    control(collection, "Preview").default_value = float(name is not None)


def shown_map(collection: bpy.types.Collection) -> str | None:
    """The map that `show_map` shows now, if any."""
    if not has_controls(collection) or control(collection, "Preview").default_value == 0.0:
        return None
    return material.shown_map(built_of(collection)["surface_group"])


def set_shadow_catcher(collection: bpy.types.Collection, on: bool) -> None:
    """Let the place show nothing but the shadows that fall on it (Cycles, film transparent).

    Hull and panes too: behind a surface that is not seen they would be.
    """
    for item in shells_of(built_of(collection)).values():
        item.is_shadow_catcher = on


def is_shadow_catcher(collection: bpy.types.Collection) -> bool:
    surface = part(collection, "surface")
    return surface is not None and surface.is_shadow_catcher


def set_collision(collection: bpy.types.Collection, on: bool) -> None:
    """Let cloth, soft bodies and particles collide with the surface, or pass through again."""
    surface = part(collection, "surface")
    if surface is None:
        raise OmnixError("The surface of the place was deleted; rebuild its geometry first.")
    if on and _collision(surface) is None:
        surface.modifiers.new("Collision", "COLLISION")
    elif not on and _collision(surface) is not None:
        surface.modifiers.remove(_collision(surface))


def has_collision(collection: bpy.types.Collection) -> bool:
    surface = part(collection, "surface")
    return surface is not None and _collision(surface) is not None


def _collision(surface: bpy.types.Object) -> bpy.types.CollisionModifier | None:
    return next((item for item in surface.modifiers if item.type == "COLLISION"), None)


def scale(collection: bpy.types.Collection, factor: float) -> None:
    """Enlarge the place around the point of the floor below the viewpoint."""
    root = root_of(collection)
    root.location.z += (factor - 1.0) * collection[STATE]["camera_height"] * root.scale.z
    root.scale = [value * factor for value in root.scale]
    camera = part(collection, "camera_data")
    if camera is not None:
        _let_see(camera, collection)


def add_camera(
    context: bpy.types.Context, collection: bpy.types.Collection, *, panoramic: bool = False
) -> bpy.types.Object:
    """The place's camera at the viewpoint, looking at the middle of the panorama; made the scene's
    camera. `panoramic` renders the whole panorama (Cycles)."""
    built = tidy(collection)
    camera = built.get("camera")
    if camera is None:
        label, root = f"OmniX {name_of(collection)} Camera", root_of(collection)
        data = bpy.data.cameras.new(label)
        _let_see(data, collection)
        camera = bpy.data.objects.new(label, data)
        camera.parent = root
        collection.objects.link(camera)
        keep(collection, built | {"camera": camera, "camera_data": data})
    camera.location = (0.0, 0.0, 0.0)
    camera.rotation_euler = (math.pi / 2, 0.0, -math.pi / 2)
    camera.data.type = "PANO" if panoramic else "PERSP"
    set_cycles(camera.data, "panorama_type", "EQUIRECTANGULAR")
    context.scene.camera = camera
    return camera


def _let_see(camera: bpy.types.Camera, collection: bpy.types.Collection) -> None:
    """Widen the clip range of a camera at the viewpoint for all of a place, in the world's units:
    a tabletop begins before Blender's 0.1 m, what a drone sees does not end at 1 km."""
    stands = np.array(viewpoint(collection).to_3x3(), np.float32)
    for item in shells_of(built_of(collection)).values():
        points = np.empty((len(item.data.vertices), 3), np.float32)
        item.data.attributes["position"].data.foreach_get("vector", points.ravel())
        away = np.linalg.norm(points @ stands.T, axis=1)
        camera.clip_start = min(camera.clip_start, away.min(initial=np.inf) / 2)
        camera.clip_end = max(camera.clip_end, away.max(initial=0.0) * 2)


def mark_asset(collection: bpy.types.Collection) -> None:
    """Offer the place in the asset browser, with the picture of its panorama as preview."""
    collection.asset_mark()
    image = part(collection, "map_panorama") or part(collection, "source")
    if image is None:
        return
    # The middle square of the panorama, reduced to the size that Blender stores.
    pixels = images.read(image, 3)
    side = pixels.shape[0]
    left = (pixels.shape[1] - side) // 2
    square = resample.nearest(pixels[:, left : left + side], 256, 256)
    rgba = np.ones((256, 256, 4), np.float32)
    rgba[..., :3] = square[::-1]
    collection.preview_ensure()
    collection.preview.image_size = (256, 256)
    collection.preview.image_pixels_float.foreach_set(rgba.ravel())


def save_maps(collection: bpy.types.Collection, folder: Path) -> list[str]:
    """Copy the maps as the place uses them, and its report, into a map set of their own.

    The report names under `replaced` the files that the user has put in place of maps. A contact
    sheet would not show them, nor what was painted on a map, and is left out then. Returns notes
    for the user. Raises OmnixError, with an earlier set in `folder` as it was, when that holds
    something else or cannot be written, or when a map or the report is gone.
    """
    source = folder_of(collection)
    textures = images_of(collection)
    files = {name: Path(paths.absolute(image.filepath)) for name, image in textures.items()}
    own = maps.map_files(source)
    changed = list(own_maps(collection))
    replaced = {name: str(files[name]) for name in changed if files[name] != own.get(name)}
    report = maps.read_report(source) | {"replaced": replaced}
    report.pop("files", None)  # those that are written now
    with maps.MapSetWriter(folder) as writer:
        try:
            for name, image in textures.items():
                spec = maps.MAPS[name]
                images.save(image, writer.path(spec.filename), spec.colorspace)
            sheet = source / maps.PREVIEW
            if not changed and sheet.is_file():
                shutil.copyfile(sheet, writer.path(maps.PREVIEW))
        except OSError as error:
            raise OmnixError(
                f"Maps cannot be written to {folder} ({error.strerror or error}); choose another "
                "folder."
            ) from None
        writer.publish(report)
    if not changed:
        return []
    return [f"There is no contact sheet, which would not show your own {', '.join(changed)}."]


def remove(context: bpy.types.Context, collection: bpy.types.Collection) -> None:
    """Take away a place, exactly what was built.

    Objects that the user has put into its collection move to the scene's, and those that hang on
    the place stay where they are; meshes, materials and images that they use are theirs now.
    Raises OmnixError, with the place still there, where the scene is of another file.
    """
    refuse_linked(context.scene)
    # Of a place that was copied, with its scene for one, some parts serve both.
    shared = [
        item for other in places() if other != collection for item in recorded(other).values()
    ]
    ours = [item for item in recorded(collection).values() if item not in shared]
    release(ours, ours)
    objects = [item for item in ours if isinstance(item, bpy.types.Object)]
    delete(objects)
    # What is recorded counts as used, like what the user uses.
    collection[BUILT] = {}
    left = [item for item in ours if item not in objects]
    delete_unused(left, left)
    for item in list(collection.objects):
        if not any(other is not collection for other in item.users_collection):
            context.scene.collection.objects.link(item)
    for child in list(collection.children):
        if child.name not in context.scene.collection.children:
            context.scene.collection.children.link(child)
    bpy.data.collections.remove(collection)
