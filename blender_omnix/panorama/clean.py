# SPDX-License-Identifier: GPL-3.0-or-later
"""What a panorama must be like before an engine sees it: refused, or repaired with a note.

Error sentences carry on from the name of the file ("room.exr " + sentence).
"""

from __future__ import annotations

from dataclasses import astuple, dataclass

import numpy as np

from ..errors import OmnixError

MIN_WIDTH, MIN_HEIGHT = 64, 32
ASPECT_TOLERANCE = 2  # pixels that the width may differ from twice the height
MAX_NON_FINITE = 0.001  # of all pixels


def check_size(width: int, height: int) -> None:
    """Refuse a picture that cannot be an equirectangular panorama.

    Raises OmnixError naming the size and the nearest size that would do: smaller than 64 x 32, or a
    width that differs from twice the height by more than 2 pixels.
    """
    if width < MIN_WIDTH or height < MIN_HEIGHT:
        raise OmnixError(
            f"is {width} x {height} pixels, too small: a panorama of at least "
            f"{MIN_WIDTH} x {MIN_HEIGHT} is needed"
        )
    if abs(width - 2 * height) > ASPECT_TOLERANCE:
        half = max(MIN_HEIGHT, width // 2)
        raise OmnixError(
            f"is {width} x {height} pixels, but an equirectangular panorama is twice as wide as "
            f"high: resize, crop or pad it to {2 * half} x {half}"
        )


@dataclass(frozen=True)
class Flaws:
    """Numbers of pixels: of all, of those with a non-finite channel, and of the finite ones with a
    negative channel."""

    pixels: int = 0
    non_finite: int = 0
    negative: int = 0

    @classmethod
    def of(cls, image: np.ndarray) -> Flaws:
        """Those of a picture or a part of one, (..., C)."""
        bad = _non_finite(image)
        below = (image < 0).any(axis=-1) & ~bad
        return cls(bad.size, int(bad.sum()), int(below.sum()))

    def __add__(self, other: Flaws) -> Flaws:
        return Flaws(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


def _non_finite(image: np.ndarray) -> np.ndarray:
    return ~np.logical_and.reduce([np.isfinite(image[..., c]) for c in range(image.shape[-1])])


def repair(linear: np.ndarray, flaws: Flaws | None = None) -> tuple[np.ndarray, list[str]]:
    """Make a linear panorama (H, W, 3) finite and non-negative.

    Negative values become 0; pixels with a non-finite channel, up to 0.1 % of all, become the mean
    of their sound neighbours, around the seam and over the poles. Returns ``(repaired, notes)``,
    float32 and one sentence per kind of repair; the input is left as it is. `flaws` are those of
    the file, where the panorama is a reduced copy of it: the limit and the notes go by them.
    Raises OmnixError for more non-finite pixels and for a picture of one constant colour.
    """
    linear = np.array(linear, np.float32)
    flaws = flaws or Flaws.of(linear)
    notes = []
    count = flaws.non_finite
    if count > MAX_NON_FINITE * flaws.pixels:
        raise OmnixError(
            f"has {count} pixels that are not finite numbers ({100 * count / flaws.pixels:.2g} % "
            f"of it): more than {100 * MAX_NON_FINITE:g} % cannot be filled in, so save it anew"
        )
    bad = _non_finite(linear)
    np.maximum(linear, 0.0, out=linear)
    if flaws.negative:
        notes.append(f"{_pixels(flaws.negative)} had negative values, which were set to 0.")
    if count:
        _fill(linear, bad)
        notes.append(f"{_pixels(count)} held no finite number and took their neighbours' colour.")
    # Not exactly 0: a filled pixel is a mean, rounded.
    flat = linear.reshape(-1, linear.shape[-1])
    if (flat.max(axis=0) - flat.min(axis=0)).max() <= 1e-6 * flat.max():
        raise OmnixError("holds one constant colour and nothing to see: choose another panorama")
    return linear, notes


def _fill(image: np.ndarray, bad: np.ndarray) -> None:
    """Fill ``bad`` pixels of ``image`` in place from the outside inwards."""
    height, width = bad.shape
    rows, columns = np.nonzero(bad)
    step = np.array([(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)])
    while len(rows):
        y, x = rows[:, None] + step[:, 0], columns[:, None] + step[:, 1]
        over_pole = (y < 0) | (y >= height)
        y = np.clip(y, 0, height - 1)
        x = (x + over_pole * (width // 2)) % width
        sound = ~bad[y, x]
        number = sound.sum(axis=1)
        # where() and not a product: a bad neighbour is NaN, and NaN times 0 is NaN.
        total = np.where(sound[..., None], image[y, x], 0.0).sum(axis=1)
        ready = number > 0
        image[rows[ready], columns[ready]] = total[ready] / number[ready, None]
        bad[rows[ready], columns[ready]] = False
        rows, columns = rows[~ready], columns[~ready]


def _pixels(count: int) -> str:
    return "1 pixel" if count == 1 else f"{count} pixels"
