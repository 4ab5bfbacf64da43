# SPDX-License-Identifier: GPL-3.0-or-later
"""Image files in and out (OpenImageIO), and the labelled contact sheet (Pillow).

The only module that imports OpenImageIO. It is never imported in Blender's own process, which
reads images with bpy.
"""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import OmnixError, refuse_unreadable_name
from .panorama import clean, resample, tonemap

if TYPE_CHECKING:
    from collections.abc import Mapping

HDR_SUFFIXES = (".exr", ".hdr")
_LINEAR = ("openexr", "hdr")  # OpenImageIO's names of their formats
_FLOATS = ("half", "float", "double")
# Red, green, blue and white in x and y.
_REC709_CHROMATICITIES = (0.64, 0.33, 0.3, 0.6, 0.15, 0.06, 0.3127, 0.329)
LDR_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")
_BAND_ROWS = 256
_PNG_END = b"IEND\xaeB`\x82"


@dataclass(frozen=True)
class Panorama:
    """A source image: pixels (H, W, 3) float32, linear Rec.709 when `linear`, else
    sRGB-encoded 0..1; its size and flaws on disk; and what was done to it, one sentence each."""

    pixels: np.ndarray
    linear: bool
    width: int
    height: int
    flaws: clean.Flaws
    notes: tuple[str, ...]


def read_panorama(path: Path | str, max_width: int | None = None) -> Panorama:
    """Read an equirectangular image, reduced by area averaging to at most `max_width` if given.

    Wider images are read in bands of rows, so that the whole is never held at full size. The
    result is exactly 2:1. Raises OmnixError, naming the file, for anything that is not a
    readable equirectangular image.
    """
    path = Path(path)
    source = _open(path)
    try:
        channels, notes = _choose_layer(source, path)
        spec = source.spec()
        try:
            clean.check_size(spec.width, spec.height)
        except OmnixError as error:
            raise OmnixError(f"{path} {error}.") from None
        whole = min(spec.width // 2, spec.height)
        height = min(whole, (max_width or spec.width) // 2)
        if (spec.width, spec.height) != (2 * whole, whole):
            notes.append(
                f"The image is {spec.width} x {spec.height}; it was brought to twice as wide as "
                "high."
            )
        if (spec.width, spec.height) != (spec.full_width, spec.full_height):
            notes.append(
                f"The image holds {spec.width} x {spec.height} pixels of a picture of "
                f"{spec.full_width} x {spec.full_height}; they were taken as the whole panorama."
            )
        if spec.nchannels < 3:
            notes.append("The image is grey; its three colour channels were taken as equal.")
        if spec.alpha_channel >= 0:
            notes.append("The image has an alpha channel, which was ignored.")
        # By what it holds: readers go by that, whatever its name says.
        linear = source.format_name() in _LINEAR or str(spec.format) in _FLOATS
        if path.suffix.lower() in HDR_SUFFIXES and not linear:
            notes.append(
                f"The file is called {path.suffix} but holds a {source.format_name()} picture; its "
                "values were taken as encoded, with light of limited range."
            )
        matrix, told = _to_rec709(spec) if linear else (None, [])
        notes += told
        pixels, flaws = _read_colour(source, path, channels, height, matrix, encoded=not linear)
    finally:
        source.close()
    return Panorama(pixels, linear, spec.width, spec.height, flaws, tuple(notes))


def _open(path: Path) -> Any:
    import OpenImageIO as oiio

    refuse_unreadable_name(path)
    if path.is_dir():
        raise OmnixError(f"{path} is a folder; choose an image file.")
    if not path.is_file():
        raise OmnixError(f"{path} does not exist; choose an image file.")
    if path.stat().st_size == 0:
        raise OmnixError(f"{path} is empty; choose another image.")
    if path.suffix.lower() not in HDR_SUFFIXES + LDR_SUFFIXES:
        known = ", ".join(HDR_SUFFIXES + LDR_SUFFIXES)
        raise OmnixError(f"{path} is not an image of a known kind ({known}); convert it first.")
    config = oiio.ImageSpec()
    config.attribute("oiio:UnassociatedAlpha", 1)
    source = oiio.ImageInput.open(str(path), config)
    if source is None:
        oiio.geterror()
        raise OmnixError(f"{path} cannot be read as an image: it is damaged or of another kind.")
    return source


def _choose_layer(source: Any, path: Path) -> tuple[list[int], list[str]]:
    """Turns to the picture among a file's layers: its colour channels, and notes on the choice.

    That is Blender's Combined pass, or the channels R, G, B without a layer's name; else the only
    layer that has colours. Raises OmnixError where several might be meant.
    """
    if source.format_name() != "openexr":
        spec = source.spec()
        return _colour_layers(spec).get("") or _few_channels(spec, path), []
    found: list[tuple[str, int, list[int]]] = []  # name, part of the file, channels
    plain = []
    part = 0
    while source.seek_subimage(part, 0):
        spec = source.spec()
        title = spec.getattribute("oiio:subimagename") or ""
        for layer, channels in _colour_layers(spec).items():
            found.append((layer or title, part, channels))
            if part == 0 and not layer:
                plain = found[-1:]
        part += 1
    source.geterror()  # that there is no further part
    combined = [entry for entry in found if "combined" in entry[0].lower().split(".")]
    names = ", ".join(sorted(name for name, _, _ in found if name))
    if len(found) > 1 and not (combined or plain):
        raise OmnixError(
            f"{path} holds several layers ({names}); save the one that is the picture as a file of "
            "its own."
        )
    if not found:
        source.seek_subimage(0, 0)
        return _few_channels(source.spec(), path), []
    name, part, channels = (combined or plain or found)[0]
    source.seek_subimage(part, 0)
    noted = len(found) > 1 and name
    return channels, [f"Of the image's layers {name} was taken ({names})."] if noted else []


def _colour_layers(spec: Any) -> dict[str, list[int]]:
    """Indices of R, G, B of each layer that has them, by its name; "" for channels without one."""
    layers: dict[str, dict[str, int]] = {}
    for index, channel in enumerate(spec.channelnames):
        layer, _, name = channel.rpartition(".")
        layers.setdefault(layer, {}).setdefault(name.lower(), index)
    return {
        layer: [names[name] for name in "rgb"]
        for layer, names in layers.items()
        if all(name in names for name in "rgb")
    }


def _few_channels(spec: Any, path: Path) -> list[int]:
    """Three channels of an image that names no colours; a grey image gives its one three times."""
    colour = [index for index in range(spec.nchannels) if index != spec.alpha_channel]
    if not colour:
        raise OmnixError(f"{path} holds nothing but an alpha channel; choose another image.")
    return colour[:3] if len(colour) >= 3 else [colour[0]] * 3


def _to_rec709(spec: Any) -> tuple[np.ndarray | None, list[str]]:
    """What linear colours (..., 3) are to be multiplied by to be Rec.709, None for nothing; and
    notes.

    An OpenEXR file may name its space, as the Color Interop Forum's recommendation has it and
    Blender does since 5.0. Chromaticities alone Blender ignores, and so they are here.
    """
    import OpenImageIO as oiio

    space = spec.getattribute("colorInteropID")
    if space is None:
        chromaticities = spec.getattribute("chromaticities")
        if chromaticities is None or np.allclose(chromaticities, _REC709_CHROMATICITIES, atol=1e-3):
            return None, []
        return None, [
            "The image has chromaticities other than Rec.709's; its colours were taken as linear "
            "Rec.709 all the same."
        ]
    if space in ("lin_rec709_scene", "data", "unknown"):
        return None, []
    if space.startswith("lin_"):
        converted = oiio.ImageBufAlgo.colorconvert(
            oiio.ImageBuf(np.eye(3, dtype=np.float32)[None]),
            *(space, "lin_rec709_scene"),
            unpremult=False,
            colorconfig="ocio://default",  # built in; else $OCIO is asked
        )
        if not converted.has_error:
            note = f"The image is in the colour space {space}; it was converted to linear Rec.709."
            return np.asarray(converted.get_pixels("float"))[0], [note]
        converted.geterror()
    return None, [
        f"The image is in the colour space {space}, which cannot be converted; its colours were "
        "taken as linear Rec.709."
    ]


def _read_colour(
    source: Any,
    path: Path,
    channels: list[int],
    height: int,
    matrix: np.ndarray | None,
    *,
    encoded: bool,
) -> tuple[np.ndarray, clean.Flaws]:
    """Channels as (height, 2 height, 3) float32, multiplied by `matrix` where there is one, and
    their flaws, rows read in bands.

    Where the picture is reduced it keeps its mean radiance, also where its values are `encoded`;
    what is not a finite number takes no part and negative values are 0, so that one bad pixel
    spoils no others.
    """
    spec = source.spec()
    width = 2 * height
    flaws = clean.Flaws()
    bands = []
    rows = _BAND_ROWS
    if spec.tile_width:
        rows = spec.tile_height * max(1, _BAND_ROWS // spec.tile_height)
    for top in range(0, spec.height, rows):
        bottom = min(top + rows, spec.height)
        band = _read_band(source, spec, top, bottom)
        # A truncated file comes back full-sized; only the error tells.
        if band is None or source.has_error:
            source.geterror()
            raise OmnixError(f"{path} is truncated or damaged; copy or export it again.")
        band = np.asarray(band, np.float32).reshape(bottom - top, spec.width, spec.nchannels)
        band = band[..., channels]
        if matrix is not None:
            band = band @ matrix
        flaws += clean.Flaws.of(band)
        if spec.width != width:
            band = _shrink(band, bottom - top, width, encoded=encoded)
        bands.append(band)
    pixels = np.concatenate(bands)
    if pixels.shape[0] != height:
        pixels = _shrink(pixels, height, width, encoded=encoded)
    return pixels, flaws


def _read_band(source: Any, spec: Any, top: int, bottom: int) -> Any:
    """Rows of the data window, which need not begin at 0; None where they cannot be read."""
    first, last = spec.y + top, spec.y + bottom
    if spec.tile_width:
        return source.read_tiles(
            *(spec.x, spec.x + spec.width, first, last, spec.z, spec.z + max(1, spec.depth)),
            *(0, spec.nchannels, "float"),
        )
    return source.read_scanlines(first, last, spec.z, 0, spec.nchannels, "float")


def _shrink(pixels: np.ndarray, height: int, width: int, *, encoded: bool) -> np.ndarray:
    """`resample.resize` of radiance over the finite pixels, none below 0; NaN where there are
    none. Values that are `encoded` are sRGB and stay so."""
    if encoded:
        return tonemap.srgb_encode(resample.resize(tonemap.srgb_decode(pixels), height, width))
    sound = np.isfinite(pixels).all(axis=-1, keepdims=True)
    if sound.all():
        return resample.resize(np.maximum(pixels, 0.0), height, width)
    colour = resample.resize(np.where(sound, np.maximum(pixels, 0.0), 0.0), height, width)
    share = resample.resize(sound.astype(np.float32), height, width)
    return np.where(share > 1e-6, colour / np.maximum(share, 1e-6), np.nan).astype(np.float32)


def read_raw(path: Path) -> np.ndarray:
    """All channels of an image as (H, W, C) float32, values as stored.

    Raises OmnixError, naming the file, when it is missing or damaged.
    """
    source = _open(path)
    try:
        pixels = source.read_image("float")
        if pixels is None or source.has_error:
            source.geterror()
            raise OmnixError(f"{path} is truncated or damaged; extract the panorama again.")
        spec = source.spec()
    finally:
        source.close()
    return np.asarray(pixels, np.float32).reshape(spec.height, spec.width, spec.nchannels)


def write(path: Path, array: np.ndarray, pixel_type: str) -> None:
    """Write (H, W) or (H, W, 3) float32 as 'uint8', 'uint16', 'half' or 'float'.

    Integer types take 0..1. Raises OSError with the reason.
    """
    import OpenImageIO as oiio

    channels = 1 if array.ndim == 2 else array.shape[2]
    spec = oiio.ImageSpec(array.shape[1], array.shape[0], channels, pixel_type)
    if path.suffix == ".exr":
        spec.attribute("compression", "zip")
        if channels == 1:
            spec.channelnames = ("Y",)
    else:
        # Level 2 writes a 4096-wide map three times as fast as the default at a few per cent
        # more bytes.
        spec.attribute("png:compressionLevel", 2)
    output = oiio.ImageOutput.create(str(path))
    if output is None or not output.open(str(path), spec):
        raise _failure(path, array, oiio.geterror() if output is None else output.geterror())
    done = output.write_image(_quantise(array, pixel_type).reshape(*array.shape[:2], channels))
    reason = output.geterror()
    if not output.close() or not done:
        raise _failure(path, array, reason or output.geterror())
    _refuse_cut(path)


def _failure(path: Path, array: np.ndarray, reason: str) -> OSError:
    """Why an array cannot be written, by OpenImageIO's `reason`, which tells of no full disk."""
    if shutil.disk_usage(path.parent).free < array.nbytes:
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    # The path is a temporary one, which says nothing to the user.
    return OSError(reason.replace(str(path), path.name))


def _refuse_cut(path: Path) -> None:
    """Raise OSError where a file that was just written lacks its end.

    On a full disk OpenImageIO's PNG writer reports success whatever was lost, and its EXR writer
    does so when only the last block was.
    """
    import OpenImageIO as oiio

    if path.suffix == ".png":
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - len(_PNG_END)))
            whole = stream.read(len(_PNG_END)) == _PNG_END
    else:
        source = oiio.ImageInput.open(str(path))
        whole = source is not None
        if source is not None:
            spec = source.spec()
            last = source.read_scanlines(spec.height - 1, spec.height, 0, 0, 1, "float")
            whole = last is not None and not source.has_error
            source.close()
        oiio.geterror()
    if not whole:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _quantise(array: np.ndarray, pixel_type: str) -> np.ndarray:
    array = np.ascontiguousarray(array, np.float32)
    if pixel_type in ("uint8", "uint16"):
        limit = np.iinfo(pixel_type).max
        return (np.clip(array, 0.0, 1.0) * limit + 0.5).astype(pixel_type)
    if pixel_type == "half":
        return np.clip(array, -65504.0, 65504.0).astype(np.float16)
    return array


def write_contact_sheet(path: Path, pictures: Mapping[str, np.ndarray]) -> None:
    """Pictures (H, W, 3) uint8 under their labels, each 512 pixels wide, as an 8-bit sRGB PNG."""
    from PIL import Image, ImageDraw

    width, height, label, columns = 512, 256, 22, 2
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * width, rows * (height + label)), (24, 24, 24))
    draw = ImageDraw.Draw(sheet)
    for index, (text, picture) in enumerate(pictures.items()):
        left = (index % columns) * width
        top = (index // columns) * (height + label)
        tile = Image.fromarray(picture).resize((width, height), Image.Resampling.BOX)
        sheet.paste(tile, (left, top + label))
        draw.text((left + 8, top + 5), text, fill=(230, 230, 230))
    sheet.save(path)


def as_picture(name: str, array: np.ndarray) -> np.ndarray:
    """One map as a viewable (H, W, 3) uint8 picture.

    Depth is shown as its logarithm between the 1st and 99th percentile, near = bright, sky
    black; emission x as x / (1 + x).
    """
    if name == "normal":
        shown = array * 0.5 + 0.5
    elif name == "depth":
        shown = _depth_picture(array)
    elif name == "emission":
        shown = tonemap.srgb_encode(array / (1.0 + array))
    else:
        shown = array
    if shown.ndim == 2:
        shown = np.repeat(shown[..., None], 3, axis=2)
    return _quantise(shown, "uint8")


def _depth_picture(depth: np.ndarray) -> np.ndarray:
    surface = depth > 0
    if not surface.any():
        return np.zeros_like(depth)
    log = np.log(np.where(surface, depth, 1.0))
    near, far = np.percentile(log[surface], (1, 99))
    return np.where(surface, np.clip((far - log) / max(far - near, 1e-6), 0, 1) * 0.95 + 0.05, 0)
