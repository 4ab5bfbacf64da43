# SPDX-License-Identifier: GPL-3.0-or-later
"""The panels of a place that stands: light, geometry, maps."""

from __future__ import annotations

import bpy

from .. import maps
from . import place_operators as operators
from .identity import active
from .panels import sentence


class _PlacePanel:
    bl_space_type = "VIEW_3D"
    bl_region_type = "UI"
    bl_category = "OmniX"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return active(context) is not None


class OMNIX_PT_place(_PlacePanel, bpy.types.Panel):
    bl_label = "OmniX Place"

    def draw(self, context: bpy.types.Context) -> None:
        from .build import place

        layout = self.layout
        collection = active(context)
        row = layout.row(align=True)
        row.label(text=place.name_of(collection), icon="OUTLINER_COLLECTION")
        row.operator("omnix.mark_asset", text="", icon="ASSET_MANAGER")
        row.operator("omnix.remove_place", text="", icon="TRASH")
        damage = place.damage(collection)
        if damage:
            sentence(layout, context, damage, "ERROR")
            return
        mode = place.settings_of(collection).mode
        row = layout.row(align=True)
        row.scale_y = 1.3
        for key, label, _ in operators.MODES:
            row.operator("omnix.set_mode", text=label, depress=mode == key).mode = key
        layout.use_property_split = True
        layout.use_property_decorate = False
        column = layout.column(align=True)
        for label, socket in place.panel_controls(collection):
            if label not in ("Relit", "Preview"):
                column.prop(socket, "default_value", text=label)
        layout.operator("omnix.add_camera", icon="CAMERA_DATA")
        row = layout.row(align=True)
        row.operator("omnix.use_as_world", icon="WORLD_DATA")
        following = place.is_following(collection)
        row.operator("omnix.follow_world", icon="WORLD", depress=following).follow = not following
        if place.has_lost_world(collection):
            layout.label(text="The world it followed is gone", icon="ERROR")


class OMNIX_PT_place_geometry(_PlacePanel, bpy.types.Panel):
    bl_label = "Geometry"
    bl_parent_id = "OMNIX_PT_place"
    bl_options = {"DEFAULT_CLOSED"}

    def draw(self, context: bpy.types.Context) -> None:
        from .build import place, stand_in

        layout = self.layout
        layout.use_property_split = True
        layout.use_property_decorate = False
        collection = active(context)
        item = place.part(collection, "preview")
        if item is None:
            row = layout.row(align=True)
            row.operator("omnix.adjust_geometry", icon="MOD_REMESH")
            row.operator("omnix.rebuild_place", text="", icon="FILE_REFRESH")
        else:
            modifier = stand_in.modifier_of(item)
            if modifier is None:
                layout.label(text="The stand-in has lost its modifier", icon="ERROR")
            else:
                for label, identifier in stand_in.inputs(modifier).items():
                    layout.prop(modifier, f'["{identifier}"]', text=label)
            row = layout.row(align=True)
            row.operator("omnix.apply_geometry", icon="CHECKMARK")
            row.operator("omnix.keep_geometry", text="", icon="X")
        row = layout.row(align=True)
        catches, collides = place.is_shadow_catcher(collection), place.has_collision(collection)
        row.operator(
            "omnix.use_place", text="Shadow Catcher", depress=catches
        ).shadow_catcher = not catches
        row.operator("omnix.use_place", text="Collision", depress=collides).collision = not collides
        layout.operator("omnix.set_scale", icon="DRIVER_DISTANCE")


class OMNIX_PT_place_maps(_PlacePanel, bpy.types.Panel):
    bl_label = "Maps of the Place"
    bl_parent_id = "OMNIX_PT_place"
    bl_options = {"DEFAULT_CLOSED"}

    def draw(self, context: bpy.types.Context) -> None:
        from .build import place

        layout = self.layout
        collection = active(context)
        column = layout.column(align=True)
        shown = place.shown_map(collection)
        there = place.images_of(collection)
        for name in maps.MAPS:
            row = column.row(align=True)
            label = maps.MAPS[name].label
            show = row.row(align=True)
            show.enabled = name in there
            press = show.operator("omnix.show_map", text=label, depress=shown == name)
            press.map = "NONE" if shown == name else name
            if name in maps.REQUESTABLE:
                row.operator("omnix.extract_map", text="", icon="FILE_REFRESH").map = name
            row.operator("omnix.replace_map", text="", icon="FILEBROWSER").map = name
        layout.operator("omnix.save_maps", icon="FILE_TICK")


CLASSES = (OMNIX_PT_place, OMNIX_PT_place_geometry, OMNIX_PT_place_maps)
