# SPDX-License-Identifier: GPL-3.0-or-later
"""The zip as users get it: what is in it, and that it works where nothing else is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

from blender_omnix import maps

from .conftest import EXTENSION

ROOT = Path(__file__).parents[1]
MANIFEST = tomllib.loads((ROOT / "blender_manifest.toml").read_text("utf-8"))

pytestmark = [pytest.mark.zip, pytest.mark.blender]


def build(kind, *arguments):
    """The zip that `make zip` builds; the tool validates it."""
    pytest.importorskip("bpy")
    command = [sys.executable, str(ROOT / "wheels" / "package.py"), *arguments]
    subprocess.run(command, check=True)
    (path,) = (ROOT / "dist").glob(f"{MANIFEST['id']}-{MANIFEST['version']}-{kind}.zip")
    return path


@pytest.fixture(scope="module")
def slim_zip():
    stray = ROOT / "stray"  # as maps, pictures and checkpoints come to lie about
    stray.mkdir()
    try:
        (stray / "albedo.png").touch()
        return build("slim", "--slim")
    finally:
        shutil.rmtree(stray)


@pytest.fixture(scope="module")
def full_zip():
    return build("*-py311")


def test_the_slim_zip_holds_the_extension_and_nothing_else(slim_zip):
    with zipfile.ZipFile(slim_zip) as archive:
        names = archive.namelist()
        manifest = tomllib.loads(archive.read("blender_manifest.toml").decode())
    top = {name.split("/")[0] for name in names}
    documents = {"README.md", "CHANGELOG.md", "LICENSE", "LICENSE-WEIGHTS"}
    assert top == {"__init__.py", "blender_manifest.toml", "blender_omnix", *documents}
    assert not [name for name in names if "__pycache__" in name or name.endswith(".pyc")]
    package = ROOT / "blender_omnix"
    modules = {f"blender_omnix/{p.relative_to(package).as_posix()}" for p in package.rglob("*.py")}
    assert modules <= set(names)
    assert [name for name in names if name.endswith(".safetensors")]
    assert "wheels" not in manifest


def clean_python(folder):
    """An interpreter that has Blender and its numpy, and no other package."""
    venv.create(folder, with_pip=False)
    here = Path(sysconfig.get_path("purelib"))
    there = next(folder.glob("lib/python*/site-packages"))
    for name in ("bpy", "numpy", "numpy.libs"):
        (there / name).symlink_to(here / name, target_is_directory=True)
    return folder / "bin" / "python"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the layout of the clean environment")
def test_the_full_zip_extracts_in_a_clean_blender(full_zip, tmp_path):
    python = clean_python(tmp_path / "clean")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "OMNIX"))}
    environment["BLENDER_USER_RESOURCES"] = str(tmp_path / "profile")

    def run(code):
        command = [python, "-c", "import bpy\n" + code]
        subprocess.run(command, env=environment, check=True, timeout=500, cwd=tmp_path)

    run(
        "bpy.ops.extensions.package_install_files("
        f"filepath={str(full_zip)!r}, repo='user_default', enable_on_install=True)"
    )
    run(
        "from pathlib import Path\n"
        f"bpy.ops.preferences.addon_enable(module={EXTENSION!r})\n"
        "lights = Path(bpy.utils.resource_path('LOCAL'), 'datafiles', 'studiolights', 'world')\n"
        "bpy.ops.omnix.extract_pbr(filepath=str(lights / 'interior.exr'), size=256,"
        f" directory={str(tmp_path / 'maps')!r})\n"
        "assert 'OmniX interior' in bpy.data.collections"
    )

    report = maps.read_report(tmp_path / "maps")
    assert set(maps.map_files(tmp_path / "maps")) == {*maps.DEFAULT_MAPS, "panorama"}
    assert report["adapters"]
    assert {"torch", "peft", "safetensors", "OpenImageIO"} <= set(report["versions"])
