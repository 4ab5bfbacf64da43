# SPDX-License-Identifier: GPL-3.0-or-later
"""The few small, strong lights of an HDR panorama: suns and lamps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import frames, regions, resample, tonemap

WIDTH = 1024  # lights are looked for at this width at most
LIMIT = 8  # lights at most
OVER_AMBIENT = 4.0  # a peak is a light above this multiple of what surrounds it ...
RING = 15.0  # ... at this distance, in degrees
SHARE = 0.25  # of the peak: the region's threshold
WIDEST = 5.0  # degrees of radius; a wider glow stays part of the ambient light
_RING_WIDTH = 0.005  # in cosine, about a degree to either side
LEAST = 0.02  # of the sphere's luminous flux: fainter lights stay part of the ambient light


@dataclass(frozen=True)
class Light:
    """A sun (``position`` None) or a lamp inside the place.

    ``direction`` points from the viewpoint to the light: unit, Blender's frame. ``irradiance`` is
    what a surface facing it receives at the viewpoint, linear Rec. 709 RGB (a Blender Sun's energy
    times colour; a point light of power ``4 pi d^2`` times this at distance d gives the same).
    ``radius`` is the angular radius in radians. ``position`` is the centre in metres from the
    viewpoint.
    """

    kind: str
    direction: tuple[float, float, float]
    irradiance: tuple[float, float, float]
    radius: float
    position: tuple[float, float, float] | None = None


def find(linear: np.ndarray, depth: np.ndarray | None = None) -> list[Light]:
    """Lights of linear radiance (H, W, 3), the strongest peak first, 8 at most.

    ``depth`` (h, w) in metres of any size, 0 = sky: a light seen on a surface becomes a lamp at its
    place, all else a sun. From a light's region the median of the ring around it is subtracted, so
    that the rest of the panorama, with that median in the region, is the ambient light.
    """
    height = min(linear.shape[0], WIDTH // 2)
    radiance = resample.resize(linear, height, 2 * height).copy()
    omega = np.repeat(frames.solid_angles(height, 2 * height)[:, None], 2 * height, axis=1)
    rays = frames.directions(height, 2 * height)
    light = tonemap.luminance(radiance)
    left = _blur(light)  # where a light may still be found
    least = LEAST * float((light * omega).sum())
    widest = 2.0 * np.pi * (1.0 - np.cos(np.radians(WIDEST)))
    found: list[Light] = []
    while len(found) < LIMIT:
        row, column = np.unravel_index(left.argmax(), left.shape)
        peak = int(row), int(column)
        ring = np.abs(rays @ rays[peak] - np.cos(np.radians(RING))) < _RING_WIDTH
        # Even a light of the widest kind would be too faint from here on.
        if left[peak] <= max(OVER_AMBIENT * np.median(light[ring]), least / widest):
            break
        region = _region(left, peak)
        left[region] = 0.0
        if omega[region].sum() > widest:
            continue
        skirt = regions.grow(region)
        ambient = np.median(radiance[regions.grow(skirt) & ~skirt], axis=0)
        excess = np.maximum(radiance[region] - ambient, 0.0).astype(np.float64)
        flux = excess @ tonemap.LUMINANCE * omega[region]
        if flux.sum() < least:
            continue
        radiance[region] = np.minimum(radiance[region], ambient)
        light[region] = tonemap.luminance(radiance[region])
        left[skirt] = 0.0
        centre = flux @ rays[region]
        centre /= np.linalg.norm(centre)
        # The disc of one radiance with the same flux and the same mean square radiance.
        area = flux.sum() ** 2 / (flux**2 / omega[region]).sum()
        radius = max(float(np.arccos(1.0 - area / (2.0 * np.pi))), 0.25 * np.pi / height)
        irradiance = (excess * omega[region][:, None]).sum(axis=0)
        position = None if depth is None else _place(depth, rays[region], centre, radius)
        found.append(
            Light(
                "sun" if position is None else "lamp",
                tuple(centre.tolist()),
                tuple(irradiance.tolist()),
                radius,
                position,
            )
        )
    return found


def _region(light: np.ndarray, peak: tuple[int, int]) -> np.ndarray:
    """Mask (H, W) of what is connected to the peak and above a share of it.

    Only the surroundings of the peak are searched: a region that reaches beyond is too wide anyhow.
    """
    height, width = light.shape
    reach = int(np.ceil(3.0 * WIDEST * height / 180.0))
    top, bottom = max(0, peak[0] - reach), min(height, peak[0] + reach + 1)
    narrowest = np.cos(frames.elevations(height)[[top, bottom - 1]]).min()
    side = min(width // 2, int(np.ceil(reach / narrowest)))
    columns = np.arange(peak[1] - side, peak[1] + side) % width
    window = light[top:bottom, columns] > SHARE * light[peak]
    # Nothing leaves the window but over a pole or, when it is as wide as the panorama, its seam.
    window[0] &= top == 0
    window[-1] &= bottom == height
    window[:, [0, -1]] &= 2 * side == width
    seed = np.zeros_like(window)
    seed[peak[0] - top, side] = True
    region = np.zeros(light.shape, bool)
    region[top:bottom, columns] = regions.connected(seed, window)
    return region


def _blur(image: np.ndarray) -> np.ndarray:
    """Binomial 3 x 3: a peak is then more than one noisy pixel."""
    padded = resample.pad(image, 1)
    wide = 0.25 * (padded[:, :-2] + padded[:, 2:]) + 0.5 * padded[:, 1:-1]
    return 0.25 * (wide[:-2] + wide[2:]) + 0.5 * wide[1:-1]


def _place(
    depth: np.ndarray, rays: np.ndarray, centre: np.ndarray, radius: float
) -> tuple[float, float, float] | None:
    """Centre of the globe whose front lies at the depths along ``rays``; None on sky."""
    u, v = frames.project(rays)
    height, width = depth.shape
    seen = depth[(v * height).astype(int), (u * width).astype(int)]
    if np.count_nonzero(seen > 0) <= len(seen) / 2:
        return None
    front = float(np.median(seen[seen > 0]))
    # The median ray meets a globe's front 0.7 radii before its centre.
    x, y, z = (front * (1.0 + 0.7 * np.sin(radius)) * centre).tolist()
    return x, y, z
