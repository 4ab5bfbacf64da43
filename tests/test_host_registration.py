# SPDX-License-Identifier: GPL-3.0-or-later
"""Enabling, disabling, the manifest, and the habits of Blender's user interface."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from blender_omnix import __version__

from .conftest import EXTENSION

ROOT = Path(__file__).parents[1]
MANIFEST = tomllib.loads((ROOT / "blender_manifest.toml").read_text("utf-8"))
# Words that stay small in Blender's titles.
SMALL = {"from", "to", "of", "the", "a", "and", "in", "on", "as", "with", "by"}


def test_versions_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert MANIFEST["version"] == project["version"] == __version__
    assert f"\n## {__version__} " in changelog


def test_the_manifest_keeps_the_platforms_rules():
    assert MANIFEST["id"] == "blender_omnix"
    assert "blender" not in MANIFEST["name"].lower()
    assert MANIFEST["blender_version_min"] == "4.2.0"
    assert "SPDX:GPL-3.0-or-later" in MANIFEST["license"]
    for text in (MANIFEST["tagline"], *MANIFEST["permissions"].values()):
        assert len(text) <= 64
        assert text[-1].isalnum()


def footprint(bpy):
    """What an extension can leave behind in Blender."""
    handlers = {
        name: [function.__module__ for function in functions]
        for name in dir(bpy.app.handlers)
        if isinstance(functions := getattr(bpy.app.handlers, name), list)
    }
    return {
        "classes": {name for name in dir(bpy.types) if name.startswith("OMNIX")},
        "operators": set(dir(bpy.ops.omnix)),
        "scene": {prop.identifier for prop in bpy.types.Scene.bl_rna.properties},
        "handlers": handlers,
    }


@pytest.mark.blender
def test_disabling_leaves_nothing(blender, host):
    enabled = footprint(blender)
    assert "omnix" in enabled["scene"]
    blender.ops.preferences.addon_disable(module=EXTENSION)
    try:
        disabled = footprint(blender)
        assert disabled["classes"] == set()
        assert disabled["operators"] == set()
        assert "omnix" not in disabled["scene"]
        assert not any("blender_omnix" in str(names) for names in disabled["handlers"].values())
    finally:
        blender.ops.preferences.addon_enable(module=EXTENSION)
        preferences = blender.context.preferences.addons[EXTENSION].preferences
        preferences.python = os.environ.get("OMNIX_TEST_PYTHON", "")
    assert footprint(blender) == enabled


def blender_process(code, profile):
    """Run Python with bpy in a process and a profile of their own; what it prints."""
    repository = profile / "extensions" / "user_default"
    repository.mkdir(parents=True)
    (repository / "blender_omnix").symlink_to(ROOT, target_is_directory=True)
    environment = os.environ | {"BLENDER_USER_RESOURCES": str(profile)}
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


@pytest.mark.blender
def test_enabling_imports_nothing_but_blender_and_the_standard_library(tmp_path):
    pytest.importorskip("bpy")
    code = f"""
import sys, bpy
before = set(sys.modules)
bpy.ops.preferences.addon_enable(module={EXTENSION!r})
assert hasattr(bpy.types.Scene, "omnix")
# What panels ask.
assert not bpy.ops.omnix.open_folder.poll()
assert not [module for module in sys.modules if module.endswith("host.build")]
for name in sorted({{module.split(".")[0] for module in set(sys.modules) - before}}):
    if name not in sys.stdlib_module_names:
        print("imported", name)
"""
    imported = {line.split()[1] for line in blender_process(code, tmp_path) if "imported" in line}
    # bl_pkg is Blender's own, and loads when the first extension is enabled.
    assert imported <= {"bl_ext", "bl_pkg", "bpy", "_bpy_internal"}


@pytest.mark.blender
def test_an_extraction_imports_no_bundled_package_into_blender(blender, fake_worker, tmp_path):
    """Only numpy, which is Blender's own, is used to build what the worker's packages made."""
    code = f"""
import importlib, sys, bpy
bpy.ops.preferences.addon_enable(module={EXTENSION!r})
bpy.context.preferences.addons[{EXTENSION!r}].preferences.python = {worker_python()!r}
importlib.import_module({EXTENSION!r} + ".blender_omnix.host.job").WORKER = "tests.fake_worker"
image = bpy.data.images.new("Grid", 128, 64)
image.generated_type = "COLOR_GRID"
image.filepath_raw, image.file_format = {str(tmp_path / "grid.png")!r}, "PNG"
image.save()
bpy.ops.omnix.extract_pbr(filepath=image.filepath_raw, directory={str(tmp_path / "maps")!r})
assert "OmniX grid" in bpy.data.collections
print("imported", *sorted({{module.split(".")[0] for module in sys.modules}}))
"""
    *_, last = (line for line in blender_process(code, tmp_path / "profile") if "imported" in line)
    bundled = {"torch", "peft", "diffusers", "transformers", "safetensors", "PIL", "OpenImageIO"}
    imported = set(last.split())
    assert "numpy" in imported
    assert not imported & bundled


def worker_python():
    return os.environ.get("OMNIX_TEST_PYTHON", "")


def own_types(bpy):
    bases = (bpy.types.Operator, bpy.types.Panel, bpy.types.PropertyGroup)
    kinds = [kind for base in bases for kind in base.__subclasses__()]
    return [kind for kind in kinds if kind.__module__.startswith(EXTENSION) and kind.is_registered]


def own_operators(bpy):
    names = [name for name in dir(bpy.ops.omnix) if not name.startswith("_")]
    return [getattr(bpy.ops.omnix, name).get_rna_type() for name in names]


@pytest.mark.blender
def test_labels_are_titles_and_tooltips_do_not_end_in_a_period(blender):
    labels = [kind.bl_label for kind in own_types(blender) if hasattr(kind, "bl_label")]
    tooltips = [operator.description for operator in own_operators(blender)]
    groups = [blender.types.Scene.omnix.keywords["type"].bl_rna, *own_operators(blender)]
    for properties in (group.properties for group in groups):
        own = [p for p in properties if p.identifier not in {"rna_type", "name"}]
        labels += [prop.name for prop in own]
        tooltips += [prop.description for prop in own]
    assert len(tooltips) > 20
    for text in tooltips:
        assert text
        assert "\n" not in text
        assert not text.endswith("."), text
    for label in labels:
        words = [word for word in label.split() if word not in SMALL and word[0].isalpha()]
        assert words
        assert all(word[0].isupper() for word in words), label


@pytest.mark.blender
def test_only_applying_results_is_an_undo_step(blender):
    operators = [kind for kind in own_types(blender) if issubclass(kind, blender.types.Operator)]
    undo = {kind.bl_idname for kind in operators if "UNDO" in getattr(kind, "bl_options", ())}
    assert "omnix.extract_pbr" not in undo
    assert {"omnix.load_maps", "omnix.move_maps"} <= undo


@pytest.mark.blender
def test_the_report_is_put_in_few_words(host):
    report = host("report")
    adapters = [
        {"modules_expected": 17, "modules_injected": 17},
        {"modules_expected": 17, "modules_injected": 12},
    ]
    contents = {
        "size": [1024, 512],
        "engine": "compact",
        "seconds": {"Albedo": 2.0, "Depth": 1.4},
        "adapters": adapters,
    }
    assert report.summary(contents) == "1024 x 512, compact engine, 3 s"
    assert report.adapters_summary(contents) == "2 adapters, 29 of 34 modules injected"
    assert report.duration(600) == "10 min"


@pytest.mark.blender
def test_a_depth_map_is_readable_in_its_thumbnail(blender, host, tmp_path):
    thumbnails = host("thumbnails")
    # Metres: 1 in the left half, 4 in the right one; the sky above.
    depth = np.ones((32, 64, 4), np.float32)
    depth[:, 32:, :3] = 4.0
    depth[16:, :, :3] = 0.0
    image = blender.data.images.new("Depth", 64, 32, float_buffer=True, is_data=True)
    image.pixels.foreach_set(depth.ravel())
    image.filepath_raw, image.file_format = str(tmp_path / "depth.exr"), "OPEN_EXR"
    image.save()
    images = set(blender.data.images.keys())
    thumbnails.icon("depth", tmp_path / "depth.exr")
    # Those drawn first are gone or damaged by now.
    for name in ("gone.exr", "damaged.exr"):
        (tmp_path / name).write_bytes(b"no image")
        thumbnails.icon("depth", tmp_path / name)
    (tmp_path / "gone.exr").unlink()
    thumbnails.draw_waiting()
    preview = next(iter(thumbnails._previews.values()))
    assert tuple(preview.image_size) == (256, 128)
    shown = np.empty((128, 256, 4), np.float32)
    preview.image_pixels_float.foreach_get(shown.ravel())
    for column, row, grey in ((64, 32, 1.0), (192, 32, 0.05), (64, 96, 0.0)):
        assert shown[row, column] == pytest.approx((grey, grey, grey, 1.0), abs=0.02)
    assert set(blender.data.images.keys()) == images
    thumbnails.forget()
    assert not blender.app.timers.is_registered(thumbnails.draw_waiting)


@pytest.mark.blender
def test_what_the_preferences_say_reaches_the_flux_engine(blender, host):
    chosen = host("preferences").get(blender.context)
    names = ("weights", "adapters", "device", "fp8", "height")
    wanted = {
        "weights": "/models/flux",
        "adapters": "/models/omnix",
        "device": "cuda:1",
        "fp8": True,
        "height": 512,
    }
    before = {name: getattr(chosen, f"flux_{name}") for name in names}
    try:
        for name in names:
            setattr(chosen, f"flux_{name}", wanted[name])
        options = host("operators").engine_options(blender.context, "FLUX")
        assert options == wanted
        assert host("operators").engine_options(blender.context, "COMPACT") == {}
    finally:
        for name in names:
            setattr(chosen, f"flux_{name}", before[name])
    pytest.importorskip("torch")
    from blender_omnix.engines.flux import engine

    made = engine.FluxEngine(**options)
    assert (made.device, made.fp8, made.height) == ("cuda:1", True, 512)
    limits = chosen.bl_rna.properties["flux_height"]
    assert (limits.hard_min, limits.hard_max) == (engine.MIN_HEIGHT, engine.MAX_HEIGHT)
    assert limits.default == engine.MAX_HEIGHT
