# SPDX-License-Identifier: GPL-3.0-or-later
"""Building a place from a map set, and building it anew: settings, maps, geometry, material."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import bpy

from .... import maps
from ....errors import OmnixError
from ....panorama import clean
from ... import paths
from ...identity import BUILT, STATE
from .. import images, mesh
from ..cycles import set_cycles
from . import cutting
from .adjusting import chosen, take_away
from .cutting import Settings, settings_of
from .record import (
    built_of,
    delete,
    find,
    folder_of,
    images_of,
    is_deleted,
    keep,
    name_of,
    own_maps,
    part,
    recorded,
    refuse_linked,
    release,
    root_of,
    shells_of,
    source_of,
    tidy,
)
from .shading import open_panes, pictures, set_mode, shade


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

    The viewpoint of a new place lies `camera_height` metres, in the scene's units, above z = 0 and
    looks as the panorama does: its centre is +X. A place that stands is given the new maps and
    geometry; where it stands, its controls, the user's own maps (see `own_maps`) and what else the
    user has done to it stay, and so do its `settings` where none are given. One that showed a map
    which it has no more shows itself again. `source` is the image of the panorama where it is
    loaded already; else that which a place of these maps shows, or the file that the report names,
    or failing that `panorama.png`.

    Raises OmnixError, with the scene unchanged, when that is of another file or the maps cannot be
    read.
    """
    refuse_linked(context.scene)
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
        cut = cutting.cut(textures, settings)
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
        take_away(collection)
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
    _stand(
        collection, camera_height, state.get("camera_height", camera_height), _metre(context.scene)
    )
    shown = {f"map_{key}": image for key, image in textures.items()}
    shade(collection, shown | ({"source": source} if own_source else {}), source)
    _place(collection, cut)
    if not kept:
        set_mode(collection, settings.mode)
    return collection


def rebuild(collection: bpy.types.Collection, **changes: Any) -> None:
    """Cut the place's geometry anew from its images as they are now, with changed `Settings`.

    Raises OmnixError, leaving the place as it is, when an image cannot be read or a mesh is being
    worked on.
    """
    _refuse_while_worked_on(collection)
    settings = replace(settings_of(collection), **changes)
    cut = cutting.cut(images_of(collection), settings)
    state = collection[STATE].to_dict()
    collection[STATE] = state | asdict(settings)
    _place(collection, cut)
    if "mode" in changes:
        set_mode(collection, settings.mode)


def replace_map(collection: bpy.types.Collection, name: str, path: Path | str) -> None:
    """Let a place use the file `path` for one of its maps, and rebuild what depends on it.

    A map that the place has lacked so far joins the others. An OpenEXR or Radiance file holds
    linear colours, any other file encoded ones. Raises OmnixError, leaving the place as it is, when
    the file is no panorama, a mesh that depends on it is being worked on, or the image of the
    original light was deleted.
    """
    cuts = name in ("depth", "normal", "emission")
    if cuts:
        _refuse_while_worked_on(collection)
    label = f"OmniX {name_of(collection)} {maps.MAPS[name].label}"
    built, key, shown = built_of(collection), f"map_{name}", source_of(collection)
    if shown is None and name != "panorama":
        raise OmnixError(
            f"The panorama of {name_of(collection)} was deleted; undo that, or load the maps in "
            f"{folder_of(collection)} again."
        )
    image = _candidate(name, path, label)
    if cuts:
        try:
            cut = cutting.cut(images_of(collection) | {name: image}, settings_of(collection))
        except OmnixError:
            delete([image])
            raise
    source = image if shown in (None, built.get(key)) else shown
    shade(collection, pictures(built) | {key: image}, source)
    # Also where the user has put another image into the node.
    part(collection, "surface_group").nodes[name].image = image
    if cuts:
        _place(collection, cut)


def finish_adjusting(collection: bpy.types.Collection, *, apply: bool) -> None:
    """Take the stand-in away and, with `apply`, cut the mesh by the settings it was left at.

    Raises OmnixError, with the stand-in still there, when a map cannot be read or the user has
    deleted the modifier with the settings.
    """
    if apply and (settings := chosen(collection)):
        rebuild(collection, **settings)
    take_away(collection)


def reload_maps(collection: bpy.types.Collection) -> None:
    """Read the map files of a place anew, but for maps that are the user's own (`own_maps`)."""
    own = own_maps(collection)
    for name, image in images_of(collection).items():
        if name not in own:
            image.reload()


def check_map(name: str, path: Path | str) -> None:
    """Raise OmnixError where `replace_map` would refuse the file for this map."""
    delete([_candidate(name, path, "OmniX Candidate")])


def _refuse_while_worked_on(collection: bpy.types.Collection) -> None:
    """Raise OmnixError where the user is editing a mesh that is to be cut anew, or has given it
    shapes, which are of vertices that there will be no more."""
    for item in shells_of(built_of(collection)).values():
        if item.data.is_editmode:
            raise OmnixError(f"{item.name} is in Edit Mode; leave that first.")
        if item.use_dynamic_topology_sculpting:
            # Blender puts its own mesh back on leaving.
            raise OmnixError(f"{item.name} is being sculpted with Dyntopo; leave that first.")
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
            cutting.read_depth(image)
    except OmnixError:
        delete([image])
        raise
    return image


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


def _metre(scene: bpy.types.Scene) -> float:
    """A metre in the scene's units of length."""
    units = scene.unit_settings
    return 1.0 if units.system == "NONE" else 1.0 / units.scale_length


def _stand(collection: bpy.types.Collection, height: float, earlier: float, metre: float) -> None:
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
    root.location, root.scale = (0.0, 0.0, height * metre), (metre, metre, metre)
    keep(collection, built | {"root": root})


def _place(collection: bpy.types.Collection, cut: cutting.Cut) -> None:
    """Put the geometry into the collection's meshes, making or removing objects as needed."""
    if part(collection, "preview") is None:
        # A stand-in that the user has deleted leaves the meshes hidden.
        take_away(collection)
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
    open_panes(collection)


def _fill_slots(slots: bpy.types.IDMaterials, *wanted: bpy.types.Material) -> None:
    """Give materials to the slots that are missing or empty; the user's own stay."""
    for index, item in enumerate(wanted):
        if index == len(slots):
            slots.append(item)
        elif slots[index] is None:
            slots[index] = item
