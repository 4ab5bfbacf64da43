# SPDX-License-Identifier: GPL-3.0-or-later
"""The panel, in the sidebar of the 3D View and in the World properties."""

from __future__ import annotations

import textwrap
from pathlib import Path

import bpy

from .. import maps
from ..errors import OmnixError
from . import destination, job, operators, report, thumbnails


class _Sidebar:
    bl_space_type = "VIEW_3D"
    bl_region_type = "UI"
    bl_category = "OmniX"


class _World:
    bl_space_type = "PROPERTIES"
    bl_region_type = "WINDOW"
    bl_context = "world"


class _Extract:
    bl_label = "OmniX Panorama to PBR"

    def draw(self, context: bpy.types.Context) -> None:
        layout = self.layout
        layout.use_property_split = True
        layout.use_property_decorate = False
        choices = context.scene.omnix
        layout.prop(choices, "source")
        if choices.source == "IMAGE":
            layout.template_ID(choices, "image", open="image.open")
        elif choices.source == "FILE":
            layout.prop(choices, "filepath")
        layout.prop(choices, "engine")
        layout.prop(choices, "camera_height", text="Height (m)")
        layout.prop(choices, "build")
        current = job.current()
        if current is None:
            row = layout.row()
            row.scale_y = 1.5
            row.operator(operators.OMNIX_OT_extract_pbr.bl_idname, icon="WORLD")
            ended = job.last()
            if ended is not None and ended.message:
                sentence(layout.box(), context, ended.message, "ERROR")
        else:
            _draw_progress(layout, current)


def _draw_progress(layout: bpy.types.UILayout, current: job.Job) -> None:
    row = layout.row(align=True)
    row.progress(factor=current.fraction, text=_progress(current))
    row.operator(operators.OMNIX_OT_cancel.bl_idname, text="", icon="CANCEL")


def _progress(current: job.Job) -> str:
    """What a job does now, and for how much longer."""
    if job.running() is None and operators.is_rendering():
        return "Waiting for the render to end"
    stage = "Cancelling" if current.cancelling else current.stage
    silence = job.silence()
    if silence is not None:
        return f"{stage}, no answer for {report.duration(silence)}"
    if current.seconds_left is not None:
        return f"{stage}, {report.duration(current.seconds_left)} left"
    return stage


class _Settings:
    bl_label = "Settings"
    bl_options = {"DEFAULT_CLOSED"}

    def draw(self, context: bpy.types.Context) -> None:
        layout = self.layout
        layout.use_property_split = True
        layout.use_property_decorate = False
        choices = context.scene.omnix
        layout.column().prop(choices, "maps")
        layout.prop(choices, "size")
        layout.prop(choices, "exposure")
        layout.prop(choices, "directory")
        row = layout.row(align=True)
        row.operator(operators.OMNIX_OT_unload_model.bl_idname)
        row.operator(operators.OMNIX_OT_open_log.bl_idname)


class _Result:
    bl_label = "Maps"

    def draw(self, context: bpy.types.Context) -> None:
        layout = self.layout
        row = layout.row(align=True)
        row.operator(operators.OMNIX_OT_load_maps.bl_idname, icon="FILE_FOLDER")
        row.operator(operators.OMNIX_OT_open_folder.bl_idname, text="", icon="FOLDER_REDIRECT")
        folder = report.current_folder(context)
        if folder is None:
            return
        try:
            contents = report.read(folder)
        except OmnixError as error:
            sentence(layout, context, str(error), "ERROR")
            return
        _draw_thumbnails(layout, folder)
        layout.label(text=report.summary(contents))
        layout.label(text=report.adapters_summary(contents))
        for warning in contents.get("warnings", []):
            sentence(layout, context, warning, "ERROR")
        if bpy.data.filepath and destination.is_in_extension(folder):
            sentence(
                layout,
                context,
                "These maps are in the extension's own folder, which goes when the extension is "
                "uninstalled; move them.",
                "ERROR",
            )
        if operators.OMNIX_OT_move_maps.poll(context):
            layout.operator(operators.OMNIX_OT_move_maps.bl_idname, icon="FILE_TICK")
        layout.operator(report.OMNIX_OT_show_report.bl_idname, icon="TEXT")


def _draw_thumbnails(layout: bpy.types.UILayout, folder: Path) -> None:
    grid = layout.grid_flow(columns=3, row_major=True, even_columns=True)
    for name, file in maps.map_files(folder).items():
        cell = grid.column(align=True)
        cell.template_icon(icon_value=thumbnails.icon(name, file), scale=4.0)
        cell.label(text=maps.MAPS[name].label)


def sentence(layout: bpy.types.UILayout, context: bpy.types.Context, text: str, icon: str) -> None:
    """A sentence broken into lines that fit the region."""
    pixels_per_letter = 7.0 * context.preferences.system.ui_scale
    letters = max(20, int(context.region.width / pixels_per_letter) - 6)
    column = layout.column(align=True)
    column.scale_y = 0.8
    for index, line in enumerate(textwrap.wrap(text, letters)):
        column.label(text=line, icon="BLANK1" if index else icon)


class OMNIX_PT_sidebar(_Sidebar, _Extract, bpy.types.Panel):
    pass


class OMNIX_PT_sidebar_settings(_Sidebar, _Settings, bpy.types.Panel):
    bl_parent_id = "OMNIX_PT_sidebar"


class OMNIX_PT_sidebar_maps(_Sidebar, _Result, bpy.types.Panel):
    bl_parent_id = "OMNIX_PT_sidebar"


class OMNIX_PT_world(_World, _Extract, bpy.types.Panel):
    bl_options = {"DEFAULT_CLOSED"}


class OMNIX_PT_world_settings(_World, _Settings, bpy.types.Panel):
    bl_parent_id = "OMNIX_PT_world"


class OMNIX_PT_world_maps(_World, _Result, bpy.types.Panel):
    bl_parent_id = "OMNIX_PT_world"


CLASSES = (
    OMNIX_PT_sidebar,
    OMNIX_PT_sidebar_settings,
    OMNIX_PT_sidebar_maps,
    OMNIX_PT_world,
    OMNIX_PT_world_settings,
    OMNIX_PT_world_maps,
)
