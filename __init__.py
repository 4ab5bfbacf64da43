# SPDX-License-Identifier: GPL-3.0-or-later
"""The extension's entry, which Blender wants beside the manifest.

Test runners import this file too, without Blender: nothing is imported before it is needed.
"""

from __future__ import annotations


def register() -> None:
    from . import blender_omnix

    blender_omnix.register()


def unregister() -> None:
    from . import blender_omnix

    blender_omnix.unregister()
