# SPDX-License-Identifier: GPL-3.0-or-later
"""A room whose maps are known exactly: a box with a block standing in it, by ray casting."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from blender_omnix import maps
from blender_omnix.panorama import frames, tonemap

ROOM = (np.array([-3.0, -2.0, -1.6]), np.array([2.5, 2.2, 1.1]))
BLOCK = (np.array([1.0, -0.6, -1.6]), np.array([1.5, 0.3, -0.5]))
# The window takes the middle of the wall at -X; the lamp is a square in the ceiling.
WINDOW = (np.array([-0.8, -0.6]), np.array([0.8, 0.7]))
LAMP = 0.4
LAMP_RADIANCE = 12.0


def room(height: int, *, block: bool = True, window: bool = False) -> dict[str, np.ndarray]:
    """All maps of the room as `maps.save` wants them; the viewpoint is 1.6 m above the floor."""
    rays = frames.directions(height, 2 * height).astype(np.float64)
    depth, normal = _inside(rays, *ROOM)
    if block:
        hit, near, facing = outside(rays, *BLOCK)
        depth = np.where(hit, near, depth)
        normal = np.where(hit[..., None], facing, normal)
    points = rays * depth[..., None]
    # A checkerboard of half metres, in another colour for each direction a surface faces.
    checker = (np.floor(points * 2.0 + 1e-6).sum(axis=-1) % 2)[..., None]
    albedo = 0.5 + 0.2 * normal - 0.15 * checker
    emission = np.zeros_like(albedo)
    lamp = (normal[..., 2] < -0.5) & (np.abs(points[..., :2]).max(axis=-1) < LAMP)
    emission[lamp] = LAMP_RADIANCE
    if window:
        across = points[..., 1:]
        sky = (normal[..., 0] > 0.5) & (across > WINDOW[0]).all(-1) & (across < WINDOW[1]).all(-1)
        depth[sky], albedo[sky], normal[sky] = 0.0, 0.0, -rays[sky]
        emission[sky] = 3.0
    radiance = 0.4 * albedo + emission
    roughness = np.where(depth > 0, 0.6, 1.0)
    made = {
        "albedo": tonemap.srgb_encode(albedo),
        "normal": normal,
        "roughness": roughness,
        "metallic": np.zeros_like(depth),
        "depth": depth,
        "emission": emission,
        "panorama": tonemap.srgb_encode(radiance),
    }
    return {name: np.ascontiguousarray(array, np.float32) for name, array in made.items()}


def radiance(made: dict[str, np.ndarray]) -> np.ndarray:
    """Linear radiance (H, W, 3) that the room's panorama shows."""
    return np.where(
        made["emission"] > 0,
        made["emission"] + 0.4 * tonemap.srgb_decode(made["albedo"]),
        0.4 * tonemap.srgb_decode(made["albedo"]),
    ).astype(np.float32)


def save(folder, made: dict[str, np.ndarray], source=None) -> None:
    """Write the maps as a map set, its report naming the `source` panorama if there is one.

    With OMNIX_TEST_PYTHON set, by that Python: an environment for another Blender cannot write
    images.
    """
    report = {"engine": "known", "source": {"path": str(source or ""), "linear": True}}
    python = os.environ.get("OMNIX_TEST_PYTHON")
    if not python:
        maps.save(folder, made, report)
        return
    code = (
        "import json, sys, numpy; from blender_omnix import maps; "
        "maps.save(sys.argv[1], dict(numpy.load(sys.argv[2])), json.loads(sys.argv[3]))"
    )
    with tempfile.TemporaryDirectory() as scratch:
        arrays = Path(scratch) / "maps.npz"
        np.savez(arrays, **made)
        command = [python, "-c", code, str(folder), str(arrays), json.dumps(report)]
        subprocess.run(command, check=True, cwd=Path(__file__).parents[1])


def _inside(rays: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance to the walls of a box around the origin, and their inward normals."""
    with np.errstate(divide="ignore"):
        distance = np.where(rays > 0, high / rays, low / rays)
    axis = distance.argmin(axis=-1)[..., None]
    normal = np.zeros_like(rays)
    np.put_along_axis(normal, axis, -np.sign(np.take_along_axis(rays, axis, -1)), -1)
    return distance.min(axis=-1), normal


def outside(
    rays: np.ndarray, low: np.ndarray, high: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where rays meet a box from outside: hit, distance and outward normal."""
    with np.errstate(divide="ignore"):
        first, second = low / rays, high / rays
    enter, leave = np.minimum(first, second), np.maximum(first, second)
    axis = enter.argmax(axis=-1)[..., None]
    normal = np.zeros_like(rays)
    np.put_along_axis(normal, axis, -np.sign(np.take_along_axis(rays, axis, -1)), -1)
    near = enter.max(axis=-1)
    return (near < leave.min(axis=-1)) & (near > 0), near, normal
