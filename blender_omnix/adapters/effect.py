# SPDX-License-Identifier: GPL-3.0-or-later
"""What an adapter does to the model's output, as numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from ..errors import OmnixError


@dataclass(frozen=True)
class Effect:
    """Relative RMS change of the output with the adapter off, and with another in its place
    (None where there is no other)."""

    off: float
    swapped: float | None


def effects(run: Callable[[str | None], Tensor], names: Sequence[str]) -> dict[str, Effect]:
    """Measure each adapter of `names` by a probe.

    `run(name)` returns the model's output on a fixed input with that adapter alone, `run(None)`
    with none. An adapter is swapped for the next in `names`, the last for the first.
    Raises OmnixError for an adapter that changes nothing, does what another does, or breaks the
    output.
    """
    outputs = {name: run(name) for name in (None, *names)}
    result = {}
    for i, name in enumerate(names):
        other = names[(i + 1) % len(names)]
        off = difference(outputs[None], outputs[name])
        swapped = difference(outputs[other], outputs[name]) if other != name else None
        if not math.isfinite(off):
            raise OmnixError(f"The adapter {name} makes the model's output NaN or infinite.")
        if off == 0:
            raise OmnixError(f"The adapter {name} changes nothing in the model's output.")
        if swapped == 0:
            raise OmnixError(
                f"The adapters {name} and {other} do the same; one may be a copy of the other."
            )
        result[name] = Effect(off, swapped)
    return result


def difference(output: Tensor, reference: Tensor) -> float:
    """RMS of the difference of two outputs relative to the RMS of the reference."""
    output, reference = output.double(), reference.double()
    return float((output - reference).square().mean().sqrt() / reference.square().mean().sqrt())
