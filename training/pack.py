# SPDX-License-Identifier: GPL-3.0-or-later
"""Scenes small enough for a thin line: a tenth of their size, to train on another machine.

    python -m training.pack --to PACKS                             # the scenes of the train split
    python -m training.pack --unpack PACKS/*.zip --to SCENES/train

A pack is a ZIP file of scenes. In it the radiance is WebP of its logarithm, colours at half the
resolution and cut off above ``LIMIT``; albedo and roughness are JPEG; all three with a slight
loss. Depth, at least ``NEAREST``, is rounded to ``STEP`` of its logarithm; the rest is exact.
Unpacked, it is the scene files of ``generate.make`` again, with ``packed`` in their meta.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import zipfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from .dataset import scene_files
from .generate import save

KNEE, LIMIT = 0.02, 256.0  # of the radiance: linear below one, cut off above the other
NEAREST, STEP = 0.05, 0.003  # metres; of the logarithm of the depth
SIZE = 50  # megabytes of a pack


def encode(scene: dict[str, np.ndarray]) -> dict[str, bytes]:
    """The files of a scene, from the arrays that ``generate.make`` returns."""
    files = {}
    for number, radiance in enumerate(scene["radiance"].astype(np.float32)):
        code = np.log1p(np.clip(radiance, 0.0, LIMIT) / KNEE) / np.log1p(LIMIT / KNEE)
        code = np.round(code * 255).astype(np.uint8)
        files[f"radiance{number}.webp"] = _image(code, "WEBP", quality=92)
    files["albedo.jpg"] = _image(scene["albedo"], "JPEG", quality=88, subsampling=0)
    normal = (scene["normal"].astype(np.int16) + 127).astype(np.uint8)
    files["normal.webp"] = _image(normal, "WEBP", lossless=True)
    depth = scene["depth"].astype(np.float32)
    level = 1 + np.round(np.log(np.maximum(depth, NEAREST) / NEAREST) / STEP).astype(np.uint16)
    level[depth == 0] = 0
    # Three channels, for WebP has no other number of them.
    level = np.stack([level >> 8, level & 255, np.zeros_like(level)], -1).astype(np.uint8)
    files["depth.webp"] = _image(level, "WEBP", lossless=True)
    files["roughness.jpg"] = _image(scene["pbr"][..., 0], "JPEG", quality=90)
    files["metallic.png"] = _image(scene["pbr"][..., 1], "PNG")
    files["object.png"] = _image(scene["object"].astype(np.uint8) * 255, "PNG")
    about = {"lights": scene["lights"].tolist(), "meta": str(scene["meta"])}
    return files | {"scene.json": json.dumps(about).encode()}


def decode(files: dict[str, bytes]) -> dict[str, np.ndarray]:
    """The arrays of a scene from its files; the reverse of ``encode``."""
    about = json.loads(files["scene.json"])
    count = sum(name.startswith("radiance") for name in files)
    meta = json.loads(about["meta"]) | {"packed": True}
    codes = np.stack([_pixels(files[f"radiance{k}.webp"]) for k in range(count)]) / np.float32(255)
    level = _pixels(files["depth.webp"]).astype(np.uint16)
    level = (level[..., 0] << 8) + level[..., 1]
    depth = NEAREST * np.exp((level.astype(np.float32) - 1.0) * STEP)
    pbr = [_pixels(files[name]) for name in ("roughness.jpg", "metallic.png")]
    return {
        "radiance": (np.expm1(codes * np.log1p(LIMIT / KNEE)) * KNEE).astype(np.float16),
        "lights": np.array(about["lights"], np.float32),
        "albedo": _pixels(files["albedo.jpg"]),
        "normal": (_pixels(files["normal.webp"]).astype(np.int16) - 127).astype(np.int8),
        "depth": np.where(level > 0, depth, 0.0).astype(np.float16),
        "pbr": np.stack(pbr, -1),
        "object": _pixels(files["object.png"]) > 0,
        "meta": np.array(json.dumps(meta)),
    }


def pack(scenes: list[Path], folder: Path, size: float = SIZE) -> list[Path]:
    """Writes scene files, in the order given, as packs that end once they reach ``size`` megabytes.

    Raises ValueError where the folder holds packs already, which would mix with these.
    """
    if any(folder.glob("*.zip")):
        raise ValueError(f"{folder} holds packs already; name an empty folder")
    folder.mkdir(parents=True, exist_ok=True)
    packs: list[Path] = []
    waiting = list(reversed(scenes))
    while waiting:
        packs.append(folder / f"{len(packs):03d}.zip")
        partial = packs[-1].with_suffix(".part")
        with partial.open("wb") as stream, zipfile.ZipFile(stream, "w") as file:
            full = False
            while waiting and not full:
                path = waiting.pop()
                with np.load(path) as scene:
                    for name, data in encode(dict(scene)).items():
                        file.writestr(f"{path.stem}/{name}", data)
                full = stream.tell() >= size * 1e6
        partial.rename(packs[-1])
    return packs


def unpack(path: Path, folder: Path) -> int:
    """Writes the scenes of a pack as scene files, but for those that are there; returns how many.

    Raises ValueError naming a pack that is damaged or none.
    """
    written = 0
    try:
        with zipfile.ZipFile(path) as file:
            scenes: dict[str, dict[str, bytes]] = {}
            for name in file.namelist():
                scene, part = name.split("/")
                if not scene.isdecimal():
                    raise ValueError(f"{scene} is no seed")
                scenes.setdefault(scene, {})[part] = file.read(name)
        for scene, files in scenes.items():
            target = folder / f"{scene}.npz"
            if not target.exists():
                save(target, decode(files))
                written += 1
    except (zipfile.BadZipFile, KeyError, ValueError, OSError) as error:
        raise ValueError(f"{path}: damaged, or no pack of scenes ({error})") from error
    return written


def _image(pixels: np.ndarray, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, **options)
    return buffer.getvalue()


def _pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("files", type=Path, nargs="*", help="scene files, or packs to unpack")
    parser.add_argument("--to", type=Path, required=True, help="folder of the packs or scenes")
    parser.add_argument("--unpack", action="store_true")
    parser.add_argument("--size", type=float, default=SIZE, help="megabytes of a pack")
    options = parser.parse_args(arguments)
    files = options.files or ([] if options.unpack else scene_files("train"))
    missing = [path for path in files if not path.is_file()]
    if missing or not files:
        parser.error(
            f"{missing[0]} is missing" if missing else "there is nothing to pack or unpack"
        )
    try:
        if options.unpack:
            with ProcessPoolExecutor() as pool:
                count = sum(pool.map(unpack, files, itertools.repeat(options.to)))
            print(f"{count} scenes unpacked")
        else:
            packs = pack(files, options.to, options.size)
            print(f"{len(files)} scenes in {len(packs)} packs")
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
