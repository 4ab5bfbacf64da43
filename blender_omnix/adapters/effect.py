# SPDX-License-Identifier: GPL-3.0-or-later
"""What an adapter does to the model's output, as numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import OmnixError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Effect:
    """Relative RMS change of the output with the adapter off, and with another in its place
    (None where there is no other)."""

    off: float
    swapped: float | None

    def complaint(self) -> str | None:
        """What the numbers say is wrong with the adapter, if anything."""
        if not math.isfinite(self.off):
            return "makes the model's output NaN or infinite"
        if self.off == 0:
            return "changes nothing in the model's output"
        if self.swapped == 0:
            return "does exactly what another adapter does; one may be a copy of the other"
        return None


def effects(run: Callable[[str | None], Tensor], names: Sequence[str]) -> dict[str, Effect]:
    """Measure each adapter of `names` by a probe.

    `run(name)` returns the model's output on a fixed input with that adapter alone, `run(None)`
    with none. An adapter is swapped for the next in `names`, the last for the first.
    """
    outputs = {name: run(name) for name in (None, *names)}
    result = {}
    for i, name in enumerate(names):
        other = names[(i + 1) % len(names)]
        result[name] = Effect(
            off=difference(outputs[None], outputs[name]),
            swapped=difference(outputs[other], outputs[name]) if other != name else None,
        )
    return result


def require(measured: Mapping[str, Effect]) -> None:
    """Raise OmnixError for the first adapter without an effect of its own."""
    for name, effect in measured.items():
        if complaint := effect.complaint():
            raise OmnixError(f"The adapter {name} {complaint}; download it again.")


def difference(output: Tensor, reference: Tensor) -> float:
    """RMS of the difference of two outputs relative to the RMS of the reference."""
    output, reference = output.double(), reference.double()
    return float((output - reference).square().mean().sqrt() / reference.square().mean().sqrt())
