# SPDX-License-Identifier: GPL-3.0-or-later
"""Generate training scenes: `python -m training.generate --split train --first 0 --count 1000`.

Each seed gives one place, or with `--split flat` one of the views of a flat laid out by hand,
rendered once for each of its light components, as
`$OMNIX_DATA/scenes/<split>/<seed:06d>.npz`. Files that exist are kept, so a run resumes.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from blender_omnix.panorama.frames import directions, solid_angles
from blender_omnix.panorama.tonemap import luminance, srgb_encode

from .scenes.assets import SPLITS

RECIPE = 10
SCENES_PER_PROCESS = 40
OUTDOOR_SHARE = {"train": 0.5, "val": 0.35, "test": 0.35}
# What stands in the camera's way: metres within which at most a share of the sphere may be taken
# up, and nearer than which nothing may be.
CLEARANCE, CROWDED, TOUCHING = 0.15, 0.01, 0.05


class UnusableError(Exception):
    """There is nothing to learn from the place of a seed: it is pitch-dark or out of sight."""


def data_folder() -> Path:
    """Where datasets live: OMNIX_DATA, or a folder in the user's cache."""
    default = Path.home() / ".cache" / "blender_omnix" / "training"
    return Path(os.environ.get("OMNIX_DATA", default))


def make(
    split: str, seed: int, *, width: int = 256, kind: str | None = None, samples: int | None = None
) -> dict[str, np.ndarray]:
    """Build and render the scene of a seed; returns the arrays of one file. `kind`, "room" or
    "outdoor", is chosen by the seed if not given; in the split "flat" it is "flat".

    radiance (K, H, W, 3) float16 linear, one per light component, each scaled so that weights
    near 1 expose it well; lights (N, K, 3) float32 weights; albedo (H, W, 3) uint8 sRGB-encoded;
    normal (H, W, 3) int8 = round(127 n); depth (H, W) float16 metres along the ray, 0 = sky;
    pbr (H, W, 2) uint8 roughness, metallic; object (H, W) bool; meta, a JSON string. Raises
    UnusableError where there is nothing to learn.
    """
    from . import render
    from .scenes import flat, lights, outdoors, rooms
    from .scenes.materials import Materials

    rng = np.random.default_rng([SPLITS.index(split), seed])
    if split == "flat":
        if kind not in (None, "flat"):
            raise ValueError(f"the flat is no {kind}")
        kind = "flat"
    kind = kind or ("outdoor" if rng.random() < OUTDOOR_SHARE[split] else "room")
    started = time.process_time()
    render.prepare(lights.GROUPS, width)
    materials = Materials(rng, split)
    if kind == "flat":
        place = flat.build(rng, materials, seed % len(flat.VIEWS))
        height, tilt = place["camera_height"], np.zeros(2)
    else:
        place = rooms.build(rng, materials) if kind == "room" else outdoors.build(rng, materials)
        ceiling = place["box"][5] if place["box"] else 9.0
        height = float(np.clip(rng.normal(1.55, 0.35), 0.8, min(2.5, ceiling - 0.4)))
        tilt = np.radians(rng.normal(0, 2.0, 2).clip(-4, 4)) if rng.random() < 0.12 else np.zeros(2)
    axes = render.camera(height, *tilt)
    nearest, share = render.surroundings(CLEARANCE)
    if share > CROWDED or nearest < TOUCHING:
        raise UnusableError(
            f"something stands right before the camera ({100 * nearest:.0f} cm away, "
            f"{100 * share:.0f} % of the view nearer than {100 * CLEARANCE:.0f} cm)"
        )
    maps = render.render(tuple(place["groups"]), axes, samples or render.SAMPLES)
    box = None
    if place["box"]:
        box = [v - (height if k % 3 == 2 else 0.0) for k, v in enumerate(place["box"])]
    radiance, used = _normalised({name: maps[name] for name in place["groups"]}, maps["depth"] > 0)
    weights = lights.conditions(rng, used)
    meta = {
        "seed": seed,
        "split": split,
        "recipe": RECIPE,
        "kind": kind,
        "style": place["style"],
        "outside": place["outside"],
        "camera_height": round(height, 4),
        "tilt_degrees": np.degrees(tilt).round(3).tolist(),
        "box": None if box is None else [round(float(v), 4) for v in box],
        "components": used,
        "seconds": round(time.process_time() - started, 2),
    }
    depth = maps["depth"]
    return {
        "radiance": radiance,
        "lights": weights,
        "albedo": np.round(srgb_encode(maps["albedo"]) * 255).astype(np.uint8),
        "normal": np.round(maps["normal"] * 127).astype(np.int8),
        "depth": np.minimum(depth, 6e4).astype(np.float16),
        "pbr": np.round(np.stack([maps["roughness"], maps["metallic"]], -1) * 255).astype(np.uint8),
        "object": _objects(depth, maps["index"], axes, box if kind == "room" else None),
        "meta": np.array(json.dumps(meta)),
    }


def _objects(
    depth: np.ndarray, index: np.ndarray, axes: np.ndarray, box: list[float] | None
) -> np.ndarray:
    """Pixels over 15 cm off the faces of the room's box; without a box, as outdoors and in the
    flat, what is neither sky nor ground, walls or ceiling."""
    from .scenes.meshes import SHELL

    if box is None:
        return (index != SHELL) & (depth > 0)
    points = (directions(*depth.shape) @ axes) * depth[..., None]
    gaps = np.concatenate([points - np.array(box[:3]), np.array(box[3:]) - points], axis=-1)
    return (np.abs(gaps).min(-1) > 0.15) & (depth > 0)


def _normalised(
    components: dict[str, np.ndarray], solid: np.ndarray
) -> tuple[np.ndarray, list[str]]:
    """Scale components to a common exposure; drop those that reach nothing.

    The log-average luminance of what is not sky is brought to 0.18. Sky and sun keep their own
    proportion.
    """
    weight = solid_angles(*solid.shape)[:, None] * (solid + 1e-6)
    scaled: list[np.ndarray] = []
    used: list[str] = []
    for group in (("environment", "sun"), ("lamps",), ("lamps2",)):
        present = [name for name in group if name in components]
        if not present:
            continue
        light = luminance(sum(components[name] for name in present))
        level = float(np.exp((np.log(light + 1e-5) * weight).sum() / weight.sum()))
        if level < 1e-4:
            continue
        for name in present:
            scaled.append(np.minimum(components[name] * (0.18 / level), 6e4))
            used.append(name)
    if not scaled:
        raise UnusableError("no light reaches the camera")
    return np.stack(scaled).astype(np.float16), used


def save(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write one compressed file; it appears under its name only once whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.tmp")
    with partial.open("wb") as stream:
        np.savez_compressed(stream, **arrays)
    partial.rename(path)


def _work(split: str, seeds: list[int], out: Path) -> int:
    """Render seeds in this process; one that fails leaves the others alone. 1 if any failed."""
    failed = 0
    for seed in seeds:
        path = out / f"{seed:06d}.npz"
        if path.exists():
            continue
        try:
            arrays = make(split, seed)
        except UnusableError as error:
            print(f"{seed}: skipped, {error}", file=sys.stderr, flush=True)
            continue
        except RuntimeError as error:
            print(f"{seed}: failed, {error}", file=sys.stderr, flush=True)
            failed = 1
            continue
        save(path, arrays)
        meta = json.loads(str(arrays["meta"]))
        print(f"{seed} {meta['kind']} {meta['style']} {meta['seconds']} s", flush=True)
    return failed


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--split", choices=SPLITS, default="train")
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--count", type=int, default=1000, help="number of seeds")
    parser.add_argument("--jobs", type=int, default=1, help="processes, one thread each")
    parser.add_argument("--out", type=Path, help="folder (default: $OMNIX_DATA/scenes/SPLIT)")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    out = options.out or data_folder() / "scenes" / options.split
    seeds = range(options.first, options.first + options.count)
    missing = [seed for seed in seeds if not (out / f"{seed:06d}.npz").exists()]
    if options.here:
        return _work(options.split, missing, out)
    # Blender leaks a little with every scene: short-lived processes, a slice of seeds each.
    slices = [
        missing[k : k + SCENES_PER_PROCESS] for k in range(0, len(missing), SCENES_PER_PROCESS)
    ]
    # Make a termination an ordinary exit, so that the processes below end with this one.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    return _run(options.split, slices, out, options.jobs)


def _run(split: str, slices: list[list[int]], out: Path, jobs: int) -> int:
    """Run slices of seeds in up to `jobs` processes, each bound to one core; 1 if any failed."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    running: dict[int, subprocess.Popen[bytes]] = {}
    failed = False
    try:
        while slices or running:
            for slot, process in list(running.items()):
                if process.poll() is not None:
                    failed |= process.returncode != 0
                    del running[slot]
            for slot in range(jobs):
                if slot in running or not slices:
                    continue
                seeds = slices.pop(0)
                command = [sys.executable, "-m", "training.generate", "--here"]
                command += ["--split", split, "--out", str(out)]
                command += ["--first", str(seeds[0]), "--count", str(seeds[-1] - seeds[0] + 1)]
                running[slot] = subprocess.Popen(command)
                if cores and jobs <= len(cores):
                    # The compositor and OIDN would otherwise start a thread for every core.
                    os.sched_setaffinity(running[slot].pid, {cores[-1 - slot]})
            time.sleep(0.5)
    finally:
        for process in running.values():
            process.terminate()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
