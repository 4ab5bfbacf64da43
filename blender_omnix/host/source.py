# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the panorama comes from: a file for the worker."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import bpy

from ..errors import OmnixError
from . import paths, world_nodes


@dataclass(frozen=True)
class Source:
    """A panorama as the worker and the builder need it.

    `file` is what the worker reads. `name` names the folder and what is built. `image` is the
    `session_uid` of the datablock that holds the panorama, None where it came from a file, and
    `world` that of the world that shows it, None where none was asked. `scratch` is the folder to
    remove after the job where `file` was written for it, else None.
    """

    file: Path
    name: str
    image: int | None = None
    world: int | None = None
    notes: tuple[str, ...] = ()
    scratch: tempfile.TemporaryDirectory | None = None


def alive(datablocks: Iterable[bpy.types.ID], uid: int | None) -> bpy.types.ID | None:
    """The datablock of a `session_uid`, whatever it is called by now; None where it is gone."""
    return next((item for item in datablocks if item.session_uid == uid), None)


def from_choices(scene: bpy.types.Scene) -> Source:
    """The panorama that the panel's choices name. Raises OmnixError when there is none."""
    choices = scene.omnix
    if choices.source == "WORLD":
        return from_world(scene.world)
    if choices.source == "IMAGE":
        return from_image(choices.image)
    if not choices.filepath:
        raise OmnixError("No file is chosen; choose one in the OmniX panel.")
    return from_file(choices.filepath)


def from_file(path: str) -> Source:
    """The panorama in a file. Whether it can be used is for the worker to say.

    Raises OmnixError for one beside a .blend file that is not saved.
    """
    file = paths.chosen(path)
    return Source(file, file.stem)


def from_image(image: bpy.types.Image | None) -> Source:
    """The panorama in an image datablock, on disk, packed, painted or generated.

    Raises OmnixError when it has no pixels or is not one still image.
    """
    if image is None:
        raise OmnixError("No image is chosen; choose one in the OmniX panel.")
    if image.source in {"TILED", "SEQUENCE", "MOVIE", "VIEWER"}:
        raise OmnixError(
            f"The image {image.name} is {_KINDS[image.source]}; choose a single still image."
        )
    name = image.name
    if Path(name).suffix.lower() in bpy.path.extensions_image:
        name = Path(name).stem
    if image.is_dirty or image.source == "GENERATED":
        return _exported(image, name)
    packed = image.packed_file is not None
    file = Path(paths.absolute(image.filepath, library=image.library))
    if not packed and (not image.filepath or not paths.is_file(file)):
        raise OmnixError(
            f"The image {image.name} is missing: there is no file {file}; "
            "find it with File > External Data > Find Missing Files."
        )
    suffix, space = _suffix(image), image.colorspace_settings.name
    known = _SPACES.get(suffix)
    usual = space in (known or _ENCODED)
    # The worker goes by the file. What Blender has made of other colours is linear where they are
    # floats, and as stored where they are not. Of a TIFF the worker takes floats for linear and all
    # else for encoded; what Blender does depends on its version and on the user.
    floats = image.is_float and image.type != "MULTILAYER"
    converted = floats and (not usual or suffix in _TIFF)
    if converted or known is None:
        found = _exported(image, name)
    elif packed:
        found = _unpacked(image, name)
    else:
        found = Source(file, name, image.session_uid)
    if usual or converted:
        return found
    note = (
        f"The image {image.name} is in the colour space {space}, but was taken in that of its file."
    )
    return replace(found, notes=(note,))


_ENCODED, _LINEAR = frozenset({"sRGB"}), frozenset({"Linear Rec.709", "Non-Color"})
_TIFF = (".tif", ".tiff")
# What the worker takes the files that it reads for; of TIFFs, those that are not of floats.
_SPACES = {
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".webp", *_TIFF), _ENCODED),
    **dict.fromkeys((".exr", ".hdr"), _LINEAR),
}
_KINDS = {
    "TILED": "a set of UDIM tiles",
    "SEQUENCE": "an image sequence",
    "MOVIE": "a movie",
    "VIEWER": "a render result or viewer",
}


def from_world(world: bpy.types.World | None) -> Source:
    """The panorama in the environment texture that the world shows.

    Raises OmnixError when the world shows no image.
    """
    shown = world_nodes.showing(world)
    found = from_image(shown.image)
    return replace(found, world=world.session_uid, notes=(*found.notes, *shown.notes))


def _unpacked(image: bpy.types.Image, name: str) -> Source:
    """The packed bytes as they are, in a file of the same kind."""
    scratch, file = _scratch(name, _suffix(image))
    try:
        file.write_bytes(image.packed_file.data)
    except OSError as error:
        raise paths.unwritable(error) from None
    return Source(file, name, image.session_uid, scratch=scratch)


def _suffix(image: bpy.types.Image) -> str:
    return Path(image.filepath).suffix.lower() or _SUFFIXES.get(image.file_format, ".png")


# Packed images that never had a file of their own.
_SUFFIXES = {"OPEN_EXR": ".exr", "HDR": ".hdr", "JPEG": ".jpg", "TIFF": ".tif", "WEBP": ".webp"}


def _exported(image: bpy.types.Image, name: str) -> Source:
    """Pixels that exist in Blender alone, written without loss."""
    from .build import images  # imports numpy, for which enabling the add-on should not wait

    scratch, file = _scratch(name, ".exr" if image.is_float else ".png")
    try:
        images.write(images.read_colours(image), file)
    except OmnixError:
        raise OmnixError(
            f"The pixels of the image {image.name} cannot be read; save it to a file first."
        ) from None
    except OSError as error:
        raise paths.unwritable(error) from None
    return Source(file, name, image.session_uid, scratch=scratch)


def _scratch(name: str, suffix: str) -> tuple[tempfile.TemporaryDirectory, Path]:
    """A folder for one file that goes when the job's source is dropped."""
    folder = paths.scratch()
    return folder, Path(folder.name) / f"{bpy.path.clean_name(name)}{suffix}"
