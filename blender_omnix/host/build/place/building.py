# SPDX-License-Identifier: GPL-3.0-or-later
"""Building a place from a map set, and building it anew: settings, maps, geometry, material."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import bpy
import numpy as np

from .... import maps
from ....errors import OmnixError
from ....panorama import clean, frames, smooth
from ... import paths
from ...identity import BUILT, STATE
from .. import geometry, images, material, mesh, stand_in
from .following import stop_following
from .record import (
    MATERIALS,
    built_of,
    control,
    delete,
    find,
    folder_of,
    has_controls,
    images_of,
    is_deleted,
    keep,
    name_of,
    own_maps,
    part,
    places,
    recorded,
    release,
    root_of,
    shells_of,
    source_of,
    tidy,
)

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


def settings_of(collection: bpy.types.Collection) -> Settings:
    """The settings a place was last built with."""
    state = collection[STATE]
    return Settings(**{field.name: state[field.name] for field in fields(Settings)})


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
    stands, its controls, the user's own maps (see `own_maps`) and what else the user has done to
    it stay, and so do its `settings` where none are given. One that showed a map which it has no
    more shows itself again. `source` is the image of the panorama where it is loaded already; else
    that which a place of these maps shows, or the file that the report names, or failing that
    `panorama.png`.

    Raises OmnixError, with the scene unchanged, when the maps cannot be read.
    """
    collection = find(name, Path(folder))
    if collection is not None:
        _refuse_while_worked_on(collection)
    kept = collection is not None and settings is None
    if settings is None:
        settings = Settings() if collection is None else settings_of(collection)
    if (
        source is None
        and collection is not None
        and paths.same(folder_of(collection), Path(folder))
    ):
        source = _given_source(collection)
    loaded = images.load_maps(folder, name)
    own = {} if collection is None else own_maps(collection)
    textures = loaded | own
    try:
        cut = _cut(textures, settings)
        source, gain, own_source = _radiance(folder, name, textures, source)
    except OmnixError:
        delete(loaded.values())
        raise
    delete(loaded[key] for key in loaded if key in own)

    if collection is None:
        collection = bpy.data.collections.new(f"OmniX {name}")
        context.scene.collection.children.link(collection)
        collection[BUILT], collection[STATE] = {}, {}
    else:
        finish_adjusting(collection, apply=False)
        if collection not in context.scene.collection.children_recursive:
            context.scene.collection.children.link(collection)
    state = collection[STATE].to_dict()
    collection[STATE] = state | {
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
    _refuse_while_worked_on(collection)
    settings = replace(settings_of(collection), **changes)
    cut = _cut(images_of(collection), settings)
    state = collection[STATE].to_dict()
    collection[STATE] = state | asdict(settings)
    _place(collection, cut)
    if "mode" in changes:
        set_mode(collection, settings.mode)


def replace_map(collection: bpy.types.Collection, name: str, path: Path | str) -> None:
    """Let a place use the file `path` for one of its maps, and rebuild what depends on it.

    A map that the place has lacked so far joins the others. An OpenEXR or Radiance file holds
    linear colours, any other file encoded ones. Raises OmnixError, leaving the place as it is, when
    the file is no panorama or a mesh that depends on it is in Edit Mode.
    """
    cuts = name in ("depth", "normal", "emission")
    if cuts:
        _refuse_while_worked_on(collection)
    label = f"OmniX {name_of(collection)} {maps.MAPS[name].label}"
    built, key = built_of(collection), f"map_{name}"
    image = _candidate(name, path, label)
    if cuts:
        try:
            cut = _cut(images_of(collection) | {name: image}, settings_of(collection))
        except OmnixError:
            delete([image])
            raise
    earlier, shown = built.get(key), source_of(collection)
    _shade(collection, _images(built) | {key: image}, image if shown == earlier else shown)
    if cuts:
        _place(collection, cut)


def reload_maps(collection: bpy.types.Collection) -> None:
    """Read the map files of a place anew, but for maps that are the user's own (`own_maps`)."""
    own = own_maps(collection)
    for name, image in images_of(collection).items():
        if name not in own:
            image.reload()


def check_map(name: str, path: Path | str) -> None:
    """Raise OmnixError where `replace_map` would refuse the file for this map."""
    delete([_candidate(name, path, "OmniX Candidate")])


def start_adjusting(collection: bpy.types.Collection) -> bpy.types.Object:
    """Show the quick stand-in instead of the mesh; its modifier holds the settings to drag."""
    finish_adjusting(collection, apply=False)
    settings, built, root = settings_of(collection), built_of(collection), root_of(collection)
    label = f"OmniX {name_of(collection)} Preview"
    defaults = {"Detail": settings.detail, "Jump": settings.jump, "Fill": settings.fill}
    group = stand_in.group(label, built["map_depth"], built["material"], defaults)
    data = bpy.data.meshes.new(label)
    item = bpy.data.objects.new(label, data)
    item.parent = root
    collection.objects.link(item)
    modifier = item.modifiers.new("OmniX Geometry", "NODES")
    modifier.node_group = group
    keep(collection, built | {"preview": item, "preview_mesh": data, "preview_group": group})
    shells = shells_of(built)
    item[_HIDDEN] = {key: [shell.hide_viewport, shell.hide_render] for key, shell in shells.items()}
    for shell in shells.values():
        shell.hide_viewport = shell.hide_render = True
    return item


def finish_adjusting(collection: bpy.types.Collection, *, apply: bool) -> None:
    """Take the stand-in away and, with `apply`, cut the mesh by the settings it was left at.

    Raises OmnixError, with the stand-in still there, when a map cannot be read or the user has
    deleted the modifier with the settings.
    """
    built = built_of(collection)
    item = built.get("preview")
    if apply and item is not None:
        modifier = stand_in.modifier_of(item)
        if modifier is None:
            raise OmnixError(
                f"{item.name} has lost the modifier with its settings; use Keep Geometry, and "
                "adjust it anew."
            )
        chosen = {
            label: modifier[identifier] for label, identifier in stand_in.inputs(modifier).items()
        }
        rebuild(collection, detail=chosen["Detail"], jump=chosen["Jump"], fill=chosen["Fill"])
        built = built_of(collection)
    left = [key for key in recorded(collection) if key.startswith("preview")]
    if left:
        hidden = {} if item is None or _HIDDEN not in item else item[_HIDDEN].to_dict()
        if item is not None:
            delete([item])
        built = {key: built[key] for key in built if key not in left}
        keep(collection, built)
        for key, shell in shells_of(built).items():
            # As the user had them.
            shell.hide_viewport, shell.hide_render = hidden.get(key, (False, False))


def set_mode(collection: bpy.types.Collection, mode: str) -> None:
    """Switch between ORIGINAL (the panorama's own light) and RELIGHT (the scene's lights).

    A place that was copied, with its scene for one, shares its material and so its light.
    """
    if mode not in (ORIGINAL, RELIGHT):
        raise ValueError(f"mode is {mode!r}, not {ORIGINAL!r} or {RELIGHT!r}")
    control(collection, "Relit").default_value = float(mode == RELIGHT)
    controls = part(collection, "controls_group")
    for item in places():
        if part(item, "controls_group") == controls:
            item[STATE]["mode"] = mode
            _open_panes(item)


def _open_panes(collection: bpy.types.Collection) -> None:
    """Let light in through the openings of a place that is relit."""
    mode = collection[STATE]["mode"]
    panes = part(collection, "panes")
    if panes is not None:
        # Relit, light passes; but the camera goes on seeing the photographed sky: beyond it is the
        # whole panorama, which shows the room again wherever one looks from another place.
        for ray in ("diffuse", "glossy", "transmission", "volume_scatter", "shadow"):
            setattr(panes, f"visible_{ray}", mode == ORIGINAL)


def _refuse_while_worked_on(collection: bpy.types.Collection) -> None:
    """Raise OmnixError where the user is editing a mesh that is to be cut anew, or has given it
    shapes, which are of vertices that there will be no more."""
    for item in shells_of(built_of(collection)).values():
        if item.data.is_editmode:
            raise OmnixError(f"{item.name} is in Edit Mode; leave that first.")
        if item.data.shape_keys is not None:
            raise OmnixError(
                f"{item.name} has shape keys, which fit no other mesh than that of today; remove "
                "them first."
            )


def _candidate(name: str, path: Path | str, label: str) -> bpy.types.Image:
    """The file as an image that can serve as this map; else OmnixError."""
    image = images.load(path, label, images.colorspace(name, path))
    try:
        try:
            clean.check_size(*image.size)
        except OmnixError as error:
            raise OmnixError(f"{path} {error}.") from None
        if name == "depth":
            _read_depth(image)
    except OmnixError:
        delete([image])
        raise
    return image


def _read_depth(image: bpy.types.Image) -> np.ndarray:
    """Metres (H, W), 0 where the map shows the sky; OmnixError where it does so everywhere."""
    depth = images.read(image, 1)
    # A rendered depth pass has infinity or 1e10 there. What is no number is no surface either.
    depth = np.where((depth > 0) & (depth < geometry.FAR), depth, np.float32(0.0))
    if not (depth > 0).any():
        raise OmnixError(f"{image.filepath} shows sky everywhere, so there is no surface to build.")
    return depth


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
    if paths.is_file(path):
        space = "Linear Rec.709" if described.get("linear", True) else "sRGB"
        return images.load(path, f"OmniX {name} Source", space, layered=True), 1.0, True
    if "panorama" in textures:
        return textures["panorama"], 2.0 ** -float(described.get("exposure_stops", 0.0)), False
    raise OmnixError(f"{path} is gone and {folder} has no panorama; extract the panorama again.")


def _given_source(collection: bpy.types.Collection) -> bpy.types.Image | None:
    """The image of the original light that a place was given, where it is neither ours nor lost."""
    image = source_of(collection)
    ours = image is None or image in recorded(collection).values()
    return None if ours or images.is_lost(image) else image


def _stand(collection: bpy.types.Collection, height: float, earlier: float) -> None:
    """Put an empty at the viewpoint, or lift the one there by what the height has changed."""
    built = built_of(collection)
    root = built.get("root")
    if root is not None:
        if is_deleted(root):
            collection.objects.link(root)
        root.location.z += (height - earlier) * root.scale.z
        return
    root = bpy.data.objects.new(f"OmniX {name_of(collection)}", None)
    collection.objects.link(root)
    root.empty_display_type, root.empty_display_size = "SPHERE", 0.1
    root.location = (0.0, 0.0, height)
    keep(collection, built | {"root": root})


def _place(collection: bpy.types.Collection, cut: _Cut) -> None:
    """Put the geometry into the collection's meshes, making or removing objects as needed."""
    if part(collection, "preview") is None:
        # A stand-in that the user has deleted leaves the meshes hidden.
        finish_adjusting(collection, apply=False)
    built = tidy(collection)
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
                release([item], list(built.values()))
                delete([built.pop(key)])
            continue
        if item is None:
            root = root_of(collection)
            data = bpy.data.meshes.new(f"{label} {key.title()}")
            item = bpy.data.objects.new(data.name, data)
            item.parent = root
            collection.objects.link(item)
            built |= {key: item, f"{key}_mesh": data}
            # A hull that comes later joins in what the surface is used for.
            item.is_shadow_catcher = built["surface"].is_shadow_catcher
        if item.parent is None:
            item.parent = root_of(collection)
        _fill_slots(item.data.materials, built["material"], built["lamp_material"])
        mesh.fill(item.data, shell, slots)
    if cut.hull is not None:
        # It would hide everything from outside; what it does is done by its faces in a render.
        built["hull"].display_type = "BOUNDS"
    # Smooth shading normals on coarse faces otherwise darken what a low lamp grazes.
    set_cycles(built["surface"], "shadow_terminator_geometry_offset", 1.0)
    keep(collection, built)
    _open_panes(collection)


def _fill_slots(slots: bpy.types.IDMaterials, *wanted: bpy.types.Material) -> None:
    """Give materials to the slots that are missing or empty; the user's own stay."""
    for index, item in enumerate(wanted):
        if index == len(slots):
            slots.append(item)
        elif slots[index] is None:
            slots[index] = item


def _shade(
    collection: bpy.types.Collection,
    shown: Mapping[str, bpy.types.Image],
    source: bpy.types.Image,
) -> None:
    """Shade a place with the images `shown`, by part, which supersede those that it has.

    `source` is the image of the original light, ours or not. The node with the controls and the
    materials around it stay, once they are there; where the user has deleted that node or a group
    around it, the materials show nothing any more and are made anew too.
    """
    label = f"OmniX {name_of(collection)}"
    textures = {key.removeprefix("map_"): shown[key] for key in shown if key.startswith("map_")}
    surface = material.surface_group(
        f"{label} Surface",
        textures | {"source": source},
        source_gain=collection[STATE]["source_gain"],
    )
    made = {**shown, "surface_group": surface}
    built = built_of(collection)
    if has_controls(collection):
        group, before = built["controls_group"], built["surface_group"]
        values = {
            socket.name: socket.default_value for socket in group.nodes[material.CONTROLS].inputs
        }
        if material.shown_map(before) in textures:
            material.show_map(surface, material.shown_map(before))
        else:
            # Another map would pass for the one that was chosen.
            values["Preview"] = 0.0
        replaced = ["surface_group"]
    else:
        # What drove the strength went with the group.
        stop_following(collection)
        group = made["controls_group"] = material.controls_group(label, surface)
        values = {"Relit": float(collection[STATE]["mode"] == RELIGHT)}
        replaced = ["controls_group", "surface_group", *MATERIALS]
    for key, name in zip(MATERIALS, (label, f"{label} Lamps"), strict=True):
        if key in replaced or key not in built:
            made[key] = material.material(name, group, lamp=key == "lamp_material")
    earlier = _images(built) | {key: built[key] for key in replaced if key in built}
    built = {key: item for key, item in built.items() if key not in earlier}
    _supersede(earlier, made)
    for socket in group.nodes[material.CONTROLS].inputs:
        socket.default_value = values.get(socket.name, socket.default_value)
    keep(collection, built | made)


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
        delete([old])
        if new is not None:
            new.name = name


def set_cycles(datablock: bpy.types.ID, name: str, value: Any) -> None:
    """Set what is Cycles' own property in Blender 4.2 and the datablock's in later versions."""
    owner = datablock if hasattr(datablock, name) else datablock.cycles
    setattr(owner, name, value)
