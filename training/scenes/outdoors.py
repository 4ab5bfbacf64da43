# SPDX-License-Identifier: GPL-3.0-or-later
"""Streets, gardens, forests, fields, shores and yards around a camera at x = y = 0."""

from __future__ import annotations

import numpy as np

from . import furniture as fu
from . import lights, markings, meshes
from .materials import Materials
from .meshes import Part, Shape, box, cylinder, height_field, lathe, moved, quad, rod
from .outdoor_pieces import (
    bench,
    boulder,
    building,
    bush,
    canopy,
    car,
    fence,
    grass,
    hedge,
    signpost,
    street_lamp,
    tree,
)

Rng = np.random.Generator

STYLES = ("street", "plaza", "courtyard", "garden", "forest", "field", "water", "yard")
# Where the ground is even enough to be painted.
MARKED = ("street", "plaza", "courtyard", "yard")
# Where a roof on posts may stand over the camera or beside it, and where bushes grow thick.
ROOFED = ("street", "plaza", "courtyard", "garden", "yard")
OVERGROWN = ("garden", "forest", "field")
STYLE_WEIGHTS = (0.25, 0.12, 0.11, 0.16, 0.15, 0.08, 0.05, 0.08)


def _hills(rng: Rng, flat: float, rise: float) -> Part:
    """Ground from 0 to 900 m: flat near the camera, hills beyond `flat` metres."""
    radii = np.concatenate([[0.0], np.geomspace(0.7, 900, 44)])
    angles = np.linspace(0, 2 * np.pi, 73)
    phase = rng.uniform(0, 2 * np.pi, (6,))
    vertices = []
    for radius in radii:
        wave = sum(np.sin((k + 1) * angles + phase[k]) / (k + 1) for k in range(6))
        grow = np.clip((radius - flat) / 300, 0, 1) ** 1.2
        ripple = 0.0 if radius < 0.5 * flat else 0.02 * min(radius - 0.5 * flat, 25)
        z = rise * grow * (0.6 + 0.4 * wave) + ripple * np.sin(3 * angles + phase[0]) * np.sin(
            radius * 0.13 + phase[1]
        )
        vertices.append(np.column_stack([radius * np.cos(angles), radius * np.sin(angles), z]))
    n = len(angles)
    # Angles repeat at the seam, which keeps the faces simple.
    faces: list[tuple[int, ...]] = [
        (j * n + i, (j + 1) * n + i, (j + 1) * n + i + 1, j * n + i + 1)
        for j in range(len(radii) - 1)
        for i in range(n - 1)
    ]
    return Part(np.concatenate(vertices), faces, "ground", True)


def _bumpy(rng: Rng, size: float, amplitude: float) -> Part:
    """A square of uneven ground, level under the camera."""
    xs = np.sinh(np.linspace(-3.2, 3.2, 61)) / np.sinh(3.2) * size
    x, y = np.meshgrid(xs, xs)
    z = np.zeros_like(x)
    for _ in range(7):
        a, b, p = rng.normal(0, 0.5, 2), rng.uniform(0.3, 1), rng.uniform(0, 6.3)
        z += np.sin(a[0] * x + a[1] * y + p) * b / 4
    near = np.clip(np.hypot(x, y) / 4, 0, 1) ** 2
    return height_field("ground", xs, xs, z * amplitude * near)


class _Yard:
    """Keeps track of what stands where outdoors."""

    def __init__(self, rng: Rng, materials: Materials) -> None:
        self.rng, self.materials = rng, materials
        self.taken: list[tuple[float, float, float]] = [(0.0, 0.0, 0.6)]

    def put(
        self, shape: Shape, x: float, y: float, yaw: float = 0.0, z: float = 0.0, slots=None
    ) -> None:
        meshes.add(shape, slots or fu.resolve(shape, self.materials), (x, y, z), yaw)

    def scatter(self, maker, count: int, near: float, far: float, reach: float) -> None:
        """Place `count` shapes at random between two distances, `reach` = their half width."""
        for _ in range(count):
            for _ in range(6):
                angle = self.rng.uniform(0, 2 * np.pi)
                distance = near + (far - near) * self.rng.uniform() ** 1.5 + reach
                x, y = distance * np.cos(angle), distance * np.sin(angle)
                if all(np.hypot(x - a, y - b) > r + reach for a, b, r in self.taken):
                    self.taken.append((x, y, reach))
                    self.put(maker(), x, y, self.rng.uniform(0, 2 * np.pi))
                    break


def build(rng: Rng, materials: Materials, style: str | None = None) -> dict:
    """Build a random outdoor place; return style, sky and light groups."""
    style = style or str(rng.choice(STYLES, p=STYLE_WEIGHTS))
    yard = _Yard(rng, materials)
    sky = lights.environment(
        rng,
        materials.split,
        str(rng.choice(["hdri", "clear", "cloudy", "overcast"], p=[0.35, 0.2, 0.25, 0.2])),
        True,
    )
    elevation = np.radians(rng.choice([rng.uniform(5, 20), rng.uniform(15, 70)]))
    lights.sun(rng, elevation, rng.uniform(0, 2 * np.pi), rng.uniform(3, 12))
    makers = {
        "street": _street,
        "plaza": _plaza,
        "courtyard": _courtyard,
        "garden": _garden,
        "forest": _forest,
        "field": _field,
        "water": _water,
        "yard": _work_yard,
    }
    makers[style](yard)
    if materials.extended and style in MARKED and rng.random() < 0.6:
        reach = np.full(2, rng.uniform(5, 15))
        markings.add(rng, materials, -reach, reach, rng.uniform(1, 6))
    if materials.extended:
        if style in ROOFED and rng.random() < 0.35:
            _shelter(yard)
        if style in OVERGROWN and rng.random() < 0.5:
            _undergrowth(yard)
    if rng.random() < 0.35:
        yard.scatter(
            lambda: moved(fu.primitive(rng), (0, 0, 0), 0, rng.uniform(0.8, 3)),
            int(rng.integers(1, 7)),
            0.8,
            12,
            0.8,
        )
    if style not in ("forest", "courtyard") and rng.random() < 0.6:
        _treeline(yard)
    return {"style": style, "outside": sky, "box": None, "groups": ["environment", "sun", "lamps"]}


def _ground(yard: _Yard, *kinds: str, rise: float = 0.0, flat: float = 60.0) -> None:
    part = _hills(yard.rng, flat, rise)
    meshes.add([part], {"ground": yard.materials.any(*kinds)}, index=meshes.SHELL)


def _shelter(yard: _Yard) -> None:
    """A canopy, mostly over the camera, whose posts stand clear of it."""
    rng = yard.rng
    w, d = rng.uniform(3, 14), rng.uniform(3, 10)
    # Its sides, where posts and walls stand, keep off the camera.
    while True:
        x, y = rng.uniform(-1, 1, 2) * rng.choice([0.5, 0.5, 1.2]) * (w, d)
        if min(abs(abs(x) - w / 2), abs(abs(y) - d / 2)) > 0.6:
            break
    yaw = rng.uniform(0, 2 * np.pi)
    c, s = np.cos(yaw), np.sin(yaw)
    yard.put(canopy(rng, w, d), c * x - s * y, s * x + c * y, yaw)


def _undergrowth(yard: _Yard) -> None:
    """Bushes and tall grass, so thick that they close the view in some directions."""
    rng = yard.rng
    forms = [bush(rng, rng.uniform(0.4, 1.3)) for _ in range(3)]
    slots = [fu.resolve(form, yard.materials) for form in forms]
    thickets = rng.uniform(0, 2 * np.pi, int(rng.integers(1, 4)))
    for _ in range(int(rng.integers(20, 70))):
        angle = rng.choice(thickets) + rng.normal(0, 0.5)
        distance = rng.uniform(2.2, 12)
        k = int(rng.integers(len(forms)))
        yard.put(
            moved(forms[k], (0, 0, 0), 0, rng.uniform(0.6, 1.5)),
            distance * np.cos(angle),
            distance * np.sin(angle),
            rng.uniform(0, 6),
            slots=slots[k],
        )
    if rng.random() < 0.5:
        yard.put(grass(rng, rng.uniform(6, 14), 3000, rng.uniform(0.3, 0.8)), 0, 0)


def _distant(yard: _Yard, count: int, near: float = 45.0, far: float = 160.0) -> None:
    """Far houses and tree rows that close the horizon."""
    rng = yard.rng
    for _ in range(count):
        angle, distance = rng.uniform(0, 2 * np.pi), rng.uniform(near, far)
        x, y = distance * np.cos(angle), distance * np.sin(angle)
        if rng.random() < 0.5:
            w, h = rng.uniform(6, 25), rng.uniform(4, 25)
            block = [
                box("facade", (-w / 2, 0, -2), (w / 2, 10, h)),
                box("roof", (-w / 2, -0.3, h), (w / 2, 10.3, h + 0.5)),
            ]
            yard.put(block, x, y, angle - np.pi / 2)
        else:
            yard.put(tree(rng, rng.uniform(5, 14)), x, y)


def _treeline(yard: _Yard) -> None:
    """A far ring of woods around the place, with gaps."""
    rng = yard.rng
    radius, tall = rng.uniform(45, 180), rng.uniform(5, 16)
    angles = np.linspace(0, 2 * np.pi, 240)
    gap = sum(np.sin(k * angles + rng.uniform(0, 6)) for k in range(1, 5)) > rng.uniform(0.0, 3.0)
    ring = (
        np.column_stack([np.cos(angles), np.sin(angles)])
        * radius
        * (1 + 0.02 * rng.normal(size=(240, 1)))
    )
    top = tall * rng.uniform(0.5, 1.0, 240) * (1 + 0.3 * np.sin(angles * 5 + rng.uniform(0, 6)))
    vertices = np.concatenate(
        [np.column_stack([ring, np.full(240, -3.0)]), np.column_stack([ring * 1.02, top])]
    )
    faces: list[tuple[int, ...]] = [(i, i + 1, 241 + i, 240 + i) for i in range(239) if not gap[i]]
    if faces:
        meshes.add(
            [Part(vertices, faces, "woods")],
            {"woods": yard.materials.any("grass", "grass", "soil")},
        )


def _lamps(yard: _Yard, places: list[tuple[float, float]]) -> None:
    for x, y in places:
        street_lamp(yard.rng, yard.materials, x, y, yard.rng.uniform(2.8, 7), "lamps")


def _row(yard: _Yard, y: float, start: float, end: float, facing: float) -> None:
    """Houses side by side along x, their fronts at `y` looking towards `facing` (+1: +y)."""
    rng = yard.rng
    x = start
    tall = rng.uniform(5, 18)
    while x < end:
        w = rng.uniform(5, 14)
        if rng.random() < 0.12:
            x += rng.uniform(2, 8)
            continue
        house = building(rng, w, rng.uniform(6, 10), tall * rng.uniform(0.6, 1.3))
        back = y + rng.uniform(-0.4, 0.4)
        slots = fu.resolve(house, yard.materials)
        item = meshes.add(house, slots, (x + w / 2, back, 0), np.pi if facing > 0 else 0.0)
        item.lightgroup = "lamps"
        x += w + (rng.uniform(0, 3) if rng.random() < 0.3 else 0)


def _street(yard: _Yard) -> None:
    rng, materials = yard.rng, yard.materials
    road, walk = rng.uniform(4, 9), rng.uniform(1.2, 3.5)
    offset = rng.uniform(-road / 2 - walk + 0.8, road / 2 + walk - 0.8)
    _ground(yard, "asphalt", "paving", "asphalt", rise=rng.choice([0.0, 0.0, 20.0]))
    paving = materials.any("paving", "concrete", "asphalt", "stone")
    kerb = rng.uniform(0.08, 0.18)
    for side in (-1, 1):
        a, b = sorted((side * road / 2 + offset, side * (road / 2 + walk) + offset))
        meshes.add(
            [box("walk", (-90, a, -0.2), (90, b, kerb))], {"walk": paving}, index=meshes.SHELL
        )
        line = side * (road / 2 + walk) + offset
        if rng.random() < 0.85:
            _row(yard, line + 0.1 * side, -60, 60, -side)
        else:
            yard.put(hedge(rng, 60) if rng.random() < 0.4 else fence(rng, 60), 0, line, 0)
            for x in rng.uniform(-40, 40, 12):
                yard.put(tree(rng, rng.uniform(4, 10)), x, line + side * rng.uniform(1.5, 12))
        x = -40 + rng.uniform(0, 8)
        while x < 40:
            lane = offset + side * (road / 2 - 1.1)
            if rng.random() < 0.6 and (abs(x) > 3.2 or abs(lane) > 2.2):
                yard.put(car(rng), x, lane, np.pi / 2 + (np.pi if rng.random() < 0.5 else 0))
            x += rng.uniform(5, 11)
        post = offset + side * (road / 2 + 0.35)
        _lamps(
            yard,
            [
                (x, post)
                for x in np.arange(-36 + rng.uniform(0, 12), 36, 18)
                if np.hypot(x, post) > 0.8
            ],
        )
        trees = rng.random() < 0.4
        for x in np.arange(-30 + rng.uniform(0, 5), 30, rng.uniform(4, 9)):
            if np.hypot(x, post) < 1.0:
                continue
            if trees and rng.random() < 0.7:
                yard.put(tree(rng, rng.uniform(3.5, 8)), x, post, z=kerb)
            elif rng.random() < 0.5:
                yard.put(signpost(rng), x, post, rng.uniform(0, 6), kerb)
    if rng.random() < 0.7:
        mark = materials.plain((0.85, 0.85, 0.82), 0.6)
        dashes = [
            box("mark", (x, -0.07 + offset, 0.0), (x + 2, 0.07 + offset, 0.012))
            for x in np.arange(-60, 60, 5)
        ]
        meshes.add(dashes, {"mark": mark}, index=meshes.SHELL)
    if rng.random() < 0.4:
        z = rng.uniform(6, 9)
        wires = [
            rod("wire", (-60, y, z), (60, y, z + rng.uniform(-0.5, 0.5)), 0.015, 4)
            for y in rng.uniform(-4, 4, 3)
        ]
        meshes.add(wires, {"wire": materials.plain((0.1, 0.1, 0.1), 0.5)})


def _plaza(yard: _Yard) -> None:
    rng = yard.rng
    _ground(yard, "paving", "paving", "stone", "concrete", "floor_tile", "gravel")
    reach = rng.uniform(9, 26)
    for yaw in range(4):
        if rng.random() < 0.8:
            count = rng.uniform(5, 16)
            c, s = np.cos(yaw * np.pi / 2), np.sin(yaw * np.pi / 2)
            for k in np.arange(-reach, reach, count):
                house = building(rng, count * 0.96, 9, rng.uniform(4, 20))
                lateral, ahead = k + count / 2, reach + rng.uniform(0, 2)
                item = meshes.add(
                    house,
                    fu.resolve(house, yard.materials),
                    (c * lateral - s * ahead, s * lateral + c * ahead, 0),
                    yaw * np.pi / 2,
                )
                item.lightgroup = "lamps"
    yard.scatter(lambda: bench(rng), int(rng.integers(1, 5)), 0.5, reach * 0.7, 1.0)
    yard.scatter(lambda: tree(rng, rng.uniform(3, 8)), int(rng.integers(0, 7)), 2, reach * 0.8, 1.2)
    yard.scatter(lambda: signpost(rng), int(rng.integers(2, 7)), 0.8, reach * 0.7, 0.5)
    yard.scatter(lambda: car(rng), int(rng.integers(0, 4)), 2, reach * 0.8, 2.4)
    if rng.random() < 0.5:
        r = rng.uniform(1, 2.5)
        basin = [
            lathe("stone#rim", [(r, 0), (r, 0.5), (r - 0.2, 0.5), (r - 0.2, 0.3)], 24),
            cylinder("stone#post", 0.2, 0, 1.6),
            lathe("stone#bowl", [(0.1, 1.5), (0.8, 1.8), (0.75, 1.8), (0.1, 1.6)], 20),
        ]
        yard.put(basin, rng.choice([-1, 1]) * (r + 1.5), rng.uniform(-2, 4))
    _lamps(yard, [tuple(rng.uniform(2, 8, 2) * rng.choice([-1, 1], 2)) for _ in range(4)])


def _courtyard(yard: _Yard) -> None:
    rng, materials = yard.rng, yard.materials
    _ground(yard, "paving", "gravel", "concrete", "grass", "stone", "soil")
    size = rng.uniform(2.5, 8, 4)
    tall = rng.uniform(2.5, 12)
    for yaw in range(4):
        c, s = np.cos(yaw * np.pi / 2), np.sin(yaw * np.pi / 2)
        ahead = size[yaw]
        w = size[(yaw + 1) % 4] + size[(yaw + 3) % 4] + 0.5
        lateral = (size[(yaw + 3) % 4] - size[(yaw + 1) % 4]) / 2
        shape = (
            building(rng, w, 6, tall * rng.uniform(0.5, 1.2))
            if rng.random() < 0.75
            else fence(rng, w)
        )
        item = meshes.add(
            shape,
            fu.resolve(shape, materials),
            (c * lateral - s * ahead, s * lateral + c * ahead, 0),
            yaw * np.pi / 2,
        )
        item.lightgroup = "lamps"
    _distant(yard, 6, 20, 60)
    reach = float(size.min())
    yard.scatter(lambda: fu.plant(rng), int(rng.integers(1, 6)), 0.3, reach * 0.8, 0.3)
    yard.scatter(
        lambda: bush(rng, rng.uniform(0.3, 0.7)), int(rng.integers(0, 4)), 0.5, reach * 0.8, 0.5
    )
    yard.scatter(lambda: fu.table(rng), int(rng.integers(0, 2)), 0.4, reach * 0.7, 0.8)
    yard.scatter(lambda: fu.chair(rng), int(rng.integers(0, 4)), 0.3, reach * 0.7, 0.35)
    yard.scatter(lambda: fu.barrel(rng), int(rng.integers(0, 3)), 0.4, reach * 0.8, 0.35)
    _lamps(yard, [(reach * 0.7, reach * 0.6), (-reach * 0.7, -reach * 0.5)])


def _garden(yard: _Yard) -> None:
    rng, materials = yard.rng, yard.materials
    _ground(
        yard, "grass", "grass", "grass", "soil", "gravel", rise=rng.choice([0, 15, 60.0]), flat=25
    )
    if rng.random() < 0.6:
        w = rng.uniform(0.8, 2.5)
        xs = np.linspace(-25, 25, 40)
        bend = np.sin(xs * 0.2 + rng.uniform(0, 6)) * 1.5 + rng.uniform(-1.5, 1.5)
        vertices = np.concatenate(
            [
                np.column_stack([xs, bend - w / 2, np.full(40, 0.012)]),
                np.column_stack([xs, bend + w / 2, np.full(40, 0.012)]),
            ]
        )
        path = [Part(vertices, [(i, i + 1, 41 + i, 40 + i) for i in range(39)], "path")]
        meshes.add(
            path,
            {"path": materials.any("gravel", "paving", "soil", "asphalt", "concrete")},
            index=meshes.SHELL,
        )
    if rng.random() < 0.6:
        ahead, yaw = rng.uniform(4, 14), rng.uniform(0, 2 * np.pi)
        house = building(rng, rng.uniform(6, 14), 8, rng.uniform(3, 7))
        item = meshes.add(
            house, fu.resolve(house, materials), (-np.sin(yaw) * ahead, np.cos(yaw) * ahead, 0), yaw
        )
        item.lightgroup = "lamps"
        yard.taken.append((-np.sin(yaw) * (ahead + 5), np.cos(yaw) * (ahead + 5), 7.0))
    if rng.random() < 0.6:
        for yaw in rng.choice(4, int(rng.integers(1, 4)), replace=False) * np.pi / 2:
            ahead = rng.uniform(4, 15)
            border = hedge(rng, 24) if rng.random() < 0.5 else fence(rng, 24)
            yard.put(border, -np.sin(yaw) * ahead, np.cos(yaw) * ahead, yaw)
    yard.scatter(lambda: tree(rng, rng.uniform(2.5, 9)), int(rng.integers(3, 13)), 1.2, 18, 1.0)
    yard.scatter(lambda: bush(rng, rng.uniform(0.3, 1.2)), int(rng.integers(3, 14)), 0.6, 14, 0.8)
    yard.scatter(lambda: bench(rng), int(rng.integers(0, 3)), 0.6, 8, 0.9)
    yard.scatter(lambda: fu.table(rng), int(rng.integers(0, 2)), 0.4, 5, 0.9)
    yard.scatter(lambda: fu.chair(rng), int(rng.integers(0, 4)), 0.4, 5, 0.4)
    yard.scatter(lambda: boulder(rng, rng.uniform(0.15, 0.6)), int(rng.integers(0, 6)), 0.6, 9, 0.5)
    if rng.random() < 0.6:
        yard.put(grass(rng, rng.uniform(5, 12), 2500, rng.uniform(0.05, 0.25)), 0, 0)
    _distant(yard, int(rng.integers(4, 14)), 28, 90)
    _lamps(yard, [tuple(rng.uniform(2, 8, 2) * rng.choice([-1, 1], 2)) for _ in range(2)])


def _forest(yard: _Yard) -> None:
    rng, materials = yard.rng, yard.materials
    ground = materials.any("soil", "soil", "grass")
    meshes.add([_bumpy(rng, 300, rng.uniform(0.1, 1.2))], {"ground": ground}, index=meshes.SHELL)
    # A few tree forms, each with its own materials, repeated.
    forms = [tree(rng, rng.uniform(5, 16)) for _ in range(4)]
    slots = [fu.resolve(form, materials) for form in forms]
    count = int(rng.integers(40, 100))
    for _ in range(count):
        angle, distance = rng.uniform(0, 2 * np.pi), 1.2 + 35 * rng.uniform() ** 1.2
        k = int(rng.integers(len(forms)))
        x, y = distance * np.cos(angle), distance * np.sin(angle)
        meshes.add(
            moved(forms[k], (0, 0, 0), 0, rng.uniform(0.6, 1.3)),
            slots[k],
            (x, y, -0.1),
            rng.uniform(0, 6),
        )
    yard.scatter(lambda: bush(rng, rng.uniform(0.2, 0.8)), int(rng.integers(4, 16)), 0.5, 12, 0.6)
    yard.scatter(
        lambda: boulder(rng, rng.uniform(0.15, 1.0)), int(rng.integers(1, 8)), 0.5, 10, 0.7
    )
    for _ in range(int(rng.integers(0, 4))):
        x, y = rng.uniform(1.5, 8, 2) * rng.choice([-1, 1], 2)
        log = [
            rod(
                "bark",
                (0, 0, 0.15),
                (rng.uniform(2, 5), rng.uniform(-2, 2), 0.2),
                rng.uniform(0.1, 0.3),
                10,
            )
        ]
        yard.put(log, x, y)
    yard.put(grass(rng, 9, 1800, rng.uniform(0.08, 0.35)), 0, 0)
    _lamps(yard, [tuple(rng.uniform(2, 5, 2) * rng.choice([-1, 1], 2))])


def _field(yard: _Yard) -> None:
    rng = yard.rng
    _ground(
        yard,
        "grass",
        "grass",
        "soil",
        "gravel",
        "rock",
        rise=rng.uniform(5, 120),
        flat=rng.uniform(10, 60),
    )
    yard.scatter(lambda: bush(rng, rng.uniform(0.2, 1.2)), int(rng.integers(2, 14)), 1, 40, 0.8)
    yard.scatter(
        lambda: boulder(rng, rng.uniform(0.1, 1.5)), int(rng.integers(0, 12)), 0.8, 25, 0.9
    )
    yard.scatter(lambda: tree(rng, rng.uniform(4, 12)), int(rng.integers(0, 8)), 3, 60, 1.5)
    if rng.random() < 0.4:
        yard.put(fence(rng, 50), 0, rng.uniform(1.5, 8), rng.normal(0, 0.2))
    if rng.random() < 0.4:
        yard.scatter(lambda: car(rng), 1, 1.5, 8, 2.4)
    yard.put(grass(rng, rng.uniform(6, 20), 3000, rng.uniform(0.06, 0.4)), 0, 0)
    _distant(yard, int(rng.integers(0, 14)), 50, 250)
    _lamps(yard, [tuple(rng.uniform(2, 8, 2) * rng.choice([-1, 1], 2))])


def _water(yard: _Yard) -> None:
    rng, materials = yard.rng, yard.materials
    yaw = rng.uniform(0, 2 * np.pi)
    water = materials.plain(
        np.array([0.1, 0.16, 0.17]) * rng.uniform(0.5, 1.6) + 0.03, rng.uniform(0.02, 0.15)
    )
    meshes.add(
        [quad("water", (-900, -900, 0), (900, -900, 0), (900, 900, 0), (-900, 900, 0))],
        {"water": water},
        (0, 0, -rng.uniform(0.2, 1.5)),
        index=meshes.SHELL,
    )
    xs = np.concatenate([np.linspace(-60, 60, 40)])
    ys = np.concatenate([[-60], np.linspace(-30, 6, 30)])
    x, y = np.meshgrid(xs, ys)
    shore = 2.5 + 1.5 * np.sin(x * 0.15 + rng.uniform(0, 6)) + np.sin(x * 0.4)
    z = np.clip((shore - y) * 0.5, -2.5, 0) + 0.03 * np.sin(x * 1.3) * np.sin(y * 1.7)
    bank = [height_field("ground", xs, ys, z)]
    meshes.add(
        bank,
        {"ground": materials.any("soil", "grass", "gravel", "rock", "paving")},
        (0, 0, 0),
        yaw,
        index=meshes.SHELL,
    )
    yard.scatter(lambda: boulder(rng, rng.uniform(0.1, 0.9)), int(rng.integers(3, 14)), 0.5, 8, 0.6)
    yard.scatter(lambda: tree(rng, rng.uniform(4, 10)), int(rng.integers(1, 6)), 2, 14, 1.2)
    yard.scatter(lambda: bush(rng, rng.uniform(0.2, 0.9)), int(rng.integers(1, 8)), 1, 10, 0.7)
    yard.scatter(lambda: bench(rng), int(rng.integers(0, 3)), 0.6, 5, 0.9)
    _distant(yard, int(rng.integers(4, 20)), 40, 200)
    _lamps(yard, [tuple(rng.uniform(2, 5, 2) * rng.choice([-1, 1], 2)) for _ in range(2)])


def _work_yard(yard: _Yard) -> None:
    """A works yard: sheds, containers, machines, pallets, pipes."""
    rng = yard.rng
    _ground(yard, "concrete", "asphalt", "gravel", "soil")
    for _ in range(int(rng.integers(1, 5))):
        angle, ahead = rng.uniform(0, 2 * np.pi), rng.uniform(6, 22)
        w, d, h = rng.uniform(6, 16), 8, rng.uniform(3, 8)
        shed = [
            box(
                f"{fu.pick(rng, 'sheet_metal', 'concrete', 'brick', 'painted_metal', 'rust')}#shed",
                (-w / 2, 0, 0),
                (w / 2, d, h),
            ),
            box("sheet_metal#gate", (-1.8, -0.05, 0), (1.8, 0, min(3.0, h - 0.3))),
        ]
        yard.put(shed, ahead * np.cos(angle), ahead * np.sin(angle), angle - np.pi / 2)
        yard.taken.append((np.cos(angle) * (ahead + 4), np.sin(angle) * (ahead + 4), 8.0))
    for _ in range(int(rng.integers(0, 4))):
        yard.scatter(
            lambda: [
                box(
                    f"{fu.pick(rng, 'painted_metal', 'sheet_metal', 'rust')}#box",
                    (-3, -1.2, 0),
                    (3, 1.2, 2.6),
                )
            ],
            1,
            2,
            14,
            3.0,
        )
    yard.scatter(lambda: fu.machine(rng), int(rng.integers(1, 5)), 0.6, 10, 1.2)
    yard.scatter(lambda: fu.barrel(rng), int(rng.integers(1, 7)), 0.4, 7, 0.35)
    yard.scatter(lambda: fu.crate(rng), int(rng.integers(1, 8)), 0.4, 9, 0.6)
    yard.scatter(lambda: car(rng), int(rng.integers(0, 4)), 1.5, 14, 2.4)
    yard.put(fence(rng, 60), 0, rng.choice([-1, 1]) * rng.uniform(8, 22), 0)
    pipes = [
        rod("metal#pipe", (-8, y, z), (8, y, z), r, 12)
        for y, z, r in zip(
            rng.uniform(3, 6, 4), rng.uniform(0.2, 3, 4), rng.uniform(0.05, 0.25, 4), strict=True
        )
    ]
    yard.put(pipes, 0, 0, rng.uniform(0, 6))
    _distant(yard, 8)
    _lamps(yard, [tuple(rng.uniform(3, 9, 2) * rng.choice([-1, 1], 2)) for _ in range(3)])
