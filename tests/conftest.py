# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures that need Blender: a profile of its own with the extension installed in it."""

from __future__ import annotations

import importlib
import importlib.util
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

    Its worker runs on the Python in OMNIX_TEST_PYTHON, where that is set: an environment for
    another Blender has no torch.
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


@pytest.fixture
def fake_worker(host, monkeypatch):
    """Let the extension run `tests.fake_worker`; the mode of its engine can be given.

    One that still serves goes on for the next test: starting it takes longer than most tests.
    """
    skip_without_worker_packages()
    job, operators = host("job"), host("operators")

    def run(mode="quick"):
        monkeypatch.setattr(job, "WORKER", "tests.fake_worker")
        monkeypatch.setattr(operators, "engine_options", lambda *_: {"mode": mode})

    run()
    yield run
    if job.current() is None and job.worker_lives():
        job._job = None
    else:
        job.close()


def skip_without_worker_packages():
    if "OMNIX_TEST_PYTHON" not in os.environ and not importlib.util.find_spec("OpenImageIO"):
        pytest.skip("no worker here: name a Python that has its packages in OMNIX_TEST_PYTHON")
