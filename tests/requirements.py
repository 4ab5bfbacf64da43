# SPDX-License-Identifier: GPL-3.0-or-later
"""Print the pinned requirements of pyproject.toml, one a line, for pip."""

import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
print("\n".join(project["dependencies"] + project["optional-dependencies"]["dev"]))
