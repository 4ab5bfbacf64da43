# SPDX-License-Identifier: GPL-3.0-or-later
"""The rooms and the direction of the arrows between them, read from the source."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "blender_omnix"
MODULES = sorted(PACKAGE.rglob("*.py"))

# What each room may import from the package, besides itself.
SHARED = {"errors", "maps", "panorama"}
HOST = {
    "host",
    "host.build",
    "host.geometry_settings",
    "host.identity",
    "host.paths",
    "host.world_nodes",
}
ALLOWED = {
    "": {"host"},
    "errors": set(),
    "maps": {"errors", "images"},
    "panorama": {"errors"},
    "images": SHARED - {"maps"},
    "checks": SHARED,
    "adapters": SHARED,
    "engines": SHARED | {"adapters"},
    "extract": SHARED | {"", "checks", "engines", "images"},
    "worker.protocol": {"errors"},
    "worker.client": SHARED | {"worker.protocol"},
    "worker.server": SHARED | {"", "worker", "worker.protocol", "extract", "engines"},
    "worker": {"worker.protocol"},
    # What builds a place knows nothing of jobs, panels and operators.
    "host.geometry_settings": set(),
    "host.identity": set(),
    "host.paths": {"errors"},
    "host.world_nodes": {"errors"},
    "host.build": SHARED | HOST - {"host", "host.build"},
    "host": SHARED | HOST | {"", "worker.client", "worker.protocol", "worker"},
    "cli": SHARED | {"", "extract", "adapters", "engines"},
    "__main__": {"cli"},
}
# Third-party packages and the rooms that may import them.
HEAVY = {
    "bpy": HOST,
    "mathutils": HOST,
    "torch": {"engines", "adapters"},
    "peft": {"engines", "adapters"},
    "diffusers": {"engines", "adapters"},
    "transformers": {"engines", "adapters"},
    "safetensors": {"engines", "adapters"},
    "OpenImageIO": {"images"},
    "PIL": {"images"},
}


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(name: str) -> str:
    """The room a module belongs to: the longest entry of ALLOWED that contains it."""
    fits = [entry for entry in ALLOWED if entry and (name + ".").startswith(entry + ".")]
    return max(fits, key=len, default="")


def imports(path: Path) -> tuple[set[str], set[str]]:
    """Modules of the package, and top names of other packages, that a file imports at run time."""
    own, foreign = set(), set()
    package = list(path.relative_to(PACKAGE).parts[:-1])
    names = {module_name(other) for other in MODULES}
    for node in ast.walk(runtime_part(path)):
        if isinstance(node, ast.Import):
            foreign |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            foreign.add((node.module or "").split(".")[0])
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] + (
                node.module.split(".") if node.module else []
            )
            for alias in node.names:
                full = ".".join([*base, alias.name])
                own.add(full if full in names else ".".join(base))
    return own, foreign


def runtime_part(path: Path) -> ast.Module:
    """The syntax tree without `if TYPE_CHECKING:` blocks."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    tree.body = [
        node
        for node in tree.body
        if not (
            isinstance(node, ast.If)
            and isinstance(node.test, ast.Name)
            and node.test.id == "TYPE_CHECKING"
        )
    ]
    return tree


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_arrows_run_one_way(path):
    here = room(module_name(path))
    own, foreign = imports(path)
    wrong = {name for name in own if room(name) != here and room(name) not in ALLOWED[here]}
    assert not wrong, f"{here or 'the package'} may not import {sorted(wrong)}"
    heavy = {name for name in foreign & set(HEAVY) if here not in HEAVY[name]}
    assert not heavy, f"{here or 'the package'} may not import {sorted(heavy)}"
    assert "blender_omnix" not in foreign, "imports inside the package are relative"


def test_there_is_no_circle_between_modules_at_import_time():
    graph = {}
    for path in MODULES:
        tree = runtime_part(path)
        # Imports inside functions run later and cannot close a circle while loading.
        top = ast.Module(
            body=[n for n in tree.body if isinstance(n, ast.ImportFrom)], type_ignores=[]
        )
        package = list(path.relative_to(PACKAGE).parts[:-1])
        targets = set()
        names = {module_name(other) for other in MODULES}
        for node in ast.walk(top):
            if isinstance(node, ast.ImportFrom) and node.level:
                base = package[: len(package) - node.level + 1] + (
                    node.module.split(".") if node.module else []
                )
                for alias in node.names:
                    full = ".".join([*base, alias.name])
                    targets.add(full if full in names else ".".join(base))
        graph[module_name(path)] = targets - {module_name(path)}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail, name))
        if name not in done:
            for target in graph.get(name, ()):
                # A package's __init__ that gathers its own modules is not a circle.
                if not (name + ".").startswith(target + "."):
                    visit(target, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())
