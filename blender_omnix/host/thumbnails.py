# SPDX-License-Identifier: GPL-3.0-or-later
"""Small pictures of maps for the panel."""

from __future__ import annotations

from pathlib import Path

import bpy
import bpy.utils.previews

from .. import maps
from ..errors import OmnixError

_WIDTH = 256

_previews: bpy.utils.previews.ImagePreviewCollection | None = None
# Depth maps that have a preview without a picture yet, by its key.
_waiting: dict[str, Path] = {}


def icon(name: str, file: Path) -> int:
    """The icon of a map's file; Blender reads the file when the icon is first drawn."""
    global _previews
    if _previews is None:
        _previews = bpy.utils.previews.new()
    # A map that was extracted again is another picture under the same path.
    key = f"{file} {file.stat().st_mtime_ns}"
    if key not in _previews:
        if name == "depth":
            # Metres would all be white, and while a panel is drawn no image may be loaded.
            _previews.new(key)
            _waiting[key] = file
            if not bpy.app.timers.is_registered(draw_waiting):
                bpy.app.timers.register(draw_waiting)
        else:
            _previews.load(key, str(file), "IMAGE")
    return _previews[key].icon_id


def draw_waiting() -> None:
    """Draw the depth maps that were asked for since the last time; runs on a timer."""
    while _waiting:
        key, file = _waiting.popitem()
        _draw_depth(_previews[key], file)
    for window in bpy.context.window_manager.windows:
        for area in window.screen.areas:
            area.tag_redraw()


def _draw_depth(preview: bpy.types.ImagePreview, file: Path) -> None:
    """Show a depth map as inverse depth: what is near is white, what is far dark, the sky black."""
    import numpy as np  # slow to import, and enabling the add-on should not wait for it

    from ..panorama import resample
    from .build import images

    try:
        image = images.load(file, "OmniX Icon", maps.MAPS["depth"].colorspace)
    except OmnixError:
        return  # gone or damaged; whatever uses the map says so
    depth = images.read(image, 1)[::-1]
    bpy.data.images.remove(image)
    # Not averaged: that would mix metres with the 0 that stands for sky.
    depth = resample.nearest(depth, _WIDTH // 2, _WIDTH)
    surface = depth > 0
    rgba = np.zeros((*depth.shape, 4), np.float32)
    if surface.any():
        inverse = 1.0 / np.where(surface, depth, 1.0)
        far, near = np.percentile(inverse[surface], (2, 98))
        grey = np.clip((inverse - far) / max(near - far, 1e-6), 0.0, 1.0)
        rgba[..., :3] = np.where(surface, 0.05 + 0.95 * grey, 0.0)[..., None]
    rgba[..., 3] = 1.0
    preview.image_size = (_WIDTH, _WIDTH // 2)
    preview.image_pixels_float.foreach_set(rgba.ravel())


def forget() -> None:
    """Give the pictures back, when the extension is disabled."""
    global _previews
    if bpy.app.timers.is_registered(draw_waiting):
        bpy.app.timers.unregister(draw_waiting)
    _waiting.clear()
    if _previews is not None:
        bpy.utils.previews.remove(_previews)
        _previews = None
