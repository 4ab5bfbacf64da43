# SPDX-License-Identifier: GPL-3.0-or-later
"""Moving maps beside the .blend file.

They are copied, and the file uses the copies from then on. What is on disk stays: Undo, an earlier
version of the file and other files may want the maps where they were.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import bpy

from .. import maps
from ..errors import OmnixError
from . import paths


def move(here: Path, there: Path) -> None:
    """Let the file use the map set `here` from `there`; places, images and scenes follow.

    Raises OmnixError, with all as it was, when that cannot be done or something else is there.
    """
    from .build import place

    report = maps.read_report(here)
    here = here.resolve()
    if there.resolve().is_relative_to(here):
        raise OmnixError(
            f"{there} lies in the folder of the maps, {here}; save the .blend file elsewhere, or "
            "move the maps yourself."
        )
    maps.refuse_unless_writable(there)
    if not there.exists():
        _copy(here, there, report)
    # What an undone move has left is the same set, and may have been worked on.
    elif not (maps.is_map_set(there) and _alike(maps.read_report(there), report)):
        raise OmnixError(f"{there} exists already; move it away first.")
    folder = paths.stored(there)
    for collection in place.made_from(here):
        place.set_folder(collection, folder)
    for image in bpy.data.images:
        file = Path(paths.absolute(image.filepath))
        if image.library is None and image.filepath and file.resolve().parent == here:
            # Not `filepath`, which would read the file again, over what was painted.
            image.filepath_raw = paths.stored(there / file.name)
    for scene in bpy.data.scenes:
        used = Path(paths.absolute(scene.omnix.folder))
        if scene.library is None and scene.omnix.folder and used.resolve() == here:
            scene.omnix.folder = folder


def _alike(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether reports are of one set; a copy is told its files where the original was not."""
    return all(one.get(key) == other.get(key) for key in {*one, *other} - {"files"})


def _copy(here: Path, there: Path, report: dict[str, Any]) -> None:
    """Copy a map set with all that lies in it, whole or not at all."""
    with maps.MapSetWriter(there) as writer:
        try:
            shutil.copytree(here, writer.path("."), dirs_exist_ok=True)
        except OSError as error:
            raise OmnixError(
                f"{here} cannot be copied to {there} ({error.strerror or 'not all of it'})."
            ) from None
        writer.publish(report)
