# SPDX-License-Identifier: GPL-3.0-or-later
"""Sky, sun and lamps, each in a light group of its own, and lighting conditions made of them.

Light groups: `environment`, `sun`, `lamps`, `lamps2`. Cycles renders each as its own component.
"""

from __future__ import annotations

import colorsys
import functools
from pathlib import Path

import bpy
import numpy as np
from mathutils import Vector

from . import assets, meshes
from .furniture import resolve
from .materials import Materials
from .meshes import Shape, box, cylinder, lathe, rod

Rng = np.random.Generator

# Taken under a roof or among trees: they light rooms through their windows but make no sky.
NO_SKIES = ("studio", "warehouse", "forest", "esplanade")
GROUPS = ("environment", "sun", "lamps", "lamps2")


@functools.cache
def _mean_radiance(path: Path) -> float:
    """Mean of an HDRI's upper half with its brightest spots cut."""
    import OpenImageIO as oiio

    pixels = oiio.ImageBuf(str(path)).get_pixels("float")[..., :3]
    upper = pixels[: len(pixels) // 2]
    return float(np.minimum(upper, 20 * np.median(upper) + 1e-4).mean())


def environment(rng: Rng, split: str, style: str, outdoors: bool) -> str:
    """Make the world: an HDRI or a gradient sky with clouds, mean radiance about 1.

    `style` is 'hdri', 'clear', 'cloudy' or 'overcast'. Outdoors only the part of an HDRI above
    its own skyline is used, stretched over the sky: what stands there has depth in no map.
    Returns a description.
    """
    scene = bpy.context.scene
    world = bpy.data.worlds.new("world")
    scene.world = world
    world.use_nodes = True
    world.lightgroup = "environment"
    # The automatic importance map would have 4096 x 2048 pixels and cost a second.
    world.cycles.sampling_method = "MANUAL"
    world.cycles.sample_map_resolution = 256
    tree = world.node_tree
    tree.nodes.clear()

    def node(kind: str):
        return tree.nodes.new(f"ShaderNode{kind}")

    link = tree.links.new
    direction = node("TexCoord").outputs["Generated"]
    background, output = node("Background"), node("OutputWorld")
    link(background.outputs[0], output.inputs["Surface"])
    split_xyz, join = node("SeparateXYZ"), node("CombineXYZ")
    link(direction, split_xyz.inputs[0])
    height = node("Math")
    height.operation = "ABSOLUTE"
    link(split_xyz.outputs["Z"], height.inputs[0])
    files = [f for f in assets.hdris(split) if not outdoors or f.stem not in NO_SKIES]
    if style == "hdri" and not files:
        style = "cloudy"
    if style == "hdri":
        path = files[rng.integers(len(files))]
        lift = rng.uniform(0.3, 0.45) if outdoors else 0.0
        raised = node("MapRange")
        link(height.outputs[0] if outdoors else split_xyz.outputs["Z"], raised.inputs["Value"])
        raised.clamp = False
        raised.inputs["To Min"].default_value = lift
        raised.inputs["To Max"].default_value = 1.0
        link(split_xyz.outputs["X"], join.inputs["X"])
        link(split_xyz.outputs["Y"], join.inputs["Y"])
        link(raised.outputs["Result"], join.inputs["Z"])
        turn = node("Mapping")
        turn.inputs["Rotation"].default_value = (0, 0, rng.uniform(0, 2 * np.pi))
        turn.inputs["Scale"].default_value = (1 if rng.random() < 0.5 else -1, 1, 1)
        link(join.outputs[0], turn.inputs["Vector"])
        unit = node("VectorMath")
        unit.operation = "NORMALIZE"
        link(turn.outputs[0], unit.inputs[0])
        image = node("TexEnvironment")
        image.image = bpy.data.images.load(str(path))
        link(unit.outputs[0], image.inputs["Vector"])
        link(image.outputs["Color"], background.inputs["Color"])
        background.inputs["Strength"].default_value = 1.0 / _mean_radiance(path)
        return path.stem
    zenith, horizon, cloud = _sky_colours(rng, style)
    ramp = node("MapRange")
    ramp.interpolation_type = "SMOOTHSTEP"
    ramp.inputs["From Max"].default_value = rng.uniform(0.3, 0.8)
    link(height.outputs[0], ramp.inputs["Value"])
    blend = node("MixRGB")
    link(ramp.outputs["Result"], blend.inputs["Fac"])
    blend.inputs["Color1"].default_value = (*horizon, 1)
    blend.inputs["Color2"].default_value = (*zenith, 1)
    if style == "clear":
        link(blend.outputs[0], background.inputs["Color"])
        return style
    # Clouds lie on a plane: divide by the height to get perspective.
    plane = node("VectorMath")
    plane.operation = "DIVIDE"
    offset = node("Math")
    offset.inputs[1].default_value = 0.12
    link(height.outputs[0], offset.inputs[0])
    link(direction, plane.inputs[0])
    link(offset.outputs[0], plane.inputs[1])
    noise = node("TexNoise")
    noise.inputs["Scale"].default_value = rng.uniform(0.5, 2.0)
    noise.inputs["Detail"].default_value = 5.0
    noise.inputs["Roughness"].default_value = rng.uniform(0.5, 0.7)
    shift = node("VectorMath")
    shift.inputs[1].default_value = rng.uniform(-50, 50, 3)
    link(plane.outputs[0], shift.inputs[0])
    link(shift.outputs[0], noise.inputs["Vector"])
    cover = node("MapRange")
    low = rng.uniform(0.2, 0.35) if style == "overcast" else rng.uniform(0.42, 0.58)
    cover.inputs["From Min"].default_value = low
    cover.inputs["From Max"].default_value = low + rng.uniform(0.1, 0.3)
    link(noise.outputs[0], cover.inputs["Value"])
    clouds = node("MixRGB")
    link(cover.outputs["Result"], clouds.inputs["Fac"])
    link(blend.outputs[0], clouds.inputs["Color1"])
    clouds.inputs["Color2"].default_value = (*cloud, 1)
    link(clouds.outputs[0], background.inputs["Color"])
    return style


def _sky_colours(rng: Rng, style: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Linear zenith, horizon and cloud colours with a mean radiance near 1."""
    if style == "overcast":
        grey = np.array([0.95, 1.0, 1.06]) * (1 + rng.normal(0, 0.03, 3))
        return (
            grey * rng.uniform(0.6, 1.2),
            grey * rng.uniform(0.7, 1.3),
            grey * rng.uniform(0.9, 1.6),
        )
    blue = np.array(colorsys.hsv_to_rgb(rng.uniform(0.56, 0.62), rng.uniform(0.5, 0.85), 1.0))
    warm = rng.random() < 0.3
    if warm:
        tone = colorsys.hsv_to_rgb(rng.uniform(0.0, 0.13), rng.uniform(0.2, 0.6), 1.0)
    else:
        tone = colorsys.hsv_to_rgb(rng.uniform(0.52, 0.6), rng.uniform(0.05, 0.35), 1.0)
    cloud = np.array([1.0, 0.98, 0.97]) if not warm else np.array([1.0, 0.85, 0.75])
    return (
        blue * rng.uniform(0.5, 1.0),
        np.array(tone) * rng.uniform(1.0, 2.2),
        cloud * rng.uniform(1.2, 3.0),
    )


def sun(rng: Rng, elevation: float, azimuth: float, irradiance: float) -> None:
    """A sun lamp; angles in radians, azimuth from +X towards +Y."""
    light = bpy.data.lights.new("sun", "SUN")
    light.energy = irradiance
    light.angle = np.radians(rng.choice([0.5, 0.6, 2.0, 5.0]))
    warmth = float(np.clip(1.2 - np.degrees(elevation) / 35, 0.05, 1.0))
    light.color = (1.0, 1 - 0.35 * warmth, 1 - 0.65 * warmth)
    item = bpy.data.objects.new("sun", light)
    towards = (
        np.cos(elevation) * np.cos(azimuth),
        np.cos(elevation) * np.sin(azimuth),
        np.sin(elevation),
    )
    item.rotation_euler = Vector(towards).to_track_quat("Z", "Y").to_euler()
    item.lightgroup = "sun"
    bpy.context.scene.collection.objects.link(item)


def portal(centre, inward, width: float, height: float) -> None:
    """A light portal over an opening that shows the sky."""
    light = bpy.data.lights.new("portal", "AREA")
    light.shape = "RECTANGLE"
    light.size, light.size_y = width, height
    light.cycles.is_portal = True
    item = bpy.data.objects.new("portal", light)
    item.location = centre
    # An area light shines along its -Z; the portal's width stays horizontal.
    item.rotation_euler = Vector(inward).to_track_quat("-Z", "Y").to_euler()
    bpy.context.scene.collection.objects.link(item)


def bulb(location, power: float, group: str, radius: float = 0.05, tint=(1, 1, 1)) -> None:
    """An invisible point light in a group; power in watts."""
    light = bpy.data.lights.new("bulb", "POINT")
    light.energy = power
    light.color = tint
    light.shadow_soft_size = radius
    item = bpy.data.objects.new("bulb", light)
    item.location = location
    item.lightgroup = group
    item.visible_camera = False
    bpy.context.scene.collection.objects.link(item)


def spot(location, target, power: float, group: str, angle: float = 1.2) -> None:
    """An invisible spot light in a group."""
    light = bpy.data.lights.new("spot", "SPOT")
    light.energy = power
    light.spot_size = angle
    light.spot_blend = 0.5
    light.shadow_soft_size = 0.05
    item = bpy.data.objects.new("spot", light)
    item.location = location
    item.rotation_euler = (Vector(target) - Vector(location)).to_track_quat("-Z", "Y").to_euler()
    item.lightgroup = group
    item.visible_camera = False
    bpy.context.scene.collection.objects.link(item)


def ceiling_lamp(
    rng: Rng,
    materials: Materials,
    x: float,
    y: float,
    ceiling: float,
    group: str,
    style: str,
    power: float = 60.0,
) -> None:
    """A lamp at the ceiling and its light.

    `style` is 'panel', 'tube', 'pendant', 'globe', 'downlight', 'industrial' or 'bulb'.
    """
    metal = rng.choice(["metal", "polished", "painted_metal", "lacquer"])
    glow = f"glow#{rng.uniform(4, 14):.1f}"
    if style == "panel":
        w, d = rng.choice([(0.3, 0.6), (0.6, 0.6), (0.3, 1.2), (0.25, 0.25)])
        shape: Shape = [
            box(
                f"{metal}#rim",
                (-w / 2 - 0.02, -d / 2 - 0.02, -0.02),
                (w / 2 + 0.02, d / 2 + 0.02, 0),
            ),
            box(glow, (-w / 2, -d / 2, -0.025), (w / 2, d / 2, -0.015)),
        ]
        drop = 0.12
    elif style == "tube":
        length = rng.uniform(1.2, 2.4)
        hang = rng.choice([0.02, 0.5, 0.9]) if ceiling > 2.9 else 0.02
        shape = [
            box(f"{metal}#case", (-0.07, -length / 2, -hang - 0.06), (0.07, length / 2, -hang)),
            rod(
                glow,
                (0, -length / 2 + 0.03, -hang - 0.08),
                (0, length / 2 - 0.03, -hang - 0.08),
                0.02,
            ),
        ]
        drop = hang + 0.2
    elif style == "pendant":
        hang = min(rng.uniform(0.4, 1.2), ceiling - 1.5)
        r, h = rng.uniform(0.12, 0.3), rng.uniform(0.12, 0.3)
        shade = rng.choice(["metal", "lacquer", "fabric", "painted_metal", "polished"])
        shape = [
            rod("lacquer#cord", (0, 0, -hang), (0, 0, 0), 0.006),
            lathe(f"{shade}#shade", [(r, -hang - h), (r * rng.uniform(0.2, 0.8), -hang)]),
            lathe(
                f"glow#{rng.uniform(15, 40):.1f}",
                [(0.001, -hang - h * 0.75), (0.045, -hang - h * 0.6), (0.03, -hang - h * 0.3)],
                10,
            ),
        ]
        drop = hang + h + 0.05
    elif style == "globe":
        hang, r = min(rng.uniform(0.0, 0.8), max(0.0, ceiling - 2.0)), rng.uniform(0.1, 0.22)
        angles = np.linspace(-np.pi / 2, np.pi / 2, 9)
        profile = [(max(1e-3, r * np.cos(a)), -hang - r + r * np.sin(a)) for a in angles]
        shape = [lathe(glow, profile), rod(f"{metal}#cord", (0, 0, -hang - 0.01), (0, 0, 0), 0.01)]
        drop = hang + 2 * r + 0.06
    elif style == "downlight":
        shape = [
            cylinder(f"{metal}#ring", 0.07, -0.012, 0.0),
            cylinder(f"glow#{rng.uniform(20, 60):.1f}", 0.05, -0.016, -0.011),
        ]
        drop = 0.06
    elif style == "industrial":
        hang = min(rng.uniform(0.5, 2.0), ceiling - 2.4)
        r = rng.uniform(0.2, 0.35)
        shape = [
            rod("metal#cord", (0, 0, -hang), (0, 0, 0), 0.012),
            lathe(f"{metal}#bell", [(r, -hang - 0.3), (r * 0.8, -hang - 0.15), (0.07, -hang)]),
            cylinder(f"glow#{rng.uniform(10, 40):.1f}", r * 0.8, -hang - 0.27, -hang - 0.25),
        ]
        drop = hang + 0.36
    else:
        hang = rng.uniform(0.05, 0.9)
        shape = [
            rod("lacquer#cord", (0, 0, -hang), (0, 0, 0), 0.006),
            lathe(
                f"glow#{rng.uniform(30, 80):.1f}",
                [(0.015, -hang), (0.035, -hang - 0.07), (0.001, -hang - 0.12)],
                10,
            ),
        ]
        drop = hang + 0.18
    meshes.add(shape, resolve(shape, materials), (x, y, ceiling), light_group=group)
    if style == "downlight":
        spot((x, y, ceiling - drop), (x, y, 0), power * 1.5, group, rng.uniform(1.2, 2.4))
    else:
        bulb((x, y, ceiling - drop), power, group)


def standing_lamp(rng: Rng, materials: Materials, location, height: float, group: str) -> None:
    """A floor or table lamp of a given height with a glowing shade."""
    r, h = height * rng.uniform(0.1, 0.16) + 0.05, rng.uniform(0.18, 0.35)
    h = min(h, height * 0.5)
    metal = rng.choice(["polished", "metal", "painted_metal", "wood"])
    shape: Shape = [
        lathe(
            f"{metal}#foot",
            [(r * 0.8, 0), (r * 0.8, 0.02), (0.012, 0.04), (0.012, height - h * 0.5)],
        ),
        lathe(
            f"glow#{rng.uniform(1.0, 5):.1f}", [(r, height - h), (r * rng.uniform(0.5, 1), height)]
        ),
    ]
    meshes.add(shape, resolve(shape, materials), location, light_group=group)
    x, y, z = location
    bulb((x, y, z + height + 0.08), 15 * rng.uniform(0.5, 2), group)
    bulb((x, y, z + height - h - 0.08), 15 * rng.uniform(0.5, 2), group)


def tint(rng: Rng, kelvin: tuple[float, float] | None = None) -> np.ndarray:
    """A light's colour with mean 1: a blackbody of the range (Helland's fit), or any hue."""
    if kelvin is None:
        rgb = np.array(colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.1, 0.6), 1.0))
    else:
        t = rng.uniform(*kelvin) / 100
        if t <= 66:
            red, green = 255.0, 99.47 * np.log(t) - 161.12
            blue = 0.0 if t <= 19 else 138.52 * np.log(t - 10) - 305.04
        else:
            red, green, blue = 329.7 * (t - 60) ** -0.1332, 288.12 * (t - 60) ** -0.0755, 255.0
        rgb = (np.clip([red, green, blue], 5, 255) / 255) ** 2.2
        # Cameras balance most of it away.
        rgb = (rgb / rgb.mean()) ** rng.uniform(0.3, 0.9)
    return rgb / rgb.mean()


def conditions(rng: Rng, components: list[str]) -> np.ndarray:
    """Lighting conditions as RGB weights (8, K, 3) of normalised components.

    Day, overcast, dusk, lamps only, both lamp groups apart, mixed, and strange ones; those that
    need a component the scene lacks fall back to what there is.
    """
    lamps = [c for c in components if c.startswith("lamps")]
    daylight = [c for c in components if not c.startswith("lamps")]
    white, warm, cool = (5000.0, 7000.0), (2200.0, 4200.0), (6500.0, 12000.0)

    def weights(**given: np.ndarray) -> np.ndarray:
        rows = [given.get(c, np.zeros(3)) for c in components]
        return np.stack(rows)

    def day(level: float = 1.0) -> dict[str, np.ndarray]:
        both = {"environment": tint(rng, white) * level * rng.uniform(0.6, 1.3)}
        both["sun"] = tint(rng, white) * level * rng.uniform(0.5, 1.5)
        return both

    def lit(level: float = 1.0) -> dict[str, np.ndarray]:
        return {
            c: tint(rng, warm if rng.random() < 0.7 else white) * level * rng.uniform(0.4, 1.3)
            for c in lamps
        }

    def overcast() -> dict[str, np.ndarray]:
        return {"environment": tint(rng, white if rng.random() < 0.5 else cool)}

    def dusk() -> dict[str, np.ndarray]:
        blue = {"environment": tint(rng, cool) * rng.uniform(0.1, 0.4)}
        blue["sun"] = tint(rng, (1800, 2800)) * (rng.uniform(0.1, 0.6) if rng.random() < 0.4 else 0)
        return {**blue, **lit()}

    def night() -> dict[str, np.ndarray]:
        return {"environment": tint(rng, cool) * rng.uniform(0.0, 0.03), **lit()}

    def one_lamp() -> dict[str, np.ndarray]:
        return {lamps[rng.integers(len(lamps))]: tint(rng, warm), "environment": np.full(3, 0.01)}

    def low_sun() -> dict[str, np.ndarray]:
        low = {"environment": tint(rng, white) * rng.uniform(0.15, 0.5)}
        low["sun"] = tint(rng, (1800, 4000)) * rng.uniform(1, 2)
        return low

    def mixed() -> dict[str, np.ndarray]:
        return {**day(rng.uniform(0.3, 1.0)), **lit(rng.uniform(0.2, 0.9))}

    def strange() -> dict[str, np.ndarray]:
        return {c: tint(rng) * np.exp(rng.uniform(-2.5, 0.5)) for c in components}

    if lamps and daylight:
        makers = [day, overcast, dusk, night, mixed, low_sun, one_lamp, strange]
    elif lamps:
        makers = [lit, night, one_lamp, lit, one_lamp, strange]
    else:
        makers = [day, overcast, low_sun, day, strange, overcast]
    return np.stack([weights(**makers[k % len(makers)]()) for k in range(8)]).astype(np.float32)
