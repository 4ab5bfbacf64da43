# SPDX-License-Identifier: GPL-3.0-or-later
"""Adapter files below a path, told apart by task and adapter name.

Three layouts: `<task>/<adapter>/pytorch_lora_weights.safetensors` (the published one), the
flattened `<task>_<adapter>.safetensors`, and one file per task, `<task>.safetensors` (the compact
engine). Suffixes may be in capitals; what macOS leaves on other disks is passed over.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import OmnixError
from .header import PICKLE_SUFFIXES, is_debris

PUBLISHED_NAME = "pytorch_lora_weights.safetensors"
WEIGHT_SUFFIXES = (".safetensors", *PICKLE_SUFFIXES)
# A network beside the adapters made for it.
BASE_NAME = "base.safetensors"

# Adapters of each OmniX task in batch order, the target last (arXiv 2510.26800, published files).
TASKS = {
    "rgb_to_albedo": ("rgb", "albedo"),
    "rgb_to_normal": ("rgb", "normal"),
    "rgb_camray_to_normal": ("rgb", "camray", "normal"),
    "rgb_to_depth": ("rgb", "depth"),
    "rgb_to_pbr": ("rgb", "pbr"),
    "rgb_to_semantic": ("rgb", "semantic"),
    "image_to_pano": ("masked_rgb", "filled_rgb"),
}


@dataclass(frozen=True)
class Found:
    """An adapter file; `task` is empty for a file whose place and name tell none."""

    task: str
    name: str
    file: Path


def find(path: str | Path) -> list[Found]:
    """All adapters at `path`: one file of any name, or a folder in one of the layouts above.

    Sorted by task, within a task in batch order; a pickled file where an adapter belongs is listed
    too, for `read_header` to refuse. Raises OmnixError where nothing is found, or two files claim
    the same place.
    """
    path = Path(path)
    if not path.is_dir():
        return [_lone(path)]
    found = sorted(_below(path), key=_order)
    if not found:
        raise OmnixError(
            f"{path} holds no adapters; expected <task>/<adapter>/{PUBLISHED_NAME} or "
            "<task>_<adapter>.safetensors inside."
        )
    places: dict[tuple[str, str], Path] = {}
    for item in found:
        other = places.setdefault((item.task, item.name), item.file)
        if other != item.file:
            raise OmnixError(
                f"{other} and {item.file} both claim the adapter {item.name} of {item.task}; "
                "keep one of them."
            )
    return found


def remarks(root: Path, found: list[Found]) -> list[str]:
    """What is wrong with a folder as a set of adapters, in sentences.

    Each known task of which some adapters, but not all, are present; folders that are called as no
    task or adapter is; files of weights where no adapter is looked for.
    """
    return [*_incomplete(root, found), *_misnamed(root, found), *_overlooked(root, found)]


def _incomplete(root: Path, found: list[Found]) -> Iterator[str]:
    for task, names in TASKS.items():
        present = {item.name for item in found if item.task == task}
        lacking = [name for name in names if name not in present]
        if present and lacking:
            yield f"{root} is incomplete: {task} lacks the adapter {' and '.join(lacking)}."


def _misnamed(root: Path, found: list[Found]) -> Iterator[str]:
    for item in found:
        task = item.file.parent.parent
        if item.task not in TASKS and root in task.parents:
            yield f"{task} is named after no task; rename it to one of {', '.join(TASKS)}."
        elif item.task in TASKS and item.name not in TASKS[item.task]:
            yield (
                f"{item.file.parent} is named after no adapter of {item.task}; rename it to one of "
                f"{', '.join(TASKS[item.task])}."
            )


def _overlooked(root: Path, found: list[Found]) -> Iterator[str]:
    claimed = {item.file for item in found}
    # The first patterns look into linked folders too, as the search for adapters does.
    below = {file for pattern in ("*", "*/*", "*/*/*", "**/*") for file in root.glob(pattern)}
    for file in sorted(below - claimed):
        weights = file.suffix.lower() in WEIGHT_SUFFIXES and file.name != BASE_NAME
        if weights and not is_debris(file) and not file.is_dir():
            yield (
                f"{file} is overlooked: expected <task>/<adapter>/{PUBLISHED_NAME} or "
                f"<task>_<adapter>.safetensors; rename it, or move it out of {root}."
            )


def task_files(root: str | Path, task: str) -> dict[str, Path]:
    """Files of one known task below `root`, in batch order.

    Raises OmnixError when one is missing.
    """
    files = {item.name: item.file for item in find(root) if item.task == task}
    lacking = [name for name in TASKS[task] if name not in files]
    if lacking:
        raise OmnixError(
            f"{root} lacks the adapter {' and '.join(lacking)} of {task}; "
            f"expected {Path(task, lacking[0], PUBLISHED_NAME)} or {task}_{lacking[0]}.safetensors."
        )
    return {name: files[name] for name in TASKS[task]}


def _lone(file: Path) -> Found:
    if file.name != PUBLISHED_NAME:
        return Found(*_split(file.stem), file)
    folder = file.absolute().parent
    task = folder.parent.name
    return Found(task if task in TASKS else "", folder.name, file)


def _below(root: Path) -> Iterator[Found]:
    published = Path(PUBLISHED_NAME).stem
    for file in sorted(root.iterdir()):
        if file.stem == published or file.name == BASE_NAME or is_debris(file):
            continue
        task, name = _split(file.stem)
        suffix = file.suffix.lower()
        if suffix == ".safetensors" or (task and suffix in PICKLE_SUFFIXES):
            yield Found(task, name, file)
    # The root itself, or one task's or adapter's folder in its place.
    for pattern in ("", "*/", "*/*/"):
        for file in sorted(root.glob(f"{pattern}{published}.*")):
            if file.suffix.lower() not in WEIGHT_SUFFIXES:
                continue
            folder = file.absolute().parent
            yield Found(folder.parent.name, folder.name, file)


def _split(stem: str) -> tuple[str, str]:
    """Task and adapter of a flattened name; no task where it is none of OmniX's."""
    for task, names in TASKS.items():
        for name in names:
            if stem == f"{task}_{name}":
                return task, name
    return "", stem


def _order(found: Found) -> tuple[str, int, str]:
    names = TASKS.get(found.task, ())
    return found.task, names.index(found.name) if found.name in names else len(names), found.name
