# SPDX-License-Identifier: GPL-3.0-or-later
"""How a .blend file remembers where its maps lie."""

from __future__ import annotations

from pathlib import Path

import bpy


def stored(path: Path | str) -> str:
    """A path as the file is to remember it: relative where it lies in the folder of the .blend, so
    that the folder can be moved as a whole; absolute elsewhere, and where the user prefers it."""
    path = bpy.path.abspath(str(path))
    folder = Path(bpy.data.filepath).parent
    wanted = bool(bpy.data.filepath) and bpy.context.preferences.filepaths.use_relative_paths
    return bpy.path.relpath(path) if wanted and Path(path).is_relative_to(folder) else path
