# SPDX-License-Identifier: GPL-3.0-or-later
"""Which name and folder maps get, and what they must not replace there."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import bpy

from .. import __version__, maps
from ..errors import OmnixError
from . import paths, preferences, source


def beside_blend() -> Path:
    """The folder of the map sets beside the saved .blend file."""
    return Path(paths.absolute("//")) / "omnix"


def is_in_extension(folder: Path) -> bool:
    """Whether maps lie in the extension's own folder, which goes when that is uninstalled."""
    return folder.resolve().is_relative_to(_in_extension().resolve())


def _in_extension() -> Path:
    return Path(bpy.utils.extension_path_user(preferences.ADDON, path="maps"))


def default_folder(name: str) -> tuple[Path, list[str]]:
    """Where the maps of a panorama go unless told otherwise, and a note for an unsaved file."""
    folder = bpy.path.clean_name(name) or "panorama"
    if bpy.data.filepath:
        return beside_blend() / folder, []
    return _in_extension() / folder, [
        "The file is not saved, so its maps are in the extension's own folder, which goes when the "
        "extension is uninstalled; save the file and use Move Maps Next to .blend."
    ]


def named_apart(
    panorama: source.Source, settings: Mapping[str, Any], *, in_default_folder: bool
) -> source.Source:
    """The panorama under a name that no other has: numbered where another file of that name has a
    place in this .blend, or maps in the folder where its own would go; and where the maps there are
    of the same panorama, but another .blend has made them otherwise than by these `settings`."""
    from .build import place

    for number in itertools.count(1):
        name = panorama.name if number == 1 else f"{panorama.name}-{number}"
        standing = place.find(name)
        folders = [] if standing is None else [place.folder_of(standing)]
        taken = False
        if in_default_folder:
            folders.append(default_folder(name)[0])
            taken = not _is_known(folders[-1]) and _holds_other_maps(folders[-1], settings)
        if not taken and not any(
            place.linked_from(f) or _holds_another(f, panorama) for f in folders
        ):
            break
    return dataclasses.replace(panorama, name=name)


def as_there(panorama: source.Source, folder: Path) -> source.Source:
    """The panorama under the name of the place that stands on its maps in a folder, if one does,
    whatever that is called: it is renewed."""
    from .build import place

    names = {place.name_of(item) for item in place.made_from(folder)}
    if len(names) != 1 or _holds_another(folder, panorama):
        return panorama
    return dataclasses.replace(panorama, name=names.pop())


def _is_known(folder: Path) -> bool:
    """True where this .blend has extracted or loaded the maps in a folder, or has a place there."""
    from .build import place

    remembered = (scene.omnix.folder for scene in bpy.data.scenes)
    known = (Path(paths.absolute(path)) for path in remembered if path)
    return any(paths.same(path, folder) for path in known) or bool(place.made_from(folder))


def _holds_other_maps(folder: Path, settings: Mapping[str, Any]) -> bool:
    """True where a folder holds maps that an extraction by these settings would change."""
    if not maps.is_map_set(folder):
        return False
    report = maps.read_report(folder)
    made, version = report.get("settings", {}), report.get("versions", {}).get("blender_omnix")
    same = all(made.get(name) == value for name, value in settings.items())
    return not same or version != __version__


def _holds_another(folder: Path, panorama: source.Source) -> bool:
    """True where the map set in a folder was made from another panorama.

    It is the same where it is the recorded file or has its content; and where that file was written
    for the worker or is gone, where a place of these maps shows its datablock.
    """
    from .build import place

    try:
        recorded = maps.read_report(folder)["source"]
        made_from, digest = Path(recorded["path"]), recorded["sha256"]
    except (OmnixError, KeyError):
        return False
    if not paths.is_file(panorama.file):
        return False  # the worker says so
    if paths.is_file(made_from) and paths.same(made_from, panorama.file):
        return False
    if maps.sha256(panorama.file) == digest:
        return False
    if panorama.scratch is None and paths.is_file(made_from):
        return True
    image = source.alive(bpy.data.images, panorama.image)
    return image is None or all(place.source_of(c) != image for c in place.made_from(folder))


def refuse_to_lose_maps(folder: Path, name: str, wanted: set[str], *, build: bool) -> None:
    """Raise OmnixError where new maps of the place `name` would leave a place without its own."""
    from .build import place

    if build and "depth" not in wanted:
        raise OmnixError(
            "A place is built from a depth map; choose Depth among the maps, or switch Build Place "
            "off."
        )
    standing = place.made_from(folder)
    names = [place.name_of(item) for item in standing if place.name_of(item) != name]
    for other in (*names, *place.linked_from(folder)):
        raise OmnixError(
            f"{folder} holds the maps of the place {other}, which would be lost; choose another "
            "folder, or leave Output empty."
        )
    if not standing and maps.is_map_set(folder):
        report = maps.read_report(folder)
        files = maps.map_files(folder)
        if changed := [key for key, file in files.items() if maps.was_changed(file, report)]:
            raise OmnixError(
                f"The {', '.join(changed)} in {folder} changed since they were extracted, which "
                "would be lost; move that folder away, or choose another."
            )
    renewed = place.find(name, folder) if build else None
    for collection in {*standing, renewed} - {None}:
        if changed := place.changed_maps(collection):
            raise OmnixError(
                f"The {', '.join(changed)} of the place {name} in {place.folder_of(collection)} "
                "changed since they were extracted, which would be lost; put copies in their place "
                "with Replace Map first."
            )
    for collection in standing:
        used = set(place.images_of(collection)) - set(place.own_maps(collection))
        missing = [key for key in maps.REQUESTABLE if key in used and key not in wanted]
        # A place that is built anew does without what was not asked for.
        if missing and collection != renewed:
            raise OmnixError(
                f"The place {name} uses the {', '.join(missing)} in {folder}, which would be lost; "
                "choose these maps too, another folder, or Build Place."
            )


def name_for(folder: Path) -> str:
    """The name of the place that stands on the maps in a folder, else the folder's, numbered where
    a place made from another folder is called so."""
    from .build import place

    for standing in place.made_from(folder):
        return place.name_of(standing)
    numbered = (f"{folder.name}-{number}" for number in itertools.count(2))
    names = itertools.chain([folder.name], numbered)
    return next(name for name in names if place.find(name) is None)


def older_geometry(folder: Path) -> list[str]:
    """Notes on the places that show new maps in a folder on the geometry that they had."""
    from .build import place

    return [
        f"The place {place.name_of(item)} shows the new maps on its earlier geometry; use Rebuild "
        "Geometry for that to follow."
        for item in place.made_from(folder)
    ]


def kept_and_lost(name: str, folder: Path) -> list[str]:
    """Notes on what the place of that name keeps of the user's instead of the maps in `folder`, and
    where it shows a map alone that these lack."""
    from .build import place

    standing = place.find(name, folder)
    if standing is None:
        return []
    notes, own = [], place.own_maps(standing)
    if own:
        notes.append(
            f"The place keeps your own {', '.join(own)}; Replace Map or Extract Map Again gives it "
            "the new."
        )
    shown = place.shown_map(standing)
    if shown is not None and shown not in maps.map_files(folder) | own:
        notes.append(
            f"The place showed its {shown} map, which the new maps lack; it shows itself again."
        )
    return notes
