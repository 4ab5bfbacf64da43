# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes Blender's own numpy known to Python's package metadata.

Blender ships numpy as a bare folder. Libraries that ask the metadata for its version, as
transformers does when it is imported, would take it for missing.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np


class _Numpy(metadata.Distribution):
    """What a wheel's METADATA would say of the numpy that is there."""

    def read_text(self, filename: str) -> str | None:
        if filename != "METADATA":
            return None
        return f"Metadata-Version: 2.1\nName: numpy\nVersion: {np.__version__}\n"

    def locate_file(self, path: Any) -> Path:
        return Path(np.__file__).parents[1] / path


class _Finder(metadata.DistributionFinder):
    def find_spec(self, *_: object) -> None:
        """Finds no modules, only metadata."""

    def find_distributions(
        self, context: metadata.DistributionFinder.Context | None = None
    ) -> Iterator[metadata.Distribution]:
        if context is None or context.name in (None, "numpy"):
            yield _Numpy()


def provide_metadata() -> None:
    """Announce numpy where it was installed without metadata."""
    try:
        metadata.version("numpy")
    except metadata.PackageNotFoundError:
        sys.meta_path.append(_Finder())
