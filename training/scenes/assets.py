# SPDX-License-Identifier: GPL-3.0-or-later
"""The CC0 assets under `training/assets`: colour swatches, HDRIs, furniture, by split.

`train` and `val` draw from the same assets; `test` and `flat` share others, which training never
sees.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np

ASSETS = Path(__file__).parent.parent / "assets"

SPLITS = ("train", "val", "test", "flat")
TEST_HDRIS = ("esplanade", "warehouse")
TEST_FURNITURE = (
    "armchair_pillows",
    "bed_double_B",
    "bed_single_A",
    "cabinet_medium",
    "chair_C",
    "chair_B_wood",
    "couch",
    "lamp_table",
    "shelf_B_large_decorated",
    "table_low",
    "table_medium_long",
    "cactus_medium_B",
)
# Every sixth swatch of a sheet belongs to the test split.
TEST_SWATCH_PERIOD = 6
# Sheets also hold normal and thickness maps of a few materials; those are no base colours.
NOT_COLOURS = {("Tiles", i) for i in (2, 3, 4, 5)}

# Layout of a preview sheet in pixels: swatches of SWATCH px with a caption below.
SWATCH = 128
ORIGIN = 16
PITCH_X = 144
PITCH_Y = 176
COLUMNS = 7


def held_out(split: str) -> bool:
    """Whether the split uses the assets that training never sees."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}, expected one of {', '.join(SPLITS)}")
    return split in ("test", "flat")


@functools.cache
def _sheet(name: str) -> dict[int, np.ndarray]:
    """Swatches of one sheet by index, (h, w, 3) uint8, blank margins cut off."""
    from PIL import Image

    with Image.open(ASSETS / "textures" / f"{name}.webp") as image:
        sheet = np.asarray(image.convert("RGB"))
    swatches = {}
    for index in range(COLUMNS * (sheet.shape[0] // PITCH_Y + 1)):
        x = ORIGIN + PITCH_X * (index % COLUMNS)
        y = ORIGIN + PITCH_Y * (index // COLUMNS)
        tile = sheet[y : y + SWATCH, x : x + SWATCH]
        printed = (tile.astype(int) < 252).any(axis=-1)
        rows, columns = np.flatnonzero(printed.any(1)), np.flatnonzero(printed.any(0))
        if len(rows) < 48 or len(columns) < 48 or (name, index) in NOT_COLOURS:
            continue
        swatches[index] = tile[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return swatches


def swatches(sheet: str, split: str) -> list[np.ndarray]:
    """Base colour swatches of one sheet for one split, (h, w, 3) uint8, sRGB-encoded."""
    wanted = held_out(split)
    return [
        tile
        for index, tile in _sheet(sheet).items()
        if (index % TEST_SWATCH_PERIOD == TEST_SWATCH_PERIOD - 1) == wanted
    ]


def hdris(split: str) -> list[Path]:
    """Equirectangular HDRI files of one split."""
    wanted = held_out(split)
    files = sorted((ASSETS / "hdri").glob("*.hdr"))
    return [file for file in files if (file.stem in TEST_HDRIS) == wanted]


def furniture(split: str, prefix: str) -> list[str]:
    """Names of the furniture pieces of one split that begin with `prefix`."""
    wanted = held_out(split)
    names = sorted(file.stem for file in (ASSETS / "furniture").glob(f"{prefix}*.gltf"))
    return [name for name in names if (name in TEST_FURNITURE) == wanted]


@functools.cache
def _furniture_piece(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One glTF piece as vertices (n, 3) in metres, z up, triangles (m, 3), and for each triangle
    where it lies in the atlas (m, 2), in 0..1 from the top left."""
    path = ASSETS / "furniture" / f"{name}.gltf"
    document = json.loads(path.read_text())
    data = path.with_suffix(".bin").read_bytes()

    def accessor(index: int, dtype: type, width: int) -> np.ndarray:
        entry = document["accessors"][index]
        view = document["bufferViews"][entry["bufferView"]]
        values = np.frombuffer(data, dtype, entry["count"] * width, view["byteOffset"])
        return values.reshape(entry["count"], width) if width > 1 else values

    primitive = document["meshes"][0]["primitives"][0]
    position = accessor(primitive["attributes"]["POSITION"], np.float32, 3)
    uv = accessor(primitive["attributes"]["TEXCOORD_0"], np.float32, 2)
    triangles = accessor(primitive["indices"], np.uint16, 1).reshape(-1, 3).astype(int)
    # glTF is y up; the pieces are drawn about 1.5 times life size.
    vertices = np.stack([position[:, 0], -position[:, 2], position[:, 1]], axis=1) * 0.67
    return vertices, triangles, uv[triangles].mean(axis=1)


@functools.cache
def furniture_mesh(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One glTF piece as vertices (n, 3) in metres, z up, triangles (m, 3) and atlas cell (m,).

    The pieces share one palette atlas of 8 x 4 cells; the cell tells a piece's parts apart.
    """
    vertices, triangles, centre = _furniture_piece(name)
    cell = np.clip(centre * (8, 4), 0, (7.999, 3.999)).astype(int)
    merged = np.array([0, 0, 0, 1, 1, 2, 3, 4, 5, 5, 6, 6, 7, 7, 7, 8])
    column = cell[:, 0] + 8 * cell[:, 1]
    part = np.where(column < 16, merged[np.minimum(column, 15)], column)
    return vertices, triangles, part


@functools.cache
def _palette() -> np.ndarray:
    from PIL import Image

    with Image.open(ASSETS / "furniture" / "palette.png") as image:
        return np.asarray(image.convert("RGB"), np.float32) / 255


@functools.cache
def furniture_colours(name: str) -> dict[int, np.ndarray]:
    """The mean colour of each part of a piece in the palette it comes with, sRGB-encoded, 0..1."""
    height, width = _palette().shape[:2]
    *_, centre = _furniture_piece(name)
    column, row = (np.clip(centre, 0, 0.999) * (width, height)).astype(int).T
    *_, parts = furniture_mesh(name)
    colours = _palette()[row, column]
    return {int(part): colours[parts == part].mean(axis=0) for part in np.unique(parts)}
