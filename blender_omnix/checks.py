# SPDX-License-Identifier: GPL-3.0-or-later
"""Output checks: signs that a map set is not what it claims to be, for any engine.

A failed check is a warning, not an error. Each compares one number with a threshold:

| name                  | the number                                           | passes at     |
| --------------------- | ---------------------------------------------------- | ------------- |
| finite                | share of values, over all maps, that are not finite  | 0             |
| normal_unit           | share of the sphere with |n| off 1 by over 0.02      | at most 0.001 |
| normal_facing         | share of the surface with n . ray over 0.05          | at most 0.02  |
| normal_floor          | mean n_z of the surface over 60 degrees downwards    | at least 0.3  |
| normal_ceiling        | mean n_z of the surface over 60 degrees upwards      | at most -0.3  |
| albedo_copy           | rank correlation of albedo and input, the mean of    | at most 0.97  |
|                       | the three channels                                   |               |
| depth_flat            | standard deviation of ln(depth) over the surface     | at least 0.05 |
| depth_noise           | mean |difference of ln(depth)| between neighbours    | at most 0.4   |
|                       | over that between pixels drawn at random             |               |
| pbr_inverse           | mean |roughness + metallic - 1|                      | at least 0.02 |
| roughness_luminance   | |rank correlation| of roughness and the input's      | at most 0.95  |
|                       | luminance                                            |               |
| metallic_luminance    | the same of metallic                                 | at most 0.95  |
| NAME_seam             | `seams.seam_error` of one map (depth: of 1 / depth)  | at most 8     |
|                       | over that of the input, where that is over 1; the    |               |
|                       | worse of edge and pole                               |               |

Shares and means are over solid angle, the surface is where depth is not 0. A check is left out
where it has nothing to look at: its map was not made, surface covers less than half of what lies
below or above (a facade that reaches up is no ceiling), or a map is so even (standard deviation
under 0.02, as metallic is where nothing is metal) that a correlation means nothing. Copies are told
by ranks, which no exposure or tone curve changes. Normals are checked by geometry alone:
world-space normals are strongly coloured by nature.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .panorama import frames, resample, seams, tonemap

# Everything but the seams is measured on samples of at most this many rows: a distance in pixels
# then means an angle, and noise of the network's size is not hidden by upsampling.
_ROWS = 128
_EVEN = 0.02
# Less of the sphere than this gives no verdict, and less of what lies below or above than this no
# floor or ceiling.
_LEAST_SHARE = 0.01
_LEAST_COVER = 0.5
_SEAM_LIMIT = 8.0


class _Samples:
    """Maps and input at the same, sparse pixels: arrays (h, w[, C]) of the maps' values."""

    def __init__(self, maps: Mapping[str, np.ndarray], panorama: np.ndarray) -> None:
        height = min(_ROWS, *(array.shape[0] for array in (*maps.values(), panorama)))
        shape = (height, 2 * height)
        self.maps = {name: np.nan_to_num(_sample(array, shape)) for name, array in maps.items()}
        self.panorama = _sample(panorama, shape)
        self.luminance = tonemap.luminance(self.panorama)
        self.rays = frames.directions(*shape)
        self.solid_angle = np.broadcast_to(frames.solid_angles(*shape)[:, None], shape)
        self.surface = self.maps["depth"] > 0 if "depth" in maps else np.ones(shape, bool)

    def mean(self, values: np.ndarray, where: np.ndarray) -> float | None:
        """Mean over the solid angle of `where`; None where that is next to nothing."""
        weight = self.solid_angle * where
        if weight.sum() < _LEAST_SHARE * 4.0 * np.pi:
            return None
        return float((values * weight).sum() / weight.sum())

    def even(self, name: str) -> bool:
        return not self.surface.any() or float(self.maps[name][self.surface].std()) < _EVEN


def _sample(array: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    return np.asarray(resample.nearest(array, *shape), np.float32)


def _normal_unit(samples: _Samples) -> float | None:
    length = np.linalg.norm(samples.maps["normal"], axis=-1)
    return samples.mean(abs(length - 1.0) > 0.02, np.ones_like(samples.surface))


def _normal_facing(samples: _Samples) -> float | None:
    along = np.einsum("ijk,ijk->ij", samples.maps["normal"], samples.rays)
    return samples.mean(along > 0.05, samples.surface)


def _normal_floor(samples: _Samples) -> float | None:
    return _upwards(samples, samples.rays[..., 2] < -np.sin(np.radians(60)))


def _normal_ceiling(samples: _Samples) -> float | None:
    return _upwards(samples, samples.rays[..., 2] > np.sin(np.radians(60)))


def _upwards(samples: _Samples, region: np.ndarray) -> float | None:
    """Mean n_z of the surface in a region; None where too little of it is surface."""
    cover = samples.mean(samples.surface, region)
    if cover is None or cover < _LEAST_COVER:
        return None
    return samples.mean(samples.maps["normal"][..., 2], samples.surface & region)


def _albedo_copy(samples: _Samples) -> float | None:
    # Lamps are black in the albedo and clipped in the input, in a copy as in a good map.
    where = samples.surface & (samples.maps["albedo"].max(axis=-1) > 0)
    where &= samples.panorama.max(axis=-1) < 0.99
    if samples.mean(where, where) is None or samples.even("albedo"):
        return None
    albedo, source = samples.maps["albedo"][where], samples.panorama[where]
    return float(np.mean([_rank_correlation(albedo[:, c], source[:, c]) for c in range(3)]))


def _depth_flat(samples: _Samples) -> float | None:
    log, where = _log_depth(samples)
    mean = samples.mean(log, where)
    if mean is None:
        return None
    variance = samples.mean((log - mean) ** 2, where)
    return None if variance is None else float(np.sqrt(variance))


def _depth_noise(samples: _Samples) -> float | None:
    log, where = _log_depth(samples)
    spread = _depth_flat(samples)
    if spread is None or spread < _EVEN:
        return None
    both = where & np.roll(where, 1, axis=1)
    near = samples.mean(abs(log - np.roll(log, 1, axis=1)), both)
    # Pairs drawn by solid angle, which is what the mean over neighbours weighs by.
    weight = (samples.solid_angle * where).ravel()
    drawn = np.random.default_rng(0).choice(weight.size, (2, 20000), p=weight / weight.sum())
    far = abs(np.subtract(*log.ravel()[drawn])).mean()
    return None if near is None else float(near / far)


def _log_depth(samples: _Samples) -> tuple[np.ndarray, np.ndarray]:
    depth = samples.maps["depth"]
    return np.log(np.where(samples.surface, depth, 1.0)), samples.surface


def _pbr_inverse(samples: _Samples) -> float | None:
    if samples.even("metallic"):
        return None
    total = samples.maps["roughness"] + samples.maps["metallic"]
    return samples.mean(abs(total - 1.0), samples.surface)


def _luminance(name: str) -> Callable[[_Samples], float | None]:
    def measure(samples: _Samples) -> float | None:
        where = samples.surface
        if samples.mean(where, where) is None or samples.even(name):
            return None
        return abs(_rank_correlation(samples.maps[name][where], samples.luminance[where]))

    return measure


def _rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's rank correlation; equal values share their mean rank. 0 for a constant."""
    a, b = _ranks(a), _ranks(b)
    norm = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / norm) if norm > 0 else 0.0


def _ranks(values: np.ndarray) -> np.ndarray:
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - 0.5 * counts)[which]
    return ranks - ranks.mean()


@dataclass(frozen=True)
class _Check:
    """A measured number, the side of the threshold that passes, and what the other may mean."""

    needs: tuple[str, ...]
    measure: Callable[[_Samples], float | None]
    at_most: bool
    threshold: float
    meaning: str


_CHECKS: dict[str, _Check] = {
    "normal_unit": _Check(
        ("normal",),
        _normal_unit,
        True,
        0.001,
        "The normals are not of unit length: the normal map may have been stored or decoded as "
        "colours.",
    ),
    "normal_facing": _Check(
        ("normal",),
        _normal_facing,
        True,
        0.02,
        "Some normals point away from the viewpoint: the engine may have answered in another "
        "frame or with the opposite sign.",
    ),
    "normal_floor": _Check(
        ("normal",),
        _normal_floor,
        False,
        0.3,
        "What lies below does not face up: the normals may be in another frame, or the panorama "
        "may be tilted or upside down.",
    ),
    "normal_ceiling": _Check(
        ("normal",),
        _normal_ceiling,
        True,
        -0.3,
        "What lies above does not face down: the normals may be in another frame, or the "
        "panorama may be tilted or upside down.",
    ),
    "albedo_copy": _Check(
        ("albedo",),
        _albedo_copy,
        True,
        0.97,
        "The albedo is a copy of the panorama, with its light and shadows: the albedo adapter "
        "may have had no effect.",
    ),
    "depth_flat": _Check(
        ("depth",),
        _depth_flat,
        False,
        0.05,
        "The depth is nearly the same everywhere: the depth adapter may have had no effect, or "
        "the panorama may show too little to tell distances.",
    ),
    "depth_noise": _Check(
        ("depth",),
        _depth_noise,
        True,
        0.4,
        "The depth is noise: the weights or the depth adapter may not fit the model.",
    ),
    "pbr_inverse": _Check(
        ("roughness", "metallic"),
        _pbr_inverse,
        False,
        0.02,
        "Roughness and metallic are one another's inverse: one may have been taken from the "
        "other's channel.",
    ),
    "roughness_luminance": _Check(
        ("roughness",),
        _luminance("roughness"),
        True,
        0.95,
        "The roughness is the panorama's brightness: the PBR adapter may have had no effect.",
    ),
    "metallic_luminance": _Check(
        ("metallic",),
        _luminance("metallic"),
        True,
        0.95,
        "The metallic map is the panorama's brightness: the PBR adapter may have had no effect.",
    ),
}


def check(maps: Mapping[str, np.ndarray], panorama: np.ndarray) -> list[dict[str, Any]]:
    """Entries `{name, value, threshold, passed, message}` for the report's `checks`.

    `maps` are as `maps.py` describes them, of any size; those that the checks do not know are
    skipped. `panorama` is what the engine saw, (H, W, 3) sRGB-encoded. `message` says what a
    failure may mean, also where the check has passed.
    """
    known = ("albedo", "normal", "roughness", "metallic", "depth")
    maps = {name: maps[name] for name in known if name in maps}
    if not maps:
        return []
    broken = sum(np.count_nonzero(~np.isfinite(array)) for array in maps.values())
    entries = [
        _entry(
            "finite",
            broken / sum(array.size for array in maps.values()),
            0.0,
            broken == 0,
            "The maps hold values that are not numbers: the engine may have overflowed at reduced "
            "precision.",
        )
    ]
    samples = _Samples(maps, panorama)
    for name, test in _CHECKS.items():
        if all(needed in maps for needed in test.needs):
            value = test.measure(samples)
            if value is not None:
                passed = value <= test.threshold if test.at_most else value >= test.threshold
                entries.append(_entry(name, value, test.threshold, passed, test.meaning))
    # An edge of an object, or a flaw of the input, may lie where the picture's edges meet.
    usual = {where: max(1.0, error) for where, error in seams.seam_error(panorama).items()}
    for name, array in maps.items():
        if name == "depth":
            # Nearness, whose zero is the sky: metres would let one far pixel outweigh the rest.
            array = np.divide(1.0, array, out=np.zeros_like(array), where=array > 0)
        errors = seams.seam_error(np.nan_to_num(array))
        value = max(error / usual[where] for where, error in errors.items())
        message = (
            f"The {name} map does not close: it jumps over its left and right edge or over a pole, "
            "which shows as a line in the scene."
        )
        entries.append(_entry(f"{name}_seam", value, _SEAM_LIMIT, value <= _SEAM_LIMIT, message))
    return entries


def _entry(name: str, value: float, threshold: float, passed: bool, message: str) -> dict[str, Any]:
    return {
        "name": name,
        # Significant digits: a few bad pixels of millions are still more than 0.
        "value": float(f"{value:.5g}"),
        "threshold": threshold,
        "passed": bool(passed),
        "message": message,
    }
