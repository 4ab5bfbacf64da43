# SPDX-License-Identifier: GPL-3.0-or-later
"""What stands, hangs and shines in a room: which pieces, and where they fit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from . import furniture as fu
from . import lights, meshes
from .materials import Materials
from .meshes import Shape, moved
from .plan import Room, Wall

Rng = np.random.Generator


def furnish(rng: Rng, materials: Materials, room: Room, style: str) -> None:
    area = float(np.prod(room.high - room.low))
    fill = rng.uniform(0.5, 1.4)

    def stock(prefix: str, maker) -> Shape:
        piece = fu.stock(rng, materials, prefix) if rng.random() < 0.3 else None
        return piece if piece is not None else maker(rng)

    lists = {
        "living": [
            lambda: stock("couch", fu.sofa),
            lambda: stock("armchair", fu.sofa),
            lambda: fu.shelf(rng),
            lambda: _laden(rng, fu.cabinet(rng, h=rng.uniform(0.5, 1.1))),
            lambda: stock("cabinet", fu.cabinet),
        ],
        "bedroom": [
            lambda: stock("bed", fu.bed),
            lambda: _laden(rng, fu.cabinet(rng, 0.5, 0.5), 3),
            lambda: fu.cabinet(rng, h=2.1),
            lambda: fu.shelf(rng),
            lambda: stock("armchair", fu.sofa),
        ],
        "dining": [
            lambda: fu.shelf(rng),
            lambda: _laden(rng, fu.cabinet(rng, h=0.9)),
            lambda: stock("cabinet", fu.cabinet),
        ],
        "office": [
            lambda: _desk(rng),
            lambda: _desk(rng),
            lambda: fu.shelf(rng),
            lambda: fu.cabinet(rng),
        ],
        "kitchen": [
            lambda: fu.kitchen(rng),
            lambda: fu.fridge(rng),
            lambda: fu.cabinet(rng),
            lambda: fu.shelf(rng),
        ],
        "corridor": [
            lambda: _laden(rng, fu.cabinet(rng, h=0.9, d=0.3), 3),
            lambda: fu.chair(rng),
            lambda: fu.plant(rng),
        ],
        "hall": [
            lambda: fu.sofa(rng),
            lambda: fu.cabinet(rng),
            lambda: fu.shelf(rng),
            lambda: stock("couch", fu.sofa),
            lambda: fu.plant(rng),
        ],
        "industrial": [
            lambda: fu.machine(rng),
            lambda: fu.shelf(rng),
            lambda: fu.cabinet(rng),
            lambda: fu.barrel(rng),
            lambda: fu.crate(rng),
            lambda: fu.ladder(rng),
            lambda: _laden(rng, fu.table(rng)),
        ],
        "attic": [
            lambda: stock("bed", fu.bed),
            lambda: fu.cabinet(rng, h=0.7),
            lambda: _desk(rng),
            lambda: fu.crate(rng),
        ],
        "bathroom": [
            lambda: fu.washstand(rng),
            lambda: fu.bathtub(rng),
            lambda: fu.toilet(rng),
            lambda: fu.cabinet(rng),
            lambda: fu.shelf(rng, rng.uniform(0.4, 0.8)),
        ],
        "store": [
            lambda: fu.shelf(rng),
            lambda: fu.shelf(rng),
            lambda: fu.crate(rng),
            lambda: fu.crate(rng),
            lambda: fu.ladder(rng),
            lambda: fu.barrel(rng),
            lambda: fu.cabinet(rng),
        ],
    }
    makers = lists[style]
    if materials.extended and style != "corridor":
        low = [
            lambda: _dining(rng),
            lambda: _laden(rng, fu.table(rng, h=rng.uniform(0.35, 0.78))),
            lambda: _laden(rng, stock("table_low", lambda r: fu.table(r, h=0.42)), 5),
            lambda: _laden(rng, fu.cabinet(rng, h=rng.uniform(0.4, 0.75)), 4),
            lambda: stock("bed", fu.bed),
            lambda: stock("couch", fu.sofa),
        ]
        for _ in range(int(rng.choice([0, 1, 2], p=[0.4, 0.4, 0.2]))):
            beside(rng, materials, room, low[rng.integers(len(low))]())
    if style == "kitchen":
        _against_wall(rng, materials, room, makers[0](), 16)
        makers = makers[1:]
    if style in ("dining", "kitchen") or (style in ("hall", "living") and rng.random() < 0.5):
        _anywhere(rng, materials, room, _dining(rng), near=0.3 if rng.random() < 0.7 else None)
    if style in ("living", "hall") and rng.random() < 0.8:
        _anywhere(
            rng,
            materials,
            room,
            _laden(rng, stock("table_low", lambda r: fu.table(r, h=0.42)), 5),
            near=0.3,
        )
    close = [
        lambda: stock("chair", fu.chair),
        lambda: fu.chair(rng),
        lambda: _laden(rng, fu.table(rng, rng.uniform(0.6, 1.4))),
        lambda: stock("armchair", fu.sofa),
        lambda: fu.plant(rng),
        lambda: fu.primitive(rng),
        lambda: fu.shelf(rng, h=rng.uniform(0.7, 1.6)),
        lambda: _laden(rng, fu.cabinet(rng, h=rng.uniform(0.6, 1.0))),
    ]
    if materials.extended and style == "bedroom" and rng.random() < 0.6:
        _anywhere(rng, materials, room, stock("bed", fu.bed), near=0.2)
    for _ in range(int(rng.integers(0, 4))):
        _anywhere(rng, materials, room, close[rng.integers(len(close))](), near=0.25)
    for k in range(min(18, int(4 + fill * area / 2.8))):
        maker = makers[k % len(makers)] if k < len(makers) else makers[rng.integers(len(makers))]
        _against_wall(rng, materials, room, maker())
    loose = [
        lambda: fu.plant(rng),
        lambda: fu.crate(rng),
        lambda: stock("chair", fu.chair),
        lambda: fu.chair(rng),
        lambda: stock("cactus", fu.plant),
        lambda: fu.barrel(rng),
        lambda: fu.primitive(rng),
        lambda: fu.primitive(rng),
    ]
    for _ in range(
        int(rng.integers(0, 4) + (area / 15 if style in ("industrial", "hall", "store") else 0))
    ):
        _anywhere(
            rng,
            materials,
            room,
            loose[rng.integers(len(loose))](),
            near=0.3 if rng.random() < 0.4 else None,
        )
    if style in ("industrial", "store", "hall"):
        for _ in range(int(rng.integers(1, 5))):
            big = fu.machine(rng) if style != "hall" else fu.sofa(rng)
            _anywhere(rng, materials, room, big)
    if style in ("living", "bedroom", "dining", "hall", "attic", "office") and rng.random() < 0.65:
        carpet = fu.rug(rng)
        low, high = meshes.extent(carpet)
        span = np.maximum(room.high - room.low - (high - low)[:2], 0.0)
        x, y = room.low + span * rng.uniform(0.1, 0.9, 2) + (high - low)[:2] / 2
        if (high - low)[0] < room.high[0] - room.low[0] and (high - low)[1] < room.high[
            1
        ] - room.low[1]:
            meshes.add(carpet, fu.resolve(carpet, materials), (x, y, 0))
    hang(rng, materials, room)
    if style in ("hall", "corridor", "industrial", "living") and rng.random() < 0.2:
        steps = fu.stairs(rng, room.height - 0.05)
        _against_wall(rng, materials, room, steps, 14, 0.0)


def hang(rng: Rng, materials: Materials, room: Room) -> None:
    """Pictures, mirrors, screens, wall shelves and radiators on free stretches of wall."""
    for wall in room.walls:
        for _ in range(int(rng.integers(0, 4))):
            choice = rng.random()
            if choice < 0.6:
                shape, z = fu.picture(rng), rng.uniform(1.35, 1.75)
            elif choice < 0.72:
                shape, z = fu.screen(rng), rng.uniform(1.2, 1.7)
            elif choice < 0.86:
                shape, z = fu.radiator(rng), 0.0
            else:
                piece = fu.stock(rng, materials, "shelf_")
                shape, z = (
                    (fu.shelf(rng, rng.uniform(0.5, 1.1), 0.5), 1.4)
                    if piece is None
                    else (piece, 1.5)
                )
            low, high = meshes.extent(shape)
            w = high[0] - low[0]
            if wall.length < w + 0.4 or (z + high[2] > room.height - 0.05):
                continue
            s = rng.uniform(w / 2 + 0.1, wall.length - w / 2 - 0.1)
            if any(o.left < s + w / 2 + 0.05 and o.right > s - w / 2 - 0.05 for o in wall.openings):
                continue
            if choice >= 0.72:
                p, q = wall.point(s - w / 2), wall.point(s + w / 2, high[1] - low[1])
                a, b = np.minimum(p, q), np.maximum(p, q)
                if not room.free(a[0], a[1], b[0], b[1]):
                    continue
            meshes.add(
                moved(shape, (0, -high[1], 0)),
                fu.resolve(shape, materials),
                wall.point(s, 0.003, z),
                wall.yaw,
            )


def lamps(rng: Rng, materials: Materials, room: Room, style: str) -> list[str]:
    """Ceiling lamps in group `lamps`, standing lamps in `lamps2`; returns the groups used."""
    (x0, y0), (x1, y1), h = room.low, room.high, room.height
    area = float(np.prod(room.high - room.low))
    if style in ("industrial", "store"):
        kind = str(rng.choice(["industrial", "industrial", "tube", "panel"]))
    elif style in ("office", "corridor", "kitchen"):
        kind = str(rng.choice(["panel", "tube", "downlight", "globe", "pendant"]))
    else:
        kind = str(rng.choice(["pendant", "globe", "bulb", "panel", "downlight", "pendant"]))
    count = max(1, round(area / rng.uniform(6, 16)))
    if kind in ("downlight", "panel", "tube", "industrial"):
        nx = max(1, round(np.sqrt(count * (x1 - x0) / (y1 - y0))))
        ny = max(1, round(count / nx))
        places = [
            (x0 + (x1 - x0) * (i + 0.5) / nx, y0 + (y1 - y0) * (j + 0.5) / ny)
            for i in range(nx)
            for j in range(ny)
        ]
    else:
        places = [tuple(rng.uniform(room.low * 0.7, room.high * 0.7)) for _ in range(min(count, 3))]
    for x, y in places[:12]:
        if np.hypot(x, y) < 0.35 and kind in ("pendant", "bulb", "globe", "industrial"):
            x += 0.6
        lights.ceiling_lamp(
            rng, materials, float(x), float(y), h, "lamps", kind, rng.uniform(20, 80)
        )
    for _ in range(int(rng.choice([0, 1, 1, 2]))):
        tall = rng.uniform(1.2, 1.8)
        for _ in range(8):
            x, y = rng.uniform(room.low + 0.25, room.high - 0.25)
            if room.free(x - 0.2, y - 0.2, x + 0.2, y + 0.2):
                room.taken.append((x - 0.2, y - 0.2, x + 0.2, y + 0.2))
                base = 0.0
                if rng.random() < 0.4:
                    side = fu.table(rng, 0.45, 0.45, 0.5)
                    meshes.add(side, fu.resolve(side, materials), (x, y, 0))
                    base, tall = 0.5, rng.uniform(0.4, 0.65)
                lights.standing_lamp(rng, materials, (x, y, base), tall, "lamps2")
                break
    return ["lamps", "lamps2"]  # a neighbouring room may hold lamps2 alone


def _against_wall(
    rng: Rng, materials: Materials, room: Room, shape: Shape, tries: int = 10, gap: float = 0.03
) -> Wall | None:
    """Put a shape with its back to some wall, not before a window it would hide. None: no place."""
    low, high = meshes.extent(shape)
    for _ in range(tries):
        wall = room.walls[rng.integers(4)]
        w, d = high[0] - low[0], high[1] - low[1]
        if wall.length < w + 0.1:
            continue
        s = rng.uniform(w / 2 + 0.03, wall.length - w / 2 - 0.03)
        hidden = [
            o
            for o in wall.openings
            if o.left < s + w / 2 and o.right > s - w / 2 and o.low < high[2] - 0.1
        ]
        if hidden:
            continue
        p, q = wall.point(s - w / 2, 0.0), wall.point(s + w / 2, d + gap)
        a, b = np.minimum(p, q), np.maximum(p, q)
        if room.free(a[0], a[1], b[0], b[1]):
            room.taken.append((a[0], a[1], b[0], b[1]))
            centred = moved(shape, (-(low[0] + high[0]) / 2, -high[1] - gap, 0))
            meshes.add(centred, fu.resolve(shape, materials), wall.point(s), wall.yaw)
            return wall
    return None


def _anywhere(
    rng: Rng,
    materials: Materials,
    room: Room,
    shape: Shape,
    tries: int = 12,
    near: float | None = None,
) -> tuple[float, float] | None:
    """Put a shape on the floor at any angle, `near` the camera if given. Returns its place."""
    yaw = rng.choice([0, np.pi / 2, np.pi, -np.pi / 2]) + (
        rng.normal(0, 0.3) if rng.random() < 0.5 else 0
    )
    turned = moved(shape, (0, 0, 0), yaw)
    low, high = meshes.extent(turned)
    for _ in range(tries):
        if near is not None:
            angle, distance = rng.uniform(0, 2 * np.pi), near + rng.uniform(0, 1.0)
            reach = np.linalg.norm(high[:2] - low[:2]) / 2
            x, y = (distance + reach * 0.6) * np.array([np.cos(angle), np.sin(angle)])
        else:
            x, y = rng.uniform(room.low, room.high)
        if room.free(x + low[0], y + low[1], x + high[0], y + high[1], 0.02):
            room.taken.append((x + low[0], y + low[1], x + high[0], y + high[1]))
            meshes.add(shape, fu.resolve(shape, materials), (x, y, 0), yaw)
            return float(x), float(y)
    return None


def beside(rng: Rng, materials: Materials, room: Room, shape: Shape) -> None:
    """Put a low shape right beside the camera, which looks down on it, where it fits."""
    beyond = replace(room, taken=room.taken[1:])  # nearer than the camera's own square allows
    for _ in range(8):
        yaw = rng.integers(4) * np.pi / 2 + (rng.normal(0, 0.2) if rng.random() < 0.4 else 0.0)
        low, high = meshes.extent(moved(shape, (0, 0, 0), yaw))
        across = int(rng.integers(2))  # the axis along which it stands off the camera
        gap = rng.uniform(0.04, 0.4)
        place = np.zeros(2)
        place[across] = gap - low[across] if rng.random() < 0.5 else -gap - high[across]
        place[1 - across] = rng.uniform(-high[1 - across], -low[1 - across])
        a, b = place + low[:2], place + high[:2]
        if beyond.free(*a, *b):
            room.taken.append((*a, *b))
            meshes.add(shape, fu.resolve(shape, materials), (*place, 0), yaw)
            return


def _laden(rng: Rng, shape: Shape, most: int = 6) -> Shape:
    """A table or cabinet with things on top."""
    low, high = meshes.extent(shape)
    result = list(shape)
    for _ in range(int(rng.integers(0, most + 1))):
        x = rng.uniform(low[0] * 0.75, high[0] * 0.75)
        y = rng.uniform(low[1] * 0.6, high[1] * 0.6)
        result += moved(fu.clutter(rng, 0.35), (x, y, high[2]), rng.uniform(0, 2 * np.pi))
    return result


def _dining(rng: Rng) -> Shape:
    """A table with chairs around it."""
    w, d = rng.uniform(1.0, 2.2), rng.uniform(0.75, 1.0)
    shape = _laden(rng, fu.table(rng, w, d), 5)
    seat = fu.chair(rng)
    for side, yaw in ((-1, np.pi), (1, 0.0)):
        for x in np.arange(-w / 2 + 0.35, w / 2 - 0.2, 0.62):
            if rng.random() < 0.85:
                shape += moved(
                    seat,
                    (x, side * (d / 2 + rng.uniform(-0.05, 0.25)), 0),
                    yaw + rng.normal(0, 0.15),
                )
    return shape


def _desk(rng: Rng) -> Shape:
    """A desk with a monitor and a chair."""
    w, d = rng.uniform(1.1, 1.8), rng.uniform(0.6, 0.8)
    shape = _laden(rng, fu.table(rng, w, d, 0.74), 4)
    shape += moved(fu.screen(rng), (0, d * 0.25, 1.02), 0, 0.5)
    shape += moved(
        fu.chair(rng), (rng.uniform(-0.3, 0.3), -d / 2 - 0.2, 0), np.pi + rng.normal(0, 0.5)
    )
    return shape
