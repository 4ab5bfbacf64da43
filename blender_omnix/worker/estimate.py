# SPDX-License-Identifier: GPL-3.0-or-later
"""How long a job will still take."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Hashable

# Below these a rate says little.
_LEAST_FRACTION = 0.02
_LEAST_SECONDS = 0.5


class TimeLeft:
    """Time left of a job, from the pace of the last finished job of its kind.

    A fraction of progress is not a fraction of time: stages differ, and the first job loads the
    model. So the (fraction, seconds) course of a finished job is kept, and a later one is taken
    to follow it at its own speed. The first job of a kind is extrapolated linearly.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._earlier: dict[Hashable, list[tuple[float, float]]] = {}
        self._kind: Hashable = None
        self._started = 0.0
        self._course: list[tuple[float, float]] = []

    def start(self, kind: Hashable) -> None:
        """A job of this kind begins now."""
        self._kind = kind
        self._started = self._clock()
        self._course = [(0.0, 0.0)]

    def update(self, fraction: float) -> float | None:
        """Seconds left at this fraction (0..1); None while nothing can be said."""
        elapsed = self._clock() - self._started
        self._course.append((max(fraction, self._course[-1][0]), elapsed))
        course = self._earlier.get(self._kind)
        if course is None:
            if fraction < _LEAST_FRACTION or elapsed < _LEAST_SECONDS:
                return None
            return elapsed * (1.0 - fraction) / fraction
        total = course[-1][1]
        passed = _interpolate(course, fraction)
        # A larger image runs the same course more slowly.
        pace = elapsed / passed if passed > _LEAST_SECONDS else 1.0
        return max(total - passed, 0.0) * pace

    def finish(self) -> None:
        """The job came to its end; later ones are measured against it."""
        self._course.append((1.0, self._clock() - self._started))
        self._earlier[self._kind] = self._course


def _interpolate(course: list[tuple[float, float]], fraction: float) -> float:
    """Seconds at which the course reached `fraction`, linear between its points."""
    after = bisect_left(course, fraction, key=lambda point: point[0])
    if after == 0:
        return course[0][1]
    if after == len(course):
        return course[-1][1]
    (low, early), (high, late) = course[after - 1], course[after]
    return early + (late - early) * (fraction - low) / (high - low)
