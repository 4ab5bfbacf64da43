# SPDX-License-Identifier: GPL-3.0-or-later
"""Changing the size of a panorama: area average down, guided by the picture up.

Upsampling is joint bilateral (Kopf et al. 2007, "Joint Bilateral Upsampling"): each pixel takes
from the 3 x 3 map pixels around it those whose colour in the shrunken picture is like its own, so
that the map's edges snap to the picture's. Three things are added. Each map pixel hands on a plane,
its value and limited slopes, so that on a plane all candidates agree and the picture's texture
does not show in the geometry. Candidates within a transition of the map count less than those
beside it, which sharpens a blurred prediction. And how far colours scatter within a map pixel says
how like its mean a pixel of it is, so that a pattern keeps its own values.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from . import frames

KINDS = ("colour", "scalar", "normal", "depth")

_LIKE = 0.05  # standard deviation, in encoded colour, of what counts as one colour
_FLOOR = 1e-4 / _LIKE**2  # weight of a candidate of another colour: where all are, it decides
_STEADY = 0.1  # mean difference of a map pixel to its neighbours that counts as a transition
_STEADY_DEPTH = 0.03  # the same, in the logarithm of depth
_RATIO_PRIOR = 0.005  # variance of encoded colour below which albedo follows the picture's ratio
_POLAR_ROWS = 8  # rows of the map next to each pole in which normals are averaged along the row
_BAND_PIXELS = 2**17  # pixels worked on at a time, about what a core's cache holds


def pad(image: np.ndarray, n: int) -> np.ndarray:
    """The panorama (H, W[, C]) continued by ``n`` pixels on each side: (H + 2n, W + 2n[, C]).

    Columns wrap around. Over a pole the picture goes on down the opposite meridian: rows flipped
    and rolled by half the width. ``n`` is at most H.
    """
    if not 0 <= n <= image.shape[0]:
        raise ValueError(f"cannot pad {image.shape[0]} rows by {n}")
    if n == 0:
        return image
    half = image.shape[1] // 2
    above = np.roll(image[:n][::-1], half, axis=1)
    below = np.roll(image[-n:][::-1], half, axis=1)
    tall = np.concatenate([above, image, below])
    return np.concatenate([tall[:, -n:], tall, tall[:, :n]], axis=1)


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize a panorama (H, W[, C]) to (height, width[, C]), float32.

    Along an axis that gets smaller each new pixel is the mean of the area it covers, exact for any
    factor, so that the picture's mean is kept. An axis that gets larger is interpolated linearly,
    around the seam and over the poles. At the same size the picture itself comes back, no copy.
    """
    image = np.asarray(image)
    if height <= image.shape[0]:
        image = _average_rows(image, height)
    else:
        image = _interpolate_rows(pad(image, 1)[:, 1:-1], height)
    image = np.swapaxes(image, 0, 1)
    if width <= image.shape[0]:
        image = _average_rows(image, width)
    else:
        image = _interpolate_rows(np.concatenate([image[-1:], image, image[:1]]), width)
    return np.ascontiguousarray(np.swapaxes(image, 0, 1), np.float32)


def nearest(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """The pixels of a panorama (H, W[, C]) nearest to those of one of another size, as they are:
    (height, width[, C])."""
    rows, columns = pixels_at(height, image.shape[0]), pixels_at(width, image.shape[1])
    return image[np.ix_(rows, columns)]


def pixels_at(count: int, length: int) -> np.ndarray:
    """Which of `length` pixels the centres of `count` equal parts lie in: (count,) int."""
    return ((np.arange(count) + 0.5) * length / count).astype(int)


def block_max(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """The largest value of an image (H, W) in each of height x width blocks; the nearest pixel
    where blocks are smaller."""
    for axis, count in ((0, height), (1, width)):
        starts = np.arange(count) * image.shape[axis] // count
        image = np.maximum.reduceat(image, starts, axis=axis)
    return image


def upsample(image: np.ndarray, guide: np.ndarray, *, kind: str) -> np.ndarray:
    """Bring a map to the size of the picture that it belongs to, with the picture's edges.

    ``image`` (h, w[, C]) at the network's size, ``guide`` (H, W, 3) the sRGB-encoded panorama.
    Returns (H, W[, C]) float32; continuous around the seam and over the poles. ``kind``:

    - "colour": sRGB-encoded 0..1. The map is locally a linear function of the picture (He et al.
      2010, "Guided Image Filtering"), which gives it the picture's texture; where the map is
      steady across a shadow's edge in the picture, so is the result. The slope leans towards the
      ratio of map to picture instead of towards 0, so that texture too fine for the map is kept.
    - "scalar": any number of channels, each within the range it had.
    - "normal": unit vectors in Blender's frame, facing the viewer. Around the poles they are first
      averaged along the rows, for a lean towards the viewer, however slight, is a lean in opposite
      directions on either side of a pole.
    - "depth": positive, interpolated as 1 / depth, of which planes make linear functions locally;
      0 (sky) is kept as 0.

    A guide smaller than the map shrinks it. Another kind is a ValueError.
    """
    if kind not in KINDS:
        raise ValueError(f"no kind of map is called {kind}")
    image = np.asarray(image, np.float32)
    guide = np.asarray(guide, np.float32)
    planar = image if image.ndim == 3 else image[..., None]
    if kind == "normal":
        planar = _calm_poles(planar)
    far = 0.0  # inverse depth below which there is nothing
    if kind == "depth":
        planar = np.divide(1.0, planar, out=np.zeros_like(planar), where=planar > 0)
        far = 0.5 * float(planar[planar > 0].min()) if planar.any() else 1.0
    if kind == "colour":
        lowest, highest = np.float32(0.0), np.float32(1.0)
    else:
        lowest, highest = planar.min(axis=(0, 1)), planar.max(axis=(0, 1))
    height, width = guide.shape[:2]
    result = np.empty((height, width, planar.shape[2]), np.float32)
    for rows, values in _bands(planar, guide, kind, far):
        if kind == "normal":
            values = _facing(values, rows, height)
        else:
            values = np.clip(values, lowest, highest)
        if kind == "depth":
            values = np.divide(1.0, values, out=np.zeros_like(values), where=values > far)
        result[rows] = values
    return result if image.ndim == 3 else result[..., 0]


def _bands(
    image: np.ndarray, guide: np.ndarray, kind: str, far: float
) -> Iterator[tuple[slice, np.ndarray]]:
    """The upsampled map in bands: rows and their values (rows, W, C), not yet within range."""
    height, width = guide.shape[:2]
    if height <= image.shape[0] or width <= image.shape[1]:
        yield slice(0, height), resize(image, height, width)
        return
    small = resize(guide, *image.shape[:2])
    if kind == "colour":
        steady = _steadiness(image, _STEADY)
        slope, offset = _colour_model(image, small)
        model = np.concatenate([slope, offset], axis=2)
        for rows, values in _joint_bilateral(model, steady, small, guide, sloped=False):
            yield rows, values[..., :3] * guide[rows] + values[..., 3:]
    elif kind == "depth":
        steady = _steadiness(np.log(np.maximum(image, far)), _STEADY_DEPTH)
        yield from _joint_bilateral(image, steady, small, guide, sloped=True)
    else:
        yield from _joint_bilateral(image, _steadiness(image, _STEADY), small, guide, sloped=True)


def _joint_bilateral(
    image: np.ndarray, steady: np.ndarray, small: np.ndarray, guide: np.ndarray, *, sloped: bool
) -> Iterator[tuple[slice, np.ndarray]]:
    """Upsample ``image`` (h, w, C), of which ``small`` is the picture, to the size of ``guide``."""
    channels = image.shape[2]
    layers = [pad(small, 1), pad(steady, 1)[..., None], pad(_precision(guide, small), 1)[..., None]]
    layers += [pad(image, 1)]
    if sloped:
        layers += _slopes(pad(image, 2))
    # Planes of one value each: (values, h + 2, w + 2).
    table = np.ascontiguousarray(np.concatenate(layers, axis=2).transpose(2, 0, 1), np.float32)
    height, width = guide.shape[:2]
    row, y = _coarse(image.shape[0], height)
    column, x = _coarse(image.shape[1], width)
    band = max(1, _BAND_PIXELS // width)
    for start in range(0, height, band):
        rows = slice(start, min(start + band, height))
        picture = np.ascontiguousarray(guide[rows].transpose(2, 0, 1))
        total = np.zeros((channels, *picture.shape[1:]), np.float32)
        weights = np.zeros(picture.shape[1:], np.float32)
        for down in (-1, 0, 1):
            first = row[rows][0] + down
            strip = table[:, first : row[rows][-1] + down + 1]
            vertical = _tent(y[rows], down)[:, None]
            for right in (-1, 0, 1):
                near = np.take(strip, column + right, axis=2)
                near = np.take(near, row[rows] + down - first, axis=1)
                unlike = (near[0] - picture[0]) ** 2
                unlike += (near[1] - picture[1]) ** 2
                unlike += (near[2] - picture[2]) ** 2
                unlike *= -0.5
                unlike *= near[4]
                weight = np.exp(unlike, out=unlike)
                weight *= near[4]
                weight += _FLOOR
                weight *= near[3]
                weight *= _tent(x, right)
                weight *= vertical
                weights += weight
                for c in range(channels):
                    value = near[5 + c]
                    if sloped:
                        value += near[5 + channels + c] * (x - right)
                        value += near[5 + 2 * channels + c] * (y[rows] - down)[:, None]
                    value *= weight
                    total[c] += value
        total /= weights
        yield rows, total.transpose(1, 2, 0)


def _precision(guide: np.ndarray, small: np.ndarray) -> np.ndarray:
    """One over the variance, at least that of one colour, of the picture's colours within each map
    pixel: (h, w)."""
    square = sum(resize(guide[..., c] ** 2, *small.shape[:2]) for c in range(3)) / 3.0
    variance = np.maximum(square - (small**2).mean(axis=2), 0.0) + _LIKE**2
    return (1.0 / variance).astype(np.float32)


def _coarse(small: int, large: int) -> tuple[np.ndarray, np.ndarray]:
    """For each fine pixel the nearest coarse one, counted in the padded map, and the way there."""
    position = (np.arange(large) + 0.5) * small / large - 0.5
    nearest = np.floor(position + 0.5)
    return nearest.astype(int) + 1, (position - nearest).astype(np.float32)


def _tent(position: np.ndarray, tap: int) -> np.ndarray:
    """A flat top with slopes of one pixel: weight of the coarse pixel ``tap`` away (-1, 0, 1)."""
    return np.clip(1.5 - np.abs(position - tap), 0.0, 1.0)


def _slopes(padded: np.ndarray) -> list[np.ndarray]:
    """Limited differences (minmod) to the right and down, of a map padded by 2: padded by 1."""

    def limited(before: np.ndarray, after: np.ndarray) -> np.ndarray:
        smaller = np.where(np.abs(before) < np.abs(after), before, after)
        return np.where(before * after > 0, smaller, 0.0)

    right, down = np.diff(padded[1:-1], axis=1), np.diff(padded[:, 1:-1], axis=0)
    return [limited(right[:, :-1], right[:, 1:]), limited(down[:-1], down[1:])]


def _steadiness(image: np.ndarray, transition: float) -> np.ndarray:
    """1 where the map (h, w, C) is flat, towards 0 within a transition: (h, w)."""
    height, width = image.shape[:2]
    padded = pad(image, 1)
    change = np.zeros((height, width), np.float32)
    for y in range(3):
        for x in range(3):
            change += np.abs(padded[y : y + height, x : x + width] - image).sum(axis=2)
    return (1.0 + change / (8.0 * transition)) ** -4


def _colour_model(image: np.ndarray, guide: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Slope and offset with which ``image`` follows ``guide`` around each pixel: (h, w, 3) each.

    Least squares over 3 x 3 pixels of ``slope * guide + offset - image``, with the slope drawn to
    the ratio of the means.
    """
    mean, guide_mean = _mean3(image), _mean3(guide)
    covariance = _mean3(image * guide) - mean * guide_mean
    variance = np.maximum(_mean3(guide * guide) - guide_mean**2, 0.0)
    ratio = (mean + 0.02) / (guide_mean + 0.02)
    slope = (covariance + _RATIO_PRIOR * ratio) / (variance + _RATIO_PRIOR)
    # A picture much darker than its albedo is noise; its texture is not amplified further.
    slope = np.clip(slope, 0.0, 4.0)
    return slope, mean - slope * guide_mean


def _mean3(image: np.ndarray) -> np.ndarray:
    padded = pad(image, 1)
    wide = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
    return (wide[:-2] + wide[1:-1] + wide[2:]) / 9.0


def _calm_poles(image: np.ndarray) -> np.ndarray:
    """Rows next to a pole averaged over arcs as long as the pole's own row: about 3 pixels."""
    image = image.copy()
    height, width = image.shape[:2]
    for row in range(min(_POLAR_ROWS, height // 2)):
        reach = width // (2 * (2 * row + 1))
        for line in (row, height - 1 - row):
            around = np.concatenate([image[line, -reach:], image[line], image[line, :reach]])
            total = np.cumsum(np.pad(around, ((1, 0), (0, 0))), axis=0, dtype=np.float64)
            # Both ends count by half, so that the pole's own row is averaged over exactly a circle.
            inner = total[2 * reach : 2 * reach + width] - total[1 : width + 1]
            ends = 0.5 * (around[:width] + around[2 * reach : 2 * reach + width])
            image[line] = (inner + ends) / (2 * reach)
    return image


def _facing(normals: np.ndarray, rows: slice, height: int) -> np.ndarray:
    """Unit normals (rows, W, 3) without what points away from the viewer."""
    rays = frames.directions(height, normals.shape[1], rows=rows)
    away = np.maximum(np.einsum("hwc,hwc->hw", normals, rays) + 1e-3, 0.0)
    normals = normals - away[..., None] * rays
    length = np.sqrt(np.einsum("hwc,hwc->hw", normals, normals))[..., None]
    # Opposite candidates may cancel out: what is left faces the viewer.
    return np.where(length > 1e-3, normals / np.maximum(length, 1e-3), -rays)


def _average_rows(image: np.ndarray, count: int) -> np.ndarray:
    """Area average along the first axis; adds up tap by tap, so needs no more than the result."""
    length = len(image)
    if length == count:
        return image
    starts, ends = np.arange(count) * length / count, np.arange(1, count + 1) * length / count
    first = np.floor(starts).astype(int)
    result = np.zeros((count, *image.shape[1:]), np.float32)
    for tap in range(int(np.ceil(length / count)) + 1):
        row = first + tap
        weight = np.clip(np.minimum(ends, row + 1) - np.maximum(starts, row), 0.0, 1.0)
        weight = (weight * count / length).astype(np.float32)
        result += _along_rows(weight, image) * image[np.minimum(row, length - 1)]
    return result


def _interpolate_rows(padded: np.ndarray, count: int) -> np.ndarray:
    """Linear interpolation along the first axis of rows that carry one extra row at either end."""
    position = (np.arange(count) + 0.5) * (len(padded) - 2) / count + 0.5
    first = np.floor(position).astype(int)
    weight = _along_rows((position - first).astype(np.float32), padded)
    return padded[first] * (1.0 - weight) + padded[first + 1] * weight


def _along_rows(weights: np.ndarray, image: np.ndarray) -> np.ndarray:
    return weights.reshape(-1, *[1] * (image.ndim - 1))
