# SPDX-License-Identifier: GPL-3.0-or-later
"""Extracting one map of a place again: from what its report records, into the same map set."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bpy

from .. import maps
from ..errors import OmnixError
from . import paths, source


@dataclass(frozen=True)
class Renewal:
    """One map of the map set `folder`, for the place of that name.

    `standing` is the time of that map when this began (see `maps.times`), None where there was
    none. `scratch` is where the worker extracts it, to be removed after the job.
    """

    place: str
    map: str
    folder: Path
    standing: int | None
    scratch: tempfile.TemporaryDirectory


def plan(
    collection: bpy.types.Collection, name: str
) -> tuple[Renewal, source.Source, dict[str, Any]]:
    """What to do to extract one map of a place again; its panorama and the worker's settings.

    Raises OmnixError where the place's maps or their panorama are gone.
    """
    from .build import place

    folder = place.folder_of(collection)
    report = maps.read_report(folder)
    recorded = report.get("settings", {})
    panorama = report.get("source", {}).get("path")
    if panorama is None or not {"engine", "camera_height", "options"} <= recorded.keys():
        raise OmnixError(
            f"{folder / maps.REPORT} does not say how its maps were made; extract the panorama "
            "as a whole."
        )
    found = _panorama(collection, Path(panorama))
    scratch = paths.scratch()
    standing = maps.times(folder).get(name)
    renewal = Renewal(place.name_of(collection), name, folder, standing, scratch)
    return renewal, found, recorded | {"maps": [name]}


def _panorama(collection: bpy.types.Collection, recorded: Path) -> source.Source:
    """The file that the report records, or what the place shows where that has served its job."""
    from .build import place

    if paths.is_file(recorded):
        return source.from_file(str(recorded))
    shown = place.source_of(collection)
    if shown == place.part(collection, "map_panorama"):
        raise OmnixError(
            f"The panorama {recorded} is gone; put it back, or extract another as a whole."
        )
    return source.from_image(shown)


def check(renewal: Renewal, made: Path) -> None:
    """Raise OmnixError where the place could not use the map in the set `made`."""
    from .build import place

    place.check_map(renewal.map, made / maps.MAPS[renewal.map].filename)


def put(renewal: Renewal, made: Path) -> list[str]:
    """Exchange one map of the set for the one in the set `made`; notes for the user.

    Every other map stays as it is; the contact sheet, which was drawn for this set, shows them
    all. The report of the set gains that of the extraction under `renewed`. Raises OmnixError when
    the set is gone or write-protected, or the map was changed meanwhile.
    """
    if maps.times(renewal.folder).get(renewal.map) not in (None, renewal.standing):
        raise OmnixError(
            f"The {renewal.map} map changed while it was extracted again, which would be lost; "
            "extract it once more if that is meant."
        )
    report, extraction = maps.read_report(renewal.folder), maps.read_report(made)
    report.setdefault("renewed", {})[renewal.map] = extraction
    report.get("replaced", {}).pop(renewal.map, None)
    filename = maps.MAPS[renewal.map].filename
    report.setdefault("files", {})[filename] = extraction["files"][filename]
    try:
        text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
        (made / maps.REPORT).write_text(text, "utf-8")
        _exchange(made, renewal.folder, (filename, maps.REPORT, maps.PREVIEW))
    except OSError as error:
        raise OmnixError(
            f"The {renewal.map} map cannot be written to {renewal.folder} ({error.strerror})."
        ) from None
    earlier, now = report["source"], extraction["source"]
    if earlier["path"] == now["path"] and earlier["sha256"] != now["sha256"]:
        return [f"{now['path']} has changed since the other maps were extracted from it."]
    return []


def _exchange(made: Path, folder: Path, names: Sequence[str]) -> None:
    """Put files in the place of others, each whole or not at all."""
    # The new ones may be on another disk, from where no file can be moved in one go; and none is
    # exchanged before there is room for all, for a map and its report belong together.
    partial = {name: folder / f".{name}.partial" for name in names}
    try:
        for name, path in partial.items():
            shutil.copyfile(made / name, path)
        for name, path in partial.items():
            maps.move(path, folder / name)
    finally:
        for path in partial.values():
            path.unlink(missing_ok=True)
