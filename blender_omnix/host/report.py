# SPDX-License-Identifier: GPL-3.0-or-later
"""The report of the last map set: what was done, checked and found wanting."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import bpy

from .. import maps
from ..errors import OmnixError

_WIDTH = 700  # of the popup, in pixels at a UI scale of 1


def current_folder(context: bpy.types.Context) -> Path | None:
    """The map set extracted or loaded last in this scene."""
    folder = context.scene.omnix.folder
    return Path(bpy.path.abspath(folder)) if folder else None


def read(folder: Path) -> dict[str, Any]:
    """The report of a map set, read again only when its file has changed: panels draw often.

    Raises OmnixError when it is missing or damaged.
    """
    file = folder / maps.REPORT
    return _read(folder, file.stat().st_mtime_ns if file.is_file() else 0)


@functools.lru_cache(maxsize=8)
def _read(folder: Path, _changed: int) -> dict[str, Any]:
    return maps.read_report(folder)


def summary(report: dict[str, Any]) -> str:
    """One line: size, engine, time."""
    width, height = report["size"]
    seconds = sum(report["seconds"].values())
    return f"{width} x {height}, {report['engine']} engine, {duration(seconds)}"


def duration(seconds: float) -> str:
    """Seconds for a person: `3 s`, `12 min`."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


class OMNIX_OT_show_report(bpy.types.Operator):
    """Show the report of the maps: adapters, checks, warnings and times"""

    bl_idname = "omnix.show_report"
    bl_label = "Show Report"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return current_folder(context) is not None

    def invoke(self, context: bpy.types.Context, _event: bpy.types.Event) -> set[str]:
        try:
            read(current_folder(context))
        except OmnixError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        return context.window_manager.invoke_popup(self, width=_WIDTH)

    def execute(self, _context: bpy.types.Context) -> set[str]:
        return {"FINISHED"}

    def draw(self, context: bpy.types.Context) -> None:
        report = read(current_folder(context))
        layout = self.layout
        layout.label(text=str(current_folder(context)), icon="FILE_FOLDER")
        layout.label(text=summary(report))
        if report["adapters"]:
            _draw_adapters(layout.box(), report["adapters"])
        if report["checks"]:
            _draw_checks(layout.box(), report["checks"])
        for warning in report["warnings"]:
            layout.label(text=warning, icon="ERROR")
        times = ", ".join(f"{stage} {spent:.1f} s" for stage, spent in report["seconds"].items())
        layout.label(text=times, icon="TIME")


def _draw_adapters(layout: bpy.types.UILayout, adapters: list[dict[str, Any]]) -> None:
    """One row per adapter: is all of it in place, and does it matter?"""
    grid = layout.grid_flow(columns=5, row_major=True, even_columns=False)
    for heading in ("Adapter", "Modules", "Tensors", "Effect Off", "Effect Swapped"):
        grid.label(text=heading)
    for adapter in adapters:
        grid.label(text=f"{adapter['task']} / {adapter['name']}")
        grid.label(text=f"{adapter['modules_injected']} of {adapter['modules_expected']}")
        equal = adapter["tensors_equal"]
        grid.label(text=str(adapter["tensors"]), icon="CHECKMARK" if equal else "ERROR")
        grid.label(text=_effect(adapter["effect_off"]))
        grid.label(text=_effect(adapter["effect_swapped"]))


def _effect(change: float | None) -> str:
    return "not measured" if change is None else f"{change:.1%}"


def _draw_checks(layout: bpy.types.UILayout, checks: list[dict[str, Any]]) -> None:
    for check in checks:
        layout.label(text=check["message"], icon="CHECKMARK" if check["passed"] else "ERROR")
