# SPDX-License-Identifier: GPL-3.0-or-later
"""Blender's numpy, which comes without metadata."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]


def test_numpys_version_is_known_without_its_metadata(tmp_path):
    # As in Blender: the bare folders, and no site-packages around them.
    for name in ("numpy", "numpy.libs"):
        folder = Path(sysconfig.get_path("platlib"), name)
        if folder.is_dir():
            (tmp_path / name).symlink_to(folder, target_is_directory=True)
    code = f"""
import sys
sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]
from importlib import metadata
try:
    metadata.version("numpy")
except metadata.PackageNotFoundError:
    print("unknown")
from blender_omnix.worker.blender_numpy import provide_metadata
provide_metadata()
print(metadata.version("numpy"))
"""
    printed = subprocess.run(
        [sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True
    )
    assert printed.stdout.split() == ["unknown", np.__version__]
