# SPDX-License-Identifier: GPL-3.0-or-later
"""What stands outdoors: plants, stones, buildings, cars, lamps, fences, benches, roofs on posts."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from . import furniture as fu
from . import lights, meshes
from .materials import Materials
from .meshes import Part, Shape, box, height_field, lathe, leaves, rod

Rng = np.random.Generator


def tree(rng: Rng, height: float) -> Shape:
    """A broadleaf tree or a conifer: a trunk, some branches and clusters of leaves."""
    r = height * rng.uniform(0.018, 0.04)
    if rng.random() < 0.25:
        shape: Shape = [lathe("bark#trunk", [(r, 0), (r * 0.3, height * 0.9)], 10)]
        n = int(height * 160)
        z = rng.uniform(0.12, 1.0, n) ** 0.8
        radius = (1 - z) * height * rng.uniform(0.15, 0.25) * np.sqrt(rng.uniform(0.2, 1, n)) + 0.05
        angle = rng.uniform(0, 2 * np.pi, n)
        centres = np.column_stack([radius * np.cos(angle), radius * np.sin(angle), z * height])
        return [*shape, leaves("foliage", rng, centres, min(0.28, height * 0.035), 0.3)]
    fork = height * rng.uniform(0.25, 0.5)
    lean = rng.normal(0, 0.05, 2) * height
    top = np.array([lean[0], lean[1], height * 0.75])
    shape = [lathe("bark#trunk", [(r * 1.5, -0.05), (r, height * 0.08), (r * 0.8, fork)], 10)]
    shape.append(rod("bark#trunk", (0, 0, fork - 0.05), top, r * 0.6))
    centres = []
    for _ in range(int(rng.integers(4, 10))):
        spread = rng.normal(0, 0.2, 3) * height
        spread[2] *= 0.6
        centre = np.array([0, 0, height * 0.7]) + spread
        centre[2] = max(centre[2], fork)
        shape.append(rod("bark#trunk", (0, 0, fork), centre, r * 0.3, 6))
        n = int(rng.integers(160, 420))
        size = height * rng.uniform(0.08, 0.18)
        centres.append(centre + rng.normal(0, 0.5, (n, 3)) * size)
    return [
        *shape,
        leaves(
            "foliage", rng, np.concatenate(centres), min(0.25, height * rng.uniform(0.02, 0.035))
        ),
    ]


def bush(rng: Rng, size: float) -> Shape:
    """A shrub, or a clipped one."""
    n = int(rng.integers(120, 300))
    direction = rng.normal(size=(n, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    direction[:, 2] = np.abs(direction[:, 2])
    centres = direction * size * rng.uniform(0.75, 1.0, (n, 1)) * (1, 1, rng.uniform(0.7, 1.3))
    core = meshes.cushion(
        "foliage", (-size * 0.8, -size * 0.8, -0.05), (size * 0.8, size * 0.8, size * 0.8), 2
    )
    return [core, leaves("foliage", rng, centres, size * rng.uniform(0.08, 0.18))]


def grass(rng: Rng, radius: float, count: int, height: float) -> Shape:
    """Tufts of upright blades around the origin."""
    angle, distance = (
        rng.uniform(0, 2 * np.pi, count),
        radius * np.sqrt(rng.uniform(0.01, 1, count)),
    )
    base = np.column_stack([distance * np.cos(angle), distance * np.sin(angle), np.zeros(count)])
    turn = rng.uniform(0, 2 * np.pi, count)
    side = np.column_stack([np.cos(turn), np.sin(turn), np.zeros(count)]) * 0.02
    tip = base + np.column_stack(
        [rng.normal(0, 0.3, (count, 2)) * height, rng.uniform(0.5, 1.3, count) * height]
    )
    vertices = np.stack([base - side, base + side, tip], axis=1).reshape(-1, 3)
    faces: list[tuple[int, ...]] = [(3 * i, 3 * i + 1, 3 * i + 2) for i in range(count)]
    return [Part(vertices, faces, "foliage")]


def boulder(rng: Rng, size: float) -> Shape:
    """A rounded, uneven rock."""
    part = meshes.cushion(
        "rock", (-size, -size, -size * 0.4), (size, size, size), rng.uniform(1.6, 3)
    )
    part.vertices = part.vertices * (1 + rng.normal(0, 0.07, part.vertices.shape))
    return [part]


def building(rng: Rng, w: float, d: float, h: float) -> Shape:
    """A house with windows, doors and a roof; front at y = 0, body behind it at y > 0."""
    storey = rng.uniform(2.6, 3.6)
    storeys = max(1, int(h / storey))
    h = storeys * storey + rng.uniform(0.1, 0.6)
    shape: Shape = [box("facade#wall", (-w / 2, 0, -0.3), (w / 2, d, h))]
    plinth = fu.pick(rng, "facade", "stone", "concrete", "facade", "glazing")
    if rng.random() < 0.5:
        shape.append(
            box(
                f"{plinth}#base",
                (-w / 2 - 0.02, -0.05, -0.3),
                (w / 2 + 0.02, d, rng.uniform(0.4, storey)),
            )
        )
    ww, wh = rng.uniform(0.7, 1.8), rng.uniform(1.1, 2.0)
    columns = max(1, int(w / (ww + rng.uniform(0.5, 2.0))))
    frame = fu.pick(rng, "lacquer", "white", "wood", "painted_metal", "metal") + "#frame"
    lit_pane = f"glow#{rng.uniform(1, 5):.1f}"
    for r in range(storeys):
        for c in range(columns):
            x, z = -w / 2 + w * (c + 0.5) / columns, r * storey + 0.9
            if r == 0 and c == columns // 2 and rng.random() < 0.8:
                shape.append(
                    box(
                        f"{fu.pick(rng, 'wood', 'lacquer', 'painted_metal', 'glazing')}#door",
                        (x - 0.55, -0.03, 0),
                        (x + 0.55, 0.02, 2.2),
                    )
                )
                continue
            pane = lit_pane if rng.random() < 0.2 else "glazing"
            shape.append(
                box(
                    pane,
                    (x - ww / 2, -0.03, z),
                    (x + ww / 2, 0.02, min(z + wh, (r + 1) * storey - 0.2)),
                )
            )
            shape.append(
                box(frame, (x - ww / 2 - 0.08, -0.08, z - 0.08), (x + ww / 2 + 0.08, 0.0, z))
            )
            shape.append(
                box(
                    frame,
                    (x - 0.025, -0.05, z),
                    (x + 0.025, 0.0, min(z + wh, (r + 1) * storey - 0.2)),
                )
            )
            if rng.random() < 0.06:
                shape.append(
                    box(
                        f"{fu.pick(rng, 'concrete', 'metal')}#balcony",
                        (x - 1, -1.1, z - 0.9),
                        (x + 1, 0, z - 0.75),
                    )
                )
                for k in np.linspace(x - 1, x + 1, 9):
                    shape.append(
                        rod(
                            "painted_metal#rail",
                            (k, -1.08, z - 0.75),
                            (k, -1.08, z + 0.2),
                            0.012,
                            4,
                        )
                    )
    roof = rng.random()
    if roof < 0.55:
        e, top = rng.uniform(0.1, 0.5), h + rng.uniform(1, 3.5)
        vertices = np.array(
            [
                (-w / 2 - e, -e, h),
                (w / 2 + e, -e, h),
                (w / 2 + e, d + e, h),
                (-w / 2 - e, d + e, h),
                (-w / 2 - e, d / 2, top),
                (w / 2 + e, d / 2, top),
            ]
        )
        shape.append(
            Part(vertices, [(0, 1, 5, 4), (2, 3, 4, 5), (0, 4, 3), (1, 2, 5), (0, 3, 2, 1)], "roof")
        )
    else:
        shape.append(
            box(f"{plinth}#cornice", (-w / 2 - 0.15, -0.2, h - 0.3), (w / 2 + 0.15, d, h + 0.1))
        )
    if rng.random() < 0.25:
        shape.append(
            box(
                f"{fu.pick(rng, 'fabric', 'painted_metal')}#awning",
                (-w / 2 * 0.8, -1.2, 2.6),
                (w / 2 * 0.8, 0, 2.7),
            )
        )
    if rng.random() < 0.3:
        shape.append(
            rod(
                f"{fu.pick(rng, 'metal', 'painted_metal')}#gutter",
                (w / 2 - 0.2, -0.08, 0),
                (w / 2 - 0.2, -0.08, h),
                0.05,
            )
        )
    return shape


def car(rng: Rng) -> Shape:
    """A car along y: body, cabin, windows, wheels with metal rims, lamps."""
    length, w = rng.uniform(3.6, 4.9), rng.uniform(1.65, 1.95)
    belt, top = rng.uniform(0.75, 1.0), rng.uniform(1.35, 1.95)
    a = length / 2
    side = [
        (-a, 0.35),
        (-a, belt * 0.85),
        (-a * 0.9, belt),
        (a * 0.95, belt),
        (a, belt * 0.75),
        (a, 0.35),
    ]
    cabin = [
        (-a * 0.85, belt),
        (-a * rng.uniform(0.5, 0.8), top),
        (a * rng.uniform(0.1, 0.3), top),
        (a * rng.uniform(0.4, 0.6), belt),
    ]

    def sweep(
        slot: str, outline: list[tuple[float, float]], half: float, pinch: float = 1.0
    ) -> Part:
        n = len(outline)
        high = max(z for _, z in outline)
        vertices = np.array(
            [(s * half * (pinch if z == high else 1.0), y, z) for s in (-1, 1) for y, z in outline]
        )
        faces: list[tuple[int, ...]] = [(i, (i + 1) % n, n + (i + 1) % n, n + i) for i in range(n)]
        return Part(vertices, [*faces, tuple(range(n))[::-1], tuple(range(n, 2 * n))], slot)

    inner = [(y * 0.97, belt + 0.04 if z == belt else z - 0.06) for y, z in cabin]
    shape: Shape = [
        sweep("car_paint", side, w / 2),
        sweep("glazing", inner, w / 2 * 0.985, 0.86),
        sweep(
            "car_paint",
            [
                (y, z)
                for y, z in [
                    (cabin[1][0] - 0.05, top - 0.05),
                    (cabin[1][0], top),
                    (cabin[2][0], top),
                    (cabin[2][0] + 0.05, top - 0.05),
                ]
            ],
            w / 2 * 0.87,
        ),
    ]
    for sx in (-1, 1):
        for y in (-a * 0.62, a * 0.62):
            x = sx * (w / 2 - 0.1)
            shape.append(rod("plastic#tyre", (x - 0.1, y, 0.32), (x + 0.1, y, 0.32), 0.32, 18))
            shape.append(
                rod("metal#rim", (x + sx * 0.08, y, 0.32), (x + sx * 0.115, y, 0.32), 0.2, 14)
            )
        shape.append(
            box(
                "polished#lamp",
                (sx * w * 0.3 - 0.18, a - 0.05, 0.6),
                (sx * w * 0.3 + 0.18, a + 0.015, 0.72),
            )
        )
    shape.append(box("lacquer#bumper", (-w / 2, -a - 0.05, 0.35), (w / 2, a + 0.05, 0.5)))
    return shape


def street_lamp(
    rng: Rng, materials: Materials, x: float, y: float, height: float, group: str
) -> None:
    """A lamp post that shines down, in a light group."""
    metal = fu.pick(rng, "painted_metal", "metal", "rust", "painted_metal")
    reach = rng.uniform(0.0, 1.2)
    glow = f"glow#{rng.uniform(10, 40):.0f}"
    shape: Shape = [
        lathe(f"{metal}#post", [(0.12, 0), (0.1, 0.5), (0.06, 0.6), (0.045, height)], 10),
        rod(f"{metal}#post", (0, 0, height), (0, -reach - 0.05, height + 0.1), 0.035),
        box(
            f"{metal}#head",
            (-0.15, -reach - 0.35, height + 0.03),
            (0.15, -reach + 0.1, height + 0.13),
        ),
        box(glow, (-0.12, -reach - 0.3, height + 0.01), (0.12, -reach + 0.05, height + 0.03)),
    ]
    yaw = rng.uniform(0, 2 * np.pi)
    meshes.add(shape, fu.resolve(shape, materials), (x, y, 0), yaw, light_group=group)
    lights.bulb(
        (x + np.sin(yaw) * reach, y - np.cos(yaw) * reach, height - 0.1),
        rng.uniform(200, 900),
        group,
        0.12,
    )


def fence(rng: Rng, length: float) -> Shape:
    """A fence or wall along x."""
    h = rng.uniform(0.7, 1.9)
    style = rng.random()
    if style < 0.35:
        return [
            box(
                f"{fu.pick(rng, 'brick', 'concrete', 'plaster', 'rock')}#wall",
                (-length / 2, 0, -0.2),
                (length / 2, 0.25, h),
            )
        ]
    slot = fu.pick(rng, "panelling", "wood", "painted_metal", "metal", "rust") + "#fence"
    shape: Shape = []
    gap = rng.choice([0.02, 0.1, 0.14])
    w = rng.uniform(0.02, 0.14)
    for x in np.arange(-length / 2, length / 2, w + gap):
        shape.append(box(slot, (x, 0, 0), (x + w, 0.025, h)))
    return [
        *shape,
        box(slot, (-length / 2, 0.025, h * 0.25), (length / 2, 0.07, h * 0.33)),
        box(slot, (-length / 2, 0.025, h * 0.75), (length / 2, 0.07, h * 0.83)),
    ]


def bench(rng: Rng) -> Shape:
    """A park bench."""
    slot, iron = (
        fu.pick(rng, "wood", "panelling", "stone", "metal") + "#seat",
        fu.pick(rng, "painted_metal", "metal", "rust") + "#leg",
    )
    shape: Shape = [box(slot, (-0.8, y, 0.42), (0.8, y + 0.1, 0.46)) for y in (-0.22, -0.1, 0.02)]
    shape += [box(slot, (-0.8, 0.2, z), (0.8, 0.23, z + 0.1)) for z in (0.55, 0.7)]
    return [*shape, *[box(iron, (x, -0.22, 0), (x + 0.05, 0.25, 0.42)) for x in (-0.7, 0.65)]]


def signpost(rng: Rng) -> Shape:
    """A sign, bollard, bin or box at the roadside, mostly metal."""
    style = rng.random()
    metal = fu.pick(rng, "metal", "metal", "painted_metal", "polished", "rust")
    if style < 0.4:
        h, r = rng.uniform(2, 2.8), rng.uniform(0.25, 0.45)
        disc = rod(
            "painted_metal#sign",
            (0, -0.06, h - r),
            (0, -0.04, h - r),
            r,
            int(rng.choice([3, 4, 8, 20])),
        )
        return [rod(f"{metal}#post", (0, 0, 0), (0, 0, h), 0.03), disc]
    if style < 0.6:
        return [lathe(f"{metal}#bollard", [(0.08, 0), (0.08, 0.8), (0.05, 0.9), (0.001, 0.92)], 12)]
    if style < 0.8:
        return fu.barrel(rng)
    w, d, h = rng.uniform(0.4, 1.0), rng.uniform(0.3, 0.6), rng.uniform(0.7, 1.5)
    return [box(f"{metal}#cabinet", (-w / 2, -d / 2, 0), (w / 2, d / 2, h))]


def canopy(rng: Rng, w: float, d: float) -> Shape:
    """A roof on posts, level, leaning or arched, closed or of slats, `w` along x and `d` along y
    around the origin: a carport, a pergola, a market hall. Walls stand at some of its sides."""
    h = rng.uniform(2.9, 4.5)
    ys = np.linspace(-d / 2, d / 2, int(rng.integers(5, 12)))
    level, lean = rng.choice(["flat", "lean", "arch"]), rng.uniform(0.05, 0.25)
    lean = lean if level == "lean" else 0.0
    rise = rng.uniform(0.12, 0.35) * d if level == "arch" else 0.0
    zs = h + lean * (ys + d / 2) + rise * (1 - (2 * ys / d) ** 2)
    cover = fu.pick(rng, "sheet_metal", "sheet_metal", "wood", "concrete", "roof", "painted_metal")
    frame = fu.pick(rng, "wood", "painted_metal", "metal", "rust", "concrete") + "#frame"
    edges = list(pairwise(zip(ys, zs - 0.1, strict=True)))
    shape: Shape = []
    if rng.random() < 0.2:
        for x in np.arange(-w / 2, w / 2, rng.uniform(0.2, 0.6)):
            shape += [rod(frame, (x, *a), (x, *b), 0.04) for a, b in edges]
    else:
        pitch = rng.uniform(0.2, 0.4) if rng.random() < 0.5 else w
        xs = np.linspace(-w / 2, w / 2, int(4 * w / pitch) + 2)
        waves = 0.15 * pitch * np.sin(2 * np.pi * xs / pitch) if pitch < w else 0.0 * xs
        shape.append(height_field(f"{cover}#cover", xs, ys, zs[:, None] + waves, smooth=False))
    columns = np.linspace(-w / 2, w / 2, max(2, round(w / rng.uniform(2.5, 5)) + 1))
    post, beam = rng.uniform(0.04, 0.15), rng.uniform(0.04, 0.1)
    for x in columns:
        shape += [rod(frame, (x, ys[k], -0.1), (x, ys[k], zs[k]), post) for k in (0, -1)]
        shape += [rod(frame, (x, *a), (x, *b), beam) for a, b in edges]
    for y, z in list(zip(ys, zs, strict=True))[:: int(rng.integers(1, 4))]:
        shape.append(rod(frame, (-w / 2, y, z - 0.08), (w / 2, y, z - 0.08), 0.6 * beam))
    wall = fu.pick(rng, "brick", "plaster", "facade", "sheet_metal", "panelling", "concrete")
    top = min(zs[0], zs[-1]) * rng.choice([1.0, rng.uniform(0.3, 1.0)])
    for side in (-1, 1):
        if rng.random() < 0.3:
            y = side * d / 2
            shape.append(box(f"{wall}#wall", (-w / 2, y - 0.08, -0.2), (w / 2, y + 0.08, top)))
        if rng.random() < 0.25:
            x = side * w / 2
            shape.append(box(f"{wall}#wall", (x - 0.08, -d / 2, -0.2), (x + 0.08, d / 2, top)))
    return shape


def hedge(rng: Rng, length: float) -> Shape:
    """A clipped hedge along x."""
    h, d = rng.uniform(0.5, 2.2), rng.uniform(0.4, 1.0)
    n = int(min(1500, 160 * length * h))
    face = rng.integers(0, 3, n)
    x, y, z = rng.uniform(-length / 2, length / 2, n), rng.uniform(0, d, n), rng.uniform(0, h, n)
    y = np.where(face == 0, 0.0, y)
    z = np.where(face == 1, h, z)
    core = box("grass#core", (-length / 2, 0.04, -0.1), (length / 2, d, h - 0.04))
    return [core, leaves("foliage", rng, np.column_stack([x, y, z]), rng.uniform(0.05, 0.12))]
