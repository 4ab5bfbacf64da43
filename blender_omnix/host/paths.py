# SPDX-License-Identifier: GPL-3.0-or-later
"""Paths: those that the user gives, those that a .blend file remembers, and scratch folders."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import bpy

from ..errors import OmnixError


def absolute(path: str, library: bpy.types.Library | None = None) -> str:
    """A path of Blender's as the system knows it; `//` is the folder of the .blend file, or of the
    library that the path is from.

    A file that was saved on Windows may have backslashes there. Blender reads its images by them on
    every system, but `bpy.path.abspath` does not.
    """
    if path.startswith("//") and os.sep == "/":
        path = path.replace("\\", "/")
    start = os.path.dirname(absolute(library.filepath)) if library else None
    return bpy.path.abspath(path, start=start)


def is_file(path: Path) -> bool:
    """Whether there is such a file; one that the system refuses to look at is as good as gone."""
    try:
        return path.is_file()
    except OSError:
        return False


def same(one: Path, other: Path) -> bool:
    """Whether two paths lead to one folder, also where the disk knows no upper and lower case."""
    try:
        return one.samefile(other)
    except OSError:
        return one.resolve() == other.resolve()


def chosen(path: str) -> Path:
    """A path that the user gave as an absolute one; `//` is the folder of the .blend file.

    Raises OmnixError for none, and for one with `//` while the file is not saved.
    """
    if not path:
        raise OmnixError("Nothing is chosen; choose a file or folder.")
    if path.startswith("//") and not bpy.data.filepath:
        raise OmnixError(
            f"{path} is beside the .blend file, which is not saved; save it, or choose another "
            "place."
        )
    return Path(os.path.abspath(absolute(path)))


def stored(path: Path | str) -> str:
    """A path as the file is to remember it: relative where it lies in the folder of the .blend, so
    that the folder can be moved as a whole; absolute elsewhere, and where the user prefers it."""
    path = os.path.abspath(absolute(str(path)))
    if not bpy.data.filepath or not bpy.context.preferences.filepaths.use_relative_paths:
        return path
    folder = Path(bpy.data.filepath).parent
    # As it is written, or else where links lead: a project may be reached in several ways.
    for file, beside in ((Path(path), folder), (Path(path).resolve(), folder.resolve())):
        if file.is_relative_to(beside):
            return f"//{file.relative_to(beside).as_posix()}"
    return path


def scratch() -> tempfile.TemporaryDirectory:
    """A folder for the files of one job, which goes when it is dropped. Raises OmnixError."""
    try:
        # Windows does not remove a file that is in use: that is no reason to end in an error.
        return tempfile.TemporaryDirectory(
            prefix="omnix-", dir=bpy.app.tempdir or None, ignore_cleanup_errors=True
        )
    except OSError as error:
        raise unwritable(error) from None


def unwritable(error: OSError) -> OmnixError:
    """What to tell where a scratch file cannot be written."""
    return OmnixError(
        f"The folder for temporary files, {bpy.app.tempdir or tempfile.gettempdir()}, cannot be "
        f"written to ({error.strerror or error}); free some space, or choose another in the "
        "preferences (File Paths)."
    )
