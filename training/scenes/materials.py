# SPDX-License-Identifier: GPL-3.0-or-later
"""Materials: swatches, painted patterns and noise on a Principled BSDF, with the data outputs.

Every material writes two arbitrary output variables (AOVs) that the renderer reads:
`albedo` (the Principled base colour, linear) and `pbr` (roughness, metallic, 1).
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import bpy
import numpy as np

from . import assets

Range = tuple[float, float]


@dataclass(frozen=True)
class Kind:
    """A family of materials. `tile` = metres one swatch covers; `paint` = chance of a new hue;
    `translucent` = share of light that passes and scatters."""

    sheets: tuple[str, ...]
    tile: Range
    roughness: Range
    metallic: float = 0.0
    bump: Range = (0.0, 0.3)
    gamma: Range = (0.8, 1.6)
    paint: float = 0.0
    flat: float = 0.0
    palette: str = "any"
    translucent: float = 0.0


WOOD = ("Wood", "WoodFloor", "Planks", "Bamboo")
KINDS: dict[str, Kind] = {
    "wall_paint": Kind(
        ("Plaster", "Paint", "Wallpaper"), (1, 3), (0.45, 0.95), flat=0.6, paint=0.8, palette="wall"
    ),
    "wallpaper": Kind(
        ("Wallpaper", "Fabric", "Paper"), (0.4, 1.5), (0.5, 0.95), paint=0.5, palette="wall"
    ),
    "pattern": Kind((), (0.3, 1.6), (0.45, 0.9), palette="wall"),
    "plaster": Kind(
        ("Plaster", "Concrete", "Clay"),
        (1.5, 3.5),
        (0.6, 0.95),
        bump=(0.05, 0.5),
        paint=0.3,
        palette="wall",
    ),
    "concrete": Kind(("Concrete",), (1.5, 4), (0.4, 0.9), bump=(0.05, 0.5), gamma=(0.8, 2.2)),
    "brick": Kind(("Bricks",), (0.9, 2.0), (0.6, 0.95), bump=(0.2, 0.8), paint=0.15),
    "panelling": Kind(
        ("Planks", "WoodSiding", "Wood", "Bamboo"),
        (0.8, 2.5),
        (0.25, 0.75),
        gamma=(0.8, 2.2),
        paint=0.15,
    ),
    "wall_tile": Kind(
        ("Tiles", "Tiles", "Porcelain", "Marble", "GlazedTerracotta"),
        (0.5, 2.0),
        (0.05, 0.45),
        paint=0.15,
    ),
    "stone": Kind(
        ("Marble", "Granite", "Onyx", "Travertine", "Terrazzo"),
        (0.8, 2.5),
        (0.05, 0.5),
        gamma=(0.7, 2.4),
    ),
    "floor_wood": Kind(
        ("WoodFloor", "WoodFloor", "WoodFloor", "Planks", "Wood"),
        (0.9, 2.4),
        (0.12, 0.6),
        gamma=(0.8, 2.6),
    ),
    "floor_tile": Kind(
        ("Tiles", "Tiles", "Terrazzo", "Marble", "PavingStones", "Travertine", "Tatami"),
        (0.7, 2.4),
        (0.06, 0.6),
        gamma=(0.8, 2.4),
    ),
    "carpet": Kind(
        ("Carpet", "Carpet", "Fabric"), (0.5, 1.8), (0.85, 1.0), gamma=(0.8, 2.2), paint=0.45
    ),
    "ceiling": Kind(
        ("Plaster", "OfficeCeiling", "Paint"),
        (0.8, 2),
        (0.6, 0.95),
        flat=0.7,
        paint=0.5,
        palette="pale",
    ),
    "wood": Kind(WOOD, (0.6, 1.8), (0.15, 0.65), gamma=(0.8, 2.8)),
    "varnish": Kind(("Wood", "WoodFloor"), (0.8, 2.0), (0.05, 0.25), gamma=(1.0, 3.0)),
    "lacquer": Kind((), (1, 1), (0.04, 0.5), flat=1.0),
    "fabric": Kind(
        ("Fabric", "Fabric", "Carpet"),
        (0.25, 1.2),
        (0.75, 1.0),
        paint=0.55,
        gamma=(0.8, 2.2),
        bump=(0.05, 0.4),
    ),
    "leather": Kind((), (1, 1), (0.3, 0.6), flat=1.0, palette="dark"),
    "linen": Kind(("Fabric", "Wallpaper"), (0.4, 1.5), (0.8, 1.0), paint=0.8, palette="pale"),
    "sheer": Kind(
        ("Fabric",), (0.3, 1.0), (0.85, 1.0), paint=1.0, flat=0.6, palette="pale", translucent=0.6
    ),
    "plastic": Kind(("Plastic", "Rubber"), (0.5, 1), (0.1, 0.6), flat=0.7),
    "ceramic": Kind(("Porcelain", "GlazedTerracotta", "Tiles"), (0.5, 1.2), (0.03, 0.25), flat=0.6),
    "paper": Kind(("Paper", "Cardboard"), (0.4, 1), (0.7, 0.95), paint=0.2),
    "cardboard": Kind(("Cardboard", "Chipboard"), (0.4, 1.2), (0.7, 0.95)),
    "metal": Kind(("Metal",), (0.5, 1.5), (0.12, 0.55), metallic=1.0, flat=0.35, palette="metal"),
    "polished": Kind((), (1, 1), (0.02, 0.2), metallic=1.0, flat=1.0, palette="metal"),
    "sheet_metal": Kind(
        ("CorrugatedSteel", "DiamondPlate", "Metal"),
        (0.6, 2),
        (0.2, 0.6),
        metallic=1.0,
        bump=(0.2, 0.8),
    ),
    "rust": Kind(("Rust", "Metal"), (0.5, 2), (0.5, 0.9), metallic=0.6, gamma=(1, 2)),
    "painted_metal": Kind((), (1, 1), (0.15, 0.55), flat=1.0),
    "asphalt": Kind(("Asphalt", "Road", "Asphalt"), (2, 5), (0.55, 0.95), gamma=(0.9, 2.0)),
    "paving": Kind(
        ("PavingStones", "PavingStones", "Bricks", "Tiles"), (1.2, 3.5), (0.4, 0.9), bump=(0.1, 0.6)
    ),
    "gravel": Kind(("Gravel", "Rocks", "WoodChips"), (1, 3), (0.7, 1.0), bump=(0.3, 0.8)),
    "soil": Kind(
        ("Ground", "Ground", "PineNeedles", "ScatteredLeaves", "Moss", "WoodChips"),
        (1.5, 4),
        (0.75, 1.0),
        bump=(0.2, 0.7),
    ),
    "grass": Kind(
        ("Grass", "Grass", "Moss", "Ground"),
        (1.5, 4),
        (0.7, 1.0),
        bump=(0.3, 0.9),
        gamma=(0.8, 2.2),
    ),
    "rock": Kind(
        ("Rock", "Rocks", "Granite"), (1, 4), (0.5, 0.95), bump=(0.3, 0.9), gamma=(0.8, 2.2)
    ),
    "bark": Kind(
        ("Bark", "Bark", "Logs"), (0.5, 1.5), (0.7, 1.0), bump=(0.3, 0.9), gamma=(0.9, 2.0)
    ),
    "facade": Kind(
        ("Bricks", "Plaster", "Concrete", "PavingStones", "WoodSiding", "Tiles", "Plaster"),
        (1.5, 4),
        (0.5, 0.95),
        paint=0.3,
        flat=0.2,
        palette="facade",
    ),
    "roof": Kind(
        ("RoofingTiles", "ThatchedRoof", "RoofingTiles", "Asphalt"),
        (1.5, 3.5),
        (0.5, 0.95),
        gamma=(0.8, 2),
    ),
    "car_paint": Kind((), (1, 1), (0.05, 0.3), flat=1.0),
    "glazing": Kind((), (1, 1), (0.02, 0.12), flat=1.0, palette="glazing"),
}


def colour(rng: np.random.Generator, palette: str) -> np.ndarray:
    """A random plain colour, sRGB-encoded, from a family of believable ones."""
    pick = rng.random()
    if palette == "metal":
        metals = [(0.97, 0.96, 0.95), (0.9, 0.9, 0.91), (0.78, 0.78, 0.8), (0.6, 0.6, 0.62)]
        metals += [(1.0, 0.86, 0.57), (0.98, 0.82, 0.76), (0.89, 0.76, 0.5), (0.42, 0.41, 0.4)]
        return np.clip(np.array(metals[rng.integers(len(metals))]) + rng.normal(0, 0.02, 3), 0, 1)
    if palette == "glazing":
        return np.array([0.1, 0.12, 0.14]) * rng.uniform(0.4, 1.8)
    hue, brown = rng.random(), rng.normal(0.08, 0.025) % 1
    if palette == "pale" or (palette in ("wall", "facade") and pick < 0.35):
        hue, saturation, value = rng.random(), rng.uniform(0, 0.12), rng.uniform(0.65, 0.95)
    elif palette == "wall" and pick < 0.6:
        saturation, value = rng.uniform(0.1, 0.4), rng.uniform(0.4, 0.85)
    elif palette == "dark" or (palette == "wall" and pick < 0.8):
        saturation, value = rng.uniform(0, 0.6), rng.uniform(0.08, 0.4)
    elif palette == "wall":
        saturation, value = rng.uniform(0.25, 0.7), rng.uniform(0.2, 0.7)
    elif palette == "facade":
        hue = brown if pick < 0.75 else hue
        saturation, value = rng.uniform(0.05, 0.5), rng.uniform(0.25, 0.85)
    elif pick < 0.35:
        saturation, value = rng.uniform(0, 0.08), rng.uniform(0.05, 0.92)
    elif pick < 0.65:  # browns and beiges are what most things are made of
        hue, saturation, value = brown, rng.uniform(0.2, 0.7), rng.uniform(0.12, 0.85)
    else:
        saturation, value = rng.uniform(0.2, 0.85), rng.uniform(0.12, 0.85)
    return np.array(colorsys.hsv_to_rgb(hue, saturation, value))


def pattern(rng: np.random.Generator, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """A tileable two-colour pattern (128, 128, 3), sRGB-encoded: stripes, dots, checks, waves."""
    y, x = np.mgrid[0:128, 0:128] / 128.0
    count = int(rng.integers(1, 7))
    style = rng.integers(7)
    wave_x, wave_y = np.sin(2 * np.pi * count * x), np.sin(2 * np.pi * count * y)
    if style == 0:
        mask = wave_x > rng.uniform(-0.8, 0.8)
    elif style == 1:
        mask = wave_y > rng.uniform(-0.8, 0.8)
    elif style == 2:
        mask = (wave_x > 0) ^ (wave_y > 0)
    elif style == 3:
        mask = wave_x * wave_y > rng.uniform(0.3, 0.8)
    elif style == 4:
        mask = np.sin(2 * np.pi * count * (x + y)) > rng.uniform(-0.6, 0.6)
    elif style == 5:  # ornament: mirrored octaves
        field = np.zeros_like(x)
        for _ in range(5):
            a, b = rng.integers(1, 7, 2)
            field += np.cos(2 * np.pi * a * x) * np.cos(2 * np.pi * b * y) * rng.normal()
        mask = field > 0
    else:
        mask = (np.abs(wave_x) < 0.15) | (np.abs(wave_y) < 0.15)
    soft = mask.astype(float)[..., None]
    return first * (1 - soft) + second * soft


def painting(rng: np.random.Generator) -> np.ndarray:
    """An abstract picture or a bare landscape (96, 96, 3), sRGB-encoded."""
    y, x = np.mgrid[0:96, 0:96] / 96.0
    canvas = np.zeros((96, 96, 3)) + colour(rng, "any")
    for _ in range(int(rng.integers(2, 14))):
        a, b, angle = rng.random(), rng.random(), rng.uniform(0, np.pi)
        c, s = np.cos(angle), np.sin(angle)
        u, v = (x - a) * c + (y - b) * s, (y - b) * c - (x - a) * s
        size = rng.uniform(0.05, 0.5, 2)
        if rng.random() < 0.5:
            inside = (np.abs(u) < size[0]) & (np.abs(v) < size[1])
        else:
            inside = (u / size[0]) ** 2 + (v / size[1]) ** 2 < 1
        canvas[inside] = colour(rng, "any")
    if rng.random() < 0.4:
        horizon = 0.5 + 0.1 * np.sin(x * rng.uniform(2, 9) + rng.uniform(0, 6))
        canvas[y > horizon] = canvas[y > horizon] * 0.3 + colour(rng, "any") * 0.7
    return canvas


def adjusted(rng: np.random.Generator, swatch: np.ndarray, kind: Kind) -> np.ndarray:
    """A swatch with its saturation, brightness and maybe hue changed, sRGB-encoded float."""
    image = swatch.astype(np.float32) / 255.0
    grey = image.mean(axis=-1, keepdims=True)
    if rng.random() < kind.paint:
        # Keep the relief of the swatch, replace its colour.
        image = colour(rng, kind.palette) * np.clip(grey / grey.mean(), 0.2, 1.6)
    else:
        image = grey + (image - grey) * rng.uniform(0.6, 1.25)
        image = image * (1 + rng.normal(0, 0.03, 3))
    # Nothing outside a laboratory is blacker than about one per cent.
    return np.maximum(np.clip(image, 0.0, 1.0) ** rng.uniform(*kind.gamma), rng.uniform(0.08, 0.15))


class Materials:
    """Makes the materials of one scene; remembers those that several things share."""

    def __init__(self, rng: np.random.Generator, split: str) -> None:
        self.rng = rng
        self.split = split
        # What came with recipe 7 and later is for training alone: the test scenes stay as they are,
        # so that scores of different versions can be compared.
        self.extended = split == "train"
        self._shared: dict[str, bpy.types.Material] = {}

    def shared(self, kind: str) -> bpy.types.Material:
        """The scene's own material of a kind, made at first use."""
        if kind not in self._shared:
            self._shared[kind] = self.new(kind)
        return self._shared[kind]

    def any(self, *kinds: str) -> bpy.types.Material:
        """A new material of one of the kinds."""
        return self.new(kinds[self.rng.integers(len(kinds))])

    def new(self, name: str, *, image: np.ndarray | None = None, fit=None) -> bpy.types.Material:
        """A new random material of a kind.

        `image` (h, w, 3), sRGB-encoded, takes the place of the swatch; `fit` = (width, height) in
        metres stretches it once over a flat shape in its own x-z plane, centred on the origin.
        """
        rng, kind = self.rng, KINDS[name]
        graph = _Graph(name, kind.translucent)
        roughness = rng.uniform(*kind.roughness)
        metallic = kind.metallic
        if image is None and name == "pattern":
            image = pattern(rng, colour(rng, "wall"), colour(rng, "wall"))
        elif image is None and not (kind.sheets and rng.random() >= kind.flat):
            return self._plain(graph, colour(rng, kind.palette), roughness, metallic)
        elif image is None:
            sheets = [s for s in kind.sheets if assets.swatches(s, self.split)]
            tiles = assets.swatches(sheets[rng.integers(len(sheets))], self.split)
            image = adjusted(rng, tiles[rng.integers(len(tiles))], kind)
        texture = graph.texture(image, rng.uniform(*kind.tile), fit, turn=rng.random() < 0.5)
        base = texture
        if fit is None and rng.random() < 0.6:
            base = graph.blotches(texture, rng.uniform(0.1, 0.4), rng.uniform(0.3, 1.5))
        vary = rng.uniform(-0.5, 0.5) if rng.random() < 0.6 else 0.0
        rough = graph.linear(texture, vary * 0.5, roughness - vary * 0.25)
        # Rust: the pale places are bare metal still.
        metal = graph.linear(texture, 4.0, -1.0) if name == "rust" else metallic
        bump = rng.uniform(*kind.bump) if rng.random() < 0.6 else 0.0
        return graph.finish(base, rough, metal, bump, texture)

    def _plain(self, graph: _Graph, rgb, roughness: float, metallic: float) -> bpy.types.Material:
        base = graph.colour(rgb)
        if self.rng.random() < 0.4:
            base = graph.blotches(base, self.rng.uniform(0.05, 0.3), self.rng.uniform(0.5, 3))
        rough = roughness
        if self.rng.random() < 0.5:
            low, high = max(0.02, roughness - 0.15), min(1.0, roughness + 0.15)
            rough = graph.noise(low, high, self.rng.uniform(1, 12))
        return graph.finish(base, rough, metallic)

    def plain(self, rgb, roughness: float, metallic: float = 0.0) -> bpy.types.Material:
        """One colour (sRGB-encoded), roughness and metallic."""
        graph = _Graph("plain")
        return graph.finish(graph.colour(np.asarray(rgb, float)), roughness, metallic)

    def varied(self, colours: list[np.ndarray], roughness: float) -> bpy.types.Material:
        """A colour for each loose piece of the mesh: books, leaves, pebbles."""
        graph = _Graph("varied")
        return graph.finish(graph.island_colours(colours), roughness, 0.0)

    def emitter(self, rgb, strength: float) -> bpy.types.Material:
        """A lamp: base colour (sRGB-encoded) that also emits `strength` times its own tint."""
        graph = _Graph("emitter")
        base = graph.colour(np.asarray(rgb, float))
        return graph.finish(base, 0.6, 0.0, emission=(np.asarray(rgb) ** 2.2, strength))

    def picture(self, width: float, height: float) -> bpy.types.Material:
        """A painting that fills a flat panel of the given size once."""
        return self.new("paper", image=painting(self.rng), fit=(width, height))

    def foliage(self) -> bpy.types.Material:
        """Leaves of several near hues."""
        hue = (
            self.rng.uniform(0.18, 0.38)
            if self.rng.random() < 0.85
            else self.rng.uniform(0.0, 0.15)
        )
        saturation, value = self.rng.uniform(0.3, 0.8), self.rng.uniform(0.2, 0.6)
        shades = [
            np.array(
                colorsys.hsv_to_rgb(
                    (hue + self.rng.normal(0, 0.02)) % 1,
                    float(np.clip(saturation + self.rng.normal(0, 0.08), 0, 1)),
                    float(np.clip(value * self.rng.uniform(0.6, 1.3), 0, 1)),
                )
            )
            for _ in range(4)
        ]
        return self.varied(shades, self.rng.uniform(0.4, 0.85))


def _linear(rgb: np.ndarray) -> tuple[float, float, float, float]:
    """sRGB-encoded to linear RGBA (IEC 61966-2-1)."""
    rgb = np.clip(np.asarray(rgb, float), 0, 1)
    value = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return float(value[0]), float(value[1]), float(value[2]), 1.0


class _Graph:
    """A material's node graph under construction. Values are floats or output sockets."""

    def __init__(self, name: str, translucent: float = 0.0) -> None:
        self.translucent = translucent
        self.material = bpy.data.materials.new(name)
        self.material.use_nodes = True
        self.tree = self.material.node_tree
        self.tree.nodes.clear()

    def node(self, kind: str):
        return self.tree.nodes.new(f"ShaderNode{kind}")

    def feed(self, socket, value) -> None:
        if isinstance(value, bpy.types.NodeSocket):
            self.tree.links.new(value, socket)
        else:
            socket.default_value = value

    def colour(self, rgb: np.ndarray):
        node = self.node("RGB")
        node.outputs[0].default_value = _linear(rgb)
        return node.outputs[0]

    def texture(self, image: np.ndarray, size: float, fit, turn: bool):
        height, width = image.shape[:2]
        data = bpy.data.images.new("swatch", width, height)
        pixels = np.ones((height, width, 4), np.float32)
        pixels[..., :3] = image[::-1]
        data.pixels.foreach_set(pixels.ravel())
        data.update()
        position = self.node("TexCoord").outputs["Object"]
        mapping = self.node("Mapping")
        node = self.node("TexImage")
        node.image = data
        if fit is not None:
            # x-z plane centred on the origin onto 0..1; FLAT looks up (x, y).
            mapping.inputs["Scale"].default_value = (1 / fit[0], 1 / fit[1], 1)
            mapping.inputs["Location"].default_value = (0.5, 0.5, 0)
            split, join = self.node("SeparateXYZ"), self.node("CombineXYZ")
            self.feed(split.inputs[0], position)
            self.feed(join.inputs["X"], split.outputs["X"])
            self.feed(join.inputs["Y"], split.outputs["Z"])
            position = join.outputs[0]
        else:
            scale = (1 / size, 1 / size, 1 / size)
            mapping.inputs["Scale"].default_value = scale
            mapping.inputs["Location"].default_value = (0.31, 0.17, 0.05)
            if turn:
                mapping.inputs["Rotation"].default_value = (0, 0, np.pi / 2)
            node.projection = "BOX"
            node.projection_blend = 0.0
        self.feed(mapping.inputs["Vector"], position)
        self.feed(node.inputs["Vector"], mapping.outputs[0])
        return node.outputs["Color"]

    def noise(self, low: float, high: float, scale: float):
        noise = self.node("TexNoise")
        self.feed(noise.inputs["Vector"], self.node("TexCoord").outputs["Object"])
        noise.inputs["Scale"].default_value = scale
        noise.inputs["Detail"].default_value = 2.0
        ranged = self.node("MapRange")
        self.feed(ranged.inputs["Value"], noise.outputs[0])
        ranged.inputs["From Min"].default_value = 0.3
        ranged.inputs["From Max"].default_value = 0.7
        ranged.inputs["To Min"].default_value = low
        ranged.inputs["To Max"].default_value = high
        return ranged.outputs["Result"]

    def blotches(self, base, depth: float, scale: float):
        """Darken by smooth noise down to 1 - depth: wear and dirt."""
        mix = self.node("MixRGB")
        mix.blend_type = "MULTIPLY"
        mix.inputs["Fac"].default_value = 1.0
        self.feed(mix.inputs["Color1"], base)
        self.feed(mix.inputs["Color2"], self.noise(1 - depth, 1.0, scale))
        return mix.outputs[0]

    def linear(self, value, slope: float, offset: float):
        """slope * luminance + offset, clamped to 0.02..1."""
        if abs(slope) < 1e-3:
            return float(np.clip(offset, 0.02, 1))
        ranged = self.node("MapRange")
        self.feed(ranged.inputs["Value"], value)
        ranged.clamp = False
        ranged.inputs["To Min"].default_value = offset
        ranged.inputs["To Max"].default_value = offset + slope
        clamp = self.node("Clamp")
        self.feed(clamp.inputs["Value"], ranged.outputs["Result"])
        clamp.inputs["Min"].default_value = 0.02
        return clamp.outputs[0]

    def island_colours(self, colours: list[np.ndarray]):
        geometry, ramp = self.node("NewGeometry"), self.node("ValToRGB")
        self.feed(ramp.inputs["Fac"], geometry.outputs["Random Per Island"])
        ramp.color_ramp.interpolation = "CONSTANT"
        elements = ramp.color_ramp.elements
        while len(elements) < len(colours):
            elements.new(0.5)
        for k in range(len(colours)):
            elements[k].position = k / len(colours)
        for k, rgb in enumerate(colours):
            elements[k].color = _linear(rgb)
        return ramp.outputs[0]

    def finish(self, base, roughness, metallic, bump=0.0, height=None, emission=None):
        """Connect the BSDF and the data outputs; return the material."""
        bsdf, output = self.node("BsdfPrincipled"), self.node("OutputMaterial")
        self.feed(bsdf.inputs["Base Color"], base)
        self.feed(bsdf.inputs["Roughness"], roughness)
        self.feed(bsdf.inputs["Metallic"], metallic)
        if bump:
            node = self.node("Bump")
            node.inputs["Strength"].default_value = bump
            node.inputs["Distance"].default_value = 0.02
            self.feed(node.inputs["Height"], height)
            self.feed(bsdf.inputs["Normal"], node.outputs[0])
        if emission is not None:
            rgb, strength = emission
            bsdf.inputs["Emission Color"].default_value = (*[float(c) for c in rgb], 1.0)
            bsdf.inputs["Emission Strength"].default_value = strength
        else:
            self.material.cycles.emission_sampling = "NONE"
        surface = bsdf.outputs[0]
        if self.translucent:
            through, mix = self.node("BsdfTranslucent"), self.node("MixShader")
            self.feed(through.inputs["Color"], base)
            mix.inputs["Fac"].default_value = self.translucent
            self.feed(mix.inputs[1], surface)
            self.feed(mix.inputs[2], through.outputs[0])
            surface = mix.outputs[0]
        self.feed(output.inputs["Surface"], surface)
        albedo, pbr, join = self.node("OutputAOV"), self.node("OutputAOV"), self.node("CombineXYZ")
        albedo.aov_name, pbr.aov_name = "albedo", "pbr"
        self.feed(albedo.inputs["Color"], base)
        self.feed(join.inputs["X"], roughness)
        self.feed(join.inputs["Y"], metallic)
        self.feed(join.inputs["Z"], 1.0)
        self.feed(pbr.inputs["Color"], join.outputs[0])
        normal = self.node("OutputAOV")
        normal.aov_name = "normal"
        self.feed(normal.inputs["Color"], self.node("NewGeometry").outputs["Normal"])
        return self.material
