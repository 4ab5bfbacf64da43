# SPDX-License-Identifier: GPL-3.0-or-later
"""How true a rebuilt place is, against rendered scenes of known truth: `make bench-environment`.

Each scene, made by the training generator of its held-out assets, is rendered as a panorama with
its true maps. The place is built from the true maps and from the maps that the compact engine
predicts, then rendered under the same and under new light, from the viewpoint and from beside it,
and compared with the scene itself; Original Light from the viewpoint is compared with the panorama.
The figure is PSNR in dB of sRGB-encoded pictures, weighted by solid angle, each picture at the
exposure that suits it best.

Baselines: the panorama as an emissive sphere with the best gain per channel, and a flat sphere
that has the panorama as its albedo under the new light (for moved views: that emits it).

Last it prints what a build costs after an extraction at 2048 x 1024, in a process of its own on two
cores: seconds, also as multiples of the time to write one float RGB EXR of that size in the same
run, and peak memory.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import bpy
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.bench import seconds_to_write, shipped_panorama  # noqa: E402
from benchmarks.extension import quiet  # noqa: E402
from blender_omnix import images, maps  # noqa: E402
from blender_omnix.host.build import place  # noqa: E402
from blender_omnix.panorama import frames, seams, tonemap  # noqa: E402
from training import render  # noqa: E402
from training.scenes import lights, outdoors, rooms  # noqa: E402
from training.scenes.materials import Materials  # noqa: E402

MAP_WIDTH, VIEW_WIDTH = 512, 192
# What noise is left counts as error. The scene itself, against which all is compared, has least;
# Original Light has none but at edges.
TRUTH_SAMPLES, SAMPLES, UNLIT_SAMPLES = 256, 128, 32
BOUNCES = 4
PHOTOGRAPH_SAMPLES = 64  # the panorama that a place is built from: a photograph has little noise
BUILD_WIDTH = 2048
MOVES = (0.3, 0.8)
# Seeds whose scenes are neither black nor a bare wall in front of the lens.
SCENES = (
    ("room", 1), ("room", 2), ("room", 3), ("room", 4),
    ("outdoor", 1), ("outdoor", 2), ("outdoor", 3), ("outdoor", 4),
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, nargs="*", help="positions in the list (default all)")
    parser.add_argument("--pictures", type=Path, help="keep every render in this folder")
    parser.add_argument("--no-predicted", action="store_true", help="true maps alone")
    parser.add_argument(
        "--keep", type=Path, help="JSON file of scores; what is in it is not redone"
    )
    parser.add_argument("--build", type=Path, help="only time the build of this map set")
    arguments = parser.parse_args()
    if arguments.build is not None:
        print(json.dumps(_time_build(arguments.build)))
        return 0
    results: dict[str, dict[str, float]] = {}
    if arguments.keep is not None and arguments.keep.exists():
        results = json.loads(arguments.keep.read_text("utf-8"))
    for index in arguments.scenes or range(len(SCENES)):
        kind, seed = SCENES[index]
        name = f"{kind} {seed}"
        if name in results:
            continue
        started = time.process_time()
        scene = Trial(kind, seed, arguments.pictures)
        results[name] = scene.run(predicted=not arguments.no_predicted)
        print(f"{name}: {time.process_time() - started:.0f} CPU s", file=sys.stderr, flush=True)
        if arguments.keep is not None:
            arguments.keep.write_text(json.dumps(results, indent=1), "utf-8")
    _print_table(results)
    print(_cost())
    return 0


class Trial:
    """One scene: its truth, and places built from its maps."""

    def __init__(self, kind: str, seed: int, pictures: Path | None) -> None:
        self.kind, self.seed, self.pictures = kind, seed, pictures
        self.scores: dict[str, float] = {}
        self.truth: dict[str, np.ndarray] = {}
        rng = np.random.default_rng([2, seed, kind == "room"])
        with quiet():
            render.prepare(lights.GROUPS, MAP_WIDTH)
            bpy.context.scene.render.threads = 2
            build = rooms.build if kind == "room" else outdoors.build
            made = build(rng, Materials(rng, "test"))
            self.height = 1.5
            axes = render.camera(self.height)
            self.maps = render.render(tuple(made["groups"]), axes, PHOTOGRAPH_SAMPLES)
        self.radiance = sum(self.maps.pop(group) for group in made["groups"])
        self.scene = bpy.context.scene
        self.scene.use_nodes = False
        self.originals = list(self.scene.objects)
        self.world = self.scene.world
        self.dark = bpy.data.worlds.new("dark")
        self.dark.color = (0.0, 0.0, 0.0)
        self.maps["emission"] = self._emission()

    def run(self, *, predicted: bool) -> dict[str, float]:
        """All scores of this scene by row of the table."""
        self._take_truth()
        with tempfile.TemporaryDirectory() as folder:
            self._flat_sphere(Path(folder) / "flat")
            self._true_place(Path(folder) / "true")
            if predicted:
                self._predicted_place(Path(folder))
        return self.scores

    def _take_truth(self) -> None:
        self.step = self._free_direction()
        self._take("same")
        for move in MOVES:
            self._take(f"moved {move}", move)
        _switch_off_glow()
        self._new_light("lamp")
        self._take("lamp")
        if self.kind == "outdoor":
            self._new_light("sun")
            self._take("sun")
        self._original_light()
        for item in self.originals:
            if item.type == "MESH":
                item.hide_render = True

    def _take(self, view: str, move: float = 0.0) -> None:
        self.truth[view] = self._shoot(f"truth {view}", move, TRUTH_SAMPLES)

    def _true_place(self, folder: Path) -> None:
        known = {
            "albedo": tonemap.srgb_encode(self.maps["albedo"]),
            **{name: self.maps[name] for name in ("normal", "roughness", "metallic", "depth")},
            "emission": self.maps["emission"],
            "panorama": tonemap.expose(self.radiance)[0],
        }
        collection = self._build(folder, known)
        self._score_all(collection, "true")
        build_seams = seams.seam_error(self._relit_picture(collection))
        truth_seams = seams.seam_error(self.truth["same"])
        for name in build_seams:
            self.scores[f"{name} of relit / truth"] = build_seams[name] / truth_seams[name]
        place.remove(bpy.context, collection)

    def _predicted_place(self, folder: Path) -> None:
        panorama = folder / "panorama.exr"
        images.write(panorama, self.radiance.astype(np.float32), "float")
        command = [sys.executable, "-m", "blender_omnix", "extract", str(panorama)]
        command += ["--out", str(folder / "predicted"), "--camera-height", str(self.height)]
        subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
        collection = self._place(folder / "predicted", "predicted")
        self._score_all(collection, "predicted")
        place.remove(bpy.context, collection)

    def _flat_sphere(self, folder: Path) -> None:
        depth = self.maps["depth"]
        flat = np.full_like(depth, np.median(depth[depth > 0]))
        picture = tonemap.expose(self.radiance)[0]
        collection = self._build(
            folder, {"albedo": picture, "depth": flat, "panorama": picture}, enclosed="NO"
        )
        place.set_mode(collection, place.ORIGINAL)
        # Through the same camera and denoiser as all else. Against a render of the scene itself it
        # shows what is left of Monte Carlo noise, which bounds every figure of that view.
        self.photograph = self._shoot("flat original", samples=UNLIT_SAMPLES)
        self.scores["noise"] = psnr(self.photograph, self.truth["same"])
        for move in MOVES:
            shown = self._shoot(f"flat moved {move}", move, samples=UNLIT_SAMPLES)
            self._score(f"moved {move}", "flat", shown)
        place.set_mode(collection, place.RELIGHT)
        self._new_light("lamp")
        albedo_sphere = psnr(self._shoot("flat lamp"), self.truth["lamp"])
        glowing = psnr(_best_gains(self.truth["same"], self.truth["lamp"]), self.truth["lamp"])
        self.scores["lamp flat"] = max(albedo_sphere, glowing)
        if "sun" in self.truth:
            glowing = _best_gains(self.truth["same"], self.truth["sun"])
            self.scores["sun flat"] = psnr(glowing, self.truth["sun"])
        self._original_light()
        place.remove(bpy.context, collection)

    def _build(self, folder: Path, known: dict, **settings) -> bpy.types.Collection:
        maps.save(folder, known, {"engine": "known"})
        return self._place(folder, folder.name, **settings)

    def _place(self, folder: Path, name: str, **settings) -> bpy.types.Collection:
        source = bpy.data.images.new("radiance", MAP_WIDTH, MAP_WIDTH // 2, float_buffer=True)
        source.colorspace_settings.name = "Linear Rec.709"
        rgba = np.ones((MAP_WIDTH // 2, MAP_WIDTH, 4), np.float32)
        rgba[..., :3] = self.radiance[::-1]
        source.pixels.foreach_set(rgba.ravel())
        return place.build_place(
            bpy.context,
            folder,
            name=name,
            camera_height=self.height,
            settings=place.Settings(detail=MAP_WIDTH, **settings),
            source=source,
        )

    def _score_all(self, collection: bpy.types.Collection, source: str) -> None:
        place.set_mode(collection, place.ORIGINAL)
        shown = self._shoot(f"{source} original", samples=UNLIT_SAMPLES)
        self.scores[f"same {source} unlit"] = psnr(shown, self.photograph)
        for move in MOVES:
            shown = self._shoot(f"{source} moved {move}", move, samples=UNLIT_SAMPLES)
            self._score(f"moved {move}", source, shown)
            self.scores[f"holes {move} {source}"] = 100.0 * self._holes(move)
        self._score("same", f"{source} relit", self._relit_picture(collection))
        place.control(collection, "Emission Strength").default_value = 0.0
        for light in ("lamp", "sun"):
            if light in self.truth:
                self._new_light(light)
                self._score(light, source, self._shoot(f"{source} {light}"))
        self._original_light()

    def _score(self, view: str, source: str, picture: np.ndarray) -> None:
        self.scores[f"{view} {source}"] = psnr(picture, self.truth[view])

    def _relit_picture(self, collection: bpy.types.Collection) -> np.ndarray:
        place.set_mode(collection, place.RELIGHT)
        place.control(collection, "Emission Strength").default_value = 1.0
        return self._shoot(f"{collection.name} relit")

    def _holes(self, move: float) -> float:
        """Share of the sphere where the place shows nothing and the scene a surface."""
        alpha = self._alpha(move)
        for item in self.originals:
            item.hide_render = False
        hidden = [item for item in self.scene.objects if item not in self.originals]
        for item in hidden:
            item.hide_render = True
        solid = self._alpha(move)
        for item in hidden:
            item.hide_render = False
        for item in self.originals:
            item.hide_render = item.type == "MESH"
        weight = frames.solid_angles(*alpha.shape)[:, None]
        return float(((solid > 0.99) * (alpha < 0.5) * weight).sum() / (4 * math.pi))

    def _alpha(self, move: float) -> np.ndarray:
        self.scene.render.film_transparent = True
        alpha = self._render(move, samples=4, denoise=False)[..., 3]
        self.scene.render.film_transparent = False
        return alpha

    def _emission(self) -> np.ndarray:
        """What surfaces and the sky emit, (H, W, 3)."""
        layer = self.scene.view_layers[0]
        layer.use_pass_emit = True
        self.scene.render.resolution_x, self.scene.render.resolution_y = MAP_WIDTH, MAP_WIDTH // 2
        with quiet(), tempfile.TemporaryDirectory() as folder:
            self.scene.cycles.samples = 4
            self.scene.render.filepath = str(Path(folder) / "emission.exr")
            bpy.ops.render.render(write_still=True)
            emitted = render._read(Path(folder) / "emission.exr")["Emit"]
        layer.use_pass_emit = False
        sky = self.maps["depth"] <= 0
        return np.where(sky[..., None], self.radiance, emitted).astype(np.float32)

    def _free_direction(self) -> np.ndarray:
        """Horizontal unit vector towards the most room."""
        depth = self.maps["depth"]
        level = depth[depth.shape[0] // 2 - 4 : depth.shape[0] // 2 + 60]
        reach = np.where(level > 0, level, 100.0).min(axis=0).reshape(16, -1).min(axis=1)
        azimuth = (0.5 - (int(reach.argmax()) + 0.5) / 16) * 2 * math.pi
        return np.array([math.cos(azimuth), math.sin(azimuth), 0.0])

    def _new_light(self, kind: str) -> None:
        """Everything of the scene's own goes dark; one lamp near the viewpoint, or a sun."""
        self._original_light()
        for item in self.originals:
            if item.type == "LIGHT":
                item.hide_render = True
        self.scene.world = self.dark
        if kind == "lamp":
            data = bpy.data.lights.new("new", "POINT")
            data.energy, data.color, data.shadow_soft_size = 60.0, (1.0, 0.8, 0.6), 0.1
        else:
            data = bpy.data.lights.new("new", "SUN")
            data.energy, data.color, data.angle = 4.0, (1.0, 0.9, 0.75), math.radians(1.0)
            self.scene.world = bpy.data.worlds.new("dim")
            self.scene.world.color = (0.25, 0.3, 0.4)
        item = bpy.data.objects.new("new", data)
        item.location = np.array([0.0, 0.0, self.height + 0.4]) + 0.5 * self.step
        item.rotation_euler = (math.radians(50), 0.0, math.radians(125))
        self.scene.collection.objects.link(item)

    def _original_light(self) -> None:
        for item in self.scene.objects:
            if item.name.startswith("new") and item.type == "LIGHT":
                bpy.data.lights.remove(item.data)
        for item in self.originals:
            if item.type == "LIGHT":
                item.hide_render = False
        self.scene.world = self.world

    def _shoot(self, name: str, move: float = 0.0, samples: int = SAMPLES) -> np.ndarray:
        """A linear panorama (H, W, 3) of the scene as it is, `move` metres off the viewpoint."""
        picture = np.maximum(self._render(move, samples, denoise=True)[..., :3], 0.0)
        if self.pictures is not None:
            self.pictures.mkdir(parents=True, exist_ok=True)
            file = self.pictures / f"{self.kind}-{self.seed}-{name.replace(' ', '-')}.png"
            images.write(file, tonemap.expose(picture)[0], "uint8")
        return picture

    def _render(self, move: float, samples: int, *, denoise: bool) -> np.ndarray:
        scene = self.scene
        scene.camera.location = np.array([0.0, 0.0, self.height]) + move * self.step
        cycles = scene.cycles
        cycles.samples, cycles.use_denoising, cycles.max_bounces = samples, denoise, BOUNCES
        cycles.diffuse_bounces = cycles.glossy_bounces = BOUNCES
        cycles.pixel_filter_type, cycles.filter_width = "BLACKMAN_HARRIS", 1.5
        scene.render.resolution_x, scene.render.resolution_y = VIEW_WIDTH, VIEW_WIDTH // 2
        settings = scene.render.image_settings
        settings.file_format, settings.color_mode, settings.color_depth = "OPEN_EXR", "RGBA", "32"
        with quiet(), tempfile.TemporaryDirectory() as folder:
            scene.render.filepath = str(Path(folder) / "picture.exr")
            bpy.ops.render.render(write_still=True)
            return images.read_raw(Path(folder) / "picture.exr")


def _cost() -> str:
    """A line on what a build costs, after an extraction."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "interior"
        command = [sys.executable, "-m", "blender_omnix", "extract", str(shipped_panorama())]
        command += ["--out", str(out), "--size", str(BUILD_WIDTH)]
        subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
        command = [sys.executable, str(Path(__file__).resolve()), "--build", str(out)]
        answer = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True)
        cost = json.loads(answer.stdout.strip().splitlines()[-1])
        unit = seconds_to_write(BUILD_WIDTH, Path(folder))
    return (
        f"\nBuild of {BUILD_WIDTH} x {BUILD_WIDTH // 2} maps on two cores, {cost['quads']} quads: "
        f"{cost['seconds']:.2f} s ({cost['seconds'] / unit:.1f} EXR writes, {cost['cpu']:.2f} CPU "
        f"s), peak memory of the process {cost['megabytes']:.0f} MB."
    )


def _time_build(folder: Path) -> dict[str, float]:
    """Build the map set in `folder` with the default settings."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    with quiet():
        bpy.ops.wm.read_factory_settings(use_empty=True)
        started, cpu = time.perf_counter(), time.process_time()
        collection = place.build_place(bpy.context, folder, name="timed")
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    surface = place.part(collection, "surface")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "seconds": seconds,
        "cpu": cpu,
        "quads": len(surface.data.polygons),
        "megabytes": peak,
    }


def _switch_off_glow() -> None:
    """Take the emission out of every material of the scene."""
    for material in bpy.data.materials:
        if not material.node_tree:
            continue
        for node in material.node_tree.nodes:
            strength = node.inputs.get("Emission Strength") or node.inputs.get("Strength")
            if node.type in ("BSDF_PRINCIPLED", "EMISSION") and strength is not None:
                for link in list(strength.links):
                    material.node_tree.links.remove(link)
                strength.default_value = 0.0


def psnr(picture: np.ndarray, truth: np.ndarray) -> float:
    """PSNR in dB of sRGB-encoded panoramas, weighted by solid angle, at the best exposure."""
    stops = tonemap.auto_stops(truth)
    target = tonemap.srgb_encode(np.minimum(truth * 2.0**stops, 1.0))
    weight = frames.solid_angles(*truth.shape[:2])[:, None, None]
    weight = weight / (weight.sum() * truth.shape[1] * 3)

    def error(exposure: float) -> float:
        shown = tonemap.srgb_encode(np.minimum(picture * 2.0**exposure, 1.0))
        return float((weight * (shown - target) ** 2).sum())

    coarse = min(np.arange(-8.0, 8.01, 0.5) + stops, key=error)
    best = min(error(coarse + offset) for offset in np.arange(-0.5, 0.501, 0.05))
    return -10.0 * math.log10(max(best, 1e-9))


def _best_gains(picture: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """`picture` with the gain per channel that brings it nearest to `truth`, least squares of
    square roots (close to what is seen)."""
    a, b = np.sqrt(picture), np.sqrt(truth)
    weight = frames.solid_angles(*truth.shape[:2])[:, None, None]
    gain = (weight * a * b).sum(axis=(0, 1)) / np.maximum((weight * a * a).sum(axis=(0, 1)), 1e-9)
    return picture * gain**2


ROWS = (
    ("same view, photograph against another render of the scene", "noise"),
    ("same view, Original Light against the photograph, true maps", "same true unlit"),
    ("same view, Original Light against the photograph, predicted maps", "same predicted unlit"),
    ("same view, Relight, original lights, true maps", "same true relit"),
    ("same view, Relight, original lights, predicted maps", "same predicted relit"),
    ("new lamp at night, true maps", "lamp true"),
    ("new lamp at night, predicted maps", "lamp predicted"),
    ("new lamp at night, better of the flat spheres", "lamp flat"),
    ("new sun, true maps", "sun true"),
    ("new sun, predicted maps", "sun predicted"),
    ("new sun, emissive sphere", "sun flat"),
    ("moved 0.3 m, Original Light, true maps", "moved 0.3 true"),
    ("moved 0.3 m, Original Light, predicted maps", "moved 0.3 predicted"),
    ("moved 0.3 m, flat sphere", "moved 0.3 flat"),
    ("moved 0.8 m, Original Light, true maps", "moved 0.8 true"),
    ("moved 0.8 m, Original Light, predicted maps", "moved 0.8 predicted"),
    ("moved 0.8 m, flat sphere", "moved 0.8 flat"),
    ("holes at 0.3 m, true maps, %", "holes 0.3 true"),
    ("holes at 0.8 m, true maps, %", "holes 0.8 true"),
    ("holes at 0.3 m, predicted maps, %", "holes 0.3 predicted"),
    ("holes at 0.8 m, predicted maps, %", "holes 0.8 predicted"),
    ("seam of the relit picture / of the scene's", "seam of relit / truth"),
    ("poles of the relit picture / of the scene's", "poles of relit / truth"),
)


def _print_table(results: dict[str, dict[str, float]]) -> None:
    print("| dB unless said | " + " | ".join(results) + " | rooms | outdoors |")
    print("| --- |" + " --- |" * (len(results) + 2))
    for label, key in ROWS:
        values = {name: scores[key] for name, scores in results.items() if key in scores}
        if not values:
            continue
        cells = [_cell(values.get(name)) for name in results]
        for kind in ("room", "outdoor"):
            of_kind = [value for name, value in values.items() if name.startswith(kind)]
            cells.append(_cell(float(np.mean(of_kind)) if of_kind else None))
        print(f"| {label} | " + " | ".join(cells) + " |")


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}" if value < 10 else f"{value:.1f}"


if __name__ == "__main__":
    sys.exit(main())
