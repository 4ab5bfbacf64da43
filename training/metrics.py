# SPDX-License-Identifier: GPL-3.0-or-later
"""Errors of maps against the truth: latitude-weighted means over surfaces, not the true sky.

Maps are as ``maps.load`` gives them: (H, W[, C]) float32, depth 0 where they show the sky.
``weight`` (H, W) is the solid angle where a pixel counts and 0 elsewhere.
"""

from __future__ import annotations

import numpy as np

from blender_omnix.panorama import frames, weighted

LEAST_METAL = 0.01  # of the area, for the F1 of an image to mean anything
LEAST_SKY = 0.005  # of the sphere, for the share of it that was found


def area(mask: np.ndarray) -> np.ndarray:
    """Solid angles where the mask holds, 0 elsewhere."""
    return frames.solid_angles(*mask.shape)[:, None] * mask


def average(values: np.ndarray, weight: np.ndarray) -> float:
    return float(np.average(values, weights=weight))


def psnr(albedo: np.ndarray, truth: np.ndarray, weight: np.ndarray, *, scaled: bool) -> float:
    """dB on sRGB-encoded values; ``scaled`` first applies the best single factor."""
    if scaled:
        power = average((albedo**2).mean(-1), weight)
        albedo = albedo * (average((albedo * truth).mean(-1), weight) / max(power, 1e-9))
    error = average(((albedo - truth) ** 2).mean(-1), weight)
    return float(-10 * np.log10(max(error, 1e-9)))


def angles(normal: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Degrees between unit vectors, (H, W)."""
    return np.degrees(2 * np.arcsin(np.clip(np.linalg.norm(normal - truth, axis=-1) / 2, 0, 1)))


def depth_ratio(depth: np.ndarray, truth: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Depth over the truth, aligned so that its weighted median is 1 where there is a depth; 0
    where there is none, and 1 where nothing counts."""
    ratio = np.where(weight > 0, depth, 1.0) / np.where(weight > 0, truth, 1.0)
    found = weight * (depth > 0)
    factor = weighted.median(ratio, found) if found.any() else 1.0
    return np.where(weight > 0, ratio / factor, 1.0)


def correlation(values: np.ndarray, truth: np.ndarray, weight: np.ndarray) -> float:
    """Weighted Pearson correlation; 0 for a constant map, NaN for a constant truth."""
    a, b = values - average(values, weight), truth - average(truth, weight)
    spread = average(b * b, weight)
    if spread < 1e-6:
        return float("nan")
    return average(a * b, weight) / float(np.sqrt(max(average(a * a, weight), 1e-12) * spread))


def metal_f1(metallic: np.ndarray, truth: np.ndarray, weight: np.ndarray) -> float:
    """F1 of metallic > 0.5; NaN where less than ``LEAST_METAL`` of the area is metal."""
    found, real = metallic > 0.5, truth > 0.5
    if weight[real].sum() < LEAST_METAL * weight.sum():
        return float("nan")
    return float(2 * weight[found & real].sum() / (weight[found].sum() + weight[real].sum()))


def score(maps: dict[str, np.ndarray], truth: dict[str, np.ndarray]) -> dict[str, float]:
    """All figures of one picture; NaN where its truth gives none.

    ``truth`` holds the same maps, and ``valid`` and ``object`` masks (H, W).
    """
    weight = area(truth["valid"])
    on_objects = area(truth["valid"] & truth["object"])
    angle = angles(maps["normal"], truth["normal"])
    ratio = depth_ratio(maps["depth"], truth["depth"], weight)
    relative = np.abs(ratio - 1)
    has_objects = on_objects.sum() > 0.002 * weight.sum()
    empty, sky = maps["depth"] <= 0, area(~truth["valid"])
    whole = sky.sum() + weight.sum()
    false_metal = (maps["metallic"] > 0.5) & (truth["metallic"] <= 0.5)
    return {
        "albedo PSNR": psnr(maps["albedo"], truth["albedo"], weight, scaled=False),
        "albedo PSNR, scaled": psnr(maps["albedo"], truth["albedo"], weight, scaled=True),
        "normal mean": average(angle, weight),
        "normal median": weighted.median(angle, weight),
        "normal, objects": average(angle, on_objects) if has_objects else float("nan"),
        "depth AbsRel": average(relative, weight),
        "depth d1": average(np.maximum(ratio, 1 / np.maximum(ratio, 1e-6)) < 1.25, weight),
        "depth AbsRel, objects": average(relative, on_objects) if has_objects else float("nan"),
        "roughness MAE": average(np.abs(maps["roughness"] - truth["roughness"]), weight),
        "roughness correlation": correlation(maps["roughness"], truth["roughness"], weight),
        "metal F1": metal_f1(maps["metallic"], truth["metallic"], weight),
        "false metal": average(false_metal, weight),
        "sky found": average(empty, sky) if sky.sum() > LEAST_SKY * whole else float("nan"),
        "false sky": average(empty, weight),
    }


#: Whether more is better.
RISING = {
    "albedo PSNR": True,
    "albedo PSNR, scaled": True,
    "normal mean": False,
    "normal median": False,
    "normal, objects": False,
    "depth AbsRel": False,
    "depth d1": True,
    "depth AbsRel, objects": False,
    "roughness MAE": False,
    "roughness correlation": True,
    "metal F1": True,
    "false metal": False,
    "sky found": True,
    "false sky": False,
}


def mean_scores(scores: list[dict[str, float]]) -> dict[str, float]:
    """Mean over pictures of each figure, NaN left out."""
    result = {}
    for name in RISING:
        values = np.array([score[name] for score in scores])
        values = values[~np.isnan(values)]
        result[name] = float(values.mean()) if len(values) else float("nan")
    return result
