# SPDX-License-Identifier: GPL-3.0-or-later
"""The report of the last map set: what was done, checked and found wanting."""

from __future__ import annotations

import functools
import textwrap
from pathlib import Path
from typing import Any

import bpy

from .. import maps
from ..errors import OmnixError
from . import paths
from .identity import active

_WIDTH = 700  # of the popup, in pixels at a UI scale of 1


def current_folder(context: bpy.types.Context) -> Path | None:
    """The map set extracted or loaded last in this scene; where it is not there, since the file was
    saved elsewhere for one, that of the place at hand."""
    if not context.scene.omnix.folder:
        return None
    folder = Path(paths.absolute(context.scene.omnix.folder))
    at_hand = active(context)
    if at_hand is None or _is_map_set(folder):
        return folder
    from .build import place  # imports numpy, for which no panel should wait in vain

    return place.folder_of(at_hand).resolve()


def _is_map_set(folder: Path) -> bool:
    try:
        read(folder)
    except OmnixError:
        return False
    return True


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
    """One line: size, engine, time, as far as the report has them."""
    parts = [f"{report['engine']} engine"]
    if "size" in report:
        parts.insert(0, " x ".join(map(str, report["size"])))
    if "seconds" in report:
        parts.append(duration(sum(report["seconds"].values())))
    return ", ".join(parts)


def adapters_summary(report: dict[str, Any]) -> str:
    """One line: how many adapters, and how much of them is in place."""
    adapters = report.get("adapters", [])
    expected = sum(adapter["modules_expected"] for adapter in adapters)
    injected = sum(adapter["modules_injected"] for adapter in adapters)
    return f"{len(adapters)} adapters, {injected} of {expected} modules injected"


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
        checks = report.get("checks", [])
        if report.get("adapters"):
            _draw_adapters(layout.box(), report["adapters"])
        if checks:
            _draw_checks(layout.box(), checks)
        failed = {check["message"] for check in checks if not check["passed"]}
        for warning in report.get("warnings", []):
            if warning not in failed:
                layout.label(text=warning, icon="ERROR")
        seconds = report.get("seconds", {})
        times = ", ".join(f"{stage} {spent:.1f} s" for stage, spent in seconds.items())
        layout.label(text=times, icon="TIME")


def _draw_adapters(layout: bpy.types.UILayout, adapters: list[dict[str, Any]]) -> None:
    """One row per adapter: is all of it in place, and does it matter?"""
    grid = layout.grid_flow(columns=5, row_major=True, even_columns=False)
    for heading in ("Adapter", "Modules", "Tensors", "Effect Off", "Effect Swapped"):
        grid.label(text=heading)
    for adapter in adapters:
        grid.label(text=f"{adapter['task']} / {adapter['name']}")
        grid.label(text=f"{adapter['modules_injected']} of {adapter['modules_expected']}")
        whole = adapter["tensors_equal"] == adapter["tensors"]
        count = f"{adapter['tensors_equal']} of {adapter['tensors']}"
        grid.label(text=count, icon="CHECKMARK" if whole else "ERROR")
        grid.label(text=_effect(adapter["effect_off"]))
        grid.label(text=_effect(adapter["effect_swapped"]))


def _effect(change: float | None) -> str:
    return "not measured" if change is None else f"{change:.1%}"


def _draw_checks(layout: bpy.types.UILayout, checks: list[dict[str, Any]]) -> None:
    """What failed as a sentence, what passed by name: a check's message says what is wrong."""
    for check in checks:
        if not check["passed"]:
            layout.label(text=check["message"], icon="ERROR")
    passed = [check["name"].replace("_", " ") for check in checks if check["passed"]]
    for line in textwrap.wrap(f"Passed: {', '.join(passed)}", _WIDTH // 7):
        layout.label(text=line, icon="CHECKMARK")
