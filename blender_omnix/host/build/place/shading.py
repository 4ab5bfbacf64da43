# SPDX-License-Identifier: GPL-3.0-or-later
"""How a place is shaded: its material, and the light that it is seen in."""

from __future__ import annotations

from collections.abc import Mapping

import bpy

from ...identity import STATE
from .. import material
from .following import stop_following
from .record import (
    MATERIALS,
    built_of,
    control,
    delete,
    has_controls,
    keep,
    name_of,
    part,
    places,
)

ORIGINAL, RELIGHT = "ORIGINAL", "RELIGHT"


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
            open_panes(item)


def open_panes(collection: bpy.types.Collection) -> None:
    """Let light in through the openings of a place that is relit."""
    mode = collection[STATE]["mode"]
    panes = part(collection, "panes")
    if panes is not None:
        # Relit, light passes; but the camera goes on seeing the photographed sky: beyond it is the
        # whole panorama, which shows the room again wherever one looks from another place.
        for ray in ("diffuse", "glossy", "transmission", "volume_scatter", "shadow"):
            setattr(panes, f"visible_{ray}", mode == ORIGINAL)


def shade(
    collection: bpy.types.Collection,
    shown: Mapping[str, bpy.types.Image],
    source: bpy.types.Image,
) -> None:
    """Shade a place with the images `shown`, by part, which supersede those that it has.

    `source` is the image of the original light, ours or not. The node with the controls and the
    materials around it stay, once they are there; where the user has deleted that node or a group
    around it, the materials show nothing any more and are made anew too. The group with the shading
    stays while it is whole and the maps are of the same names, with what the user has done in it.
    """
    label = f"OmniX {name_of(collection)}"
    textures = {key.removeprefix("map_"): shown[key] for key in shown if key.startswith("map_")}
    images, gain = textures | {"source": source}, collection[STATE]["source_gain"]
    built, intact = built_of(collection), has_controls(collection)
    if intact and material.is_made_for(built["surface_group"], textures):
        surface = built["surface_group"]
        material.fit(surface, images, source_gain=gain)
    else:
        surface = material.surface_group(f"{label} Surface", images, source_gain=gain)
    made = {**shown, "surface_group": surface}
    if intact:
        group, before = built["controls_group"], built["surface_group"]
        values = {
            socket.name: socket.default_value for socket in group.nodes[material.CONTROLS].inputs
        }
        if surface != before:
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
    earlier = pictures(built) | {key: built[key] for key in replaced if key in built}
    built = {key: item for key, item in built.items() if key not in earlier}
    _supersede(earlier, made)
    for socket in group.nodes[material.CONTROLS].inputs:
        socket.default_value = values.get(socket.name, socket.default_value)
    keep(collection, built | made)


def pictures(built: Mapping[str, bpy.types.ID]) -> dict[str, bpy.types.Image]:
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
