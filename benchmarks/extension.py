# SPDX-License-Identifier: GPL-3.0-or-later
"""The repository as an enabled extension in a profile of its own, and a Blender that is quiet."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

REPOSITORY = Path(__file__).resolve().parent.parent
MODULE = "bl_ext.user_default.blender_omnix"


def enable() -> ModuleType:
    """Start bpy with a profile of its own, enable the extension in it and return bpy.

    The worker runs on this Python. Must come before anything else imports bpy: the profile's
    place is read once.
    """
    profile = tempfile.mkdtemp(prefix="omnix-profile-")
    atexit.register(shutil.rmtree, profile, ignore_errors=True)
    os.environ["BLENDER_USER_RESOURCES"] = profile
    extensions = Path(profile) / "extensions" / "user_default"
    extensions.mkdir(parents=True)
    (extensions / "blender_omnix").symlink_to(REPOSITORY, target_is_directory=True)
    import bpy

    bpy.ops.preferences.addon_enable(module=MODULE)
    return bpy


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Send what Blender prints on standard output to nowhere."""
    sys.stdout.flush()
    saved = os.dup(1)
    with open(os.devnull, "w") as sink:
        os.dup2(sink.fileno(), 1)
    try:
        yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)
