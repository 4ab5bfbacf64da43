# SPDX-License-Identifier: GPL-3.0-or-later
"""Furniture, lamps, plants and clutter as parametric shapes, and the glTF pieces re-textured.

A slot is named `kind` or `kind#what`: `kind` is a material kind (`materials.KINDS`) or one of the
special slots that `resolve` knows. Each function returns a shape in metres; see `meshes`.
"""

from __future__ import annotations

import bpy
import numpy as np

from . import assets, meshes
from .materials import Materials, colour
from .meshes import Part, Shape, box, cushion, cylinder, lathe, leaves, moved, quad, rod

Rng = np.random.Generator


def resolve(shape: Shape, materials: Materials) -> dict[str, bpy.types.Material]:
    """A material for each slot of a shape."""
    rng = materials.rng
    found = {}
    for slot in dict.fromkeys(part.slot for part in shape):
        kind, _, detail = slot.partition("#")
        if kind == "picture":
            width, height = (float(v) for v in detail.split("x"))
            found[slot] = materials.picture(width, height)
        elif kind == "books":
            found[slot] = materials.varied(
                [colour(rng, "any") for _ in range(8)], rng.uniform(0.4, 0.8)
            )
        elif kind == "foliage":
            found[slot] = materials.foliage()
        elif kind == "mirror":
            found[slot] = materials.plain((0.95, 0.95, 0.95), 0.02, 1.0)
        elif kind == "screen":
            found[slot] = materials.plain(
                np.full(3, rng.uniform(0.05, 0.16)), rng.uniform(0.05, 0.3)
            )
        elif kind == "white":
            found[slot] = materials.plain(
                np.full(3, rng.uniform(0.82, 0.95)), rng.uniform(0.2, 0.7)
            )
        elif kind == "glow":
            rgb = np.array([1.0, rng.uniform(0.9, 1.0), rng.uniform(0.75, 1.0)]) * rng.uniform(
                0.8, 0.95
            )
            found[slot] = materials.emitter(rgb, float(detail))
        else:
            found[slot] = materials.new(kind)
    return found


def pick(rng: Rng, *options: str) -> str:
    return options[int(rng.integers(len(options)))]


def pick_number(rng: Rng, *values: float) -> float:
    return values[int(rng.integers(len(values)))]


def _surface(rng: Rng) -> str:
    return pick(rng, "wood", "wood", "varnish", "varnish", "lacquer", "lacquer", "panelling")


def _frame(rng: Rng) -> str:
    return pick(rng, "wood", "varnish", "metal", "polished", "painted_metal", "lacquer")


def _cover(rng: Rng) -> str:
    return pick(rng, "fabric", "fabric", "fabric", "leather", "linen")


def _legs(rng: Rng, slot: str, w: float, d: float, h: float) -> Shape:
    thick = rng.uniform(0.015, 0.04)
    parts = []
    square = rng.random() < 0.5
    splay = rng.uniform(0, 0.08) if rng.random() < 0.4 else 0.0
    for sx in (-1, 1):
        for sy in (-1, 1):
            x, y = sx * (w / 2 - 0.04), sy * (d / 2 - 0.04)
            if square and not splay:
                parts.append(box(slot, (x - thick, y - thick, 0), (x + thick, y + thick, h)))
            else:
                foot = (x + sx * splay, y + sy * splay, 0)
                parts.append(rod(slot, foot, (x, y, h), thick))
    return parts


def table(
    rng: Rng, w: float | None = None, d: float | None = None, h: float | None = None
) -> Shape:
    """A table, desk or low table; round at times."""
    w, d = w or rng.uniform(0.8, 2.2), d or rng.uniform(0.6, 1.0)
    h = h or rng.uniform(0.68, 0.78)
    top, thick = pick(rng, _surface(rng), _surface(rng), "stone"), rng.uniform(0.02, 0.06)
    legs = _frame(rng)
    if rng.random() < 0.25:
        r = min(w, d) * 0.6
        foot = [
            lathe(f"{legs}#leg", [(r * 0.55, 0), (r * 0.5, 0.03), (0.05, 0.06), (0.05, h - thick)])
        ]
        return [cylinder(f"{top}#top", r, h - thick, h, 24), *foot]
    shape = [box(f"{top}#top", (-w / 2, -d / 2, h - thick), (w / 2, d / 2, h))]
    if rng.random() < 0.2:
        side = f"{top}#top"
        for s in (-1, 1):
            x = s * (w / 2 - 0.03)
            shape.append(box(side, (x - 0.02, -d / 2, 0), (x + 0.02, d / 2, h - thick)))
    else:
        shape += _legs(rng, f"{legs}#leg", w, d, h - thick)
        if rng.random() < 0.5:
            shape.append(
                box(
                    f"{top}#top",
                    (-w / 2 + 0.06, -d / 2 + 0.06, h - thick - 0.08),
                    (w / 2 - 0.06, d / 2 - 0.06, h - thick),
                )
            )
    return shape


def chair(rng: Rng) -> Shape:
    """A chair, stool or office chair."""
    w, d, h = rng.uniform(0.38, 0.5), rng.uniform(0.38, 0.5), rng.uniform(0.42, 0.5)
    frame, seat = _frame(rng), pick(rng, _surface(rng), _cover(rng), "plastic")
    style = rng.random()
    if style < 0.15:
        return [
            cylinder(f"{seat}#seat", w / 2, h - 0.05, h),
            *_legs(rng, f"{frame}#leg", w * 0.75, w * 0.75, h - 0.04),
        ]
    soft = rng.random() < 0.5
    shape: Shape = []
    if soft:
        shape.append(
            cushion(f"{seat}#seat", (-w / 2, -d / 2, h - 0.08), (w / 2, d / 2, h + 0.02), 6)
        )
    else:
        shape.append(box(f"{seat}#seat", (-w / 2, -d / 2, h - 0.03), (w / 2, d / 2, h)))
    top = h + rng.uniform(0.35, 0.6)
    if style < 0.35:
        shape += [cylinder(f"{frame}#leg", 0.03, 0.06, h - 0.04)]
        for k in range(5):
            a = k * 2 * np.pi / 5
            shape.append(
                rod(f"{frame}#leg", (0, 0, 0.1), (0.28 * np.cos(a), 0.28 * np.sin(a), 0.03), 0.02)
            )
    else:
        shape += _legs(rng, f"{frame}#leg", w, d, h - 0.03)
    if rng.random() < 0.5:
        for k in np.linspace(-w / 2 + 0.03, w / 2 - 0.03, int(rng.integers(3, 7))):
            shape.append(rod(f"{frame}#leg", (k, d / 2 - 0.03, h), (k, d / 2 + 0.03, top), 0.012))
        shape.append(
            box(f"{frame}#leg", (-w / 2, d / 2 + 0.01, top - 0.08), (w / 2, d / 2 + 0.05, top))
        )
    else:
        shape += [
            rod(
                f"{frame}#leg",
                (s * (w / 2 - 0.03), d / 2 - 0.02, h - 0.1),
                (s * (w / 2 - 0.03), d / 2, top),
                0.014,
            )
            for s in (-1, 1)
        ]
        low, high = (-w / 2, d / 2 - 0.03, h + rng.uniform(0.05, 0.2)), (w / 2, d / 2 + 0.04, top)
        shape.append(
            cushion(f"{seat}#seat", low, high, 6) if soft else box(f"{seat}#seat", low, high)
        )
    return shape


def sofa(rng: Rng) -> Shape:
    """A sofa or armchair."""
    seats = int(rng.integers(1, 4))
    w, d = 0.35 + seats * rng.uniform(0.55, 0.75), rng.uniform(0.8, 1.0)
    h, arm, back = rng.uniform(0.38, 0.46), rng.uniform(0.12, 0.22), rng.uniform(0.7, 0.95)
    cover = f"{_cover(rng)}#cover"
    power = rng.uniform(5, 14)
    shape: Shape = [
        cushion(cover, (-w / 2, -d / 2, 0.1), (w / 2, d / 2, h - 0.1), 12),
        cushion(cover, (-w / 2, d / 2 - 0.22, 0.12), (w / 2, d / 2, back), power),
    ]
    height = rng.uniform(0.5, 0.66)
    for s in (-1, 1):
        a, b = sorted((s * w / 2, s * (w / 2 - arm)))
        shape.append(cushion(cover, (a, -d / 2, 0.1), (b, d / 2, height), power))
    inner = (w - 2 * arm) / seats
    for k in range(seats):
        x = -w / 2 + arm + k * inner
        shape.append(
            cushion(cover, (x, -d / 2 - 0.02, h - 0.14), (x + inner, d / 2 - 0.2, h + 0.03), 6)
        )
        shape.append(
            cushion(cover, (x, d / 2 - 0.36, h), (x + inner, d / 2 - 0.16, back + 0.03), 4)
        )
    for _ in range(int(rng.integers(0, 4))):
        x = rng.uniform(-w / 2 + arm + 0.2, w / 2 - arm - 0.2) if seats > 1 else 0.0
        pillow = [cushion(f"fabric#p{rng.integers(3)}", (-0.2, -0.07, 0), (0.2, 0.07, 0.38), 3)]
        shape += moved(pillow, (x, d / 2 - 0.4, h + 0.02), rng.normal(0, 0.4))
    return shape + _legs(rng, f"{_frame(rng)}#leg", w, d, 0.12)


def bed(rng: Rng) -> Shape:
    """A bed with mattress, cover and pillows; its head at +y."""
    w, d = pick_number(rng, 0.9, 1.4, 1.6, 1.8), rng.uniform(1.95, 2.1)
    h = rng.uniform(0.35, 0.55)
    frame = f"{_surface(rng)}#frame"
    shape: Shape = [
        box(frame, (-w / 2 - 0.03, -d / 2, 0.08), (w / 2 + 0.03, d / 2, h - 0.18)),
        box(frame, (-w / 2 - 0.03, d / 2, 0), (w / 2 + 0.03, d / 2 + 0.06, rng.uniform(0.7, 1.2))),
        cushion("linen#sheet", (-w / 2, -d / 2, h - 0.25), (w / 2, d / 2, h), 14),
        cushion(
            f"{pick(rng, 'fabric', 'linen', 'fabric')}#cover",
            (-w / 2 - 0.04, -d / 2 - 0.03, h - 0.22),
            (w / 2 + 0.04, d / 2 - rng.uniform(0.4, 0.8), h + rng.uniform(0.03, 0.1)),
            10,
        ),
    ]
    for x in (-w / 4, w / 4) if w > 1.2 else (0.0,):
        shape.append(
            cushion(
                "linen#pillow",
                (x - 0.3, d / 2 - 0.42, h - 0.02),
                (x + 0.3, d / 2 - 0.02, h + 0.14),
                3,
            )
        )
    return shape


def books(rng: Rng, width: float, height: float, depth: float) -> Shape:
    """A row of books standing from x = 0 to about `width`."""
    shape: Shape = []
    x = 0.0
    while x < width - 0.05:
        thick, tall = rng.uniform(0.015, 0.05), height * rng.uniform(0.6, 0.92)
        if rng.random() < 0.08:
            x += rng.uniform(0.05, 0.25)
            continue
        if x + thick > width:
            break
        shape.append(box("books", (x, -depth, 0), (x + thick, -depth * rng.uniform(0, 0.2), tall)))
        x += thick + 0.001
    return shape


def shelf(rng: Rng, w: float | None = None, h: float | None = None) -> Shape:
    """A bookshelf with books, boxes, vases."""
    w, h, d = w or rng.uniform(0.6, 1.8), h or rng.uniform(0.8, 2.2), rng.uniform(0.25, 0.4)
    frame = f"{pick(rng, _surface(rng), _surface(rng), 'painted_metal', 'metal')}#frame"
    t = rng.uniform(0.015, 0.035)
    rows = max(2, round(h / rng.uniform(0.3, 0.42)))
    shape: Shape = []
    if rng.random() < 0.75:
        shape.append(box(frame, (-w / 2, d / 2 - 0.01, 0), (w / 2, d / 2, h)))
    columns = [-w / 2, w / 2 - t] + ([-t / 2] if w > 1.1 else [])
    for x in columns:
        shape.append(box(frame, (x, -d / 2, 0), (x + t, d / 2, h)))
    step = (h - t) / rows
    for r in range(rows + 1):
        z = r * step
        shape.append(box(frame, (-w / 2, -d / 2, z), (w / 2, d / 2 - 0.01, z + t)))
        if r == rows:
            break
        choice = rng.random()
        if choice < 0.6:
            row = books(rng, w - 2 * t - 0.02, step - t, d * 0.8)
            shape += moved(row, (-w / 2 + t + 0.01, d / 2 - 0.02, z + t))
        elif choice < 0.9:
            for _ in range(int(rng.integers(1, 4))):
                thing = clutter(rng, min(step - t - 0.03, 0.3))
                shape += moved(thing, (rng.uniform(-w / 2 + 0.15, w / 2 - 0.15), 0, z + t))
    return shape


def cabinet(
    rng: Rng, w: float | None = None, h: float | None = None, d: float | None = None
) -> Shape:
    """A chest of drawers, sideboard or wardrobe with fronts and metal handles."""
    w, h = w or rng.uniform(0.5, 1.8), h or rng.uniform(0.5, 2.2)
    d = d or rng.uniform(0.38, 0.6)
    body = pick(rng, _surface(rng), _surface(rng), "painted_metal", "metal")
    front = body if rng.random() < 0.6 else _surface(rng)
    handle = pick(rng, "polished", "metal", "lacquer")
    plinth = rng.uniform(0.03, 0.12)
    shape: Shape = [
        box(f"{body}#body", (-w / 2, -d / 2, plinth), (w / 2, d / 2, h)),
        box("lacquer#plinth", (-w / 2 + 0.03, -d / 2 + 0.03, 0), (w / 2 - 0.03, d / 2, plinth)),
    ]
    columns = max(1, round(w / rng.uniform(0.4, 0.7)))
    rows = max(1, round((h - plinth) / pick_number(rng, 0.2, 0.35, 0.7, 2.0)))
    cw, ch = w / columns, (h - plinth) / rows
    for c in range(columns):
        for r in range(rows):
            x, z = -w / 2 + c * cw, plinth + r * ch
            y = -d / 2
            shape.append(
                box(
                    f"{front}#front",
                    (x + 0.006, y - 0.018, z + 0.006),
                    (x + cw - 0.006, y, z + ch - 0.006),
                )
            )
            hx, hz = x + cw / 2, z + ch * (0.5 if ch < 0.5 else 0.6)
            wide = min(0.08, cw / 4)
            shape.append(
                box(
                    f"{handle}#handle",
                    (hx - wide, y - 0.045, hz),
                    (hx + wide, y - 0.03, hz + 0.015),
                )
            )
    return shape


def kitchen(rng: Rng) -> Shape:
    """A kitchen run: counter, fronts, oven, sink, wall cupboards, tall fridge at one end."""
    w = rng.uniform(1.8, 3.6)
    d, h = 0.6, rng.uniform(0.86, 0.94)
    metal = pick(rng, "metal", "polished", "metal", "painted_metal")
    top = pick(rng, "stone", "stone", "wood", "metal", "lacquer")
    shape = cabinet(rng, w, h - 0.04, d)
    shape.append(box(f"{top}#worktop", (-w / 2, -d / 2 - 0.03, h - 0.04), (w / 2, d / 2, h)))
    shape.append(
        box(
            "wall_tile#splash",
            (-w / 2, d / 2 - 0.015, h),
            (w / 2, d / 2, h + rng.uniform(0.4, 0.6)),
        )
    )
    x = rng.uniform(-w / 2 + 0.35, w / 2 - 0.35)
    shape.append(box(f"{metal}#oven", (x - 0.3, -d / 2 - 0.03, 0.1), (x + 0.3, -d / 2, h - 0.06)))
    shape.append(
        box("screen#glass", (x - 0.24, -d / 2 - 0.035, 0.2), (x + 0.24, -d / 2 - 0.03, h - 0.25))
    )
    shape.append(box("screen#hob", (x - 0.28, -0.25, h), (x + 0.28, 0.22, h + 0.008)))
    x = -x
    shape.append(box(f"{metal}#sink", (x - 0.25, -0.2, h), (x + 0.25, 0.2, h + 0.006)))
    shape.append(rod("polished#tap", (x, 0.22, h), (x, 0.22, h + 0.3), 0.014))
    shape.append(rod("polished#tap", (x, 0.22, h + 0.3), (x, 0.02, h + 0.28), 0.012))
    if rng.random() < 0.7:
        upper = cabinet(rng, w, rng.uniform(0.5, 0.8), 0.33)
        shape += moved(upper, (0, d / 2 - 0.17, h + rng.uniform(0.45, 0.6)))
    for _ in range(int(rng.integers(1, 5))):
        shape += moved(
            clutter(rng, 0.3),
            (rng.uniform(-w / 2 + 0.15, w / 2 - 0.15), rng.uniform(-0.1, 0.15), h),
        )
    if rng.random() < 0.7:
        shape += moved(fridge(rng), (w / 2 + 0.35, 0, 0))
    return shape


def fridge(rng: Rng) -> Shape:
    """A fridge, washing machine-like or tall metal cupboard."""
    w, d, h = rng.uniform(0.55, 0.75), rng.uniform(0.55, 0.68), rng.uniform(0.85, 2.0)
    skin = pick(rng, "metal", "metal", "white", "painted_metal", "polished")
    split = h * rng.uniform(0.3, 0.7)
    return [
        box(f"{skin}#skin", (-w / 2, -d / 2, 0.03), (w / 2, d / 2, h)),
        box(f"{skin}#skin", (-w / 2, -d / 2 - 0.03, 0.06), (w / 2, -d / 2, split - 0.005)),
        box(f"{skin}#skin", (-w / 2, -d / 2 - 0.03, split + 0.005), (w / 2, -d / 2, h)),
        rod(
            "polished#handle",
            (-w / 2 + 0.06, -d / 2 - 0.06, split + 0.05),
            (-w / 2 + 0.06, -d / 2 - 0.06, h - 0.1),
            0.012,
        ),
    ]


def clutter(rng: Rng, size: float = 0.3) -> Shape:
    """A small thing to stand on something: vase, bowl, box, bottle, cup, books, plant, frame."""
    s = size * rng.uniform(0.4, 1.0)
    style = rng.integers(8)
    pot = pick(rng, "ceramic", "ceramic", "metal", "polished", "plastic", "lacquer", "wood")
    if style == 0:
        r = s * rng.uniform(0.15, 0.35)
        profile = [
            (r * rng.uniform(0.5, 1), 0),
            (r, s * 0.3),
            (r * rng.uniform(0.6, 1.1), s * 0.6),
            (r * 0.4, s * 0.85),
            (r * 0.5, s),
        ]
        return [lathe(f"{pot}#v{rng.integers(4)}", profile)]
    if style == 1:
        r = s * rng.uniform(0.4, 0.6)
        return [
            lathe(
                f"{pot}#b{rng.integers(4)}",
                [
                    (r * 0.4, 0),
                    (r * 0.8, s * 0.15),
                    (r, s * 0.4),
                    (r * 0.9, s * 0.38),
                    (0.01, s * 0.1),
                ],
            )
        ]
    if style == 2:
        a, b, c = s * rng.uniform(0.3, 0.7, 3)
        kind = pick(rng, "cardboard", "plastic", "painted_metal", "wood", "lacquer", "metal")
        return [box(f"{kind}#c{rng.integers(4)}", (-a, -b, 0), (a, b, c))]
    if style == 3:
        r = s * 0.16
        return [
            lathe(
                f"{pick(rng, 'plastic', 'ceramic', 'lacquer')}#d{rng.integers(3)}",
                [(r, 0), (r, s * 0.6), (r * 0.35, s * 0.78), (r * 0.35, s)],
            )
        ]
    if style == 4:
        r = min(s, 0.12) * 0.4
        return [cylinder(f"{pot}#e{rng.integers(4)}", r, 0, r * 2.4)]
    if style == 5:
        shape, z = [], 0.0
        for _ in range(int(rng.integers(1, 6))):
            t, a, b = rng.uniform(0.01, 0.04), rng.uniform(0.08, 0.12), rng.uniform(0.1, 0.15)
            shape += moved([box("books", (-a, -b, 0), (a, b, t))], (0, 0, z), rng.normal(0, 0.3))
            z += t
        return shape
    if style == 6:
        return plant(rng, s)
    w, h = s * 0.8, s * rng.uniform(0.5, 1.0)
    return [
        box(f"{pick(rng, 'wood', 'lacquer', 'polished')}#f", (-w / 2, 0, 0), (w / 2, 0.02, h)),
        *moved(
            [
                quad(
                    f"picture#{w * 0.8:.3f}x{h * 0.8:.3f}",
                    (-w * 0.4, 0, -h * 0.4),
                    (w * 0.4, 0, -h * 0.4),
                    (w * 0.4, 0, h * 0.4),
                    (-w * 0.4, 0, h * 0.4),
                )
            ],
            (0, -0.002, h / 2),
        ),
    ]


def plant(rng: Rng, height: float | None = None) -> Shape:
    """A plant in a pot."""
    h = height or rng.uniform(0.4, 1.8)
    r = h * rng.uniform(0.1, 0.18)
    pot_height = r * rng.uniform(1.2, 2.0)
    kind = pick(rng, "ceramic", "ceramic", "metal", "plastic", "wood", "concrete", "lacquer")
    shape: Shape = [
        lathe(
            f"{kind}#pot",
            [(r * 0.7, 0), (r, pot_height), (r * 0.9, pot_height), (0.0, pot_height * 0.9)],
        )
    ]
    n = int(rng.integers(40, 160))
    crown = h - pot_height
    direction = rng.normal(size=(n, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    radius = (
        rng.uniform(0.5, 1.0, (n, 1))
        * np.array([rng.uniform(0.2, 0.45), 0, 0.5])[[0, 0, 2]]
        * crown
    )
    centres = direction * radius + (0, 0, pot_height + crown * 0.55)
    shape.append(
        leaves("foliage", rng, centres, max(0.03, h * rng.uniform(0.05, 0.14)), rng.uniform(0, 0.6))
    )
    shape.append(
        rod(
            "bark#stem",
            (0, 0, pot_height * 0.9),
            (0, 0, pot_height + crown * 0.5),
            max(0.006, h * 0.012),
            6,
        )
    )
    return shape


def picture(
    rng: Rng, w: float | None = None, h: float | None = None, inside: str | None = None
) -> Shape:
    """A framed picture, poster or mirror hanging with its back in the plane y = 0, centred."""
    w, h = w or rng.uniform(0.3, 1.4), h or rng.uniform(0.3, 1.1)
    frame = f"{pick(rng, 'wood', 'varnish', 'lacquer', 'polished', 'metal')}#frame"
    t, depth = rng.uniform(0.015, 0.06), rng.uniform(0.015, 0.05)
    inner_w, inner_h = w - 2 * t, h - 2 * t
    if inside is None:
        inside = "mirror" if rng.random() < 0.2 else f"picture#{inner_w:.3f}x{inner_h:.3f}"
    shape: Shape = [
        box(frame, (-w / 2, -depth, -h / 2), (w / 2, 0, -h / 2 + t)),
        box(frame, (-w / 2, -depth, h / 2 - t), (w / 2, 0, h / 2)),
        box(frame, (-w / 2, -depth, -h / 2), (-w / 2 + t, 0, h / 2)),
        box(frame, (w / 2 - t, -depth, -h / 2), (w / 2, 0, h / 2)),
    ]
    y, a, b = -depth * 0.5, inner_w / 2, inner_h / 2
    return [*shape, quad(inside, (-a, y, -b), (a, y, -b), (a, y, b), (-a, y, b))]


def screen(rng: Rng) -> Shape:
    """A television or monitor, its back at y = 0, centred."""
    w = rng.uniform(0.5, 1.5)
    h = w * 0.57
    return [
        box("screen#panel", (-w / 2, -0.05, -h / 2), (w / 2, -0.01, h / 2)),
        box(
            "lacquer#case", (-w / 2 - 0.01, -0.045, -h / 2 - 0.01), (w / 2 + 0.01, 0, h / 2 + 0.01)
        ),
    ]


def radiator(rng: Rng) -> Shape:
    """A ribbed radiator, its back at y = 0."""
    w, h = rng.uniform(0.5, 1.4), rng.uniform(0.4, 0.7)
    slot = pick(rng, "white", "painted_metal", "metal") + "#rib"
    count = int(w / 0.07)
    return [
        box(slot, (-w / 2 + k * 0.07, -0.12, 0.12), (-w / 2 + k * 0.07 + 0.05, -0.03, 0.12 + h))
        for k in range(count)
    ]


def curtain(rng: Rng, w: float, h: float, cloth: str | None = None) -> Shape:
    """A hanging pleated sheet, back at y = 0, from z = 0 to h; of some cloth if none is named."""
    xs = np.linspace(-w / 2, w / 2, max(8, int(w * 40)))
    pleats = (
        0.05 + 0.04 * np.sin(xs * rng.uniform(25, 50)) + 0.015 * np.sin(xs * rng.uniform(7, 15))
    )
    n = len(xs)
    vertices = np.concatenate(
        [np.column_stack([xs, -pleats, np.zeros(n)]), np.column_stack([xs, -pleats, np.full(n, h)])]
    )
    faces: list[tuple[int, ...]] = [(i, i + 1, n + i + 1, n + i) for i in range(n - 1)]
    cloth = cloth or pick(rng, "fabric", "linen")
    return [Part(vertices, faces, f"{cloth}#curtain", True)]


def blind(rng: Rng, w: float, h: float) -> Shape:
    """A blind let down before a window, back at y = 0, from the window's sill at z = 0 to its head
    at h: a cloth that reaches down some way, or slats."""
    low = h * rng.choice([0.0, rng.uniform(0.0, 0.7)])
    if rng.random() < 0.6:
        a = w / 2
        cloth = quad("sheer#blind", (-a, 0, low), (a, 0, low), (a, 0, h), (-a, 0, h))
        return [cloth, box("white#bar", (-w / 2, -0.02, low), (w / 2, 0.0, low + 0.03))]
    slot = pick(rng, "white", "wood", "painted_metal", "lacquer") + "#slat"
    deep, tilt = rng.uniform(0.025, 0.09), rng.uniform(0.2, 1.3)
    out, up = deep * np.cos(tilt), deep * np.sin(tilt)
    return [
        quad(slot, (-w / 2, -out, z), (w / 2, -out, z), (w / 2, 0, z + up), (-w / 2, 0, z + up))
        for z in np.arange(low, h - up, deep * rng.uniform(0.8, 1.1))
    ]


def rug(rng: Rng) -> Shape:
    """A flat carpet."""
    w, d = rng.uniform(1.0, 3.2), rng.uniform(0.8, 2.2)
    slot = pick(rng, "carpet", "fabric", "pattern") + "#rug"
    if rng.random() < 0.25:
        return [cylinder(slot, min(w, d) / 2, 0.0, 0.012, 28)]
    shape = [box(slot, (-w / 2, -d / 2, 0), (w / 2, d / 2, 0.012))]
    if rng.random() < 0.4:
        edge = rng.uniform(0.05, 0.2)
        shape.append(
            box(
                "carpet#inner",
                (-w / 2 + edge, -d / 2 + edge, 0.0),
                (w / 2 - edge, d / 2 - edge, 0.016),
            )
        )
    return shape


def crate(rng: Rng) -> Shape:
    """A crate, cardboard box or case."""
    w, d, h = rng.uniform(0.25, 0.9, 3)
    kind = pick(rng, "cardboard", "panelling", "wood", "plastic", "sheet_metal", "painted_metal")
    return [box(f"{kind}#crate", (-w / 2, -d / 2, 0), (w / 2, d / 2, h))]


def barrel(rng: Rng) -> Shape:
    """A barrel or bin."""
    r, h = rng.uniform(0.2, 0.32), rng.uniform(0.5, 1.0)
    kind = pick(rng, "rust", "painted_metal", "metal", "plastic", "sheet_metal")
    rings = [
        (r, 0),
        (r, h * 0.3),
        (r * 1.05, h * 0.32),
        (r, h * 0.34),
        (r, h * 0.65),
        (r * 1.05, h * 0.67),
        (r, h * 0.69),
        (r, h),
    ]
    return [lathe(f"{kind}#barrel", rings, 18)]


def ladder(rng: Rng) -> Shape:
    """A leaning ladder."""
    h, slot = rng.uniform(1.8, 2.8), pick(rng, "metal", "wood", "painted_metal") + "#ladder"
    shape = [rod(slot, (s * 0.22, -0.5, 0), (s * 0.18, 0, h), 0.025) for s in (-1, 1)]
    for k in np.arange(0.3, h, 0.3):
        y = -0.5 * (1 - k / h)
        shape.append(rod(slot, (-0.2, y, k), (0.2, y, k), 0.015))
    return shape


def machine(rng: Rng) -> Shape:
    """A machine of metal boxes, pipes and drums for halls and workshops."""
    w, d, h = rng.uniform(0.8, 2.2), rng.uniform(0.6, 1.2), rng.uniform(0.9, 1.9)
    kinds = ["painted_metal", "metal", "sheet_metal", "rust"]
    shape: Shape = [box(f"{pick(rng, *kinds)}#base", (-w / 2, -d / 2, 0), (w / 2, d / 2, h * 0.5))]
    for k in range(int(rng.integers(2, 6))):
        a, b, c = rng.uniform(0.15, 0.45), rng.uniform(0.15, 0.4), rng.uniform(0.2, h * 0.6)
        x, y = rng.uniform(-w / 2 + a, w / 2 - a) if w > 2 * a else 0, rng.uniform(-d / 4, d / 4)
        slot = f"{pick(rng, *kinds)}#{k}"
        if rng.random() < 0.5:
            shape.append(box(slot, (x - a, y - b, h * 0.5), (x + a, y + b, h * 0.5 + c)))
        else:
            shape.append(cylinder(slot, min(a, b), h * 0.5, h * 0.5 + c, 16))
    for _ in range(int(rng.integers(1, 4))):
        start = rng.uniform((-w / 2, -d / 2, 0.2), (w / 2, -d / 2, h))
        shape.append(
            rod(
                "metal#pipe",
                start,
                start + np.array([0, 0, rng.uniform(0.3, 1.0)]),
                rng.uniform(0.02, 0.06),
            )
        )
    return shape


def stairs(rng: Rng, height: float) -> Shape:
    """A straight staircase rising towards +x, along y = 0 (its wall side), starting at x = 0."""
    rise, run, width = 0.175, rng.uniform(0.24, 0.3), rng.uniform(0.8, 1.2)
    steps = max(4, int(height / rise))
    slot, solid = (
        pick(rng, "floor_wood", "stone", "concrete", "painted_metal", "wood") + "#step",
        rng.random() < 0.5,
    )
    shape: Shape = []
    for k in range(steps):
        low = 0.0 if solid else (k + 1) * rise - 0.05
        shape.append(box(slot, (k * run, -width, low), ((k + 1) * run + 0.02, 0, (k + 1) * rise)))
    rail = pick(rng, "metal", "polished", "wood", "painted_metal") + "#rail"
    for k in range(0, steps, 2):
        x, z = (k + 0.5) * run, (k + 1) * rise
        shape.append(rod(rail, (x, -width + 0.03, z), (x, -width + 0.03, z + 0.9), 0.012))
    shape.append(
        rod(
            rail,
            (0.5 * run, -width + 0.03, rise + 0.9),
            ((steps - 0.5) * run, -width + 0.03, steps * rise + 0.9),
            0.022,
        )
    )
    return shape


def door(rng: Rng, w: float, h: float) -> Shape:
    """A door leaf with panels and a handle, back at y = 0, centred in x."""
    slot = pick(rng, "wood", "varnish", "white", "lacquer", "painted_metal", "panelling") + "#leaf"
    shape: Shape = [box(slot, (-w / 2, -0.04, 0.005), (w / 2, 0, h))]
    if rng.random() < 0.6:
        rows = int(rng.integers(1, 4))
        for r in range(rows):
            z0, z1 = 0.15 + r * (h - 0.2) / rows, (r + 1) * (h - 0.2) / rows
            shape.append(box(slot, (-w / 2 + 0.12, -0.055, z0), (w / 2 - 0.12, -0.04, z1)))
    s = 1 if rng.random() < 0.5 else -1
    x = s * (w / 2 - 0.07)
    shape.append(rod("polished#knob", (x, -0.04, 1.0), (x, -0.1, 1.0), 0.012))
    shape.append(rod("polished#knob", (x, -0.1, 1.0), (x - s * 0.12, -0.1, 1.0), 0.011))
    return shape


def primitive(rng: Rng) -> Shape:
    """A plain solid of any material: sphere, cylinder, cone, cube, ring or egg."""
    kinds = ["metal", "polished", "plastic", "ceramic", "stone", "wood", "fabric", "brick"]
    kinds += ["lacquer", "rust", "rock", "wall_tile", "pattern", "painted_metal"]
    slot = f"{pick(rng, *kinds)}#solid"
    r, style = rng.uniform(0.12, 0.5), rng.integers(6)
    if style == 0:
        angles = np.linspace(-np.pi / 2, np.pi / 2, 15)
        return [lathe(slot, [(max(1e-3, r * np.cos(a)), r + r * np.sin(a)) for a in angles], 28)]
    if style == 1:
        return [cylinder(slot, r, 0, r * rng.uniform(0.5, 4), 28)]
    if style == 2:
        return [lathe(slot, [(r, 0), (1e-3, r * rng.uniform(1, 4))], 28)]
    if style == 3:
        return moved(
            [box(slot, (-r, -r, 0), (r, r, r * rng.uniform(0.5, 3)))],
            (0, 0, 0),
            rng.uniform(0, 1.5),
        )
    if style == 4:
        thick = r * rng.uniform(0.2, 0.45)
        angles = np.linspace(-np.pi, np.pi, 13)
        ring = [(r + thick * np.cos(a), thick + thick * np.sin(a)) for a in angles]
        return [lathe(slot, ring, 28)]
    return [cushion(slot, (-r, -r, 0), (r, r, r * rng.uniform(1, 4)), rng.uniform(1.6, 8))]


def bathtub(rng: Rng) -> Shape:
    """A bath tub with its tap."""
    w, d, h = rng.uniform(1.5, 1.8), rng.uniform(0.65, 0.8), rng.uniform(0.5, 0.6)
    skin = pick(rng, "white", "white", "ceramic", "metal") + "#tub"
    t = 0.06
    return [
        box(skin, (-w / 2, -d / 2, 0), (w / 2, -d / 2 + t, h)),
        box(skin, (-w / 2, d / 2 - t, 0), (w / 2, d / 2, h)),
        box(skin, (-w / 2, -d / 2, 0), (-w / 2 + t, d / 2, h)),
        box(skin, (w / 2 - t, -d / 2, 0), (w / 2, d / 2, h)),
        box(skin, (-w / 2 + t, -d / 2 + t, 0), (w / 2 - t, d / 2 - t, 0.15)),
        rod("polished#tap", (0.2, d / 2 - 0.03, h), (0.2, d / 2 - 0.03, h + 0.2), 0.015),
        rod("polished#tap", (0.2, d / 2 - 0.03, h + 0.2), (0.2, d / 2 - 0.2, h + 0.18), 0.015),
    ]


def toilet(rng: Rng) -> Shape:
    """A toilet with its cistern."""
    skin = "white#toilet"
    return [
        cushion(skin, (-0.19, -0.33, 0), (0.19, 0.2, 0.4), 4),
        cylinder(pick(rng, "white", "lacquer", "wood") + "#lid", 0.2, 0.4, 0.44, 20),
        box(skin, (-0.2, 0.12, 0.38), (0.2, 0.33, 0.8)),
    ]


def washstand(rng: Rng) -> Shape:
    """A wash basin on a cabinet under a mirror."""
    w = rng.uniform(0.6, 1.4)
    shape = cabinet(rng, w, 0.78, 0.48)
    shape.append(
        box(
            pick(rng, "white", "stone", "ceramic", "wood") + "#top",
            (-w / 2, -0.26, 0.78),
            (w / 2, 0.24, 0.82),
        )
    )
    shape.append(
        lathe(
            pick(rng, "white", "ceramic", "metal") + "#bowl",
            [(0.1, 0.82), (0.2, 0.94), (0.18, 0.94), (0.05, 0.85)],
        )
    )
    shape.append(rod("polished#tap", (0, 0.2, 0.82), (0, 0.2, 1.05), 0.015))
    shape.append(rod("polished#tap", (0, 0.2, 1.05), (0, 0.07, 1.03), 0.012))
    return shape + moved(picture(rng, w, rng.uniform(0.6, 0.9), inside="mirror"), (0, 0.24, 1.6))


def stock(rng: Rng, materials: Materials, prefix: str) -> Shape | None:
    """A glTF piece of the split whose name begins with `prefix`, or None when it has none.

    Its parts are told apart by palette cell and get materials of their own.
    """
    names = assets.furniture(materials.split, prefix)
    if not names:
        return None
    name = names[int(rng.integers(len(names)))]
    vertices, triangles, cells = assets.furniture_mesh(name)
    upholstered = any(word in name for word in ("couch", "armchair", "pillow", "bed", "rug"))
    shape = []
    for cell in np.unique(cells):
        chosen = triangles[cells == cell]
        used, renumbered = np.unique(chosen, return_inverse=True)
        if cell in (0, 1, 2):
            kind = _surface(rng)
        elif upholstered:
            kind = _cover(rng)
        elif "cactus" in name and cell > 20:
            kind = "foliage"
        else:
            kind = pick(rng, "lacquer", "fabric", "painted_metal", "ceramic", "metal", "wood")
        slot = "foliage" if kind == "foliage" else f"{kind}#{cell}"
        faces = [tuple(face) for face in renumbered.reshape(-1, 3).tolist()]
        shape.append(Part(vertices[used].astype(float), faces, slot))
    low, high = meshes.extent(shape)
    return moved(
        shape, (-(low[0] + high[0]) / 2, -(low[1] + high[1]) / 2, 0 if low[2] > -0.05 else -low[2])
    )
