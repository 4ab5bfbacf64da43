# SPDX-License-Identifier: GPL-3.0-or-later
"""The map set: the contract between all rooms.

A map set is a folder of equirectangular images (width = 2 x height, image centre = +X, +Y at
u = 0.25, +Z up) and a `report.json`. This module names the maps, says how each is stored and
publishes a folder atomically. Nothing here touches pixels until a map is written or read, so
Blender's own process can import it for the names alone.

In memory every map is a float32 array:

| map                 | shape     | values                                                        |
| ------------------- | --------- | ------------------------------------------------------------- |
| albedo, semantic    | (H, W, 3) | sRGB-encoded, 0..1                                            |
| panorama            | (H, W, 3) | sRGB-encoded, 0..1: what the engine saw                       |
| normal              | (H, W, 3) | unit vectors in Blender's world frame, facing the viewpoint   |
| roughness, metallic | (H, W)    | linear, 0..1                                                  |
| depth               | (H, W)    | metres along the ray (Euclidean, not z); 0 = sky              |
| emission            | (H, W, 3) | linear Rec.709 radiance                                       |
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import shutil
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import OmnixError, refuse_unreadable_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    MapArrays = Mapping[str, np.ndarray]

REPORT = "report.json"
PREVIEW = "preview.png"
#: What systems leave in folders that are empty to the eye.
CLUTTER = frozenset({".DS_Store", "desktop.ini", "Thumbs.db"})
MAX_WIDTH = 8192


@dataclass(frozen=True)
class MapSpec:
    """How one map is named, stored and read by Blender.

    `colorspace` is the name of Blender's input colour space. `sky` is the stored value where
    there is no surface; None where it depends on the direction (the normal is minus the ray) or
    on the source (emission, panorama).
    """

    name: str
    filename: str
    channels: int
    pixel_type: str
    colorspace: str
    label: str
    sky: float | None


MAPS: dict[str, MapSpec] = {
    spec.name: spec
    for spec in (
        MapSpec("albedo", "albedo.png", 3, "uint8", "sRGB", "Albedo", 0.0),
        MapSpec("normal", "normal.exr", 3, "half", "Non-Color", "Normal", None),
        MapSpec("roughness", "roughness.png", 1, "uint16", "Non-Color", "Roughness", 1.0),
        MapSpec("metallic", "metallic.png", 1, "uint16", "Non-Color", "Metallic", 0.0),
        MapSpec("depth", "depth.exr", 1, "float", "Non-Color", "Depth", 0.0),
        MapSpec("emission", "emission.exr", 3, "float", "Linear Rec.709", "Emission", None),
        MapSpec("semantic", "semantic.png", 3, "uint8", "sRGB", "Semantic", 0.0),
        MapSpec("panorama", "panorama.png", 3, "uint8", "sRGB", "Panorama", None),
    )
}
DEFAULT_MAPS = ("albedo", "normal", "roughness", "metallic", "depth", "emission")
REQUESTABLE = (*DEFAULT_MAPS, "semantic")
OWN_FILES = frozenset({REPORT, PREVIEW, *(spec.filename for spec in MAPS.values())})


def is_map_set(folder: Path | str) -> bool:
    """True where `folder` holds a finished map set (known by a readable report)."""
    try:
        read_report(folder)
    except OmnixError:
        return False
    return True


def read_report(folder: Path | str) -> dict[str, Any]:
    """The parsed `report.json` of a map set.

    Raises OmnixError when the file is missing or is not a report.
    """
    path = Path(folder) / REPORT
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise OmnixError(
            f"{folder} is not a map set: it has no readable {REPORT}; choose a folder that an "
            "extraction has written."
        ) from None
    except (ValueError, RecursionError):
        raise OmnixError(f"{path} is damaged; extract the panorama again.") from None
    if not isinstance(report, dict) or "engine" not in report:
        raise OmnixError(f"{path} is not a report of this extension; choose another folder.")
    if not _is_sound(report):
        raise OmnixError(f"{path} is damaged; extract the panorama again.")
    return report


_KINDS: dict[str, type] = {
    **dict.fromkeys(("source", "settings", "seconds", "files", "replaced", "renewed"), dict),
    **dict.fromkeys(("size", "adapters", "checks", "warnings"), list),
}


def _is_sound(report: Mapping[str, Any]) -> bool:
    """Whether what a report has is of the kind that readers take it for."""
    if not all(isinstance(report[key], kind) for key, kind in _KINDS.items() if key in report):
        return False
    height = report.get("settings", {}).get("camera_height", 1.6)
    path = report.get("source", {}).get("path", "")
    return isinstance(height, (int, float)) and isinstance(path, str)


def map_files(folder: Path | str) -> dict[str, Path]:
    """The maps present in a folder, by name, in the order of MAPS."""
    paths = {name: Path(folder) / spec.filename for name, spec in MAPS.items()}
    return {name: path for name, path in paths.items() if path.is_file()}


def sha256(file: Path | str) -> str:
    """Hexadecimal SHA-256 of a file. Raises OmnixError where it cannot be read."""
    try:
        with Path(file).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise OmnixError(f"{file} cannot be read ({error.strerror or error}).") from None


def _mark(file: Path) -> dict[str, Any]:
    """By what a file of a set is known again."""
    return {"sha256": sha256(file), "mtime_ns": file.stat().st_mtime_ns}


def was_changed(file: Path, report: Mapping[str, Any]) -> bool:
    """Whether somebody has changed a map of a set since it was written, by the set's report. A copy
    may have another time; then its content tells. Raises OmnixError where it cannot be read."""
    written = report.get("files", {}).get(file.name)
    if written is None or written["mtime_ns"] == file.stat().st_mtime_ns:
        return False
    return written["sha256"] != sha256(file)


def times(folder: Path | str) -> dict[str, int]:
    """When each map of a folder was written, in nanoseconds. Empty where that cannot be looked at,
    which is told on writing there."""
    try:
        return {name: file.stat().st_mtime_ns for name, file in map_files(folder).items()}
    except OSError:
        return {}


def check_arrays(maps: MapArrays) -> None:
    """Raise ValueError unless every array has the shape, range and size the contract names."""
    import numpy as np

    sizes = set()
    for name, array in maps.items():
        spec = MAPS[name]
        expected = (2, ()) if spec.channels == 1 else (3, (spec.channels,))
        if (array.ndim, array.shape[2:]) != expected:
            raise ValueError(f"{name} has shape {array.shape}, wanted {spec.channels} channel(s)")
        if array.shape[1] != 2 * array.shape[0]:
            raise ValueError(f"{name} is {array.shape[1]} x {array.shape[0]}, not 2:1")
        if not np.isfinite(array).all():
            raise ValueError(f"{name} holds values that are not finite")
        low, high = float(array.min()), float(array.max())
        if name == "normal":
            length = np.sqrt(np.einsum("ijk,ijk->ij", array, array))
            if abs(length - 1.0).max() > 1e-2:
                raise ValueError("normal holds vectors that are not of unit length")
        elif low < 0 or (name not in ("depth", "emission") and high > 1):
            raise ValueError(f"{name} runs from {low:g} to {high:g}")
        sizes.add(array.shape[:2])
    if len(sizes) > 1:
        raise ValueError(f"maps differ in size: {sorted(sizes)}")


def refuse_unless_writable(folder: Path) -> None:
    """Raise OmnixError unless `folder` can become a map set without losing anything.

    It may be missing, empty, or an earlier map set; anything else there is somebody's work.
    """
    refuse_unreadable_name(folder)
    if folder.exists() and not folder.is_dir():
        raise OmnixError(f"{folder} is a file; choose a folder for the maps.")
    if os.path.ismount(folder):
        raise OmnixError(
            f"{folder} is the root of a disk, which cannot be replaced as a whole; choose a folder "
            "inside it."
        )
    try:
        if folder.exists() and folder.samefile(os.curdir):
            # Whoever stands there, as a shell does, would stand in a folder that is gone.
            raise OmnixError(
                f"{folder} is the current folder, which cannot be replaced as a whole; choose a "
                "folder inside it, or change to another folder first."
            )
        occupied = folder.is_dir() and not is_map_set(folder)
        occupied = occupied and any(file.name not in CLUTTER for file in folder.iterdir())
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from None
    if occupied:
        raise OmnixError(
            f"{folder} is not empty and holds no map set; choose an empty or a new folder."
        )
    if not os.access(folder if folder.exists() else folder.parent, os.W_OK):
        raise _unwritable(folder, PermissionError("no permission"))


def _unwritable(folder: Path, error: OSError) -> OmnixError:
    reason = error.strerror or str(error)
    return OmnixError(f"Maps cannot be written to {folder} ({reason}); choose another folder.")


class MapSetWriter:
    """Writes a map set under a temporary name beside `folder` and renames it when whole.

    Maps are written one by one, so a caller need not hold them all. Leaving the `with` block
    without `publish` removes what was written and leaves an earlier set as it was.

    Raises OmnixError, here or on entering, for a folder that cannot be written or replaced.
    """

    def __init__(self, folder: Path | str) -> None:
        # Of a link, the folder that it leads to is replaced, and the link stays.
        try:
            self.folder = Path(os.path.realpath(folder))
        except FileNotFoundError:
            raise OmnixError(
                f"{folder} cannot be found, for the current folder is gone; change to another one."
            ) from None
        self._partial = self._sibling("partial")

    def _sibling(self, what: str) -> Path:
        # _left finds the folders of a killed process by this name.
        return self.folder.parent / f".{self.folder.name}.{uuid.uuid4().hex[:8]}.{what}"

    def __enter__(self) -> MapSetWriter:
        _bring_back(self.folder)
        refuse_unless_writable(self.folder)
        try:
            self._partial.mkdir()
        except OSError as error:
            raise _unwritable(self.folder, error) from None
        return self

    def __exit__(self, *_: object) -> None:
        # After publish the partial folder has become the set and there is nothing to remove;
        # a folder that vanished under us is equally gone.
        shutil.rmtree(self._partial, ignore_errors=True)

    def path(self, filename: str) -> Path:
        """Where a file of the set lies until it is published."""
        return self._partial / filename

    def write(self, name: str, array: np.ndarray) -> None:
        """Store one map (shape and values as in the module's table)."""
        from . import images

        spec = MAPS[name]
        stored = array * 0.5 + 0.5 if name == "normal" else array
        try:
            images.write(self.path(spec.filename), stored, spec.pixel_type)
        except OSError as error:
            raise _unwritable(self.folder, error) from None

    def write_preview(self, thumbnails: Mapping[str, np.ndarray]) -> None:
        """Store the labelled contact sheet; `thumbnails` are small maps as in the table."""
        from . import images

        pictures = {
            spec.label: images.as_picture(name, thumbnails[name])
            for name, spec in MAPS.items()
            if name in thumbnails
        }
        try:
            images.write_contact_sheet(self.path(PREVIEW), pictures)
        except OSError as error:
            raise _unwritable(self.folder, error) from None

    def publish(
        self, report: Mapping[str, Any], standing: Mapping[str, int] | None = None
    ) -> dict[str, Any]:
        """Write the report and put the set in place of an earlier one; the report as written.

        Unless it says so already, the report is given the `files`, by which maps that somebody has
        changed since are known (`was_changed`). Files of the user's own that lie in an earlier set
        move along. Raises OmnixError when the set cannot be put in place, or when it is and a file
        of the user's did not move; and, having put it beside the earlier one, where a map of that
        is no more of the time that `standing` says (see `times`).
        """
        try:
            files = {p.name: _mark(p) for p in map_files(self._partial).values()}
            report = dict(report)
            report.setdefault("files", files)
            text = json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False)
            self.path(REPORT).write_text(text + "\n", encoding="utf-8")
            self._replace(standing or {})
        except OSError as error:
            raise _unwritable(self.folder, error) from None
        return report

    def _replace(self, standing: Mapping[str, int]) -> None:
        now = times(self.folder)
        if changed := [name for name in now if standing.get(name, now[name]) != now[name]]:
            beside = self.folder.with_name(f"{self.folder.name}-new-{uuid.uuid4().hex[:8]}")
            move(self._partial, beside)
            raise OmnixError(
                f"The {', '.join(changed)} in {self.folder} changed while new maps were made, "
                f"which would be lost; the new maps are in {beside}."
            )
        if not self.folder.exists():
            move(self._partial, self.folder)
            return
        refuse_unless_writable(self.folder)
        earlier = self._sibling("earlier")
        move(self.folder, earlier)
        try:
            move(self._partial, self.folder)
        except OSError:
            move(earlier, self.folder)
            raise
        _retire(earlier, self.folder)


_TRIES, _PAUSE = 30 if os.name == "nt" else 1, 0.1  # times, seconds between them


def move(old: Path, new: Path) -> None:
    """`os.replace`, which Windows refuses as long as somebody, such as a virus scanner, has a file
    open that was just written: then it is tried again for a while. Raises OSError."""
    for _ in range(_TRIES):
        try:
            os.replace(old, new)
            return
        except PermissionError as error:
            refused = error
            time.sleep(_PAUSE)
    raise refused


def _retire(earlier: Path, folder: Path) -> None:
    """Remove a replaced set, keeping the user's own files in the new one.

    Raises OmnixError where one cannot be moved; the replaced set stays as it is then.
    """
    for path in earlier.iterdir():
        if path.name in OWN_FILES:
            continue
        try:
            move(path, folder / path.name)
        except OSError as error:
            raise OmnixError(
                f"The maps are in {folder}, but your own {path.name} stayed in {earlier} "
                f"({error.strerror or error}); move it yourself."
            ) from None
    # The new set is in place; a stray copy of the old one is no reason to report a failure.
    with contextlib.suppress(OSError):
        shutil.rmtree(earlier)


def _left(folder: Path, what: str) -> list[Path]:
    """What processes that died while they wrote `folder` have left, and what living ones write."""
    return list(folder.parent.glob(f".{glob.escape(folder.name)}.{'[0-9a-f]' * 8}.{what}"))


def _bring_back(folder: Path) -> None:
    """Put an earlier set back, with the user's own files in it, which a process moved away that
    died before it moved the new one in."""
    # Where it cannot be moved or looked at, it is no worse off than before.
    with contextlib.suppress(OSError):
        for earlier in _left(folder, "earlier"):
            if not folder.exists():
                move(earlier, folder)


def remove_leftovers(folder: Path | str) -> None:
    """Tidy up after a process that was killed while it wrote `folder`.

    Its unfinished set is removed. An earlier set comes back if the process died between moving
    that away and moving the new one in.
    """
    folder = Path(os.path.realpath(folder))
    _bring_back(folder)
    for earlier in _left(folder, "earlier"):
        # A file that does not move is told of when the next set is written.
        with contextlib.suppress(OSError, OmnixError):
            if folder.exists():
                _retire(earlier, folder)
    for partial in _left(folder, "partial"):
        shutil.rmtree(partial, ignore_errors=True)


def save(folder: Path | str, maps: MapArrays, report: Mapping[str, Any]) -> None:
    """Write a whole map set at once, atomically.

    Raises ValueError for arrays that break the contract, OmnixError when it cannot be written.
    """
    check_arrays(maps)
    with MapSetWriter(folder) as writer:
        for name, array in maps.items():
            writer.write(name, array)
        writer.write_preview(maps)
        writer.publish(report)


def load(folder: Path | str, names: tuple[str, ...] | None = None) -> dict[str, np.ndarray]:
    """Read the maps of a set (all, or `names`) into the arrays of the module's table.

    Raises OmnixError when the folder is no map set or a file is missing or damaged.
    """
    from . import images

    read_report(folder)
    files = map_files(folder)
    wanted = tuple(files) if names is None else names
    missing = [name for name in wanted if name not in files]
    if missing:
        raise OmnixError(f"{folder} has no {', '.join(missing)} map; extract the panorama again.")
    return {name: _decode(name, images.read_raw(files[name])) for name in wanted}


def _decode(name: str, pixels: np.ndarray) -> np.ndarray:
    """Stored pixels (H, W, C) as the array of the module's table."""
    import numpy as np

    spec = MAPS[name]
    if pixels.shape[2] < spec.channels:
        raise OmnixError(f"{spec.filename} has {pixels.shape[2]} channel(s); {name} needs 3.")
    if spec.channels == 1:
        return np.ascontiguousarray(pixels[..., 0])
    pixels = pixels[..., :3]
    if name != "normal":
        return np.ascontiguousarray(pixels)
    vectors = pixels * 2.0 - 1.0
    length = np.sqrt(np.einsum("ijk,ijk->ij", vectors, vectors))[..., None]
    return vectors / np.maximum(length, 1e-6)
