# SPDX-License-Identifier: GPL-3.0-or-later
"""Shapes as plain arrays, in metres, and their placing into the Blender scene.

A shape is a list of parts; a part is vertices, faces and the name of the material slot it uses.
Shapes stand on z = 0, look towards -y (their back is at +y) and are centred in x.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import bpy
import numpy as np
from mathutils import Matrix


@dataclass
class Part:
    """Vertices (n, 3), faces as index tuples, the material slot, whether shaded smooth."""

    vertices: np.ndarray
    faces: list[tuple[int, ...]]
    slot: str
    smooth: bool = False


Shape = list[Part]
Point = Sequence[float] | np.ndarray

# Object index of surfaces that belong to the room itself or the ground.
SHELL = 1

CUBE = [(0, 2, 3, 1), (4, 5, 7, 6), (0, 1, 5, 4), (2, 6, 7, 3), (0, 4, 6, 2), (1, 3, 7, 5)]


def box(slot: str, low: Point, high: Point) -> Part:
    """An axis-aligned box between two corners."""
    corners = np.array(
        [(x, y, z) for z in (low[2], high[2]) for y in (low[1], high[1]) for x in (low[0], high[0])]
    )
    return Part(corners, list(CUBE), slot)


def quad(slot: str, *corners: Point) -> Part:
    """A flat polygon through the given corners."""
    return Part(np.array(corners, float), [tuple(range(len(corners)))], slot)


def lathe(slot: str, profile: Sequence[tuple[float, float]], sides: int = 16) -> Part:
    """A surface of revolution about z; profile = (radius, z) from bottom to top, ends capped."""
    angle = np.linspace(0, 2 * np.pi, sides, endpoint=False)
    ring = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    vertices = np.concatenate(
        [np.column_stack([ring * radius, np.full(sides, z)]) for radius, z in profile]
    )
    faces: list[tuple[int, ...]] = []
    for k in range(len(profile) - 1):
        a, b = k * sides, (k + 1) * sides
        for i in range(sides):
            j = (i + 1) % sides
            faces.append((a + i, a + j, b + j, b + i))
    if profile[0][0] > 0.003:
        faces.append(tuple(range(sides))[::-1])
    if profile[-1][0] > 0.003:
        faces.append(tuple((len(profile) - 1) * sides + i for i in range(sides)))
    return Part(vertices, faces, slot, smooth=sides > 8)


def cylinder(slot: str, radius: float, low: float, high: float, sides: int = 14) -> Part:
    """An upright cylinder with flat ends."""
    return lathe(slot, [(radius, low), (radius, high)], sides)


def rod(slot: str, start: Point, end: Point, radius: float, sides=8) -> Part:
    """A cylinder between two points."""
    start, end = np.asarray(start, float), np.asarray(end, float)
    axis = end - start
    length = float(np.linalg.norm(axis))
    axis = axis / length
    helper = np.array([1.0, 0, 0]) if abs(axis[0]) < 0.9 else np.array([0, 1.0, 0])
    side = np.cross(axis, helper)
    side /= np.linalg.norm(side)
    frame = np.stack([side, np.cross(axis, side), axis])
    part = cylinder(slot, radius, 0.0, length, sides)
    part.vertices = part.vertices @ frame + start
    return part


def cushion(slot: str, low: Point, high: Point, power: float = 4.0) -> Part:
    """A superellipsoid filling a box: an upholstered block. Larger power = boxier."""
    rows, columns = 9, 16
    polar = np.linspace(0, np.pi, rows)
    azimuth = np.linspace(0, 2 * np.pi, columns, endpoint=False)
    direction = np.stack(
        [
            np.sin(polar)[:, None] * np.cos(azimuth),
            np.sin(polar)[:, None] * np.sin(azimuth),
            np.repeat(np.cos(polar)[:, None], columns, axis=1),
        ],
        axis=-1,
    )
    norm = (np.abs(direction) ** power).sum(-1, keepdims=True) ** (1 / power)
    low, high = np.asarray(low, float), np.asarray(high, float)
    vertices = (direction / norm).reshape(-1, 3) * (high - low) / 2 + (low + high) / 2
    faces: list[tuple[int, ...]] = []
    for r in range(rows - 1):
        for c in range(columns):
            d = (c + 1) % columns
            faces.append(
                (r * columns + c, (r + 1) * columns + c, (r + 1) * columns + d, r * columns + d)
            )
    return Part(vertices, faces, slot, smooth=True)


def height_field(
    slot: str, xs: np.ndarray, ys: np.ndarray, heights: np.ndarray, smooth: bool = True
) -> Part:
    """A grid surface; heights (len(ys), len(xs))."""
    x, y = np.meshgrid(xs, ys)
    vertices = np.stack([x.ravel(), y.ravel(), heights.ravel()], axis=1)
    n = len(xs)
    faces: list[tuple[int, ...]] = [
        (j * n + i, j * n + i + 1, (j + 1) * n + i + 1, (j + 1) * n + i)
        for j in range(len(ys) - 1)
        for i in range(n - 1)
    ]
    return Part(vertices, faces, slot, smooth)


def prism(slot: str, outline: Sequence[tuple[float, float]], low: float, high: float) -> Part:
    """An outline (x, y), counter-clockwise, extruded from z = low to z = high."""
    n = len(outline)
    ground = np.array(outline, float)
    vertices = np.concatenate(
        [np.column_stack([ground, np.full(n, low)]), np.column_stack([ground, np.full(n, high)])]
    )
    faces: list[tuple[int, ...]] = [(i, (i + 1) % n, n + (i + 1) % n, n + i) for i in range(n)]
    faces += [tuple(range(n))[::-1], tuple(range(n, 2 * n))]
    return Part(vertices, faces, slot)


def leaves(
    slot: str, rng: np.random.Generator, centres: np.ndarray, size: float, up: float = 0.0
) -> Part:
    """One small pointed quad for each centre (n, 3), randomly turned; `up` biases them level."""
    n = len(centres)
    normal = rng.normal(size=(n, 3))
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    normal[:, 2] = np.abs(normal[:, 2]) + up
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    along = np.cross(normal, rng.normal(size=(n, 3)))
    along /= np.linalg.norm(along, axis=1, keepdims=True) + 1e-9
    across = np.cross(normal, along)
    length = size * rng.uniform(0.6, 1.4, (n, 1))
    width = length * 0.4
    corners = np.stack(
        [
            centres - along * length,
            centres + across * width,
            centres + along * length,
            centres - across * width,
        ],
        axis=1,
    )
    faces: list[tuple[int, ...]] = [(4 * i, 4 * i + 1, 4 * i + 2, 4 * i + 3) for i in range(n)]
    return Part(corners.reshape(-1, 3), faces, slot)


def moved(shape: Shape, offset: Point, yaw: float = 0.0, scale=1.0) -> Shape:
    """A copy of the shape, scaled, turned about z by `yaw` radians, then moved."""
    c, s = np.cos(yaw), np.sin(yaw)
    turn = np.array([(c, s, 0.0), (-s, c, 0.0), (0.0, 0.0, 1.0)])
    return [
        Part((part.vertices * scale) @ turn + offset, part.faces, part.slot, part.smooth)
        for part in shape
    ]


def extent(shape: Shape) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest corner of a shape."""
    points = np.concatenate([part.vertices for part in shape])
    return points.min(axis=0), points.max(axis=0)


def add(
    shape: Shape,
    materials: Mapping[str, bpy.types.Material],
    location: Point = (0, 0, 0),
    yaw: float = 0.0,
    *,
    index: int = 0,
    light_group: str = "",
) -> bpy.types.Object:
    """Put a shape into the scene as one object with a material slot for each slot name.

    `index` becomes the object index (see `training.render`); `light_group` the group its
    emission counts in.
    """
    mesh = bpy.data.meshes.new("shape")
    slots = list(dict.fromkeys(part.slot for part in shape))
    vertices, faces, material_index, smooth = [], [], [], []
    start = 0
    for part in shape:
        vertices.append(part.vertices)
        faces += [tuple(start + i for i in face) for face in part.faces]
        material_index += [slots.index(part.slot)] * len(part.faces)
        smooth += [part.smooth and len(face) <= 4 for face in part.faces]
        start += len(part.vertices)
    mesh.from_pydata(np.concatenate(vertices).tolist(), [], faces)
    for slot in slots:
        mesh.materials.append(materials[slot])
    mesh.polygons.foreach_set("material_index", np.array(material_index, np.int32))
    mesh.polygons.foreach_set("use_smooth", np.array(smooth, bool))
    if any(smooth) and not all(smooth):
        # Smooth faces share vertices with flat caps: keep the caps' edges sharp.
        mesh.set_sharp_from_angle(angle=np.radians(50))
    item = bpy.data.objects.new("shape", mesh)
    item.matrix_world = Matrix.Translation(location) @ Matrix.Rotation(yaw, 4, "Z")
    item.pass_index = index
    if light_group:
        item.lightgroup = light_group
    bpy.context.scene.collection.objects.link(item)
    return item
