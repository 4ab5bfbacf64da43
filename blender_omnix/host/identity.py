# SPDX-License-Identifier: GPL-3.0-or-later
"""What makes a collection a place, and which one is at hand.

Apart from `build.place`, which imports numpy, since panels ask this even where there is none.
"""

from __future__ import annotations

import bpy

# Custom properties of the collection: what it was built from, and the datablocks that are ours.
STATE, BUILT = "omnix", "omnix_built"


def is_built(collection: bpy.types.Collection) -> bool:
    """True for a place of this file or of another, from which it is linked."""
    return BUILT in collection and STATE in collection


def is_place(collection: bpy.types.Collection) -> bool:
    """True for a place of this file. One that is linked from another cannot be changed here, nor
    one whose collection alone was made local or overridden."""
    if not is_built(collection):
        return False
    parts = (item for item in collection[BUILT].values() if item is not None)
    return not any(item.library or item.override_library for item in (collection, *parts))


def active(context: bpy.types.Context) -> bpy.types.Collection | None:
    """The place that the panel shows: that of the active object, else the scene's first."""
    of_object = context.object.users_collection if context.object is not None else ()
    candidates = (*of_object, *context.scene.collection.children_recursive)
    return next(filter(is_place, candidates), None)
