# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures that need Blender: a profile of its own with the extension installed in it."""

from __future__ import annotations

import importlib
import os
import shutil
import tempfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
EXTENSION = "bl_ext.user_default.blender_omnix"
# Blender reads this once, when bpy is first imported, so it stands before any test module.
_PROFILE = "BLENDER_USER_RESOURCES"


def pytest_configure(config):
    config.stash[_profile_key] = os.environ[_PROFILE] = tempfile.mkdtemp(prefix="omnix-profile-")


def pytest_unconfigure(config):
    shutil.rmtree(config.stash[_profile_key], ignore_errors=True)


_profile_key = pytest.StashKey[str]()


@pytest.fixture(scope="session")
def enabled_extension():
    """The repository as an installed extension, enabled; its module name.

    Takes its profile's folder for everything that it writes. The worker runs on the Python in
    OMNIX_TEST_PYTHON, where that is set: an environment for another Blender has no torch.
    """
    bpy = pytest.importorskip("bpy")
    extensions = Path(os.environ[_PROFILE]) / "extensions" / "user_default"
    extensions.mkdir(parents=True)
    (extensions / "blender_omnix").symlink_to(REPOSITORY, target_is_directory=True)
    bpy.ops.preferences.addon_enable(module=EXTENSION)
    preferences = bpy.context.preferences.addons[EXTENSION].preferences
    preferences.python = os.environ.get("OMNIX_TEST_PYTHON", "")
    return EXTENSION


@pytest.fixture
def blender(enabled_extension):
    """bpy with the extension enabled, in an empty unsaved file with one scene and no world."""
    import bpy

    bpy.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)
    return bpy


@pytest.fixture
def host(enabled_extension):
    """Import a module of the package as Blender did: `host("job")` is `...host.job`."""
    return lambda name: importlib.import_module(f"{EXTENSION}.blender_omnix.host.{name}")
