# SPDX-License-Identifier: GPL-3.0-or-later
"""Scores the compact engine on its own held-out scenes, next to what anybody could guess.

    python -m training.evaluate [--scenes DIR] [--out DIR]
    python -m training.evaluate --panoramas FILE ... [--out DIR]

Prints a table for rooms, one for outdoors and one for a flat laid out by hand, and what zeroing the
adapters costs; writes them as ``scores.json`` and a contact sheet ``sheet.png``. Test scenes are
rendered first where there are none. The second form writes ``panoramas.png``, maps of panoramas
without a known truth. What is scored are the files that ``extract`` delivers for a linear panorama
and the camera's true height, the sky cut out of them.
"""

from __future__ import annotations

import argparse
import importlib
import io
import json
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import nn

import blender_omnix
from blender_omnix import images
from blender_omnix.engines.base import Engine, Prediction
from blender_omnix.engines.compact.engine import WEIGHTS, CompactEngine
from blender_omnix.panorama import frames, resample, tonemap

from .dataset import Scene, read, scene_files, under
from .generate import RECIPE
from .metrics import RISING, mean_scores, score

MAPS = ("albedo", "normal", "roughness", "metallic", "depth")
LIGHTS = 2  # pictures of each scene
PANORAMA_WIDTH = 256  # of each picture in the sheet of panoramas
TEST_SCENES = {"test": 40, "flat": 12}
PACKAGE = Path(blender_omnix.__file__).parent
WEIGHTS_IN_PACKAGE = WEIGHTS.relative_to(PACKAGE)

# The room that the trivial guess sees everywhere, in metres around the camera.
GUESSED_ROOM = (-2.5, -2.5, -1.6, 2.5, 2.5, 1.1)

# One figure per task, for the ablation.
TASK_FIGURE = {
    "albedo": "albedo PSNR",
    "normal": "normal mean",
    "pbr": "roughness MAE",
    "depth": "depth AbsRel",
}

# From linear radiance (H, W, 3) to the maps of MAPS, of its size.
Predict = Callable[[np.ndarray, Scene], Prediction]


def tilted_axes(pitch: float, roll: float) -> np.ndarray:
    """What ``render.camera`` returns for a tilt in radians, without Blender: the rotation (3, 3)
    whose rows are the image's axes in the scene."""
    turned = np.array(
        [[np.cos(pitch), 0, np.sin(pitch)], [0, 1, 0], [-np.sin(pitch), 0, np.cos(pitch)]]
    )
    leaned = np.array(
        [[1, 0, 0], [0, np.cos(roll), -np.sin(roll)], [0, np.sin(roll), np.cos(roll)]]
    )
    return (turned @ leaned).T


def box_maps(
    box: tuple[float, ...], height: int, tilt: tuple[float, float] = (0.0, 0.0)
) -> tuple[np.ndarray, np.ndarray]:
    """Distance (H, W) and normals (H, W, 3) of an axis-aligned box seen from inside it.

    ``box`` is xmin, ymin, zmin, xmax, ymax, zmax relative to the camera, in metres and in the frame
    of the scene, in which the camera is tilted by ``tilt``, pitch and roll in degrees; normals are
    in the frame of the image.
    """
    axes = tilted_axes(*np.radians(tilt))
    rays = frames.directions(height, 2 * height) @ axes.astype(np.float32)
    low, high = np.array(box[:3], np.float32), np.array(box[3:], np.float32)
    steep = np.where(np.abs(rays) < 1e-6, 1e-6, rays)
    reach = np.where(steep > 0, high, low) / steep
    axis = reach.argmin(-1)
    normal = -np.sign(steep) * (np.arange(3) == axis[..., None])
    return reach.min(-1), (normal @ axes.T).astype(np.float32)


def trivial(linear: np.ndarray, scene: Scene) -> Prediction:
    """The picture as albedo, a fixed room's normals, depth by latitude, medians for the rest."""
    picture, _ = tonemap.expose(linear)
    height = picture.shape[0]
    _, normal = box_maps(GUESSED_ROOM, height)
    steepness = np.abs(np.sin(frames.elevations(height)))[:, None]
    depth = np.broadcast_to(1.6 / np.maximum(steepness, 0.4), picture.shape[:2])
    return {
        "albedo": picture,
        "normal": normal,
        "depth": depth.astype(np.float32),
        "roughness": np.full(picture.shape[:2], 0.6, np.float32),
        "metallic": np.zeros(picture.shape[:2], np.float32),
    }


def room_box(linear: np.ndarray, scene: Scene) -> Prediction:
    """Oracle: the true bounding box of the room without anything in it; trivial outdoors."""
    maps = trivial(linear, scene)
    if scene.meta["box"] is not None:
        box, tilt = scene.meta["box"], scene.meta["tilt_degrees"]
        maps["depth"], maps["normal"] = box_maps(box, linear.shape[0], tilt)
    return maps


class WithoutAdapters(CompactEngine):
    """What base and heads make of a picture when every adapter is zero."""

    def load(self, progress: Callable[[str, float], None]) -> None:
        super().load(progress)
        for name, weight in self.network.named_parameters():
            if "lora_B" in name:
                nn.init.zeros_(weight)


class Delivered:
    """What users of a version of the package get; `package` is the name it is imported by."""

    def __init__(self, engine: Engine, package: str = PACKAGE.name) -> None:
        self.engine = engine
        self.extraction = importlib.import_module(f"{package}.extract")
        self.map_set = importlib.import_module(f"{package}.maps")

    def __call__(self, linear: np.ndarray, scene: Scene) -> Prediction:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "panorama.exr"
            images.write(file, linear.astype(np.float32), "float")
            return self.of_file(file, maps=MAPS, camera_height=scene.meta["camera_height"])

    def of_file(self, file: Path, **settings) -> Prediction:
        """The maps of a panorama file, extracted with the settings of `extract.Settings`."""
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "maps"
            chosen = self.extraction.Settings(**settings)
            self.extraction.extract(file, out, chosen, engine=self.engine)
            return self.map_set.load(out)


def truth_of(scene: Scene) -> dict[str, np.ndarray]:
    """The scene's maps as `metrics.score` takes them."""
    maps = scene.truth
    basis = frames.gravity_basis(*maps.valid.shape)
    return {
        "albedo": maps.albedo.astype(np.float32) / 255,
        "normal": np.einsum("hwji,hwj->hwi", basis, maps.normal.astype(np.float32)),
        "depth": np.exp(maps.log_depth) * scene.meta["camera_height"],
        "roughness": maps.roughness.astype(np.float32) / 255,
        "metallic": maps.metallic.astype(np.float32) / 255,
        "valid": maps.valid,
        "object": maps.object,
    }


def evaluate(
    scenes: list[Scene], rows: dict[str, Predict]
) -> dict[str, dict[str, list[dict[str, float]]]]:
    """Scores of every picture: {kind: {row: [scores, ...]}}, in the same order for all rows."""
    result: dict[str, dict[str, list[dict[str, float]]]] = {}
    for scene in scenes:
        truth = truth_of(scene)
        of_kind = result.setdefault(scene.meta["kind"], {name: [] for name in rows})
        for light in range(LIGHTS):
            linear = under(scene, light)
            for name, predict in rows.items():
                of_kind[name].append(score(predict(linear, scene), truth))
    return result


def table(scores: dict[str, list[dict[str, float]]]) -> str:
    """Markdown: one row per predictor, one column per figure."""
    lines = ["| | " + " | ".join(RISING) + " |", "| --- |" + " ---: |" * len(RISING)]
    for row, pictures in scores.items():
        means = mean_scores(pictures)
        lines.append(f"| {row} | " + " | ".join(f"{means[name]:.3g}" for name in RISING) + " |")
    return "\n".join(lines)


def rise(
    scores: dict[str, dict[str, list[dict[str, float]]]], row: str, reference: str
) -> dict[str, tuple[float, float]]:
    """How much worse ``row`` is than ``reference`` in each task's figure: mean and its standard
    error, by bootstrap over scenes (the pictures of one scene stay together)."""
    rng = np.random.default_rng(0)
    result = {}
    for task, figure in TASK_FIGURE.items():
        sign = -1 if RISING[figure] else 1
        gaps = [
            sign * (a[figure] - b[figure])
            for of_kind in scores.values()
            for a, b in zip(of_kind[row], of_kind[reference], strict=True)
        ]
        by_scene = np.array(gaps).reshape(-1, LIGHTS).mean(1)
        draws = rng.choice(by_scene, (2000, len(by_scene))).mean(1)
        result[task] = float(by_scene.mean()), float(draws.std())
    return result


def panel(maps: Prediction, valid: np.ndarray) -> list[np.ndarray]:
    """Albedo, normal, roughness, metallic and depth as sRGB pictures (H, W, 3)."""
    far = float(np.quantile(maps["depth"][valid], 0.9)) if valid.any() else 0.0
    depth = maps["depth"] / max(far, 1e-6)
    grey = [maps["roughness"], maps["metallic"], np.clip(1 / (1 + 2 * depth), 0, 1)]
    pictures = [maps["albedo"], maps["normal"] / 2 + 0.5]
    pictures += [np.repeat(g[..., None], 3, -1) for g in grey]
    return [np.where(valid[..., None], p, 0.1) for p in pictures]


def sheet(rows: list[tuple[str, list[np.ndarray]]], file: Path) -> None:
    """Writes rows of equally large pictures, each with its label, as one image."""
    height, width = rows[0][1][0].shape[:2]
    columns = max(len(pictures) for _, pictures in rows)
    canvas = Image.new("RGB", (columns * width, len(rows) * height))
    draw = ImageDraw.Draw(canvas)
    for y, (label, pictures) in enumerate(rows):
        for x, picture in enumerate(pictures):
            pixels = np.round(np.clip(picture, 0, 1) * 255).astype(np.uint8)
            canvas.paste(Image.fromarray(pixels), (x * width, y * height))
        draw.text((3, y * height + 2), label, fill=(255, 255, 0))
    canvas.save(file)


def contact_sheet(scenes: list[Scene], predict: Predict, file: Path) -> None:
    """For each scene a row of the truth under a row of what is delivered."""
    rows = []
    for scene in scenes:
        linear = under(scene, 0)
        picture, _ = tonemap.expose(linear)
        truth = truth_of(scene)
        label = f"{scene.meta['kind']} {scene.name} predicted"
        found = predict(linear, scene)
        rows.append((label, [picture, *panel(found, found["depth"] > 0)]))
        rows.append(("truth", [picture, *panel(truth, truth["valid"])]))
    sheet(rows, file)


def panorama_sheet(files: list[Path], delivered: Delivered, file: Path) -> None:
    """What users get for panoramas without a known truth, one a row."""
    rows = []
    for path in files:
        found = delivered.of_file(path, size=2 * PANORAMA_WIDTH)
        pictures = [found["panorama"], *panel(found, found["depth"] > 0)]
        size = PANORAMA_WIDTH // 2, PANORAMA_WIDTH
        rows.append((path.stem, [resample.resize(picture, *size) for picture in pictures]))
    sheet(rows, file)


def previous_version(package: Path, folder: Path, weights: Path | None = None) -> Path | None:
    """The folder ``package`` as it was when the weights before those in ``weights`` came into it,
    put into ``folder`` under the name ``previous_omnix``; None without such a history at hand.

    By default those of the package are meant. Weights that are not committed come after all that
    are. Not the weights alone: they fit no other network than that of their time.
    """
    git = ["git", "-C", str(package)]
    own = package / WEIGHTS_IN_PACKAGE
    command = [*git, "log", "-2", "--format=%H", "--", str(WEIGHTS_IN_PACKAGE)]
    commits = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    command = [*git, "diff", "--quiet", "HEAD", "--", str(WEIGHTS_IN_PACKAGE)]
    changed = subprocess.run(command, capture_output=True, check=False).returncode
    if weights in (None, own) and not changed:
        commits = commits[1:]
    if not commits:
        return None
    # From within the folder, git packs what lies there, as if it were the root.
    command = [*git, "archive", "--format=tar", commits[0], "."]
    packed = subprocess.run(command, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(folder / "previous_omnix", filter="data")
    return folder / "previous_omnix"


def previous_delivered(package: Path) -> Delivered:
    """What a version that `previous_version` brought delivers, with its own weights and code."""
    sys.path.insert(0, str(package.parent))
    try:
        module = importlib.import_module(f"{package.name}.engines.compact.engine")
    finally:
        sys.path.remove(str(package.parent))
    return Delivered(module.CompactEngine(), package.name)


def _scene_files(folder: Path | None) -> list[Path]:
    """The scene files in a folder; without one those of the test sets, rendered where missing."""
    if folder is not None:
        return sorted(folder.glob("*.npz"))
    files = []
    for split, count in TEST_SCENES.items():
        if len(scene_files(split)) < count:
            command = ["-m", "training.generate", "--split", split, "--count", str(count)]
            subprocess.run([sys.executable, *command], check=True)
        files += scene_files(split)
    return files


def outdated(scenes: list[Scene]) -> str | None:
    """What to say of scenes that an earlier recipe made, whose truth may differ."""
    count = sum(scene.meta["recipe"] != RECIPE for scene in scenes)
    if not count:
        return None
    return (
        f"{count} of {len(scenes)} scenes were not made by recipe {RECIPE}; delete them to have "
        "them rendered anew."
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--scenes", type=Path, help="folder of scene files; default the test sets")
    parser.add_argument("--out", type=Path, default=Path("evaluation"))
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--panoramas", type=Path, nargs="+", help="only write a sheet of these")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.panoramas:
        delivered = Delivered(CompactEngine(options.weights))
        panorama_sheet(options.panoramas, delivered, options.out / "panoramas.png")
        return
    scenes = [read(path) for path in _scene_files(options.scenes)]
    if not scenes:
        parser.error(f"no scenes in {options.scenes}")
    if notice := outdated(scenes):
        print(notice, file=sys.stderr)

    rows: dict[str, Predict] = {
        "compact": Delivered(CompactEngine(options.weights)),
        "compact, adapters zeroed": Delivered(WithoutAdapters(options.weights)),
        "trivial": trivial,
        "room box (oracle)": room_box,
    }
    with tempfile.TemporaryDirectory() as folder:
        previous = previous_version(PACKAGE, Path(folder), options.weights)
        if previous:
            rows["previous weights"] = previous_delivered(previous)
        scores = evaluate(scenes, rows)
    # The views of the flat are one place, not so many independent scenes.
    independent = {kind: of_kind for kind, of_kind in scores.items() if kind != "flat"} or scores
    rises = rise(independent, "compact, adapters zeroed", "compact")

    for kind, of_kind in scores.items():
        print(f"\n{kind}: {len(of_kind['compact']) // LIGHTS} scenes under {LIGHTS} lights\n")
        print(table(of_kind))
    print("\nAdapters zeroed, how much worse (standard error over scenes):\n")
    for task, (gap, error) in rises.items():
        print(f"- {task}: {TASK_FIGURE[task]} {gap:+.3g} (+- {error:.2g})")
    means = {
        kind: {row: mean_scores(pictures) for row, pictures in of_kind.items()}
        for kind, of_kind in scores.items()
    }
    written = {"scenes": len(scenes), "means": means, "adapters_zeroed": rises}
    (options.out / "scores.json").write_text(json.dumps(written, indent=2), encoding="utf-8")
    step = max(1, len(scenes) // 8)
    contact_sheet(scenes[::step][:8], rows["compact"], options.out / "sheet.png")
    print(f"\nContact sheet: {options.out / 'sheet.png'}")


if __name__ == "__main__":
    main()
