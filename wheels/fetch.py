# SPDX-License-Identifier: GPL-3.0-or-later
"""Fetch the wheels that the extension bundles, or renew the lock file that lists them.

    python wheels/fetch.py           download what wheels/<platform>-py311.txt pins
    python wheels/fetch.py --lock    write that file from pyproject.toml

pip does the work, so its own variables (PIP_INDEX_URL, PIP_FIND_LINKS, ...) say where from;
--wheelhouse DIR takes everything from one folder instead. numpy is left out: Blender has its own,
and the folder that bundled wheels are unpacked to is shared by all extensions.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from email.parser import HeaderParser
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

WHEELS = Path(__file__).resolve().parent
BLENDERS_OWN = {"numpy"}
_SYSTEMS = {"Linux": "linux", "Darwin": "macos", "Windows": "windows"}
_MACHINES = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "arm64": "arm64"}


def blender_platform() -> str:
    """This machine as manifests name it, such as linux-x64."""
    return f"{_SYSTEMS[platform.system()]}-{_MACHINES[platform.machine().lower()]}"


def target() -> str:
    """Platform and Python version, which a set of wheels is made for."""
    return f"{blender_platform()}-py{sysconfig.get_config_var('py_version_nodot')}"


def lock_file() -> Path:
    return WHEELS / f"{target()}.txt"


def folder() -> Path:
    return WHEELS / target()


def fetch(wheelhouse: Path | None = None) -> list[Path]:
    """Download the pinned wheels that are not there yet; all of them, sorted.

    Raises SystemExit with a sentence when pip fails or a wheel needs one that is not pinned; then
    those that were there stay.
    """
    pins = _pins(lock_file())
    folder().mkdir(exist_ok=True)
    # Into a new folder, which holds what pip chose and nothing that an earlier call left.
    fresh = folder().with_name(f"{target()}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    try:
        _pip(
            "download",
            *("--no-deps", "--only-binary=:all:", "--quiet", "--dest", str(fresh)),
            *("--find-links", str(folder())),
            *(f"{name}=={version}" for name, version in pins.items()),
            wheelhouse=wheelhouse,
        )
        _refuse_unpinned(sorted(fresh.glob("*.whl")), set(pins))
        shutil.rmtree(folder())
        fresh.rename(folder())
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return sorted(folder().glob("*.whl"))


def lock(wheelhouse: Path | None = None) -> None:
    """Resolve pyproject.toml's dependencies and pin all that they need."""
    project = tomllib.loads((WHEELS.parent / "pyproject.toml").read_text("utf-8"))["project"]
    report = _pip(
        "install",
        *("--dry-run", "--ignore-installed", "--quiet", "--report", "-"),
        *("--only-binary=:all:", *project["dependencies"]),
        wheelhouse=wheelhouse,
    )
    pins = {
        canonicalize_name(entry["metadata"]["name"]): entry["metadata"]["version"].split("+")[0]
        for entry in json.loads(report)["install"]
    }
    lines = [f"{name}=={pins[name]}" for name in sorted(pins) if name not in BLENDERS_OWN]
    lock_file().write_text("\n".join(lines) + "\n", encoding="utf-8")


def _pip(command: str, *arguments: str, wheelhouse: Path | None) -> str:
    source = ("--no-index", "--find-links", str(wheelhouse)) if wheelhouse else ()
    result = subprocess.run(
        [sys.executable, "-m", "pip", command, *source, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if result.returncode:
        sys.exit(f"pip could not {command} the wheels for {target()}; its reason stands above.")
    return result.stdout


def _pins(path: Path) -> dict[str, str]:
    if not path.is_file():
        sys.exit(f"{path} is missing; write it with `python wheels/fetch.py --lock`.")
    pins = (line.split("==") for line in path.read_text("utf-8").split() if line)
    return {canonicalize_name(name): version for name, version in pins}


def _refuse_unpinned(wheels: list[Path], pinned: set[str]) -> None:
    """A wheel whose requirements are not all bundled would fail in the user's Blender.

    So does the CUDA build of torch, which wants a dozen more.
    """
    for wheel in wheels:
        missing = sorted(name for name in requirements(wheel) if name not in pinned | BLENDERS_OWN)
        if missing:
            sys.exit(
                f"{wheel.name} needs {', '.join(missing)}, which {lock_file().name} does not "
                "pin. Where torch is that wheel, let pip find its CPU build; else renew the lock."
            )


def requirements(wheel: Path) -> set[str]:
    """The packages that a wheel needs on this machine."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        metadata = HeaderParser().parsestr(archive.read(name).decode("utf-8"))
    needs = map(Requirement, metadata.get_all("Requires-Dist", []))
    return {
        canonicalize_name(need.name)
        for need in needs
        if need.marker is None or need.marker.evaluate({"extra": ""})
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lock", action="store_true", help="renew the lock file")
    parser.add_argument("--wheelhouse", type=Path, help="take all wheels from this folder")
    args = parser.parse_args()
    if args.lock:
        lock(args.wheelhouse)
        print(lock_file())
    else:
        wheels = fetch(args.wheelhouse)
        size = sum(wheel.stat().st_size for wheel in wheels)
        print(f"{folder()}: {len(wheels)} wheels, {size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
