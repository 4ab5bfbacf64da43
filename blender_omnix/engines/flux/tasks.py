# SPDX-License-Identifier: GPL-3.0-or-later
"""Which perception task makes which map."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """`maps` are what the decoded target holds, `title` is the stage the user sees."""

    maps: tuple[str, ...]
    title: str


TASKS: dict[str, Task] = {
    "rgb_to_albedo": Task(("albedo",), "Albedo"),
    "rgb_to_normal": Task(("normal",), "Normal"),
    "rgb_camray_to_normal": Task(("normal",), "Normal"),
    "rgb_to_pbr": Task(("roughness", "metallic"), "PBR"),
    "rgb_to_depth": Task(("depth",), "Depth"),
    "rgb_to_semantic": Task(("semantic",), "Semantic"),
}
MAPS = frozenset(name for task in TASKS.values() for name in task.maps)


def needed(maps: Collection[str], camera_rays: bool) -> list[str]:
    """The tasks that yield `maps`, in the order of TASKS; depth always, for its sky.

    `camera_rays` chooses the normals that are also conditioned on the ray directions.
    """
    unused = "rgb_to_normal" if camera_rays else "rgb_camray_to_normal"
    wanted = {*maps, "depth"}
    return [name for name, task in TASKS.items() if name != unused and wanted & set(task.maps)]
