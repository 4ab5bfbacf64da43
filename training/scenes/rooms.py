# SPDX-License-Identifier: GPL-3.0-or-later
"""Furnished rooms, halls, corridors and attics around a camera at x = y = 0."""

from __future__ import annotations

import numpy as np

from . import furnishing, lights, markings, meshes
from . import furniture as fu
from .materials import Materials
from .meshes import Shape, box, moved, quad, rod
from .outdoor_pieces import tree
from .plan import Opening, Room, Wall

Rng = np.random.Generator

STYLES = (
    "living",
    "bedroom",
    "dining",
    "office",
    "kitchen",
    "corridor",
    "hall",
    "industrial",
    "attic",
    "store",
    "bathroom",
)
STYLE_WEIGHTS = (0.18, 0.11, 0.1, 0.12, 0.1, 0.07, 0.08, 0.1, 0.06, 0.03, 0.05)


def build(rng: Rng, materials: Materials, style: str | None = None) -> dict:
    """Build a random room; return style, camera height, box (z from the floor) and light groups."""
    style = style or str(rng.choice(STYLES, p=STYLE_WEIGHTS))
    room = _plan(rng, style)
    bright = rng.random() < (0.6 if style in ("corridor", "store", "industrial") else 0.88)
    _openings(rng, room, style, bright)
    skylit = _shell(rng, materials, room, style)
    windows = _fill_openings(rng, materials, room)
    daylight = skylit or windows > 0
    groups = []
    if daylight:
        outside = lights.environment(
            rng,
            materials.split,
            str(rng.choice(["hdri", "clear", "cloudy", "overcast"], p=[0.45, 0.2, 0.2, 0.15])),
            False,
        )
        elevation = np.radians(rng.uniform(8, 60))
        lights.sun(rng, elevation, _sun_azimuth(rng, room), rng.uniform(4, 18))
        _outside(rng, materials)
        groups += ["environment", "sun"]
    else:
        outside = "none"
    furnishing.furnish(rng, materials, room, style)
    groups += furnishing.lamps(rng, materials, room, style)
    return {
        "style": style,
        "outside": outside,
        "box": [*room.low.tolist(), 0.0, *room.high.tolist(), room.height],
        "groups": groups,
    }


def _plan(rng: Rng, style: str) -> Room:
    if style == "corridor":
        size = np.array([rng.uniform(5, 16), rng.uniform(1.3, 2.4)])
        height = rng.uniform(2.3, 3.2)
    elif style == "hall":
        size = rng.uniform((6, 5), (20, 14))
        height = rng.uniform(3.2, 7.0)
    elif style == "industrial":
        size = rng.uniform((6, 5), (24, 16))
        height = rng.uniform(3.2, 8.0)
    else:
        size = rng.uniform((2.6, 2.4), (7.5, 6.0))
        height = rng.choice([rng.uniform(2.3, 2.8), rng.uniform(2.6, 3.8)])
    if rng.random() < 0.5:
        size = size[::-1].copy()
    # The camera stands anywhere but closer than 0.5 m to a wall, seldom in a corner.
    share = rng.beta(2.2, 2.2, 2)
    low = -(0.5 + share * (size - 1.0))
    high = low + size
    (x0, y0), (x1, y1) = low, high
    walls = [
        Wall(np.array([x0, y0]), np.array([1.0, 0]), np.array([0, 1.0]), size[0]),
        Wall(np.array([x1, y0]), np.array([0, 1.0]), np.array([-1.0, 0]), size[1]),
        Wall(np.array([x1, y1]), np.array([-1.0, 0]), np.array([0, -1.0]), size[0]),
        Wall(np.array([x0, y1]), np.array([0, -1.0]), np.array([1.0, 0]), size[1]),
    ]
    room = Room(low, high, float(height), walls)
    keep = rng.uniform(0.3, 0.5)
    room.taken.append((-keep, -keep, keep, keep))
    return room


def _openings(rng: Rng, room: Room, style: str, bright: bool) -> None:
    """Cut windows, doors and wide passages; at most a few per wall."""
    order = rng.permutation(4)
    window_walls = set(order[: rng.integers(1, 4)].tolist()) if bright else set()
    big = style in ("hall", "industrial")
    door_wall = int(order[-1])
    for k, wall in enumerate(room.walls):
        s = rng.uniform(0.25, 0.8)
        if k in window_walls:
            sill = rng.choice(
                [0.0, rng.uniform(0.3, 0.6), rng.uniform(0.8, 1.1)], p=[0.2, 0.25, 0.55]
            )
            top = min(room.height - 0.1, sill + rng.uniform(1.0, 2.2))
            if big:
                sill = rng.choice([rng.uniform(0.8, 1.2), room.height * 0.55])
                top = min(room.height - 0.2, sill + rng.uniform(1.0, room.height * 0.5))
            width = rng.uniform(0.7, 2.6) if not big else rng.uniform(1.0, 3.5)
            gap = rng.uniform(0.2, 1.5)
            most = int(rng.integers(1, 4)) if not big else 9
            while s + width < wall.length - 0.15 and most:
                wall.openings.append(Opening(s, s + width, float(sill), float(top), "window"))
                s += width + gap
                most -= 1
        if (k == door_wall or rng.random() < 0.25) and wall.length - s > 1.3:
            wide = rng.random() < 0.35
            width = rng.uniform(1.4, 2.8) if wide else rng.uniform(0.75, 1.0)
            if s + width < wall.length - 0.2:
                s = rng.uniform(s, wall.length - 0.2 - width)
                high = min(
                    room.height - 0.05,
                    rng.uniform(1.98, 2.15) if not wide else rng.uniform(2.1, 2.7),
                )
                kind = "passage" if wide or rng.random() < 0.4 else "door"
                wall.openings.append(Opening(s, s + width, 0.0, high, kind))


def _wall_shape(
    wall: Wall, height: float, thickness: float, slot: str, inset=0.0, top=None, bottom=0.0
) -> Shape:
    """A wall with its openings as boxes, in room coordinates; `inset` > 0 sits in front of it."""
    top = height if top is None else top
    shape: Shape = []

    def slab(a: float, b: float, z0: float, z1: float) -> None:
        if b - a < 1e-3 or z1 - z0 < 1e-3:
            return
        p, q = wall.point(a, inset), wall.point(b, inset - thickness if inset == 0 else 0.0)
        low, high = np.minimum(p, q), np.maximum(p, q)
        shape.append(box(slot, (low[0], low[1], z0), (high[0], high[1], z1)))

    s = -thickness if inset == 0 else 0.0
    for opening in sorted(wall.openings, key=lambda o: o.left):
        slab(s, opening.left, bottom, top)
        slab(opening.left, opening.right, bottom, min(opening.low, top))
        slab(opening.left, opening.right, max(opening.high, bottom), top)
        s = opening.right
    slab(s, wall.length + (thickness if inset == 0 else 0.0), bottom, top)
    return shape


def _wall_kinds(style: str) -> list[str]:
    plain = ["wall_paint"] * 5 + ["wallpaper"] * 2 + ["pattern", "plaster", "plaster"]
    if style in ("industrial", "store"):
        return ["concrete", "concrete", "brick", "brick", "plaster", "wall_paint", "sheet_metal"]
    if style == "bathroom":
        return ["wall_tile"] * 6 + ["stone", "wall_paint", "plaster"]
    if style == "kitchen":
        return [*plain, "wall_tile", "wall_tile", "stone"]
    return [*plain, "brick", "panelling", "panelling", "concrete", "stone"]


def _shell(rng: Rng, materials: Materials, room: Room, style: str) -> bool:
    """Floor, ceiling, walls, skirting, wainscot, beams, slopes. True if the roof shows the sky."""
    (x0, y0), (x1, y1), h = room.low, room.high, room.height
    if materials.extended and rng.random() < (0.5 if style in ("industrial", "store") else 0.12):
        markings.add(rng, materials, room.low, room.high, rng.uniform(0.5, 3.0))
    kinds = _wall_kinds(style)
    main = materials.any(*kinds)
    accent = materials.any(*kinds)
    accent_wall = int(rng.integers(4)) if rng.random() < 0.5 else -1
    thickness = rng.uniform(0.12, 0.4)
    for k, wall in enumerate(room.walls):
        material = accent if k == accent_wall else main
        meshes.add(_wall_shape(wall, h, thickness, "wall"), {"wall": material}, index=meshes.SHELL)
    if style in ("industrial", "store"):
        floor = materials.any(
            "concrete", "concrete", "floor_tile", "asphalt", "floor_wood", "painted_metal", "stone"
        )
        ceiling = materials.any("concrete", "sheet_metal", "ceiling", "panelling", "painted_metal")
    else:
        floor = materials.any(
            *["floor_tile"] * (12 if style == "bathroom" else 0),
            *["floor_wood"] * 5,
            "floor_tile",
            "floor_tile",
            "floor_tile",
            "carpet",
            "carpet",
            "stone",
            "varnish",
            "concrete",
        )
        ceiling = materials.any(*["ceiling"] * 7, "panelling", "wall_paint", "concrete")
    m = thickness
    ground = [box("floor", (x0 - m, y0 - m, -0.2), (x1 + m, y1 + m, 0.0))]
    meshes.add(ground, {"floor": floor}, index=meshes.SHELL)
    skylit = rng.random() < (0.25 if style in ("industrial", "hall", "attic") else 0.04)
    if skylit:
        _skylights(rng, room, m, ceiling)
    else:
        meshes.add(
            [box("ceiling", (x0 - m, y0 - m, h), (x1 + m, y1 + m, h + 0.2))],
            {"ceiling": ceiling},
            index=meshes.SHELL,
        )
    trim = materials.any("lacquer", "wood", "varnish", "wall_paint", "stone", "ceiling")
    if rng.random() < 0.7 and style != "industrial":
        depth, tall = rng.uniform(0.01, 0.02), rng.uniform(0.05, 0.16)
        for wall in room.walls:
            meshes.add(
                _wall_shape(wall, h, 0, "trim", inset=depth, top=tall),
                {"trim": trim},
                index=meshes.SHELL,
            )
    if rng.random() < 0.2 and style != "industrial":
        for wall in room.walls:
            meshes.add(
                _wall_shape(wall, h, 0, "trim", inset=0.06, bottom=h - 0.08),
                {"trim": trim},
                index=meshes.SHELL,
            )
    if rng.random() < 0.22:
        lower = materials.any("panelling", "wall_tile", "wall_paint", "wood", "stone", "lacquer")
        tall = rng.uniform(0.8, 1.4) if rng.random() < 0.8 else rng.uniform(1.8, 2.2)
        for wall in room.walls:
            meshes.add(
                _wall_shape(wall, h, 0, "low", inset=0.012, top=tall),
                {"low": lower},
                index=meshes.SHELL,
            )
    _ceiling_works(rng, materials, room, style)
    if style != "corridor" and rng.random() < 0.3:
        _recess(rng, room, main if rng.random() < 0.6 else accent)
    if style == "attic":
        _slopes(rng, materials, room, main)
    if style in ("hall", "industrial") and rng.random() < 0.6:
        _columns(rng, materials, room)
    return skylit


def _skylights(rng: Rng, room: Room, m: float, ceiling) -> None:
    """A ceiling of strips with gaps that show the sky."""
    (x0, y0), (x1, y1), h = room.low, room.high, room.height
    gap, x = rng.uniform(0.4, 1.2), x0 - m
    shape = []
    while x < x1 + m:
        end = min(x + rng.uniform(1.2, 3.0), x1 + m)
        shape.append(box("ceiling", (x, y0 - m, h), (end, y1 + m, h + 0.2)))
        if end + gap < x1:
            edge = rng.uniform(0.3, 1.0)
            shape.append(box("ceiling", (end, y0 - m, h), (end + gap, y0 + edge, h + 0.2)))
            shape.append(box("ceiling", (end, y1 - edge, h), (end + gap, y1 + m, h + 0.2)))
            lights.portal(((end + gap / 2), (y0 + y1) / 2, h + 0.2), (0, 0, -1), gap, y1 - y0)
            x = end + gap
        else:
            x = end
    meshes.add(shape, {"ceiling": ceiling}, index=meshes.SHELL)


def _ceiling_works(rng: Rng, materials: Materials, room: Room, style: str) -> None:
    """Beams, trusses, ducts and pipes under the ceiling."""
    (x0, y0), (x1, y1), h = room.low, room.high, room.height
    shape: Shape = []
    if style == "industrial" and rng.random() < 0.75:
        deep, r = min(1.2, h * 0.18), rng.uniform(0.025, 0.06)
        for x in np.arange(x0 + rng.uniform(0.5, 2), x1, rng.uniform(2, 4)):
            ys = np.linspace(y0, y1, max(3, int((y1 - y0) / deep)))
            shape += [
                rod("beam", (x, y0, h - 0.1), (x, y1, h - 0.1), r),
                rod("beam", (x, y0, h - deep), (x, y1, h - deep), r),
            ]
            for k in range(len(ys) - 1):
                a, b = (h - 0.1, h - deep) if k % 2 else (h - deep, h - 0.1)
                shape.append(rod("beam", (x, ys[k], a), (x, ys[k + 1], b), r * 0.7, 6))
        beam = materials.any("painted_metal", "metal", "rust", "wood")
    elif rng.random() < (0.8 if style == "attic" else 0.15):
        w, d = rng.uniform(0.06, 0.2), rng.uniform(0.1, 0.3)
        for x in np.arange(x0 + rng.uniform(0.2, 1), x1, rng.uniform(0.6, 1.6)):
            shape.append(box("beam", (x, y0, h - d), (x + w, y1, h)))
        beam = materials.any("wood", "varnish", "panelling", "painted_metal", "lacquer")
    else:
        beam = None
    if shape:
        meshes.add(shape, {"beam": beam})
    if style in ("industrial", "store", "hall", "office", "corridor") and rng.random() < 0.5:
        pipes: Shape = []
        for _ in range(int(rng.integers(1, 6))):
            r, drop = rng.choice([0.03, 0.05, 0.15, 0.25]), rng.uniform(0.1, 0.5)
            slot = (
                rng.choice(["metal", "painted_metal", "rust", "polished", "sheet_metal"])
                + f"#{len(pipes)}"
            )
            y = rng.uniform(y0 + 0.3, y1 - 0.3)
            pipes.append(rod(slot, (x0, y, h - drop - r), (x1, y, h - drop - r), r, 14))
        meshes.add(pipes, fu.resolve(pipes, materials))


def _slopes(rng: Rng, materials: Materials, room: Room, wall_material) -> None:
    """Slanted roof planes inside the box along x."""
    (x0, y0), (x1, y1), h = room.low, room.high, room.height
    knee = rng.uniform(0.7, 1.5)
    reach = rng.uniform(0.25, 0.48) * (y1 - y0)
    material = (
        materials.any("panelling", "ceiling", "ceiling") if rng.random() < 0.6 else wall_material
    )
    sides = [0, 1] if rng.random() < 0.6 else [int(rng.integers(2))]
    for side in sides:
        ya, yb = (y0, y0 + reach) if side == 0 else (y1, y1 - reach)
        # Stay above the camera's head.
        if min(ya, yb) - 0.3 < 0 < max(ya, yb) + 0.3:
            continue
        plane = [quad("slope", (x0, ya, knee), (x1, ya, knee), (x1, yb, h), (x0, yb, h))]
        meshes.add(plane, {"slope": material}, index=meshes.SHELL)


def _recess(rng: Rng, room: Room, material) -> None:
    """A block in a corner, which makes the room L-shaped, or a chimney breast on a wall."""
    size = room.high - room.low
    if rng.random() < 0.5:
        part = size * rng.uniform(0.15, 0.45, 2)
        corner = rng.integers(0, 2, 2)
        low = np.where(corner == 0, room.low, room.high - part)
    else:
        axis, side = int(rng.integers(2)), int(rng.integers(2))
        part = np.full(2, rng.uniform(0.2, 0.6))
        part[1 - axis] = min(rng.uniform(0.6, 2.0), size[1 - axis] * 0.5)
        low = room.low + (size - part) * rng.uniform(0.1, 0.9, 2)
        low[axis] = room.low[axis] if side == 0 else room.high[axis] - part[axis]
    high = low + part
    if room.free(*low, *high, 0.2):
        block = [box("block", (*low, 0.0), (*high, room.height))]
        meshes.add(block, {"block": material}, index=meshes.SHELL)
        room.taken.append((*low, *high))


def _columns(rng: Rng, materials: Materials, room: Room) -> None:
    (x0, y0), (x1, y1), h = room.low, room.high, room.height
    material = materials.any("concrete", "painted_metal", "stone", "brick", "wall_paint", "rust")
    r, round_ = rng.uniform(0.12, 0.35), rng.random() < 0.4
    for x in np.arange(x0 + rng.uniform(1, 3), x1 - 0.6, rng.uniform(2.5, 5)):
        for y in (y0 + (y1 - y0) * 0.25, y0 + (y1 - y0) * 0.75):
            if not room.free(x - r, y - r, x + r, y + r, 0.3):
                continue
            part = (
                meshes.cylinder("column", r, 0, h, 20)
                if round_
                else box("column", (-r, -r, 0), (r, r, h))
            )
            meshes.add([part], {"column": material}, (x, y, 0))
            room.taken.append((x - r, y - r, x + r, y + r))


def _fill_openings(rng: Rng, materials: Materials, room: Room) -> int:
    """Window frames and portals, door leaves, neighbouring rooms. Returns the number of windows."""
    frame = materials.any("lacquer", "wood", "varnish", "painted_metal", "ceiling", "metal")
    bars = rng.integers(0, 4, 2)
    curtains = rng.random() < 0.4
    # Before a bright window, cloth that lets light through is easily taken for the sky.
    drawn = materials.extended and rng.random() < 0.3
    blinds = materials.extended and not drawn and rng.random() < 0.2
    cloth_seed = rng.integers(1 << 30)
    count = 0
    for wall in room.walls:
        for opening in wall.openings:
            w, h = opening.right - opening.left, opening.high - opening.low
            middle = wall.point((opening.left + opening.right) / 2, 0.0, opening.low)
            depth = rng.uniform(0.03, 0.1)
            t = rng.uniform(0.03, 0.08)
            shape: Shape = [
                box("frame", (-w / 2, -0.02, 0), (-w / 2 + t, depth, h)),
                box("frame", (w / 2 - t, -0.02, 0), (w / 2, depth, h)),
                box("frame", (-w / 2, -0.02, h - t), (w / 2, depth, h)),
            ]
            if opening.kind == "window":
                count += 1
                shape.append(box("frame", (-w / 2, -0.02, 0), (w / 2, depth, t)))
                for k in range(bars[0]):
                    x = -w / 2 + w * (k + 1) / (bars[0] + 1)
                    shape.append(box("frame", (x - t / 3, 0, 0), (x + t / 3, depth, h)))
                for k in range(bars[1]):
                    z = h * (k + 1) / (bars[1] + 1)
                    shape.append(box("frame", (-w / 2, 0, z - t / 3), (w / 2, depth, z + t / 3)))
                if opening.low > 0.2 and rng.random() < 0.6:
                    shape.append(
                        box("frame", (-w / 2 - 0.08, -0.15, -0.04), (w / 2 + 0.08, depth, 0))
                    )
                centre = wall.point(
                    (opening.left + opening.right) / 2, -0.1, (opening.low + opening.high) / 2
                )
                lights.portal(centre, (*wall.inward, 0.0), w, h)
                if drawn:
                    _sheer(rng, materials, room, wall, opening)
                if blinds and rng.random() < 0.8:
                    blind = fu.blind(rng, w - 2 * t, h - t)
                    meshes.add(
                        moved(blind, (0, -0.03, 0)), fu.resolve(blind, materials), middle, wall.yaw
                    )
                if curtains:
                    same = np.random.default_rng(cloth_seed)
                    top, drop = min(room.height - 0.05, opening.high + 0.15), rng.random() < 0.75
                    base = 0.02 if drop or opening.low < 0.3 else opening.low - 0.15
                    for side in (-1, 1):
                        cw = w * rng.uniform(0.15, 0.3)
                        s = (opening.left + opening.right) / 2 + side * (w / 2 - cw * 0.2)
                        cloth = fu.curtain(same, cw, top - base)
                        meshes.add(
                            cloth,
                            {
                                p.slot: materials.shared("linen" if "linen" in p.slot else "fabric")
                                for p in cloth
                            },
                            wall.point(s, 0.04, base),
                            wall.yaw,
                        )
                    pole = [rod("pole", (-w * 0.7, -0.09, top), (w * 0.7, -0.09, top), 0.015)]
                    meshes.add(
                        pole,
                        {"pole": materials.shared("polished")},
                        wall.point((opening.left + opening.right) / 2, 0.0, 0.0),
                        wall.yaw,
                    )
            meshes.add(shape, {"frame": frame}, middle, wall.yaw)
            if opening.kind == "door":
                leaf = fu.door(rng, w - 2 * t, h - t)
                if rng.random() < 0.7:
                    meshes.add(
                        moved(leaf, (0, 0.06, 0)), fu.resolve(leaf, materials), middle, wall.yaw
                    )
                else:
                    hinge = moved(
                        moved(leaf, (w / 2 - t, 0, 0)),
                        (-w / 2 + t, -0.02, 0),
                        -rng.uniform(0.6, 1.6),
                    )
                    meshes.add(hinge, fu.resolve(leaf, materials), middle, wall.yaw)
                    _neighbour(rng, materials, room, wall, opening)
            elif opening.kind == "passage":
                _neighbour(rng, materials, room, wall, opening)
            if opening.kind != "window":
                p, q = wall.point(opening.left), wall.point(opening.right, 0.9)
                low, high = np.minimum(p, q), np.maximum(p, q)
                room.taken.append((low[0], low[1], high[0], high[1]))
    return count


def _sheer(rng: Rng, materials: Materials, room: Room, wall: Wall, opening: Opening) -> None:
    """A sheer curtain drawn over a window, all of it or one side, down to the floor or the sill."""
    top = min(room.height - 0.04, opening.high + rng.uniform(0.05, 0.3))
    base = 0.02 if rng.random() < 0.7 or opening.low < 0.3 else opening.low - 0.1
    left, right = max(0.02, opening.left - 0.15), min(wall.length - 0.02, opening.right + 0.15)
    if rng.random() < 0.25:
        part = (right - left) * rng.uniform(0.4, 0.8)
        left, right = (left, left + part) if rng.random() < 0.5 else (right - part, right)
    cloth = fu.curtain(rng, right - left, top - base, "sheer")
    meshes.add(
        cloth,
        {part.slot: materials.shared("sheer") for part in cloth},
        wall.point((left + right) / 2, 0.02, base),
        wall.yaw,
    )


def _neighbour(rng: Rng, materials: Materials, room: Room, wall: Wall, opening: Opening) -> None:
    """A furnished room or corridor behind an opening, with a lamp of its own."""
    depth = rng.uniform(1.5, 5.0)
    middle = (opening.left + opening.right) / 2
    half = (opening.right - opening.left) / 2 + rng.uniform(0.3, 2.0)
    h = max(opening.high + 0.05, min(room.height, rng.uniform(2.3, 3.2)))
    gap = 0.42
    shape: Shape = [
        quad(
            "floor",
            (-half, 0.0, 0.001),
            (half, 0.0, 0.001),
            (half, depth + gap, 0.001),
            (-half, depth + gap, 0.001),
        ),
        quad(
            "ceiling",
            (-half, gap, h),
            (half, gap, h),
            (half, depth + gap, h),
            (-half, depth + gap, h),
        ),
        quad(
            "wall",
            (-half, gap, 0),
            (-half, depth + gap, 0),
            (-half, depth + gap, h),
            (-half, gap, h),
        ),
        quad(
            "wall", (half, gap, 0), (half, depth + gap, 0), (half, depth + gap, h), (half, gap, h)
        ),
        quad(
            "back",
            (-half, depth + gap, 0),
            (half, depth + gap, 0),
            (half, depth + gap, h),
            (-half, depth + gap, h),
        ),
    ]
    reveal = (opening.right - opening.left) / 2
    for s in (-1, 1):
        a, b = sorted((s * reveal, s * half))
        shape.append(box("wall", (a, 0.12, 0), (b, gap, h)))
    shape.append(box("wall", (-reveal, 0.12, opening.high), (reveal, gap, h)))
    slots = {
        "floor": materials.any("floor_wood", "floor_tile", "carpet", "stone"),
        "ceiling": materials.any("ceiling", "ceiling", "panelling"),
        "wall": materials.any("wall_paint", "wallpaper", "plaster", "brick"),
        "back": materials.any("wall_paint", "wallpaper", "pattern", "panelling"),
    }
    base = wall.point(middle)
    meshes.add(shape, slots, base, wall.yaw, index=meshes.SHELL)
    makers = [fu.shelf, fu.cabinet, fu.sofa, fu.plant, fu.table]
    for _ in range(int(rng.integers(1, 4))):
        piece = makers[rng.integers(len(makers))](rng)
        spot = (rng.uniform(-half * 0.7, half * 0.7), depth + gap - 0.5, 0)
        meshes.add(moved(piece, spot), fu.resolve(piece, materials), base, wall.yaw)
    c, s = np.cos(wall.yaw), np.sin(wall.yaw)
    x, y = 0.0, gap + depth * 0.5
    lights.ceiling_lamp(
        rng,
        materials,
        base[0] + c * x - s * y,
        base[1] + s * x + c * y,
        h,
        "lamps2",
        str(rng.choice(["panel", "globe", "bulb", "downlight"])),
        rng.uniform(10, 50),
    )


def _sun_azimuth(rng: Rng, room: Room) -> float:
    """An azimuth from which the sun shines into some window, any for a room with none."""
    walls = [wall for wall in room.walls if any(o.kind == "window" for o in wall.openings)]
    if not walls:
        return float(rng.uniform(0, 2 * np.pi))
    out = -walls[rng.integers(len(walls))].inward
    return float(np.arctan2(out[1], out[0]) + rng.uniform(-1.0, 1.0))


def _outside(rng: Rng, materials: Materials) -> None:
    """Ground, facades and trees that the windows may show."""
    level = -rng.choice([rng.uniform(0.1, 0.5), rng.uniform(3, 12)])
    kind = materials.any("grass", "asphalt", "paving", "soil")
    meshes.add(
        [quad("ground", (-80, -80, 0), (80, -80, 0), (80, 80, 0), (-80, 80, 0))],
        {"ground": kind},
        (0, 0, level),
        index=meshes.SHELL,
    )
    for _ in range(int(rng.integers(0, 6))):
        angle, distance = rng.uniform(0, 2 * np.pi), rng.uniform(16, 45)
        w, h = rng.uniform(3, 10), rng.uniform(3, 14)
        block = [box("facade", (-w, -3, 0), (w, 3, h))]
        meshes.add(
            block,
            {"facade": materials.new("facade")},
            (distance * np.cos(angle), distance * np.sin(angle), level),
            angle + np.pi / 2,
        )
    for _ in range(int(rng.integers(0, 4))):
        angle, distance = rng.uniform(0, 2 * np.pi), rng.uniform(15, 30)
        shape = tree(rng, rng.uniform(4, 9))
        meshes.add(
            shape,
            fu.resolve(shape, materials),
            (distance * np.cos(angle), distance * np.sin(angle), level),
        )
