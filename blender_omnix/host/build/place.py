# SPDX-License-Identifier: GPL-3.0-or-later
"""A relightable place from a map set: one collection, built, rebuilt and removed as a whole.

The collection `OmniX <name>` holds an empty at the viewpoint and, parented to it, the surface and
(where the place is enclosed) a hull. Everything below the empty is in the capture frame of the
panorama, so moving, turning or scaling the empty moves the place. The scene's world is never
changed: it shows through wherever the panorama shows the sky.

What was built is recorded in the collection as pointers, so that renaming loses nothing and
nothing of the user's is ever taken for ours.
"""

from __future__ import annotations

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
from . import geometry, images, material, mesh, preview

# Custom properties of the collection: what it was built from, and the datablocks that are ours.
_STATE, _BUILT = "omnix", "omnix_built"

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
    rotation: Sequence[float] = (0.0, 0.0, 0.0),
    strength: float = 1.0,
    camera_height: float = 1.6,
    settings: Settings | None = None,
    source: bpy.types.Image | None = None,
) -> bpy.types.Collection:
    """Build the map set in `folder` as a place; an earlier place of that name is replaced.

    `rotation` is the rotation of the world's Mapping node (Euler XYZ in radians, type Point) and
    `strength` its background's strength: the place lines up with that world as seen. The viewpoint
    lies `camera_height` metres above z = 0. `source` is the image of the panorama where it is
    loaded already; else the file that the report names is, or failing that `panorama.png`.

    Raises OmnixError, with the scene unchanged, when the maps cannot be read.
    """
    settings = settings or Settings()
    textures = images.load_maps(folder, name)
    try:
        cut = _cut(textures, settings)
    except OmnixError:
        _delete(textures.values())
        raise
    source, gain, own_source = _radiance(folder, name, textures, source)

    collection = find(name)
    controls: dict[str, float] = {}
    if collection is None:
        collection = bpy.data.collections.new(f"OmniX {name}")
        context.scene.collection.children.link(collection)
    else:
        controls = {label: socket.default_value for label, socket in panel_controls(collection)}
        _delete(_built(collection).values())
    for map_name, image in textures.items():
        image.name = f"OmniX {name} {maps.MAPS[map_name].label}"
    if own_source:
        source.name = f"OmniX {name} Source"

    surface = material.surface_group(
        f"OmniX {name} Surface", {**textures, "source": source}, source_gain=gain
    )
    group = material.controls_group(f"OmniX {name}", surface)
    for label, value in (controls | {"Strength": strength}).items():
        material.control(group, label).default_value = value
    built: dict[str, bpy.types.ID] = {
        **{f"map_{key}": image for key, image in textures.items()},
        **({"source": source} if own_source else {}),
        "surface_group": surface,
        "controls_group": group,
        "material": material.material(f"OmniX {name}", group, lamp=False),
        "lamp_material": material.material(f"OmniX {name} Lamps", group, lamp=True),
        "root": _root(collection, f"OmniX {name}", rotation, camera_height),
    }
    collection[_BUILT] = built
    collection[_STATE] = {"name": name, "folder": str(folder), **asdict(settings)}
    _place(collection, cut)
    set_mode(collection, settings.mode)
    return collection


def rebuild(collection: bpy.types.Collection, **changes: Any) -> None:
    """Cut the place's geometry anew from its images as they are now, with changed `Settings`.

    Raises OmnixError, leaving the place as it is, when an image cannot be read.
    """
    settings = replace(settings_of(collection), **changes)
    built = _built(collection)
    cut = _cut({name: built[f"map_{name}"] for name in maps_of(collection)}, settings)
    state = collection[_STATE].to_dict()
    collection[_STATE] = state | asdict(settings)
    _place(collection, cut)
    set_mode(collection, settings.mode)


def replace_map(collection: bpy.types.Collection, name: str, path: Path | str) -> None:
    """Let a place use the file `path` for one of its maps, and rebuild what depends on it.

    Raises OmnixError, leaving the place as it is, when the file is no image.
    """
    spec = maps.MAPS[name]
    image = _built(collection)[f"map_{name}"]
    trial = images.load(path, image.name, spec.colorspace)
    width, height = trial.size
    _delete([trial])
    if abs(width - 2 * height) > 2:
        raise OmnixError(
            f"{path} is {width} x {height}; a map is twice as wide as high, so it cannot be used."
        )
    earlier = image.filepath
    image.filepath = str(path)
    image.reload()
    if name in ("depth", "normal", "emission"):
        try:
            rebuild(collection)
        except OmnixError:
            image.filepath = earlier
            image.reload()
            raise


def start_adjusting(collection: bpy.types.Collection) -> bpy.types.Object:
    """Show the quick stand-in instead of the mesh; its modifier holds the settings to drag."""
    finish_adjusting(collection, apply=False)
    settings, built = settings_of(collection), _built(collection)
    label = f"OmniX {name_of(collection)} Preview"
    defaults = {"Detail": settings.detail, "Jump": settings.jump, "Fill": settings.fill}
    group = preview.group(label, built["map_depth"], built["material"], defaults)
    data = bpy.data.meshes.new(label)
    item = bpy.data.objects.new(label, data)
    item.parent = built["root"]
    collection.objects.link(item)
    modifier = item.modifiers.new("OmniX Geometry", "NODES")
    modifier.node_group = group
    collection[_BUILT] = built | {
        "preview": item,
        "preview_mesh": data,
        "preview_group": group,
    }
    _show_objects(collection)
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
    keys = [key for key in ("preview", "preview_mesh", "preview_group") if key in built]
    _delete([built.pop(key) for key in keys])
    collection[_BUILT] = built
    _show_objects(collection)


def _show_objects(collection: bpy.types.Collection) -> None:
    """Hide what the stand-in replaces, and let light through the panes when relit."""
    built = _built(collection)
    for key in ("surface", "hull", "panes"):
        if key in built:
            built[key].hide_viewport = built[key].hide_render = "preview" in built
    if "panes" in built:
        # The camera goes on seeing the photographed sky: beyond it is the whole panorama, which
        # shows the room again wherever one looks from another place.
        solid = settings_of(collection).mode == ORIGINAL
        for ray in ("diffuse", "glossy", "transmission", "volume_scatter", "shadow"):
            setattr(built["panes"], f"visible_{ray}", solid)


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


def follow_world(
    collection: bpy.types.Collection, rotation: Sequence[float], strength: float
) -> None:
    """Turn the place as a world turns that shows its panorama, and give it that strength."""
    _built(collection)["root"].rotation_euler = _turn(rotation)
    control(collection, "Strength").default_value = strength


def scale(collection: bpy.types.Collection, factor: float) -> None:
    """Enlarge the place around the point of the floor below the viewpoint."""
    root = _built(collection)["root"]
    root.scale = [value * factor for value in root.scale]
    root.location.z *= factor


def save_maps(collection: bpy.types.Collection, folder: Path) -> None:
    """Copy the maps as the place uses them, and its report, into a new map set.

    Raises OmnixError when `folder` holds something else or cannot be written.
    """
    maps.refuse_unless_writable(folder)
    source = Path(bpy.path.abspath(collection[_STATE]["folder"]))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in maps_of(collection):
            images.save(_built(collection)[f"map_{name}"], folder / maps.MAPS[name].filename)
        for extra in (maps.PREVIEW, maps.REPORT):
            if (source / extra).is_file() and source != folder:
                shutil.copyfile(source / extra, folder / extra)
    except OSError as error:
        raise OmnixError(
            f"Maps cannot be written to {folder} ({error.strerror}); choose another folder."
        ) from None


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
    built = _built(collection)
    camera = built.get("camera")
    if camera is None:
        label = f"OmniX {name_of(collection)} Camera"
        data = bpy.data.cameras.new(label)
        camera = bpy.data.objects.new(label, data)
        camera.parent = built["root"]
        collection.objects.link(camera)
        collection[_BUILT] = built | {"camera": camera, "camera_data": data}
    camera.location = (0.0, 0.0, 0.0)
    camera.rotation_euler = (math.pi / 2, 0.0, -math.pi / 2)
    camera.data.type = "PANO" if panoramic else "PERSP"
    _set_cycles(camera.data, "panorama_type", "EQUIRECTANGULAR")
    context.scene.camera = camera
    return camera


def remove(context: bpy.types.Context, name: str) -> None:
    """Take away the place called `name`, exactly what was built.

    Objects that the user has put into its collection move to the scene's. Raises OmnixError where
    there is no such place.
    """
    collection = find(name)
    if collection is None:
        raise OmnixError(f"There is no place called {name} in this file.")
    _delete(_built(collection).values())
    for item in list(collection.objects):
        if not any(other is not collection for other in item.users_collection):
            context.scene.collection.objects.link(item)
    for child in list(collection.children):
        context.scene.collection.children.link(child)
    bpy.data.collections.remove(collection)


def set_mode(collection: bpy.types.Collection, mode: str) -> None:
    """Switch between ORIGINAL (the panorama's own light) and RELIGHT (the scene's lights)."""
    if mode not in (ORIGINAL, RELIGHT):
        raise ValueError(f"mode is {mode!r}, not {ORIGINAL!r} or {RELIGHT!r}")
    control(collection, "Relit").default_value = float(mode == RELIGHT)
    collection[_STATE]["mode"] = mode
    _show_objects(collection)


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
    return [name for name in maps.MAPS if f"map_{name}" in collection[_BUILT]]


def part(collection: bpy.types.Collection, key: str) -> bpy.types.ID | None:
    """One of the datablocks of a place: 'root', 'surface', 'hull', 'material', 'map_albedo' ...

    None where the place has no such part or the user has deleted it.
    """
    return _built(collection).get(key)


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
    root = _built(collection)["root"]
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


def _cut(textures: Mapping[str, bpy.types.Image], settings: Settings) -> _Cut:
    """Read the maps and cut the geometry; OmnixError when there is nothing to build from."""
    depth = images.read(textures["depth"], 1)
    if not (depth > 0).any():
        raise OmnixError(
            f"{textures['depth'].filepath} shows sky everywhere, so there is no surface to build."
        )
    if "normal" in textures:
        normal = images.read_normal(textures["normal"], depth.shape)
    else:
        normal = -frames.directions(*depth.shape)
    grid = geometry.reduce(depth, normal, settings.detail)
    if settings.smooth and "normal" in textures:
        smoothed = smooth.plane_guided(grid.depth, grid.normal, rounds=settings.smooth)
        grid = replace(grid, depth=smoothed)
    shell = geometry.shell(grid, settings.jump, settings.fill)
    closed = settings.enclosed == "YES" or (
        settings.enclosed == "AUTO" and geometry.is_enclosed(grid)
    )
    lamps = np.zeros(grid.depth.size, bool)
    if "emission" in textures:
        lamps = geometry.lamp_cells(images.read(textures["emission"], 3), grid)
    hull = geometry.hull(grid) if closed else None
    panes = geometry.panes(grid) if closed and (grid.depth <= 0).any() else None
    # An opening is a lamp while its pane is there.
    lamps |= (grid.depth <= 0).ravel()
    return _Cut(shell, hull, panes, lamps)


def _place(collection: bpy.types.Collection, cut: _Cut) -> None:
    """Put the geometry into the collection's meshes, making or removing objects as needed."""
    built = _built(collection)
    label = f"OmniX {name_of(collection)}"
    for key, shell, slots in (
        ("surface", cut.shell, cut.lamps),
        ("hull", cut.hull, None),
        ("panes", cut.panes, cut.lamps),
    ):
        item = built.get(key)
        if shell is None:
            if item is not None:
                _delete([built.pop(f"{key}_mesh"), built.pop(key)])
            continue
        if item is None:
            data = bpy.data.meshes.new(f"{label} {key.title()}")
            data.materials.append(built["material"])
            data.materials.append(built["lamp_material"])
            item = bpy.data.objects.new(data.name, data)
            item.parent = built["root"]
            collection.objects.link(item)
            built |= {key: item, f"{key}_mesh": data}
        mesh.fill(item.data, shell, slots)
    if cut.hull is not None:
        # It would hide everything from outside; what it does is done by its faces in a render.
        built["hull"].display_type = "BOUNDS"
    # Smooth shading normals on coarse faces otherwise darken what a low lamp grazes.
    _set_cycles(built["surface"], "shadow_terminator_geometry_offset", 1.0)
    collection[_BUILT] = built


def _root(
    collection: bpy.types.Collection, name: str, rotation: Sequence[float], height: float
) -> bpy.types.Object:
    """The empty at the viewpoint, turned as the world is."""
    root = bpy.data.objects.new(name, None)
    collection.objects.link(root)
    root.empty_display_type, root.empty_display_size = "SPHERE", 0.1
    root.location = (0.0, 0.0, height)
    root.rotation_euler = _turn(rotation)
    return root


def _turn(rotation: Sequence[float]) -> Euler:
    """Rotation of a place whose world has a Mapping node with `rotation`.

    The node turns the direction that is looked up, so the picture turns the other way.
    """
    return Euler(rotation, "XYZ").to_matrix().inverted().to_euler("XYZ")


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
    """The datablocks of a place that still exist, by part."""
    return {key: item for key, item in collection[_BUILT].items() if item is not None}


def _set_cycles(datablock: bpy.types.ID, name: str, value: Any) -> None:
    """Set what is Cycles' own property in Blender 4.2 and the datablock's in later versions."""
    owner = datablock if hasattr(datablock, name) else datablock.cycles
    setattr(owner, name, value)


def _delete(datablocks: Iterable[bpy.types.ID]) -> None:
    bpy.data.batch_remove(list(datablocks))
