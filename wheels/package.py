# SPDX-License-Identifier: GPL-3.0-or-later
"""Build and validate the extension's zip in dist/.

    python wheels/package.py           with this machine's wheels inside
    python wheels/package.py --slim    without: the worker needs an external Python

Wheels, and the platform and Python version that they tie the zip to, are added to a copy of the
manifest.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import fetch

ROOT = fetch.WHEELS.parent
MANIFEST = "blender_manifest.toml"
# Blender 5.1 went from Python 3.11 to 3.13, for which these wheels are not made.
BLENDER_VERSION_MAX = "5.1.0"
SHIPPED = (
    *("__init__.py", MANIFEST, "blender_omnix"),
    *("README.md", "CHANGELOG.md", "LICENSE", "LICENSE-WEIGHTS"),
)


def package(wheels: list[Path], output: Path) -> None:
    """Build `output` with the given wheels bundled, and validate it.

    Raises SystemExit when Blender's tool refuses.
    """
    output.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent) as folder:
        stage = Path(folder)
        _copy_shipped(stage)
        if wheels:
            (stage / "wheels").mkdir()
            for wheel in wheels:
                shutil.copy(wheel, stage / "wheels")
            _add_wheels(stage / MANIFEST, wheels)
        _blender_ext("build", "--source-dir", str(stage), "--output-filepath", str(output))
    _blender_ext("validate", str(output))


def _copy_shipped(stage: Path) -> None:
    """Copy what ships, and nothing else that lies about in the repository."""
    for name in SHIPPED:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, stage / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, stage / name)


def _add_wheels(manifest: Path, wheels: list[Path]) -> None:
    """List the wheels, and tie the manifest to their platform and Python."""
    additions = {
        "blender_version_max": BLENDER_VERSION_MAX,
        "platforms": [fetch.blender_platform()],
        "wheels": [f"./wheels/{wheel.name}" for wheel in wheels],
    }
    # Strings and lists of strings are the same in JSON and TOML.
    lines = [f"{key} = {json.dumps(value)}" for key, value in additions.items()]
    top, tables = manifest.read_text("utf-8").split("\n[", 1)
    manifest.write_text("\n".join([top, *lines, "", f"[{tables}"]), encoding="utf-8")


def _blender_ext(*arguments: str) -> None:
    """Run the packaging tool that comes with Blender."""
    spec = importlib.util.find_spec("bpy")
    if spec is None or spec.origin is None:
        sys.exit("Blender's Python module is missing: `make zip` sets it up.")
    tool = next(Path(spec.origin).parent.glob("*/scripts/addons_core/bl_pkg/cli/blender_ext.py"))
    if subprocess.run([sys.executable, str(tool), *arguments], check=False).returncode:
        sys.exit(f"Blender's tool could not {arguments[0]} the extension; its reason stands above.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slim", action="store_true", help="leave the wheels out")
    parser.add_argument("--wheelhouse", type=Path, help="take the wheels from this folder")
    args = parser.parse_args()
    manifest = tomllib.loads((ROOT / MANIFEST).read_text("utf-8"))
    kind = "slim" if args.slim else fetch.target()
    output = ROOT / "dist" / f"{manifest['id']}-{manifest['version']}-{kind}.zip"
    package([] if args.slim else fetch.fetch(args.wheelhouse), output)
    print(f"{output}: {output.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
