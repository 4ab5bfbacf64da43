# SPDX-License-Identifier: GPL-3.0-or-later
"""What stands between a rendered scene and a photographed panorama.

``repaint`` changes colours of surfaces, ``photograph`` the picture only; ``turn`` turns and mirrors
picture and maps alike.
Pictures are (H, W, 3) float32; linear before the tone curve, sRGB-encoded in 0..1 after it.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from blender_omnix.panorama import frames, tonemap

# Albedo (linear) of a surface that is painted anew: nothing real is blacker or whiter.
PAINT = (0.012, 0.88)


def repaint(
    linear: np.ndarray, maps: dict[str, np.ndarray], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Paints a few surfaces anew, plainly or with a pattern; returns picture and albedo.

    ``linear`` (H, W, 3); ``maps`` as in ``dataset.sample``: albedo, sRGB-encoded, normal in the
    gravity frame, log_depth, roughness, metallic and valid. What is painted is what has about one
    colour, or all that faces one way; patterns lie on the surfaces, whose relief they have nothing
    to do with. Picture and albedo change by the same factor: exact for matt surfaces but for the
    light that they throw on others. Metal and mirrors keep their colour.
    """
    base = tonemap.srgb_decode(np.maximum(maps["albedo"], 0.02))
    height, width = base.shape[:2]
    rays = frames.directions(height, width)
    depth = np.exp(maps["log_depth"])
    facing = np.einsum("hwji,hwj->hwi", frames.gravity_basis(height, width), maps["normal"])
    matt = np.clip(maps["roughness"] / 0.2 - 0.5, 0.0, 1.0) * (1.0 - maps["metallic"])
    matt = matt * maps["valid"]
    painted = base
    for _ in range(int(rng.integers(1, 5))):
        row = int(np.arccos(rng.uniform(-1.0, 1.0)) / np.pi * height * 0.999)
        spot = (row, int(rng.integers(width)))
        red, green, blue = np.moveaxis(np.abs(np.log(painted / painted[spot])), -1, 0)
        alike = np.maximum(np.maximum(red, green), blue) < rng.uniform(0.15, 0.7)
        parallel = facing @ facing[spot] > 0.9
        where = [alike, parallel, alike & parallel][rng.integers(3)] & (maps["valid"][..., 0] > 0)
        if not where.any():
            continue
        mean = painted[where].mean(0)
        colours = _paint(rng) if rng.random() < 0.7 else mean * np.exp(rng.normal(0.0, 0.7, 3))
        paint = np.broadcast_to(colours, base.shape)
        if rng.random() < 0.5:
            share = _pattern(rays * depth, facing, depth[..., 0] * np.pi / height, rng)[..., None]
            paint = paint * share + (mean if rng.random() < 0.5 else _paint(rng)) * (1.0 - share)
        # The old texture stays, unless new paint covers it.
        relief = painted / mean if rng.random() < 0.7 else 1.0
        painted = np.where(where[..., None], np.clip(paint * relief, *PAINT), painted)
    factor = 1.0 + matt * (painted / base - 1.0)
    return (linear * factor).astype(np.float32), tonemap.srgb_encode(base * factor)


def _paint(rng: np.random.Generator) -> np.ndarray:
    """A linear colour, greys and pale ones more often than bright ones."""
    grey = np.exp(rng.uniform(np.log(0.03), np.log(0.85)))
    return np.clip(grey * np.exp(rng.normal(0.0, rng.choice([0.05, 0.15, 0.45]), 3)), *PAINT)


def _pattern(
    points: np.ndarray, facing: np.ndarray, pixel: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """A pattern in 0..1, (H, W), on the surfaces through ``points`` (H, W, 3): stripes, checks,
    rings or blotches, blurred to their mean where a pixel, of the size ``pixel``, is larger."""
    across = np.abs(facing).argmax(-1)[..., None]
    # Two coordinates along the surface: the axes that its normal is not nearest to.
    u = np.where(across == 0, points[..., 1:2], points[..., 0:1])[..., 0]
    v = np.where(across == 2, points[..., 1:2], points[..., 2:3])[..., 0]
    turn, period = rng.uniform(0.0, np.pi), np.exp(rng.uniform(np.log(0.06), np.log(2.0)))
    origin = rng.uniform(-2.0, 2.0, 2)
    u, v = u - origin[0], v - origin[1]
    u, v = u * np.cos(turn) + v * np.sin(turn), v * np.cos(turn) - u * np.sin(turn)
    first, second = 2 * np.pi * u / period, 2 * np.pi * v / period
    style = rng.integers(4)
    if style == 0:
        wave = np.sin(first)
    elif style == 1:
        wave = np.sin(first) * np.sin(second)
    elif style == 2:
        wave = np.sin(np.hypot(first, second))
    else:
        wave = np.zeros_like(u)
        for _ in range(6):
            a, b = rng.normal(0.0, 0.7, 2)
            wave += np.sin(a * first + b * second + rng.uniform(0, 6)) / 2
    level = rng.uniform(-0.8, 0.8)
    sharp = np.clip((wave - level) * rng.choice([1.0, 8.0]) + 0.5, 0.0, 1.0)
    seen = np.clip(period / pixel / 3.0 - 0.5, 0.0, 1.0)
    return sharp * seen + sharp.mean() * (1.0 - seen)


def photograph(linear: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random camera: white balance, exposure, tone curve, grading, blur, noise and JPEG."""
    balance = np.exp(rng.normal(0.0, 0.1, 3)).astype(np.float32)
    linear = np.maximum(linear * balance, 0.0)
    if rng.random() < 0.6:
        stops = tonemap.auto_stops(linear[::2, ::2]) + float(rng.normal(0.0, 0.5))
        picture = tonemap.expose_with(linear, stops)
    else:
        picture = camera(linear, rng)
    picture = grade(picture, rng)
    if rng.random() < 0.25:
        picture = blur(picture, float(rng.uniform(0.1, 0.5)))
    if rng.random() < 0.3:
        noise = rng.standard_normal(picture.shape, np.float32)
        picture = picture + noise * np.float32(rng.uniform(0.002, 0.025))
    picture = np.clip(picture, 0.0, 1.0)
    if rng.random() < 0.3:
        picture = jpeg(picture, int(rng.integers(50, 96)))
    return picture.astype(np.float32)


def camera(linear: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """An exposure by a percentile of the luminance and one of three tone curves."""
    luminance = tonemap.luminance(linear)
    level = max(float(np.quantile(luminance, rng.uniform(0.4, 0.95))), 1e-6)
    x = linear * np.float32(rng.uniform(0.15, 0.8) / level)
    curve = rng.integers(3)
    if curve == 1:  # Reinhard et al. 2002, equation 4
        white = rng.uniform(1.5, 8.0)
        x = x * (1.0 + x / white**2) / (1.0 + x)
    elif curve == 2:  # Narkowicz 2015, fit of the ACES filmic curve
        x = x * (2.51 * x + 0.03) / (x * (2.43 * x + 0.59) + 0.14)
    return tonemap.srgb_encode(x)


def grade(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Contrast around a pivot, gamma and saturation, each mild."""
    if rng.random() < 0.4:
        contrast, pivot = np.exp(rng.normal(0.0, 0.12)), rng.uniform(0.35, 0.6)
        picture = np.clip((picture - pivot) * contrast + pivot, 0.0, 1.0)
    if rng.random() < 0.4:
        picture = np.power(picture, np.exp(rng.normal(0.0, 0.12)))
    if rng.random() < 0.4:
        grey = picture.mean(-1, keepdims=True)
        picture = grey + (picture - grey) * np.exp(rng.normal(0.0, 0.25))
    return np.clip(picture, 0.0, 1.0).astype(np.float32)


def blur(picture: np.ndarray, strength: float) -> np.ndarray:
    """Mixes in a 3 x 3 binomial blur that wraps in u; the polar rows repeat."""
    soft = (np.roll(picture, 1, 1) + 2 * picture + np.roll(picture, -1, 1)) / 4
    above, below = np.concatenate([soft[:1], soft[:-1]]), np.concatenate([soft[1:], soft[-1:]])
    return picture + 2 * strength * ((above + 2 * soft + below) / 4 - picture)


def jpeg(picture: np.ndarray, quality: int) -> np.ndarray:
    """The picture through a JPEG file."""
    buffer = io.BytesIO()
    Image.fromarray(np.round(picture * 255).astype(np.uint8)).save(
        buffer, "JPEG", quality=quality, subsampling=int(quality < 80) * 2
    )
    return np.asarray(Image.open(buffer), np.float32) / 255


def turn(example: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """A random yaw roll, and a mirror image half of the time.

    Normals are in the gravity frame of their column: a roll leaves them alone, a mirror image
    changes the sign of east.
    """
    width = example["panorama"].shape[1]
    shift = int(rng.integers(width))
    example = {name: np.roll(value, shift, 1) for name, value in example.items()}
    if rng.random() < 0.5:
        example = {name: value[:, ::-1] for name, value in example.items()}
        example["normal"] = example["normal"] * np.array([-1, 1, 1], np.float32)
    return example
