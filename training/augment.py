# SPDX-License-Identifier: GPL-3.0-or-later
"""What stands between a rendered scene and a photographed panorama.

``photograph`` changes the picture only; ``turn`` turns and mirrors picture and maps alike.
Pictures are (H, W, 3) float32; linear before the tone curve, sRGB-encoded in 0..1 after it.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from blender_omnix.panorama import tonemap


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
