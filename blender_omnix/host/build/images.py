# SPDX-License-Identifier: GPL-3.0-or-later
"""Maps as Blender images: loaded with the colour space each is stored in, read as arrays."""

from __future__ import annotations

import shutil
from pathlib import Path

import bpy
import numpy as np
from mathutils import Color

from ... import maps
from ...errors import OmnixError
from ...panorama import resample, tonemap
from .. import paths

_LINEAR_FILES = (".exr", ".hdr")
# Of files. What was painted on a 16-bit PNG Blender packs as an OpenEXR.
_STARTS = {".png": b"\x89PNG", ".exr": b"v/1\x01"}


def load(path: Path | str, name: str, colorspace: str, *, layered: bool = False) -> bpy.types.Image:
    """A new image datablock for a file; one that the user has of the same file is left alone.

    `layered` says that a multilayer OpenEXR will do, of which textures show the Combined pass, but
    whose pixels cannot be read. Raises OmnixError, naming the file, when it is missing or no image,
    or when this Blender knows no such colour space.
    """
    if not paths.is_file(Path(path)):
        raise OmnixError(f"{path} is not an image file; choose one.")
    try:
        image = bpy.data.images.load(paths.stored(path), check_existing=False)
    except RuntimeError:
        raise OmnixError(f"{path} cannot be read as an image; choose another file.") from None
    image.name = name
    try:
        image.colorspace_settings.name = colorspace
    except TypeError:
        bpy.data.images.remove(image)
        raise OmnixError(
            f"Blender's colour management has no {colorspace}, which the maps need; use the "
            "OpenColorIO configuration that comes with Blender."
        ) from None
    empty = 0 in image.size  # asked first: for this Blender reads the file
    if image.type == "MULTILAYER":
        if layered:
            return image
        wrong = "holds several layers; save the one that is meant as a file of its own"
    elif empty:
        wrong = "is damaged; choose another file, or extract the panorama again"
    else:
        return image
    bpy.data.images.remove(image)
    raise OmnixError(f"{path} {wrong}.")


def load_maps(folder: Path | str, place: str) -> dict[str, bpy.types.Image]:
    """Every map of a set as an image called `OmniX <place> <map>`.

    Raises OmnixError when the folder is no map set or holds no depth.
    """
    maps.read_report(folder)
    files = maps.map_files(folder)
    if "depth" not in files:
        raise OmnixError(
            f"{folder} has no depth map, which a place is built from; extract it with depth."
        )
    loaded: dict[str, bpy.types.Image] = {}
    try:
        for name, path in files.items():
            spec = maps.MAPS[name]
            loaded[name] = load(path, f"OmniX {place} {spec.label}", spec.colorspace)
    except OmnixError:
        for image in loaded.values():
            bpy.data.images.remove(image)
        raise
    return loaded


def read(image: bpy.types.Image, channels: int) -> np.ndarray:
    """The values of an image as stored: (H, W, channels) float32, (H, W) for one; row 0 on top.

    Raises OmnixError, naming the file, when it can no longer be read.
    """
    width, height = image.size
    if width == 0 or height == 0:
        raise OmnixError(f"{image.filepath} cannot be read; replace the map or extract it again.")
    pixels = np.empty((height, width, image.channels), np.float32)
    image.pixels.foreach_get(pixels.ravel())
    pixels = pixels[::-1]
    # Blender gives one grey channel as three equal ones.
    return pixels[..., 0] if channels == 1 else pixels[..., :channels]


def read_colours(image: bpy.types.Image) -> np.ndarray:
    """The colours of an image, (H, W, 3) float32, row 0 on top: of a float image linear Rec.709,
    else as they are encoded; of one that holds no colours the values.

    Raises OmnixError as `read` does.
    """
    colours = read(image, 3)
    if not image.is_float or image.colorspace_settings.is_data:
        return colours
    # Blender keeps them in the file's working space, which since 5.0 is the user's choice.
    units = np.eye(3)
    matrix = np.float32([Color(unit).from_scene_linear_to_rec709_linear() for unit in units])
    return colours if np.allclose(matrix, units, atol=1e-4) else colours @ matrix


def read_normal(image: bpy.types.Image, shape: tuple[int, int]) -> np.ndarray:
    """A normal map as vectors (H, W, 3) in the capture frame, of unit length up to its precision.

    Brought to `shape` by taking the nearest pixels, for a map that the user has replaced; where it
    holds no numbers the vector is 0.
    """
    stored = read(image, 3)
    vectors = resample.nearest(stored, *shape) * 2.0 - 1.0
    vectors[~np.isfinite(vectors).all(axis=2)] = 0.0
    return vectors


def colorspace(name: str, path: Path | str) -> str:
    """The colour space of a file that serves as the map `name`, whoever made it."""
    if maps.MAPS[name].colorspace == "Non-Color":
        return "Non-Color"
    return "Linear Rec.709" if Path(path).suffix.lower() in _LINEAR_FILES else "sRGB"


def save(image: bpy.types.Image, path: Path, space: str) -> None:
    """Put what an image shows into a file, in the colour space `space`: a copy of its own file
    where that holds just this, else written anew from its pixels. Raises OSError."""
    source = Path(paths.absolute(image.filepath))
    alike = source.suffix.lower() == path.suffix and image.colorspace_settings.name == space
    packed = image.packed_file
    if alike and not image.is_dirty:
        if packed is not None and packed.data.startswith(_STARTS[path.suffix]):
            path.write_bytes(packed.data)
            return
        if packed is None and paths.is_file(source):
            if not paths.same(source, path):
                shutil.copyfile(source, path)
            return
    values = read_colours(image)
    # Blender keeps colours of float images linear and of others as they are encoded.
    if space == "sRGB" and image.is_float:
        values = tonemap.srgb_encode(values)
    elif space == "Linear Rec.709" and not image.is_float:
        values = tonemap.srgb_decode(values)
    write(values, path)


def write(values: np.ndarray, path: Path) -> None:
    """Values (H, W, 3), row 0 on top, as they are into an OpenEXR or PNG file. Raises OSError."""
    height, width = values.shape[:2]
    exr = path.suffix == ".exr"
    # Not through image.copy(), which forgets what was painted; and Non-Color, since Blender would
    # convert an image that had no file.
    image = bpy.data.images.new(
        path.stem, width, height, alpha=False, float_buffer=exr, is_data=True
    )
    try:
        rgba = np.ones((height, width, 4), np.float32)
        rgba[..., :3] = values[::-1]
        image.pixels.foreach_set(rgba.ravel())
        image.file_format = "OPEN_EXR" if exr else "PNG"
        image.filepath_raw = str(path)
        image.save()
    except RuntimeError as error:
        raise OSError(0, str(error)) from None
    finally:
        bpy.data.images.remove(image)


def is_lost(image: bpy.types.Image) -> bool:
    """True where an image's file is gone, and not packed."""
    if image.source != "FILE" or image.packed_file is not None or image.is_dirty:
        return False
    return not paths.is_file(Path(paths.absolute(image.filepath, library=image.library)))
