# SPDX-License-Identifier: GPL-3.0-or-later
"""The rendered scenes, decoded into memory, and the batches drawn from them.

Every file holds one geometry and one radiance image per light component; a picture of it is a
weighted sum of the components (light is additive), so each epoch sees each scene under new light.
"""

from __future__ import annotations

import json
import sys
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from blender_omnix.panorama import frames

from . import augment
from .generate import data_folder

HEIGHT = 128  # of the scene files
REPAINTED = 0.4  # share of examples whose surfaces get other colours


@dataclass
class Truth:
    """One scene's maps.

    radiance (K, H, W, 3) linear; albedo (H, W, 3) sRGB-encoded; normal (H, W, 3) unit, gravity
    frame (east, outward, up); log_depth (H, W), natural logarithm of camera heights, 0 where not
    valid; roughness, metallic (H, W); valid (H, W), False in the sky; object (H, W).
    """

    radiance: np.ndarray
    albedo: np.ndarray
    normal: np.ndarray
    log_depth: np.ndarray
    roughness: np.ndarray
    metallic: np.ndarray
    valid: np.ndarray
    object: np.ndarray


@dataclass
class Scene:
    """A scene file in memory."""

    name: str
    lights: np.ndarray
    meta: dict
    truth: Truth = field(repr=False)


def read(path: Path, height: int = HEIGHT) -> Scene:
    """Reads one scene file, whose layout ``generate.make`` gives, at full or at half size.

    Raises ValueError naming a file that is damaged or not whole.
    """
    try:
        with np.load(path) as file:
            meta, lights = json.loads(str(file["meta"])), file["lights"].astype(np.float32)
            truth = _truth(file, meta["camera_height"])
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"{path} is no whole scene file ({error}); delete it, and training.generate renders "
            "it again."
        ) from error
    return Scene(path.stem, lights, meta, truth if height == HEIGHT else halve(truth))


def _truth(file: Mapping[str, np.ndarray], camera_height: float) -> Truth:
    depth = file["depth"].astype(np.float32)
    valid = depth > 0
    normal = file["normal"].astype(np.float32)
    normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-6)
    basis = frames.gravity_basis(*depth.shape)
    return Truth(
        radiance=np.nan_to_num(file["radiance"], nan=0.0, posinf=6e4, neginf=0.0),
        albedo=file["albedo"],
        normal=np.einsum("hwij,hwj->hwi", basis, normal).astype(np.float16),
        log_depth=np.log(np.where(valid, depth, 1.0) / camera_height) * valid,
        roughness=file["pbr"][..., 0],
        metallic=file["pbr"][..., 1],
        valid=valid,
        object=file["object"] & valid,
    )


def halve(truth: Truth) -> Truth:
    """The same scene at half the size: means over the valid pixels of each 2 x 2 block."""
    valid = truth.valid.astype(np.float32)
    share = _mean2(valid)
    weight = np.maximum(share, 1e-6)

    def over_valid(values: np.ndarray) -> np.ndarray:
        extra = (1,) * (values.ndim - 2)
        blocks = _mean2(values.astype(np.float32) * valid.reshape(valid.shape + extra))
        return blocks / weight.reshape(weight.shape + extra)

    normal = over_valid(truth.normal)
    normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-6)
    keep = share >= 0.5
    return Truth(
        radiance=np.stack([_mean2(r.astype(np.float32)) for r in truth.radiance]).astype(
            np.float16
        ),
        albedo=np.round(over_valid(truth.albedo)).astype(np.uint8),
        normal=normal.astype(np.float16),
        log_depth=over_valid(truth.log_depth) * keep,
        roughness=np.round(over_valid(truth.roughness)).astype(np.uint8),
        metallic=np.round(over_valid(truth.metallic)).astype(np.uint8),
        valid=keep,
        object=(_mean2(truth.object.astype(np.float32)) >= 0.5) & keep,
    )


def _mean2(values: np.ndarray) -> np.ndarray:
    height, width = values.shape[:2]
    return values.reshape(height // 2, 2, width // 2, 2, *values.shape[2:]).mean((1, 3))


def split_folder(split: str, folder: Path | None = None) -> Path:
    """Where the scenes of a split are: in `folder`, which by default is that of the data."""
    return (folder or data_folder() / "scenes") / split


def scene_files(split: str, folder: Path | None = None, limit: int | None = None) -> list[Path]:
    """The scene files of a split, named by their seeds, at most `limit`, in name order."""
    files = sorted(split_folder(split, folder).glob("*.npz"))
    return [path for path in files if path.stem.isdecimal()][:limit]


class Scenes:
    """The scenes of one split in memory, at most ``limit``; ``refresh`` picks up files rendered
    since.

    Of processes that draw together each holds a part, by the scenes' seeds: that of number ``rank``
    every ``of``-th, or all scenes while it would have none.
    """

    def __init__(
        self,
        split: str,
        folder: Path | None = None,
        limit: int | None = None,
        height: int = HEIGHT,
        rank: int = 0,
        of: int = 1,
    ) -> None:
        self.split, self.folder, self.limit = split, folder, limit
        self.height = height
        self.rank, self.of = rank, of
        self.scenes: dict[str, Scene] = {}
        self.refresh()

    def refresh(self) -> int:
        """Reads new files in name order; returns how many there were. One that cannot be read, as
        while it is being copied, is left for the next look, with a line on stderr; ValueError if
        that leaves none."""
        files = scene_files(self.split, self.folder, self.limit)
        mine = [path for path in files if int(path.stem) % self.of == self.rank] or files
        names = {path.stem for path in mine}
        self.scenes = {name: scene for name, scene in self.scenes.items() if name in names}
        new = [p for p in mine if p.stem not in self.scenes]
        count, failed = len(self.scenes), None
        for path in new:
            try:
                self.scenes[path.stem] = read(path, self.height)
            except ValueError as error:
                failed = error
                print(f"Left out for now: {error}", file=sys.stderr, flush=True)
        if failed and not self.scenes:
            raise failed
        return len(self.scenes) - count

    def __len__(self) -> int:
        return len(self.scenes)


def relight(radiance: np.ndarray, lights: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A picture (H, W, 3), linear, under a random light.

    Mostly one of the scene's own conditions or a blend of two, with jittered components; at times
    every component at a random strength, whatever the time of day that makes.
    """
    count = radiance.shape[0]
    if rng.random() < 0.8:
        first, second = rng.integers(len(lights), size=2)
        share = rng.random() if rng.random() < 0.3 else 1.0
        weights = share * lights[first] + (1.0 - share) * lights[second]
        weights = weights * np.exp(rng.normal(0.0, 0.25, (count, 1)))
    else:
        mean = radiance.reshape(count, -1).astype(np.float32).mean(1)
        strength = np.exp(rng.normal(0.0, 1.2, count)) / np.maximum(mean, 1e-4)
        strength[rng.random(count) < 0.25] = 0.0
        strength[mean < 1e-4] = 0.0
        if not strength.any():
            strength = np.ones(count)
        weights = strength[:, None] * np.exp(rng.normal(0.0, 0.15, (count, 3)))
    return np.einsum("khwc,kc->hwc", radiance.astype(np.float32), weights.astype(np.float32))


def under(scene: Scene, light: int) -> np.ndarray:
    """The scene under one of its own conditions, linear (H, W, 3)."""
    radiance = scene.truth.radiance.astype(np.float32)
    return np.einsum("khwc,kc->hwc", radiance, scene.lights[light % len(scene.lights)])


def sample(scene: Scene, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """One training example, (C, H, W) float32 each: relit, at times painted anew, photographed,
    rolled and mirrored."""
    truth = scene.truth
    linear = relight(truth.radiance, scene.lights, rng)
    example = {
        "albedo": truth.albedo.astype(np.float32) / 255,
        "normal": truth.normal.astype(np.float32),
        "log_depth": truth.log_depth[..., None].astype(np.float32),
        "roughness": truth.roughness[..., None].astype(np.float32) / 255,
        "metallic": truth.metallic[..., None].astype(np.float32) / 255,
        "valid": truth.valid[..., None].astype(np.float32),
        "object": truth.object[..., None].astype(np.float32),
    }
    if rng.random() < REPAINTED:
        linear, example["albedo"] = augment.repaint(linear, example, rng)
    example["panorama"] = augment.photograph(linear, rng)
    example = augment.turn(example, rng)
    return {name: np.ascontiguousarray(v.transpose(2, 0, 1)) for name, v in example.items()}
