# SPDX-License-Identifier: GPL-3.0-or-later
"""Moving maps beside the .blend file.

They are copied, and what they leave goes with the next save: until then the file on disk, and Undo,
still want them where they were.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import bpy
from bpy.app.handlers import persistent

from .. import maps
from ..errors import OmnixError
from . import paths

_left: list[Path] = []  # folders that maps were moved out of since the file was saved


def move(here: Path, there: Path) -> None:
    """Move the map set `here` to `there`; places, images and scenes of the file follow.

    Raises OmnixError, with all as it was, when that cannot be done or something is there already.
    """
    from .build import place

    report = maps.read_report(here)
    maps.refuse_unless_writable(there)
    if there.exists():
        raise OmnixError(f"{there} exists already; move it away first.")
    with maps.MapSetWriter(there) as writer:
        try:
            shutil.copytree(here, writer.path("."), dirs_exist_ok=True)
        except OSError as error:
            raise OmnixError(
                f"{here} cannot be moved to {there} ({error.strerror or error})."
            ) from None
        writer.publish(report)
    here, folder = here.resolve(), paths.stored(there)
    for collection in place.made_from(here):
        place.set_folder(collection, folder)
    for image in _images_in(here):
        name = Path(bpy.path.abspath(image.filepath)).name
        image.filepath = paths.stored(there / name)
    for scene in _scenes_of(here):
        scene.omnix.folder = folder
    _left.append(here)


def _images_in(folder: Path) -> list[bpy.types.Image]:
    files = [
        (image, Path(bpy.path.abspath(image.filepath)))
        for image in bpy.data.images
        if image.library is None and image.filepath
    ]
    return [image for image, file in files if file.resolve().parent == folder]


def _scenes_of(folder: Path) -> list[bpy.types.Scene]:
    return [
        scene
        for scene in bpy.data.scenes
        if scene.library is None
        and scene.omnix.folder
        and Path(bpy.path.abspath(scene.omnix.folder)).resolve() == folder
    ]


@persistent
def _remove_left(saved: str, *_: object) -> None:
    """After a save: what the file on disk needs no more. A copy of it that was saved elsewhere is
    no reason."""
    from .build import place

    if saved != bpy.data.filepath:
        return
    while _left:
        folder = _left.pop()
        # Who has undone the move uses them again.
        if not (place.made_from(folder) or _images_in(folder) or _scenes_of(folder)):
            shutil.rmtree(folder, ignore_errors=True)


@persistent
def _forget(*_: object) -> None:
    """Another file is loaded: what this one has not saved stays."""
    _left.clear()


def register() -> None:
    bpy.app.handlers.save_post.append(_remove_left)
    bpy.app.handlers.load_pre.append(_forget)


def unregister() -> None:
    bpy.app.handlers.save_post.remove(_remove_left)
    bpy.app.handlers.load_pre.remove(_forget)
