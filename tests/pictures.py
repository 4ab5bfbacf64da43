# SPDX-License-Identifier: GPL-3.0-or-later
"""Pictures in numbers: files as Blender reads them, and what it renders."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def read(bpy, file: Path | str) -> np.ndarray:
    """The values of an image file, (H, W, 4), row 0 on top."""
    image = bpy.data.images.load(str(file), check_existing=False)
    values = np.empty((image.size[1], image.size[0], 4), np.float32)
    image.pixels.foreach_get(values.ravel())
    bpy.data.images.remove(image)
    return values[::-1]


def render(bpy, width: int, height: int, engine: str = "CYCLES") -> np.ndarray:
    """What the scene's camera sees, linear (height, width, 4) with alpha, row 0 on top; not
    denoised, every sample of a pixel within it."""
    scene = bpy.context.scene
    scene.render.engine = engine
    scene.cycles.use_denoising = False
    scene.cycles.pixel_filter_type = "BOX"
    scene.render.resolution_x, scene.render.resolution_y = width, height
    scene.render.resolution_percentage = 100
    scene.render.image_settings.file_format = "OPEN_EXR"
    scene.render.image_settings.color_mode = "RGBA"
    scene.render.filepath = bpy.app.tempdir + "render.exr"
    bpy.ops.render.render(write_still=True)
    return read(bpy, scene.render.filepath)
