# SPDX-License-Identifier: GPL-3.0-or-later
"""What stands beside the package: the fetching of wheels, the set-up, the demo."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def stub_wheel(folder, version, tag="py3-none-any", needs=""):
    """A wheel of torch with nothing in it."""
    folder.mkdir(exist_ok=True)
    info = f"torch-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n{needs}"
    kind = f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n"
    with zipfile.ZipFile(folder / f"torch-{version}-{tag}.whl", "w") as archive:
        archive.writestr(f"{info}/METADATA", metadata)
        archive.writestr(f"{info}/WHEEL", kind)
        archive.writestr(f"{info}/RECORD", "")


@pytest.fixture
def fetch(tmp_path, monkeypatch):
    """wheels/fetch.py, which keeps its wheels elsewhere and wants torch alone."""
    spec = importlib.util.spec_from_file_location("fetch", ROOT / "wheels" / "fetch.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "WHEELS", tmp_path)
    module.lock_file().write_text("torch==2.0\n")
    return module


def test_a_refused_wheel_is_not_kept_beside_the_right_one(fetch, tmp_path):
    house = tmp_path / "house"
    stub_wheel(house, "2.0", needs="Requires-Dist: nvidia-cublas\n")
    with pytest.raises(SystemExit, match="needs nvidia-cublas"):
        fetch.fetch(house)
    stub_wheel(house, "2.0+cpu")
    stub_wheel(fetch.folder().with_name(f"{fetch.target()}.new"), "1.0")  # of one that was ended
    assert [wheel.name for wheel in fetch.fetch(house)] == ["torch-2.0+cpu-py3-none-any.whl"]
    # The same version under a tag that fits better takes the other's place.
    stub_wheel(house, "2.0+cpu", "py311-none-any")
    assert [wheel.name for wheel in fetch.fetch(house)] == ["torch-2.0+cpu-py311-none-any.whl"]
    assert not list(tmp_path.glob("*.new"))
    assert fetch.folder().stat().st_mode == house.stat().st_mode


def test_the_demo_of_a_missing_panorama_is_one_sentence_and_leaves_nothing(tmp_path):
    out = tmp_path / "demo"
    command = [sys.executable, str(ROOT / "benchmarks" / "demo.py")]
    command += ["--panorama", str(tmp_path / "typo.exr"), "--out", str(out)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    (sentence,) = result.stderr.splitlines()
    assert sentence.startswith("There is no file") and "typo.exr" in sentence
    assert not out.exists()


STAND_IN = """#!/bin/sh
case "$1 $2" in
    "-m venv") mkdir -p "$3/bin" "$3/lib/python3.11/site-packages"; cp "$0" "$3/bin/python" ;;
    "-m pip") cat > /dev/null ;;
esac
"""


def set_up_an_older_blender(tmp_path, python):
    """What `make test-matrix` does first."""
    variables = [f"VENV={tmp_path / 'venv'}", f"PYTHON={python}"]
    command = ["make", *variables, str(tmp_path / "venv-4.2" / ".ready")]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_set_up_makes_the_package_importable_in_any_folder(tmp_path):
    python = tmp_path / "python"
    python.write_text(STAND_IN)
    python.chmod(0o755)
    result = set_up_an_older_blender(tmp_path, python)
    assert result.returncode == 0, result.stderr
    packages = tmp_path / "venv" / "lib" / "python3.11" / "site-packages"
    assert (packages / "blender_omnix.pth").read_text() == f"{ROOT}\n"


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_set_up_for_an_older_blender_checks_the_python_too(tmp_path):
    result = set_up_an_older_blender(tmp_path, tmp_path / "python")
    assert result.returncode and "Python 3.11 is missing" in result.stderr
