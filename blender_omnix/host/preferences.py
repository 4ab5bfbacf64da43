# SPDX-License-Identifier: GPL-3.0-or-later
"""The add-on's preferences: which Python the worker runs on, and how FLUX is run."""

from __future__ import annotations

import bpy

# `bl_ext.<repository>.blender_omnix`, by which Blender knows the extension.
ADDON = __package__.removesuffix(".blender_omnix.host")


class OMNIX_AP_preferences(bpy.types.AddonPreferences):
    bl_idname = ADDON

    python: bpy.props.StringProperty(
        name="External Python",
        description="Python interpreter, 3.11 or newer, that runs the worker, such as that of a "
        "CUDA environment. Empty uses Blender's own with the packages that came with the extension",
        subtype="FILE_PATH",
    )
    idle_seconds: bpy.props.FloatProperty(
        name="Unload Model After",
        description="Idle time after which the worker gives the model's memory back",
        default=600.0,
        min=1.0,
        soft_max=7200.0,
        subtype="TIME_ABSOLUTE",
        unit="TIME_ABSOLUTE",
    )
    flux_weights: bpy.props.StringProperty(
        name="FLUX Weights",
        description="Folder of FLUX.1-dev in the layout of Diffusers, for the FLUX engine",
        subtype="DIR_PATH",
    )
    flux_adapters: bpy.props.StringProperty(
        name="OmniX Adapters",
        description="Folder of the OmniX adapters, for the FLUX engine",
        subtype="DIR_PATH",
    )

    flux_fp8: bpy.props.BoolProperty(
        name="8-Bit Weights",
        description="Keep the FLUX transformer in 8-bit floats, in half the memory of the GPU and "
        "a little less precise; adapters keep their precision",
    )
    flux_height: bpy.props.IntProperty(
        name="Network Height",
        description="Rows of the panorama that FLUX sees, at most; fewer need less time and "
        "memory of the GPU, and find less detail",
        default=720,
        min=64,
        max=720,
        subtype="PIXEL",
    )
    flux_device: bpy.props.StringProperty(
        name="Device",
        description="Device of torch that runs FLUX, such as cuda:1. Empty takes the best there is",
    )

    def draw(self, _context: bpy.types.Context) -> None:
        layout = self.layout
        layout.use_property_split = True
        layout.prop(self, "python")
        layout.prop(self, "idle_seconds")
        for name in ("weights", "adapters", "fp8", "height", "device"):
            layout.prop(self, f"flux_{name}")


def get(context: bpy.types.Context) -> OMNIX_AP_preferences:
    """The preferences of this add-on."""
    return context.preferences.addons[ADDON].preferences
