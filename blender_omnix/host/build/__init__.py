# SPDX-License-Identifier: GPL-3.0-or-later
"""From a map set to a place in Blender: images, geometry, material, placement."""

from __future__ import annotations

from .place import Settings, build_place, find, places, remove, set_mode

__all__ = ["Settings", "build_place", "find", "places", "remove", "set_mode"]
