# SPDX-License-Identifier: GPL-3.0-or-later
"""A relightable place from a map set: one collection, built, rebuilt and removed as a whole.

The collection `OmniX <name>` holds an empty at the viewpoint and, parented to it, the surface and
(where the place is enclosed) a hull. Everything below the empty is in the capture frame of the
panorama, so moving, turning or scaling the empty moves the place. The scene's world shows through
wherever the panorama shows the sky, and is another only where it is asked for (`use_as_world`).

What was built is recorded in the collection as pointers, so that renaming loses nothing and
nothing of the user's is ever taken for ours.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import bpy
import numpy as np
from mathutils import Euler, Matrix

from ... import maps
from ...errors import OmnixError
from ...panorama import frames, smooth
from .. import paths
from ..source import Dial, Showing
from . import geometry, images, material, mesh, preview, world

# Custom properties of the collection: what it was built from, and the datablocks that are ours.
_STATE, _BUILT = "omnix", "omnix_built"
# Parts that are there for an object alone.
_SERVES = {
    "surface_mesh": "surface",
    "hull_mesh": "hull",
    "panes_mesh": "panes",
    "camera_data": "camera",
    "preview_mesh": "preview",
    "preview_group": "preview",
}
# What the place's drivers follow. A driver does not count as a user: a world that no scene has any
# more would not be saved, and the place would fall back to zero.
_FOLLOWED = "omnix_followed"
# On the stand-in: which of the meshes were hidden before it, in the viewport and in renders.
_HIDDEN = "omnix_hidden"

ORIGINAL, RELIGHT = "ORIGINAL", "RELIGHT"


@dataclass(frozen=True)
class Settings:
    """What can be chosen about a place.

    detail: quads around the horizon, at most the width of the maps. jump: least relative step in
    depth at which the surface is cut. fill: how far the background grows behind an edge, as a
    fraction of the panorama's width. smooth: rounds of smoothing depth along the normals.
    enclosed: 'AUTO', 'YES' or 'NO': a closed place gets a hull against outside light. mode:
    'ORIGINAL' or 'RELIGHT'.
    """

    detail: int = 1024
    jump: float = 0.08
    fill: float = 1 / 16
    smooth: int = 6
    enclosed: str = "AUTO"
    mode: str = RELIGHT


def build_place(
    context: bpy.types.Context,
    folder: Path | str,
    *,
    name: str,
    camera_height: float = 1.6,
    settings: Settings | None = None,
    source: bpy.types.Image | None = None,
) -> bpy.types.Collection:
    """Build the map set in `folder` as a place, or renew the place of that name.

    The viewpoint of a new place lies `camera_height` metres above z = 0 and looks as the panorama
    does: its centre is +X. A place that stands is given the new maps and geometry; where it
    stands, its controls and what the user has done to its objects stay, and so do its `settings`
    where none are given. One that showed a map which it has no more shows itself again. `source`
    is the image of the panorama where it is loaded already; else the file that the report names
    is, or failing that `panorama.png`.

    Raises OmnixError, with the scene unchanged, when the maps cannot be read.
    """
    collection = find(name)
    if collection is not None:
        _refuse_while_edited(collection)
    kept = collection is not None and settings is None
    if settings is None:
        settings = Settings() if collection is None else settings_of(collection)
    textures = images.load_maps(folder, name)
    try:
        cut = _cut(textures, settings)
        source, gain, own_source = _radiance(folder, name, textures, source)
    except OmnixError:
        _delete(textures.values())
        raise

    if collection is None:
        collection = bpy.data.collections.new(f"OmniX {name}")
        context.scene.collection.children.link(collection)
        collection[_BUILT], collection[_STATE] = {}, {}
    else:
        finish_adjusting(collection, apply=False)
        if collection not in context.scene.collection.children_recursive:
            context.scene.collection.children.link(collection)
    state = collection[_STATE].to_dict()
    collection[_STATE] = state | {
        "name": name,
        "folder": paths.stored(folder),
        "camera_height": camera_height,
        "source_gain": gain,
        **asdict(settings),
    }
    _stand(collection, camera_height, state.get("camera_height", camera_height))
    shown = {f"map_{key}": image for key, image in textures.items()}
    _shade(collection, shown | ({"source": source} if own_source else {}), source)
    _place(collection, cut)
    if not kept:
        set_mode(collection, settings.mode)
    return collection


def rebuild(collection: bpy.types.Collection, **changes: Any) -> None:
    """Cut the place's geometry anew from its images as they are now, with changed `Settings`.

    Raises OmnixError, leaving the place as it is, when an image cannot be read or a mesh is in Edit
    Mode.
    """
    _refuse_while_edited(collection)
    settings = replace(settings_of(collection), **changes)
    built = _built(collection)
    cut = _cut({name: built[f"map_{name}"] for name in maps_of(collection)}, settings)
    state = collection[_STATE].to_dict()
    collection[_STATE] = state | asdict(settings)
    _place(collection, cut)
    if "mode" in changes:
        set_mode(collection, settings.mode)


def _refuse_while_edited(collection: bpy.types.Collection) -> None:
    """Raise OmnixError where the user is editing a mesh that is to be cut anew."""
    for item in _shells(_built(collection)):
        if item.data.is_editmode:
            raise OmnixError(f"{item.name} is in Edit Mode; leave that first.")


def replace_map(collection: bpy.types.Collection, name: str, path: Path | str) -> None:
    """Let a place use the file `path` for one of its maps, and rebuild what depends on it.

    A map that the place has lacked so far joins the others. An OpenEXR or Radiance file holds
    linear colours, any other file encoded ones. Raises OmnixError, leaving the place as it is, when
    the file is no panorama or a mesh that depends on it is in Edit Mode.
    """
    cuts = name in ("depth", "normal", "emission")
    if cuts:
        _refuse_while_edited(collection)
    label = f"OmniX {name_of(collection)} {maps.MAPS[name].label}"
    built, key = _built(collection), f"map_{name}"
    image = _candidate(name, path, label)
    if cuts:
        textures = {other: built[f"map_{other}"] for other in maps_of(collection)}
        try:
            cut = _cut(textures | {name: image}, settings_of(collection))
        except OmnixError:
            _delete([image])
            raise
    earlier, shown = built.get(key), source_of(collection)
    _shade(collection, _images(built) | {key: image}, image if shown == earlier else shown)
    if cuts:
        _place(collection, cut)


def check_map(name: str, path: Path | str) -> None:
    """Raise OmnixError where `replace_map` would refuse the file for this map."""
    _delete([_candidate(name, path, "OmniX Candidate")])


def _candidate(name: str, path: Path | str, label: str) -> bpy.types.Image:
    """The file as an image that can serve as this map; else OmnixError."""
    image = images.load(path, label, images.colorspace(name, path))
    try:
        width, height = image.size
        if abs(width - 2 * height) > 2:
            raise OmnixError(
                f"{path} is {width} x {height}; a map is twice as wide as high, so it cannot be "
                "used."
            )
        if name == "depth":
            _read_depth(image)
    except OmnixError:
        _delete([image])
        raise
    return image


def start_adjusting(collection: bpy.types.Collection) -> bpy.types.Object:
    """Show the quick stand-in instead of the mesh; its modifier holds the settings to drag."""
    finish_adjusting(collection, apply=False)
    settings, built, root = settings_of(collection), _built(collection), _root(collection)
    label = f"OmniX {name_of(collection)} Preview"
    defaults = {"Detail": settings.detail, "Jump": settings.jump, "Fill": settings.fill}
    group = preview.group(label, built["map_depth"], built["material"], defaults)
    data = bpy.data.meshes.new(label)
    item = bpy.data.objects.new(label, data)
    item.parent = root
    collection.objects.link(item)
    modifier = item.modifiers.new("OmniX Geometry", "NODES")
    modifier.node_group = group
    _record(collection, built | {"preview": item, "preview_mesh": data, "preview_group": group})
    item[_HIDDEN] = {
        shell.name: [shell.hide_viewport, shell.hide_render] for shell in _shells(built)
    }
    for shell in _shells(built):
        shell.hide_viewport = shell.hide_render = True
    return item


def finish_adjusting(collection: bpy.types.Collection, *, apply: bool) -> None:
    """Take the stand-in away and, with `apply`, cut the mesh by the settings it was left at.

    Raises OmnixError, with the stand-in still there, when a map cannot be read.
    """
    built = _built(collection)
    item = built.get("preview")
    if apply and item is not None:
        modifier = item.modifiers[0]
        chosen = {
            label: modifier[identifier] for label, identifier in preview.inputs(modifier).items()
        }
        rebuild(collection, detail=chosen["Detail"], jump=chosen["Jump"], fill=chosen["Fill"])
        built = _built(collection)
    left = [key for key in _recorded(collection) if key.startswith("preview")]
    if left:
        hidden = {} if item is None or _HIDDEN not in item else item[_HIDDEN].to_dict()
        if item is not None:
            _delete([item])
        built = {key: built[key] for key in built if key not in left}
        _record(collection, built)
        for shell in _shells(built):
            # As the user had them.
            shell.hide_viewport, shell.hide_render = hidden.get(shell.name, (False, False))


def show_map(collection: bpy.types.Collection, name: str | None) -> None:
    """Show one map, unlit, on the surface; None shows the place again."""
    if name is not None:
        material.show_map(_built(collection)["surface_group"], name)
    control(collection, "Preview").default_value = float(name is not None)


def shown_map(collection: bpy.types.Collection) -> str | None:
    """The map that `show_map` shows now, if any."""
    if control(collection, "Preview").default_value == 0.0:
        return None
    return material.shown_map(_built(collection)["surface_group"])


def follow_world(collection: bpy.types.Collection, showing: Showing) -> None:
    """Turn the place as a world turns that shows its panorama, and give it that strength.

    Drivers keep it so when the world's nodes change, in animations too, until `stop_following`; a
    world that is deleted leaves the place as it is now. What they cannot follow (see `Showing`) is
    taken over as it is now.
    """
    stop_following(collection)
    root, strength = _root(collection), control(collection, "Strength")
    dial = showing.turned_by
    # The world's nodes turn the direction that is looked up, so the picture turns the other way;
    # the inverse of angles about X, Y, Z is their negatives about Z, Y, X.
    order, sign = ("XYZ", "") if dial is not None and dial.inverse else ("ZYX", "-")
    root.rotation_mode = order
    root.rotation_euler = Euler(showing.rotation, "XYZ").to_matrix().inverted().to_euler(order)
    if dial is not None:
        for axis in range(3):
            now = root.rotation_euler[axis]
            curve = root.driver_add("rotation_euler", axis)
            _drive(curve, replace(dial, path=f"{dial.path}[{axis}]"), now, sign)
    dials = {"turned_by": dial, "strengthened_by": showing.strengthened_by}
    collection[_FOLLOWED] = {key: by.owner for key, by in dials.items() if by is not None}
    strength.default_value = showing.strength
    if showing.strengthened_by is not None:
        curve = strength.driver_add("default_value")
        _drive(curve, showing.strengthened_by, showing.strength)


def use_as_world(context: bpy.types.Context, collection: bpy.types.Collection) -> None:
    """Give the scene a new world that shows the panorama of a place, turned and as strong as the
    place is now.

    World and picture are the user's, as if made by hand: what becomes of the place changes neither.
    Raises OmnixError, with the scene unchanged, where the panorama is gone.
    """
    stands = viewpoint(collection)
    image = source_of(collection)
    if image is None or image == _built(collection).get("map_panorama") or _is_lost(image):
        path = maps.read_report(folder_of(collection)).get("source", {}).get("path")
        raise OmnixError(
            f"The panorama that {name_of(collection)} was made from is gone. Put "
            f"{path or 'its image'} back and load the maps again."
        )
    context.scene.world = world.panorama_world(
        name_of(collection),
        _own_picture(image),
        turned=stands.to_quaternion().to_matrix(),
        strength=control(collection, "Strength").default_value,
    )


def _is_lost(image: bpy.types.Image) -> bool:
    """True where an image's file is gone, and not packed."""
    if image.source != "FILE" or image.packed_file is not None or image.is_dirty:
        return False
    return not Path(bpy.path.abspath(image.filepath, library=image.library)).is_file()


def _own_picture(image: bpy.types.Image) -> bpy.types.Image:
    """The user's image of the same file as one that a place made for itself: one that is there, or
    a copy called like the file. Any other image is the user's already."""
    ours = [item for other in places() for item in _recorded(other).values()]
    if image not in ours:
        return image
    for other in bpy.data.images:
        same_space = other.colorspace_settings.name == image.colorspace_settings.name
        if other not in ours and other.filepath == image.filepath and same_space:
            return other
    own = image.copy()
    own.name = Path(bpy.path.abspath(image.filepath)).name
    return own


def _drive(curve: bpy.types.FCurve, dial: Dial, now: float, sign: str = "") -> None:
    """Let a property that is `now` be the dial's value, called `typed`, or its negative."""
    driver = curve.driver
    typed = _variable(driver, "typed", dial.owner, dial.path)
    # Else the place would fall back to zero, and be black, once the node is renamed or gone.
    typed.use_fallback_value, typed.fallback_value = True, -now if sign else now
    # Of a world that the user deletes outright every variable is zero, whatever it falls back to;
    # the number of its type never is while it is there.
    _variable(driver, "there", dial.owner, "id_type")
    # So simple that Blender evaluates it without Python, also where scripts may not run.
    driver.expression = f"{sign}typed if there else {now:.9g}"


def _variable(
    driver: bpy.types.Driver, name: str, owner: bpy.types.ID, path: str
) -> bpy.types.DriverTarget:
    """Let a driver know the property `path` of a datablock by a name."""
    variable = driver.variables.new()
    variable.name = name
    target = variable.targets[0]
    target.id_type = owner.id_type
    target.id, target.data_path = owner, path
    return target


def stop_following(collection: bpy.types.Collection) -> None:
    """Leave rotation and strength as they are now, for the user to set."""
    if _FOLLOWED in collection:
        del collection[_FOLLOWED]
    _root(collection).driver_remove("rotation_euler")
    control(collection, "Strength").driver_remove("default_value")


def is_following(collection: bpy.types.Collection) -> bool:
    """True where a driver turns the place or sets its strength."""
    built = _built(collection)
    owners = (built[key].animation_data for key in ("root", "controls_group") if key in built)
    return any(data is not None and data.drivers for data in owners)


def has_lost_world(collection: bpy.types.Collection) -> bool:
    """True where the user has deleted the world that the place follows: it stands as it stood when
    it began to follow, until `stop_following`."""
    return None in collection.get(_FOLLOWED, {}).values()


def set_shadow_catcher(collection: bpy.types.Collection, on: bool) -> None:
    """Let the place show nothing but the shadows that fall on it (Cycles, film transparent).

    Hull and panes too: behind a surface that is not seen they would be.
    """
    for item in _shells(_built(collection)):
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
    root = _root(collection)
    root.location.z += (factor - 1.0) * collection[_STATE]["camera_height"] * root.scale.z
    root.scale = [value * factor for value in root.scale]


def save_maps(collection: bpy.types.Collection, folder: Path) -> list[str]:
    """Copy the maps as the place uses them, and its report, into a map set of their own.

    The report names under `replaced` the files that the user has put in place of maps. A contact
    sheet would not show them, nor what was painted on a map, and is left out then. Returns notes
    for the user. Raises OmnixError when `folder` holds something else or cannot be written, or the
    report is gone.
    """
    maps.refuse_unless_writable(folder)
    source = folder_of(collection)
    textures = {name: part(collection, f"map_{name}") for name in maps_of(collection)}
    files = {name: Path(bpy.path.abspath(image.filepath)) for name, image in textures.items()}
    own = maps.map_files(source)
    replaced = {name: str(file) for name, file in files.items() if file != own.get(name)}
    changed = [name for name in textures if name in replaced or textures[name].is_dirty]
    report = maps.read_report(source) | {"replaced": replaced}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, spec in maps.MAPS.items():
            if name in textures:
                images.save(textures[name], folder / spec.filename, spec.colorspace)
            else:
                # Of an earlier set.
                (folder / spec.filename).unlink(missing_ok=True)
        sheet = folder / maps.PREVIEW
        if changed or not (source / maps.PREVIEW).is_file():
            sheet.unlink(missing_ok=True)
        elif source != folder:
            shutil.copyfile(source / maps.PREVIEW, sheet)
        text = json.dumps(report, indent=2, ensure_ascii=False)
        (folder / maps.REPORT).write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise OmnixError(
            f"Maps cannot be written to {folder} ({error.strerror}); choose another folder."
        ) from None
    if not changed:
        return []
    return [f"There is no contact sheet, which would not show your own {', '.join(changed)}."]


def mark_asset(collection: bpy.types.Collection) -> None:
    """Offer the place in the asset browser, with the picture of its panorama as preview."""
    collection.asset_mark()
    image = part(collection, "map_panorama") or part(collection, "source")
    if image is None:
        return
    # The middle square of the panorama, reduced to the size that Blender stores.
    pixels = images.read(image, 3)
    side = pixels.shape[0]
    steps = ((np.arange(256) + 0.5) * side / 256).astype(int)
    square = pixels[steps][:, steps + (pixels.shape[1] - side) // 2]
    rgba = np.ones((256, 256, 4), np.float32)
    rgba[..., :3] = square[::-1]
    collection.preview_ensure()
    collection.preview.image_size = (256, 256)
    collection.preview.image_pixels_float.foreach_set(rgba.ravel())


def add_camera(
    context: bpy.types.Context, collection: bpy.types.Collection, *, panoramic: bool = False
) -> bpy.types.Object:
    """The place's camera at the viewpoint, looking at the middle of the panorama; made the scene's
    camera. `panoramic` renders the whole panorama (Cycles)."""
    built = _tidy(collection)
    camera = built.get("camera")
    if camera is None:
        label, root = f"OmniX {name_of(collection)} Camera", _root(collection)
        data = bpy.data.cameras.new(label)
        camera = bpy.data.objects.new(label, data)
        camera.parent = root
        collection.objects.link(camera)
        _record(collection, built | {"camera": camera, "camera_data": data})
    camera.location = (0.0, 0.0, 0.0)
    camera.rotation_euler = (math.pi / 2, 0.0, -math.pi / 2)
    camera.data.type = "PANO" if panoramic else "PERSP"
    _set_cycles(camera.data, "panorama_type", "EQUIRECTANGULAR")
    context.scene.camera = camera
    return camera


def remove(context: bpy.types.Context, collection: bpy.types.Collection) -> None:
    """Take away a place, exactly what was built.

    Objects that the user has put into its collection move to the scene's, and those that hang on
    the place stay where they are; a mesh that they share with it is theirs now.
    """
    # Of a place that was copied, with its scene for one, some parts serve both.
    shared = [
        item for other in places() if other != collection for item in _recorded(other).values()
    ]
    ours = [item for item in _recorded(collection).values() if item not in shared]
    _release(ours, ours)
    # With a mesh, Blender takes every object away that shows it.
    shown = [item.data for item in bpy.data.objects if item not in ours]
    _delete([item for item in ours if item not in shown])
    for item in list(collection.objects):
        if not any(other is not collection for other in item.users_collection):
            context.scene.collection.objects.link(item)
    for child in list(collection.children):
        if child.name not in context.scene.collection.children:
            context.scene.collection.children.link(child)
    bpy.data.collections.remove(collection)


def set_mode(collection: bpy.types.Collection, mode: str) -> None:
    """Switch between ORIGINAL (the panorama's own light) and RELIGHT (the scene's lights)."""
    if mode not in (ORIGINAL, RELIGHT):
        raise ValueError(f"mode is {mode!r}, not {ORIGINAL!r} or {RELIGHT!r}")
    control(collection, "Relit").default_value = float(mode == RELIGHT)
    collection[_STATE]["mode"] = mode
    _open_panes(collection)


def _open_panes(collection: bpy.types.Collection) -> None:
    """Let light in through the openings of a place that is relit."""
    mode = collection[_STATE]["mode"]
    panes = part(collection, "panes")
    if panes is not None:
        # Relit, light passes; but the camera goes on seeing the photographed sky: beyond it is the
        # whole panorama, which shows the room again wherever one looks from another place.
        for ray in ("diffuse", "glossy", "transmission", "volume_scatter", "shadow"):
            setattr(panes, f"visible_{ray}", mode == ORIGINAL)


def is_place(collection: bpy.types.Collection) -> bool:
    return _BUILT in collection


def places() -> Iterator[bpy.types.Collection]:
    """The collections in this file that are places."""
    return filter(is_place, bpy.data.collections)


def name_of(collection: bpy.types.Collection) -> str:
    """What a place was called when it was built."""
    return collection[_STATE]["name"]


def find(name: str) -> bpy.types.Collection | None:
    """The place called `name`, whatever its collection is called by now."""
    return next((item for item in places() if name_of(item) == name), None)


def settings_of(collection: bpy.types.Collection) -> Settings:
    """The settings a place was last built with."""
    state = collection[_STATE]
    return Settings(**{field.name: state[field.name] for field in fields(Settings)})


def maps_of(collection: bpy.types.Collection) -> list[str]:
    """Names of the maps a place has."""
    there = _recorded(collection)
    return [name for name in maps.MAPS if f"map_{name}" in there]


def part(collection: bpy.types.Collection, key: str) -> bpy.types.ID | None:
    """One of the datablocks of a place: 'root', 'surface', 'hull', 'material', 'map_albedo' ...

    None where the place has no such part or the user has deleted it.
    """
    item = _built(collection).get(key)
    return None if item is None or _is_deleted(item) else item


def folder_of(collection: bpy.types.Collection) -> Path:
    """The map set a place was built from.

    Where the .blend was saved elsewhere since, Blender has kept the paths of images right: then it
    is the folder of the place's images.
    """
    recorded = Path(bpy.path.abspath(collection[_STATE]["folder"]))
    built = _built(collection)
    images_in = (
        Path(bpy.path.abspath(built[f"map_{name}"].filepath)).parent for name in maps_of(collection)
    )
    return next(filter(maps.is_map_set, (recorded, *images_in)), recorded)


def set_folder(collection: bpy.types.Collection, folder: str) -> None:
    """Note that the map set was moved."""
    collection[_STATE]["folder"] = folder


def source_of(collection: bpy.types.Collection) -> bpy.types.Image:
    """The image of a place's original light: its panorama, or the map of what the engine saw."""
    return _built(collection)["surface_group"].nodes["source"].image


def control(collection: bpy.types.Collection, label: str) -> bpy.types.NodeSocket:
    """One of the exposed controls of a place's material, by its label."""
    return material.control(_built(collection)["controls_group"], label)


def panel_controls(
    collection: bpy.types.Collection,
) -> list[tuple[str, bpy.types.NodeSocket]]:
    """All exposed controls of a place's material, label and socket."""
    return [(label, control(collection, label)) for label in material.LABELS]


def viewpoint(collection: bpy.types.Collection) -> Matrix:
    """The capture frame in the world: 4 x 4, from panorama coordinates to world coordinates."""
    root = _root(collection)
    # matrix_world lags behind until the next evaluation.
    return root.matrix_basis.copy() if root.parent is None else root.matrix_world.copy()


@dataclass(frozen=True)
class _Cut:
    """Geometry ready to become meshes; lamps (R C,) bool: cells whose faces are lamps.

    Only enclosed places have a hull, and panes where they have openings.
    """

    shell: geometry.Shell
    hull: geometry.Shell | None
    panes: geometry.Shell | None
    lamps: np.ndarray


def _read_depth(image: bpy.types.Image) -> np.ndarray:
    """Metres (H, W), 0 where the map shows the sky; OmnixError where it does so everywhere."""
    depth = images.read(image, 1)
    # A rendered depth pass has infinity or 1e10 there. What is no number is no surface either.
    depth = np.where((depth > 0) & (depth < geometry.FAR), depth, np.float32(0.0))
    if not (depth > 0).any():
        raise OmnixError(f"{image.filepath} shows sky everywhere, so there is no surface to build.")
    return depth


def _cut(textures: Mapping[str, bpy.types.Image], settings: Settings) -> _Cut:
    """Read the maps and cut the geometry; OmnixError when there is nothing to build from."""
    depth = _read_depth(textures["depth"])
    if "normal" in textures:
        normal = images.read_normal(textures["normal"], depth.shape)
    else:
        normal = -frames.directions(*depth.shape)
    grid = geometry.reduce(depth, normal, settings.detail)
    if not (grid.depth > 0).any():
        raise OmnixError(
            f"{textures['depth'].filepath} shows so little but sky that nothing of it is left with "
            f"{settings.detail} quads around the horizon; raise the detail."
        )
    if settings.smooth and "normal" in textures:
        smoothed = smooth.plane_guided(grid.depth, grid.normal, rounds=settings.smooth)
        grid = geometry.meet(replace(grid, depth=smoothed), settings.jump)
    closed = settings.enclosed == "YES" or (
        settings.enclosed == "AUTO" and geometry.is_enclosed(grid)
    )
    lamps = np.zeros(grid.depth.size, bool)
    if "emission" in textures:
        lamps = geometry.lamp_cells(images.read(textures["emission"], 3), grid)
    shell, hull, panes = geometry.shells(grid, settings.jump, settings.fill, enclosed=closed)
    # An opening is a lamp while its pane is there.
    lamps |= (grid.depth <= 0).ravel()
    return _Cut(shell, hull, panes, lamps)


def _shells(built: Mapping[str, bpy.types.ID]) -> list[bpy.types.Object]:
    """The mesh objects of a place."""
    return [built[key] for key in ("surface", "hull", "panes") if key in built]


def _place(collection: bpy.types.Collection, cut: _Cut) -> None:
    """Put the geometry into the collection's meshes, making or removing objects as needed."""
    if part(collection, "preview") is None:
        # A stand-in that the user has deleted leaves the meshes hidden.
        finish_adjusting(collection, apply=False)
    built = _tidy(collection)
    label = f"OmniX {name_of(collection)}"
    for key, shell, slots in (
        ("surface", cut.shell, cut.lamps),
        ("hull", cut.hull, None),
        ("panes", cut.panes, cut.lamps),
    ):
        item = built.get(key)
        if shell is None:
            built.pop(f"{key}_mesh", None)
            if item is not None:
                _release([item], list(built.values()))
                _delete([built.pop(key)])
            continue
        if item is None:
            root = _root(collection)
            data = bpy.data.meshes.new(f"{label} {key.title()}")
            item = bpy.data.objects.new(data.name, data)
            item.parent = root
            collection.objects.link(item)
            built |= {key: item, f"{key}_mesh": data}
            # A hull that comes later joins in what the surface is used for.
            item.is_shadow_catcher = built["surface"].is_shadow_catcher
        if item.parent is None:
            item.parent = _root(collection)
        _fill_slots(item.data.materials, built["material"], built["lamp_material"])
        mesh.fill(item.data, shell, slots)
    if cut.hull is not None:
        # It would hide everything from outside; what it does is done by its faces in a render.
        built["hull"].display_type = "BOUNDS"
    # Smooth shading normals on coarse faces otherwise darken what a low lamp grazes.
    _set_cycles(built["surface"], "shadow_terminator_geometry_offset", 1.0)
    _record(collection, built)
    _open_panes(collection)


def _fill_slots(slots: bpy.types.IDMaterials, *wanted: bpy.types.Material) -> None:
    """Give materials to the slots that are missing or empty; the user's own stay."""
    for index, item in enumerate(wanted):
        if index == len(slots):
            slots.append(item)
        elif slots[index] is None:
            slots[index] = item


def _root(collection: bpy.types.Collection) -> bpy.types.Object:
    """The empty at the viewpoint. Raises OmnixError where the user has deleted it."""
    root = part(collection, "root")
    if root is None:
        raise OmnixError(
            f"The empty at the viewpoint of {name_of(collection)} was deleted; undo that, or load "
            f"the maps in {folder_of(collection)} again."
        )
    return root


def _stand(collection: bpy.types.Collection, height: float, earlier: float) -> None:
    """Put an empty at the viewpoint, or lift the one there by what the height has changed."""
    built = _built(collection)
    root = built.get("root")
    if root is not None:
        if _is_deleted(root):
            collection.objects.link(root)
        root.location.z += (height - earlier) * root.scale.z
        return
    root = bpy.data.objects.new(f"OmniX {name_of(collection)}", None)
    collection.objects.link(root)
    root.empty_display_type, root.empty_display_size = "SPHERE", 0.1
    root.location = (0.0, 0.0, height)
    _record(collection, built | {"root": root})


def _shade(
    collection: bpy.types.Collection,
    shown: Mapping[str, bpy.types.Image],
    source: bpy.types.Image,
) -> None:
    """Shade a place with the images `shown`, by part, which supersede those that it has.

    `source` is the image of the original light, ours or not. The node with the controls and the
    materials around it stay, once they are there.
    """
    label = f"OmniX {name_of(collection)}"
    textures = {key.removeprefix("map_"): shown[key] for key in shown if key.startswith("map_")}
    surface = material.surface_group(
        f"{label} Surface",
        textures | {"source": source},
        source_gain=collection[_STATE]["source_gain"],
    )
    made = {**shown, "surface_group": surface}
    built = _built(collection)
    if "controls_group" in built:
        group, before = built["controls_group"], built["surface_group"]
        values = {
            socket.name: socket.default_value for socket in group.nodes[material.CONTROLS].inputs
        }
        if material.shown_map(before) in textures:
            material.show_map(surface, material.shown_map(before))
        else:
            # Another map would pass for the one that was chosen.
            values["Preview"] = 0.0
        earlier = {**_images(built), "surface_group": before}
        built = {key: item for key, item in built.items() if key not in earlier}
        _supersede(earlier, made)
        for socket in group.nodes[material.CONTROLS].inputs:
            socket.default_value = values.get(socket.name, socket.default_value)
    else:
        group = built["controls_group"] = material.controls_group(label, surface)
    for key, name, lamp in (("material", label, False), ("lamp_material", f"{label} Lamps", True)):
        if key not in built:
            built[key] = material.material(name, group, lamp=lamp)
    _record(collection, built | made)


def _images(built: Mapping[str, bpy.types.ID]) -> dict[str, bpy.types.Image]:
    """The images among the datablocks of a place, by part."""
    return {key: built[key] for key in built if key.startswith("map_") or key == "source"}


def _supersede(earlier: Mapping[str, bpy.types.ID], made: Mapping[str, bpy.types.ID]) -> None:
    """Delete earlier datablocks; new ones of the same key take their users and names."""
    for key, old in earlier.items():
        name, new = old.name, made.get(key)
        if new == old:
            continue
        if new is not None:
            old.user_remap(new)
        _delete([old])
        if new is not None:
            new.name = name


def _radiance(
    folder: Path | str,
    name: str,
    textures: Mapping[str, bpy.types.Image],
    source: bpy.types.Image | None,
) -> tuple[bpy.types.Image, float, bool]:
    """The image of the original light, the factor from its values to radiance, and whether it is
    a datablock of our own beside the maps."""
    if source is not None:
        return source, 1.0, False
    described = maps.read_report(folder).get("source", {})
    path = Path(described.get("path", ""))
    if path.is_file():
        space = "Linear Rec.709" if described.get("linear", True) else "sRGB"
        return images.load(path, f"OmniX {name} Source", space), 1.0, True
    if "panorama" in textures:
        return textures["panorama"], 2.0 ** -float(described.get("exposure_stops", 0.0)), False
    raise OmnixError(f"{path} is gone and {folder} has no panorama; extract the panorama again.")


def _built(collection: bpy.types.Collection) -> dict[str, bpy.types.ID]:
    """The datablocks of a place, by part, without objects that the user has deleted and their data.

    But the empty at the viewpoint goes on carrying the others until it is put back.
    """
    there = {
        key: item
        for key, item in _recorded(collection).items()
        if key == "root" or not _is_deleted(item)
    }
    return {key: item for key, item in there.items() if _SERVES.get(key, key) in there}


def _recorded(collection: bpy.types.Collection) -> dict[str, bpy.types.ID]:
    """The datablocks of a place that are in the file, by part."""
    return {key: item for key, item in collection[_BUILT].items() if item is not None}


def _is_deleted(item: bpy.types.ID) -> bool:
    """True for an object that the user has deleted, which only our record keeps in the file."""
    return isinstance(item, bpy.types.Object) and not item.users_collection


def _tidy(collection: bpy.types.Collection) -> dict[str, bpy.types.ID]:
    """Take away what the user's deleting has left behind, so that its name is free for what takes
    its place; the datablocks that the place still has."""
    built = _built(collection)
    _record(collection, built)
    return built


def _record(collection: bpy.types.Collection, built: Mapping[str, bpy.types.ID]) -> None:
    """Record the datablocks of a place.

    Earlier ones that are not among them any more go, unless something of the user's uses them.
    """
    earlier = [item for item in _recorded(collection).values() if item not in built.values()]
    ours = [*built.values(), *earlier]
    collection[_BUILT] = built
    unused = earlier
    while unused:
        # In rounds, since an object uses its mesh, and a node group its images.
        unused = [item for item in earlier if not item.users]
        earlier = [item for item in earlier if item.users]
        _release(unused, ours)
        _delete(unused)


def _release(parents: Sequence[bpy.types.ID], ours: Sequence[bpy.types.ID]) -> None:
    """Let objects of the user's that hang on one of `parents` stay where they are without it."""
    for item in bpy.data.objects:
        if item.parent in parents and item not in ours:
            here = item.matrix_world.copy()
            item.parent = None
            item.matrix_world = here


def _set_cycles(datablock: bpy.types.ID, name: str, value: Any) -> None:
    """Set what is Cycles' own property in Blender 4.2 and the datablock's in later versions."""
    owner = datablock if hasattr(datablock, name) else datablock.cycles
    setattr(owner, name, value)


def _delete(datablocks: Iterable[bpy.types.ID]) -> None:
    bpy.data.batch_remove(list(datablocks))
