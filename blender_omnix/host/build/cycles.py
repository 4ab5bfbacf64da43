# SPDX-License-Identifier: GPL-3.0-or-later
"""What Cycles owns in some versions of Blender."""

from __future__ import annotations

from typing import Any

import bpy


def set_cycles(datablock: bpy.types.ID, name: str, value: Any) -> None:
    """Set what is Cycles' own property in Blender 4.2 and the datablock's in later versions."""
    owner = datablock if hasattr(datablock, name) else datablock.cycles
    setattr(owner, name, value)
