# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything that lives in Blender."""

from __future__ import annotations

import bpy

from . import (
    job,
    operators,
    panels,
    place_operators,
    place_panels,
    preferences,
    properties,
    report,
    thumbnails,
)

_CLASSES = (
    preferences.OMNIX_AP_preferences,
    properties.OMNIX_PG_scene,
    *operators.CLASSES,
    report.OMNIX_OT_show_report,
    *place_operators.CLASSES,
    *panels.CLASSES,
    *place_panels.CLASSES,
)


def register() -> None:
    for cls in _CLASSES:
        bpy.utils.register_class(cls)
    bpy.types.Scene.omnix = bpy.props.PointerProperty(type=properties.OMNIX_PG_scene)


def unregister() -> None:
    operators.stop_timer()
    job.close()
    thumbnails.forget()
    del bpy.types.Scene.omnix
    for cls in reversed(_CLASSES):
        bpy.utils.unregister_class(cls)
