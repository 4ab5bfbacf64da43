# SPDX-License-Identifier: GPL-3.0-or-later
"""The quick stand-in that a place shows while its settings are dragged."""

from __future__ import annotations

from typing import Any

import bpy

from ....errors import OmnixError
from .. import stand_in
from .cutting import settings_of
from .record import built_of, delete, keep, name_of, recorded, root_of, shells_of

# On the stand-in: which of the meshes were hidden before it, in the viewport and in renders.
_HIDDEN = "omnix_hidden"


def start_adjusting(collection: bpy.types.Collection) -> bpy.types.Object:
    """Show the quick stand-in instead of the mesh; its modifier holds the settings to drag."""
    take_away(collection)
    settings, built, root = settings_of(collection), built_of(collection), root_of(collection)
    label = f"OmniX {name_of(collection)} Preview"
    defaults = {label: getattr(settings, label.lower()) for label in stand_in.INPUTS}
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


def chosen(collection: bpy.types.Collection) -> dict[str, Any]:
    """The settings that the stand-in was left at, by name; none where there is no stand-in.

    Raises OmnixError where the user has deleted the modifier that holds them.
    """
    item = built_of(collection).get("preview")
    if item is None:
        return {}
    modifier = stand_in.modifier_of(item)
    if modifier is None:
        raise OmnixError(
            f"{item.name} has lost the modifier with its settings; use Keep Geometry, and "
            "adjust it anew."
        )
    inputs = stand_in.inputs(modifier)
    return {label.lower(): modifier[inputs[label]] for label in stand_in.INPUTS}


def take_away(collection: bpy.types.Collection) -> None:
    """Show the mesh again, as the user had it, instead of the stand-in, if there is one."""
    built = built_of(collection)
    item = built.get("preview")
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
