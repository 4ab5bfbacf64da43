# SPDX-License-Identifier: GPL-3.0-or-later
"""The choices of the panel, one group on the scene."""

from __future__ import annotations

from functools import partial

import bpy

from .. import maps

ENGINES = (
    ("COMPACT", "Compact", "The embedded network: seconds on the CPU, no download"),
    ("FLUX", "FLUX", "FLUX.1-dev with the OmniX adapters: needs their weights and a GPU"),
)
MAP_ITEMS = tuple(
    (name, maps.MAPS[name].label, f"Extract the {maps.MAPS[name].label.lower()} map", 1 << index)
    for index, name in enumerate(maps.REQUESTABLE)
)

# Paths may start with //; Blender wants to be told since 4.5.
PATH_OPTIONS = {"PATH_SUPPORTS_BLEND_RELATIVE"} if bpy.app.version >= (4, 5, 0) else set()


# Shared by the panel and the operators, so that all offer the same ranges and defaults. Operators
# pass SKIP_SAVE: what they were told last time must not win over what the panel says now.
engine_property = partial(
    bpy.props.EnumProperty,
    name="Engine",
    description="What perceives the panorama",
    items=ENGINES,
    default="COMPACT",
)
maps_property = partial(
    bpy.props.EnumProperty,
    name="Maps",
    description="Maps to extract",
    items=MAP_ITEMS,
    default=set(maps.DEFAULT_MAPS),
)
size_property = partial(
    bpy.props.IntProperty,
    name="Size",
    description=f"Width of the maps; 0 uses that of the panorama, {maps.MAX_WIDTH} at most",
    default=0,
    min=0,
    max=maps.MAX_WIDTH,
    subtype="PIXEL",
)
exposure_property = partial(
    bpy.props.FloatProperty,
    name="Exposure",
    description="Stops added to the automatic exposure with which the engine sees the panorama",
    default=0.0,
    min=-20.0,
    max=20.0,
    soft_min=-4.0,
    soft_max=4.0,
)
camera_height_property = partial(
    bpy.props.FloatProperty,
    # Not of the scene's units: in a scene in centimetres the default would be 1.6 of them.
    name="Camera Height",
    description="Metres from the floor to the panorama's viewpoint, which set the scale",
    default=1.6,
    min=0.01,
    max=1000.0,
    soft_max=10.0,
)
build_property = partial(
    bpy.props.BoolProperty,
    name="Build Place",
    description="Build geometry and material from the maps",
    default=True,
)


class OMNIX_PG_scene(bpy.types.PropertyGroup):
    source: bpy.props.EnumProperty(
        name="Source",
        description="Where the panorama comes from",
        items=(
            ("WORLD", "World", "The environment texture of the scene's world"),
            ("IMAGE", "Image", "An image of this file"),
            ("FILE", "File", "An image file"),
        ),
    )
    image: bpy.props.PointerProperty(
        name="Image",
        description="Equirectangular panorama, twice as wide as high",
        type=bpy.types.Image,
    )
    filepath: bpy.props.StringProperty(
        name="File",
        description="Equirectangular panorama, twice as wide as high",
        subtype="FILE_PATH",
        options=PATH_OPTIONS,
    )
    directory: bpy.props.StringProperty(
        name="Output",
        description="Folder of the maps. Empty uses a folder beside the .blend file, or the "
        "extension's own while the file is not saved",
        subtype="DIR_PATH",
        options=PATH_OPTIONS,
    )
    engine: engine_property()
    maps: maps_property(options={"ENUM_FLAG"})
    size: size_property()
    exposure: exposure_property()
    camera_height: camera_height_property()
    build: build_property()
    folder: bpy.props.StringProperty(
        name="Maps",
        description="The map set that was extracted or loaded last",
        subtype="DIR_PATH",
        options=PATH_OPTIONS,
    )
