# SPDX-License-Identifier: GPL-3.0-or-later
"""One furnished flat, laid out by hand: a test set that the random rooms have no hand in.

An L of living room, kitchen and bed alcove with a slanted wall, a lowered ceiling, a round column
and a corridor behind an open door, seen from six places. Its furniture are the held-out glTF pieces
in the colours of their own palette, which the random scenes never use. Seeds choose materials and
daylight; what stands where, and in which shape, is the same in all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import bpy
import numpy as np

from . import assets, lights, meshes
from .furniture import curtain, resolve
from .materials import Materials
from .meshes import Part, Shape, box, cylinder, lathe, moved, quad, rod
from .outdoors import tree

Rng = np.random.Generator

HEIGHT, LOWERED, THICKNESS = 2.75, 2.4, 0.25
# Corners of the floor, counter-clockwise, and for each wall that starts there its openings: from,
# to, sill, lintel.
CORNERS = ((0.0, 0.0), (8.2, 0.0), (8.2, 3.2), (6.4, 5.0), (4.6, 5.0), (4.6, 7.4), (0.0, 7.4))
OPENINGS: dict[int, list[tuple[float, float, float, float]]] = {
    0: [(1.0, 2.5, 0.5, 2.4), (3.2, 4.7, 0.5, 2.4), (5.4, 6.9, 0.0, 2.4)],
    4: [(0.7, 1.5, 1.0, 2.1)],
    6: [(4.5, 5.4, 0.0, 2.05)],
}
DOOR_WALL = 6
# Places of the camera: x, y and height.
VIEWS = (
    (1.6, 1.5, 1.5),
    (4.1, 2.3, 1.6),
    (6.9, 1.6, 1.2),
    (3.75, 5.6, 1.7),
    (5.5, 3.3, 1.5),
    (1.0, 4.4, 1.4),
)

# Piece, x, y, degrees it is turned by: at 0 its back is to the north.
PIECES = (
    ("couch", 2.6, 3.35, 0),
    ("armchair_pillows", 1.1, 3.0, 75),
    ("armchair_pillows", 4.0, 1.35, 215),
    ("table_low", 2.5, 2.3, 8),
    ("shelf_B_large_decorated", 0.25, 6.2, 90),
    ("cabinet_medium", 7.85, 1.2, 270),
    ("table_medium_long", 6.5, 2.9, 30),
    ("chair_C", 6.0, 2.45, 205),
    ("chair_C", 6.95, 3.35, 25),
    ("chair_B_wood", 7.2, 2.6, 300),
    ("bed_double_B", 2.2, 6.2, 0),
    ("cabinet_medium", 3.9, 7.05, 0),
    ("cactus_medium_B", 4.4, 0.4, 40),
    ("cactus_medium_B", 0.35, 0.4, 0),
)


def build(rng: Rng, materials: Materials, view: int) -> dict:
    """Build the flat around one of `VIEWS`; returns what `rooms.build` does, and the camera's
    height."""
    _shell(materials)
    _windows(materials)
    _corridor(materials)
    _kitchen(materials)
    for name, x, y, turn in PIECES:
        _piece(name, materials, (x, y, 0.0), np.radians(turn))
    _small_things(materials)
    lights.environment(rng, materials.split, "hdri", False)
    lights.sun(rng, np.radians(rng.uniform(20, 50)), np.radians(rng.uniform(230, 310)), 12.0)
    x, y, height = VIEWS[view]
    for item in bpy.context.scene.objects:
        item.location.x -= x
        item.location.y -= y
    low, high = np.min(CORNERS, axis=0) - (x, y), np.max(CORNERS, axis=0) - (x, y)
    return {
        "style": f"view {view}",
        "outside": "hdri",
        "box": [*low.tolist(), 0.0, *high.tolist(), HEIGHT],
        "groups": list(lights.GROUPS),
        "camera_height": height,
    }


@dataclass(frozen=True)
class _Wall:
    """A straight piece of wall with the room on its left: from `start`, `length` metres towards the
    azimuth `turn`. `before` and `after` are how far it goes on to close the corner at its ends."""

    start: np.ndarray
    length: float
    turn: float
    before: float
    after: float
    openings: list[tuple[float, float, float, float]]


def _walls() -> list[_Wall]:
    corners = np.array(CORNERS)
    steps = np.roll(corners, -1, axis=0) - corners
    earlier = np.roll(steps, 1, axis=0)
    # At a corner that juts into the room a longer wall would come out on the other side.
    convex = earlier[:, 0] * steps[:, 1] > earlier[:, 1] * steps[:, 0]
    reach = np.where(convex, THICKNESS, 0.0)
    return [
        _Wall(
            corners[k],
            float(np.hypot(*steps[k])),
            float(np.arctan2(steps[k, 1], steps[k, 0])),
            reach[k],
            reach[(k + 1) % len(corners)],
            OPENINGS.get(k, []),
        )
        for k in range(len(corners))
    ]


def _shell(materials: Materials) -> None:
    def add(shape: Shape, slot: str, material) -> None:
        meshes.add(shape, {slot: material}, index=meshes.SHELL)

    main, accent = materials.new("wall_paint"), materials.any("brick", "wallpaper", "panelling")
    trim = materials.new("lacquer")
    for k, wall in enumerate(_walls()):
        whole = -wall.before, wall.length + wall.after
        solid = _around_openings("wall", whole, (-THICKNESS, 0.0), HEIGHT, wall.openings)
        strip = _around_openings("trim", (0.0, wall.length), (0.0, 0.015), 0.09, wall.openings)
        add(moved(solid, (*wall.start, 0.0), wall.turn), "wall", accent if k == 5 else main)
        add(moved(strip, (*wall.start, 0.0), wall.turn), "trim", trim)
    outline = [(x, y) for x, y in CORNERS]
    add([meshes.prism("floor", outline, -0.2, 0.0)], "floor", materials.any("floor_wood", "carpet"))
    ceiling = materials.new("ceiling")
    add([meshes.prism("ceiling", outline, HEIGHT, HEIGHT + 0.2)], "ceiling", ceiling)
    add([box("ceiling", (4.6, 4.0, LOWERED), (6.4, 5.0, HEIGHT))], "ceiling", ceiling)
    beams = [box("beam", (x, 0.0, HEIGHT - 0.14), (x + 0.12, 5.0, HEIGHT)) for x in (1.5, 3.0)]
    meshes.add(beams, {"beam": materials.new("wood")})
    column = [cylinder("column", 0.16, 0.0, HEIGHT, 24)]
    meshes.add(column, {"column": materials.any("concrete", "wall_paint")}, (4.6, 4.2, 0.0))


def _around_openings(
    slot: str,
    along: tuple[float, float],
    across: tuple[float, float],
    top: float,
    openings: list[tuple[float, float, float, float]],
) -> Shape:
    """Boxes from the floor to `top` over these stretches of x and y, but not in the openings."""
    (start, end), (back, front) = along, across
    shape: Shape = []
    edges = [start, *(v for opening in openings for v in opening[:2]), end]
    for left, right in zip(edges[::2], edges[1::2], strict=True):
        shape.append(box(slot, (left, back, 0.0), (right, front, top)))
    for left, right, sill, lintel in openings:
        if sill > 0:
            shape.append(box(slot, (left, back, 0.0), (right, front, min(sill, top))))
        if lintel < top:
            shape.append(box(slot, (left, back, lintel), (right, front, top)))
    return shape


def _windows(materials: Materials) -> None:
    """Frames, portals and curtains; ground and trees outside."""
    shapes = np.random.default_rng(0)
    frame, cloth = materials.new("lacquer"), materials.new("linen")
    for k, wall in enumerate(_walls()):
        if k == DOOR_WALL:
            continue
        along = np.array([np.cos(wall.turn), np.sin(wall.turn), 0.0])
        inward = np.array([-along[1], along[0], 0.0])
        for left, right, sill, lintel in wall.openings:
            w, h, t = right - left, lintel - sill, 0.05
            bars = [(0.0, 0.0, t, h), (w - t, 0.0, w, h), (0.0, 0.0, w, t), (0.0, h - t, w, h)]
            bars += [(w / 2 - 0.02, 0.0, w / 2 + 0.02, h), (0.0, h * 0.7, w, h * 0.7 + 0.03)]
            shape = [box("frame", (a, -0.15, b), (c, -0.1, d)) for a, b, c, d in bars]
            shape = moved(shape, (left, 0.0, sill))
            meshes.add(shape, {"frame": frame}, (*wall.start, 0.0), wall.turn)
            middle = np.array([*wall.start, (sill + lintel) / 2]) + along * (left + right) / 2
            lights.portal(middle - 0.2 * inward, inward, w, h)
            if k == 0:
                drapes = moved(curtain(shapes, 0.4, 2.3), (left, 0.12, 0.05))
                meshes.add(drapes, {p.slot: cloth for p in drapes}, (*wall.start, 0.0), wall.turn)
    ground = [quad("ground", (-60, -60, 0), (60, -60, 0), (60, 60, 0), (-60, 60, 0))]
    meshes.add(ground, {"ground": materials.new("grass")}, (0, 0, -0.4), index=meshes.SHELL)
    for x, y, tall in ((1.0, -14.0, 6.0), (7.0, -20.0, 8.0)):
        shape = tree(shapes, tall)
        meshes.add(shape, resolve(shape, materials), (x, y, -0.4))


def _corridor(materials: Materials) -> None:
    """A dim corridor behind the door of the west wall, whose leaf stands open."""
    shape = [
        box("wall", (-1.8, 0.6, 0.0), (-1.6, 5.0, 2.6)),
        box("wall", (-1.8, 0.4, 0.0), (-THICKNESS, 0.6, 2.6)),
        box("wall", (-1.8, 5.0, 0.0), (-THICKNESS, 5.2, 2.6)),
        box("wall", (-1.8, 0.4, 2.6), (-THICKNESS, 5.2, 2.8)),
    ]
    meshes.add(shape, {"wall": materials.new("plaster")}, index=meshes.SHELL)
    floor = [box("floor", (-1.8, 0.4, -0.2), (0.0, 5.2, 0.0))]
    meshes.add(floor, {"floor": materials.new("floor_tile")}, index=meshes.SHELL)
    leaf = [box("leaf", (0.0, -0.02, 0.01), (0.86, 0.02, 2.03))]
    leaf += [rod("handle", (0.78, s * 0.02, 1.0), (0.78, s * 0.07, 1.0), 0.012) for s in (-1, 1)]
    own = {"leaf": materials.new("lacquer"), "handle": materials.new("polished")}
    meshes.add(leaf, own, (0.0, 2.02, 0.0), np.radians(-20))
    lights.bulb((-0.9, 4.0, 2.4), 12.0, "lamps2")


def _kitchen(materials: Materials) -> None:
    """Cupboards, a worktop, a sink, a hood and a fridge on the north wall."""
    profile = [(0.3, 1.55), (0.1, 1.75), (0.1, LOWERED)]
    shape = [
        box("front", (4.65, 4.42, 0.1), (5.85, 4.98, 0.86)),
        box("plinth", (4.65, 4.48, 0.0), (5.85, 4.98, 0.1)),
        box("top", (4.62, 4.38, 0.86), (5.87, 4.98, 0.9)),
        box("sink", (5.5, 4.5, 0.895), (5.8, 4.85, 0.905)),
        rod("tap", (5.65, 4.9, 0.9), (5.65, 4.9, 1.15), 0.015),
        rod("tap", (5.65, 4.9, 1.15), (5.65, 4.74, 1.15), 0.012),
        box("hob", (4.75, 4.5, 0.9), (5.25, 4.9, 0.906)),
        *moved([lathe("hood", profile, 4)], (5.0, 4.7, 0.0), np.pi / 4),
        box("fridge", (5.9, 4.35, 0.02), (6.4, 4.98, 1.85)),
    ]
    own = {slot: materials.new("lacquer") for slot in ("front", "plinth")}
    own |= {slot: materials.new("metal") for slot in ("sink", "tap", "hood", "fridge")}
    own |= {"top": materials.new("stone"), "hob": materials.plain((0.12, 0.12, 0.12), 0.08)}
    meshes.add(shape, own)


def _piece(name: str, materials: Materials, location, yaw: float) -> None:
    """A glTF piece in the colours of its own palette."""
    vertices, triangles, parts = assets.furniture_mesh(name)
    shape: Shape = []
    own = {}
    for part, colour in assets.furniture_colours(name).items():
        used, faces = np.unique(triangles[parts == part], return_inverse=True)
        slot = f"part {part}"
        corners = [tuple(face) for face in faces.reshape(-1, 3).tolist()]
        shape.append(Part(vertices[used].astype(float), corners, slot))
        own[slot] = materials.plain(colour, materials.rng.uniform(0.3, 0.9))
    low, high = meshes.extent(shape)
    shape = moved(shape, (-(low[0] + high[0]) / 2, -(low[1] + high[1]) / 2, -low[2]))
    meshes.add(shape, own, location, yaw)


def _small_things(materials: Materials) -> None:
    """Pictures, a mirror, a rug, things on the tables, and all lamps."""
    for y, z, w, h in ((0.8, 1.7, 0.7, 0.5), (2.3, 1.6, 0.4, 0.5)):
        corners = [(x * w / 2, 0.0, z * h / 2) for x, z in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
        panel = [quad(f"picture#{w}x{h}", *corners)]
        meshes.add(panel, resolve(panel, materials), (8.18, y, z), np.radians(90))
    mirror = [box("mirror", (-0.3, -0.03, -0.8), (0.3, 0.0, 0.8))]
    meshes.add(mirror, resolve(mirror, materials), (0.0, 1.1, 1.2), np.radians(90))
    rug = [box("carpet#rug", (1.3, 1.4, 0.0), (3.8, 2.9, 0.015))]
    meshes.add(rug, resolve(rug, materials))
    things: Shape = [
        cylinder("ceramic#a", 0.06, 0.0, 0.22, 20),
        *moved([lathe("ceramic#b", [(0.04, 0.0), (0.12, 0.07), (0.13, 0.09)], 24)], (0.35, 0.1, 0)),
        *moved([box("paper#c", (-0.1, -0.14, 0.0), (0.1, 0.14, 0.05))], (-0.3, 0.0, 0.0), 0.4),
    ]
    # Heights of the low table, the long one and the cabinet that they stand on.
    for x, y, z, turn in ((2.5, 2.3, 0.335, 0.5), (6.5, 2.9, 0.67, 2.0), (7.85, 1.2, 0.67, 1.6)):
        meshes.add(things, resolve(things, materials), (x, y, z), turn)
    shapes = np.random.default_rng(1)
    for x, y in ((2.4, 2.3), (6.5, 2.9)):
        lights.ceiling_lamp(shapes, materials, x, y, HEIGHT, "lamps", "pendant", 55.0)
    lights.ceiling_lamp(shapes, materials, 2.3, 6.3, HEIGHT, "lamps", "globe", 40.0)
    lights.standing_lamp(shapes, materials, (0.4, 3.9, 0.0), 1.5, "lamps2")
    lights.standing_lamp(shapes, materials, (7.5, 0.4, 0.0), 1.3, "lamps2")
