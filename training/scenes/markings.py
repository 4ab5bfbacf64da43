# SPDX-License-Identifier: GPL-3.0-or-later
"""What is flat on the ground but looks as if it were not: painted lines, rings, patches, inlays."""

from __future__ import annotations

import numpy as np

from . import meshes
from .materials import Materials, colour
from .meshes import Part, Shape

Rng = np.random.Generator


def add(rng: Rng, materials: Materials, low: np.ndarray, high: np.ndarray, size: float) -> None:
    """Paint or lay a few figures into the rectangle `low` to `high` (x, y) at z = 0; `size` is the
    length of a typical one, in metres."""
    kinds = ("asphalt", "concrete", "paving", "stone", "lacquer", "pattern")
    for layer in range(int(rng.integers(1, 4))):
        shape = _figure(rng, rng.uniform(low, high), rng.uniform(0.5, 1.6) * size)
        if rng.random() < 0.65:
            bright = np.full(3, rng.uniform(0.6, 0.9))
            paint = bright if rng.random() < 0.55 else colour(rng, "any")
            material = materials.plain(paint, rng.uniform(0.35, 0.9))
        else:
            material = materials.any(*kinds)
        # Each layer lies a little higher, so that none fights another for the same pixels.
        for part in shape:
            part.vertices[:, :2] = np.clip(part.vertices[:, :2], low, high)
        meshes.add(shape, {"mark": material}, (0, 0, 0.004 + 0.003 * layer), index=meshes.SHELL)


def _figure(rng: Rng, centre: np.ndarray, size: float) -> Shape:
    """One figure around a point: bays, stripes, rings, waves, a grid or a patch."""
    style, turn = rng.integers(6), rng.uniform(0, np.pi)
    width = rng.choice([rng.uniform(0.05, 0.15), rng.uniform(0.1, 0.6)])
    if style == 0:  # bays or a crossing: strokes side by side
        step = max(rng.uniform(0.3, 2.6), 2 * width)
        offsets = (np.arange(int(rng.integers(3, 9))) - 3) * step
        paths = [np.array([(x, -size / 2), (x, size / 2)]) for x in offsets]
    elif style == 1:  # long lines
        paths = [
            np.array([(-4 * size, y), (4 * size, y)])
            for y in rng.uniform(-size, size, int(rng.integers(1, 4)))
        ]
    elif style == 2:  # rings and arcs
        span = 2 * np.pi if rng.random() < 0.5 else rng.uniform(1, 5)
        angle = np.linspace(0, span, 40)
        circle = np.column_stack([np.cos(angle), np.sin(angle)])
        paths = [circle * size * (k + 1) / 2 for k in range(int(rng.integers(1, 4)))]
    elif style == 3:  # waves
        x = np.linspace(-3 * size, 3 * size, 80)
        swing = np.sin(x * rng.uniform(0.5, 3) / size * 2) * size * rng.uniform(0.1, 0.5)
        paths = [np.column_stack([x, swing])]
    elif style == 4:  # a grid
        ends = np.linspace(-size, size, int(rng.integers(3, 7)))
        paths = [np.array([(a, -size), (a, size)]) for a in ends]
        paths += [np.array([(-size, a), (size, a)]) for a in ends]
    else:  # a patch
        width = size * rng.uniform(0.3, 1.0)
        paths = [np.array([(-size / 2, 0), (size / 2, 0)])]
    c, s = np.cos(turn), np.sin(turn)
    spin = np.array([(c, s), (-s, c)])
    return [_stroke(path @ spin + centre, width) for path in paths]


def _stroke(path: np.ndarray, width: float) -> Part:
    """A flat band of a width along a path (n, 2)."""
    along = np.gradient(path, axis=0)
    across = np.column_stack([-along[:, 1], along[:, 0]])
    across *= width / 2 / np.maximum(np.linalg.norm(across, axis=1, keepdims=True), 1e-9)
    n = len(path)
    flat = np.concatenate([path - across, path + across])
    faces: list[tuple[int, ...]] = [(k, k + 1, n + k + 1, n + k) for k in range(n - 1)]
    return Part(np.column_stack([flat, np.zeros(2 * n)]), faces, "mark")
