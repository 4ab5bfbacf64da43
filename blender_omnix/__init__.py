# SPDX-License-Identifier: GPL-3.0-or-later
"""Turns a panorama into a relightable place: PBR maps, geometry and material."""

from __future__ import annotations

__version__ = "0.1.0"


def register() -> None:
    """Make the extension available in Blender."""
    from . import host

    host.register()


def unregister() -> None:
    """Take back everything that `register` did."""
    from . import host

    host.unregister()
