# SPDX-License-Identifier: GPL-3.0-or-later
"""Entries of report.json's `adapters` list, and the table printed by `adapters check`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..maps import sha256
from .header import printable
from .inspection import PROBLEMS, Inspection

if TYPE_CHECKING:
    from .effect import Effect
    from .inject import Injected


@dataclass(frozen=True)
class Measured:
    """What an adapter turned out to do in a model; None for what was not measured.

    The effects are relative RMS changes of the output, `routing_error` is the largest such
    difference between an element of a mixed batch and that element's adapter alone.
    """

    modules_injected: int
    tensors_equal: int
    effect_off: float | None = None
    effect_swapped: float | None = None
    routing_error: float | None = None


def entry(task: str, injected: Injected, effect: Effect | None = None) -> dict[str, Any]:
    """The entry of an adapter in use, for `adapters` in report.json.

    `tensors_equal` counts the file's tensors that were compared and are in the model (see
    `Injected`); the effects are relative RMS changes of the output, null where not measured.
    """
    inspection = injected.inspection
    return {
        "task": task,
        "name": injected.name,
        "file": str(inspection.file),
        "sha256": sha256(inspection.file),
        **_contents(inspection),
        "modules_injected": injected.modules,
        "tensors_equal": injected.tensors_equal,
        "effect_off": effect.off if effect else None,
        "effect_swapped": effect.swapped if effect else None,
    }


def findings(inspection: Inspection) -> dict[str, Any]:
    """Everything an inspection found, ready for JSON."""
    return {
        **_contents(inspection),
        "modules": inspection.named,
        **{kind: list(inspection.problems[kind]) for kind in PROBLEMS},
    }


def _contents(inspection: Inspection) -> dict[str, Any]:
    return {
        "format": inspection.format,
        "rank": single(inspection.ranks),
        "alpha": single(inspection.alphas),
        "dtype": single(inspection.dtypes),
        "tensors": inspection.tensors,
        "modules_expected": inspection.expected,
    }


def single(values: Sequence[Any]) -> Any:
    """The one value, None for none, the list where they differ."""
    return values[0] if len(values) == 1 else list(values) or None


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of equal keys as aligned plain text: numbers to the right, the rest to the left."""
    heads = list(rows[0])
    cells = [[cell(row[head]) for head in heads] for row in rows]
    numeric = [all(_is_number(row[head]) for row in rows) for head in heads]
    widths = [max(len(head), *(len(line[i]) for line in cells)) for i, head in enumerate(heads)]
    lines = []
    for line in [heads, ["-" * width for width in widths], *cells]:
        aligned = [
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(line, widths, numeric, strict=True)
        ]
        lines.append("  ".join(aligned).rstrip())
    return "\n".join(lines)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | None) and not isinstance(value, bool)


def cell(value: Any) -> str:
    """One value as the table shows it."""
    if value is None:
        return "-"
    if isinstance(value, list):
        return f"{cell(value[0])}..{cell(value[-1])}"
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if isinstance(value, float):
        return f"{value:.3g}"
    return printable(str(value))
