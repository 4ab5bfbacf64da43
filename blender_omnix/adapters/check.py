# SPDX-License-Identifier: GPL-3.0-or-later
"""Check adapters at a path, alone or in a base model: what `adapters check` prints."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import OmnixError
from . import find, layout
from .effect import Effect
from .find import Found
from .fingerprint import fingerprint
from .header import Header, read_header
from .inspection import Inspection, inspect
from .report import Measured

Shapes = Mapping[str, tuple[int, ...]]
# Numbers of the adapters in a folder that holds their network, by adapter name.
Measure = Callable[[Path], Mapping[str, Measured]]

# Metadata of a network beside its adapters: a JSON list of the modules that they fill.
ADAPTED = "adapted_modules"
CONFIG_KEYS = ("num_layers", "num_single_layers", "num_attention_heads", "attention_head_dim")


@dataclass
class Checked:
    """All that is known of one adapter; `refusals` is empty when all is well."""

    found: Found
    inspection: Inspection | None = None
    measured: Measured | None = None
    refusals: list[str] = field(default_factory=list)


def check(
    path: str | Path, base: str | Path | None = None, measure: Measure | None = None
) -> tuple[list[Checked], list[str]]:
    """Check the adapters at `path`, a file or a folder, and the set of them (the second value).

    `base` is a folder with `transformer/` (a config; with weights, outputs are measured too).
    Without it the modules come from a `base.safetensors` beside the adapters, which `measure` can
    run, or else are FLUX.1-dev's.
    Raises OmnixError where there is nothing to check or the base is unusable.
    """
    items = [Checked(found) for found in find.find(path)]
    path = Path(path)
    remarks = find.remarks(path, [item.found for item in items]) if path.is_dir() else []
    shapes = None if base is None else layout.flux_modules(transformer_config(base))
    for item in items:
        try:
            file = item.found.file
            item.inspection = inspect(file, _beside(file) if shapes is None else shapes)
            item.inspection.require()
        except OmnixError as error:
            item.refusals.append(str(error))
    _refuse_copies(items)
    if base is not None:
        _check_in_base(items, Path(base))
    elif measure is not None:
        _check_in_network(items, measure)
    return items, remarks


def _refuse_copies(items: list[Checked]) -> None:
    """Let adapters in several places that are one and the same be refused."""
    contents: dict[str, list[Checked]] = {}
    for item in items:
        if item.inspection is not None and item.inspection.modules:
            contents.setdefault(fingerprint(item.inspection), []).append(item)
    for copies in contents.values():
        for item in copies:
            others = [str(other.found.file) for other in copies if other is not item]
            if others:
                item.refusals.append(
                    f"The adapter {item.found.file} is a copy of {', '.join(others)}; download the "
                    "one that belongs there."
                )


def transformer_config(base: str | Path) -> dict[str, Any]:
    """The FLUX transformer's config.json in `base`/transformer. Raises OmnixError."""
    file = Path(base) / "transformer" / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        sound = all(type(config[key]) is int and 0 < config[key] < 10**6 for key in CONFIG_KEYS)
    except OSError:
        raise OmnixError(
            f"{file} cannot be read; --base wants the folder that has transformer/ in it."
        ) from None
    except (ValueError, KeyError, TypeError, RecursionError):
        sound = False
    if not sound:
        raise OmnixError(f"{file} does not describe a FLUX transformer; choose another base.")
    return config


def _beside(file: Path) -> Shapes:
    """What an adapter without a base must fill: by the network beside it, or FLUX.1-dev's."""
    beside = file.parent / find.BASE_NAME
    return network_modules(read_header(beside)) if beside.exists() else layout.flux_modules()


def network_modules(header: Header) -> dict[str, tuple[int, ...]]:
    """Modules that adapters fill in the network of a file, by its metadata."""
    try:
        names = json.loads(header.metadata[ADAPTED])
        return {str(name): header.tensors[f"{name}.weight"].shape for name in names}
    except (KeyError, ValueError, TypeError, RecursionError):
        raise OmnixError(
            f"{header.file} does not say which of its modules adapters fill; restore the file."
        ) from None


def _check_in_base(items: list[Checked], base: Path) -> None:
    """Try each task's adapters together in the base."""
    from .trial import Trial

    tasks: dict[str, list[Checked]] = {}
    for item in items:
        if not item.refusals:
            tasks.setdefault(item.found.task, []).append(item)
    if not tasks:
        return
    trial = Trial(base / "transformer")
    for group in tasks.values():
        try:
            measured = trial.run([item.found.file for item in group])
        except OmnixError as error:
            for item in group:
                item.refusals.append(str(error))
            continue
        for item, numbers in zip(group, measured, strict=True):
            _judge(item, numbers, trial.tolerance)


def _check_in_network(items: list[Checked], measure: Measure) -> None:
    """Let the engine measure adapters that stand beside their own network."""
    for folder in dict.fromkeys(item.found.file.parent for item in items):
        group = [item for item in items if item.found.file.parent == folder]
        if not (folder / find.BASE_NAME).exists() or any(item.refusals for item in group):
            continue
        try:
            measured = measure(folder)
        except OmnixError as error:
            for item in group:
                item.refusals.append(str(error))
            continue
        for item in group:
            if item.found.name in measured:
                _judge(item, measured[item.found.name], None)
            else:
                item.refusals.append(
                    f"The adapter {item.found.file} is loaded by no engine; remove it, or give it "
                    "the name of the one that it is."
                )


def _judge(item: Checked, measured: Measured, tolerance: float | None) -> None:
    """Keep an adapter's numbers, and what they say against it."""
    item.measured = measured
    off, swapped, error = measured.effect_off, measured.effect_swapped, measured.routing_error
    if off is None:
        return
    if complaint := Effect(off, swapped).complaint():
        item.refusals.append(f"The adapter {item.found.file} {complaint}.")
    # Rounding is no excuse for what could as well be another adapter's output.
    elif tolerance and error and error > min(tolerance, off / 4, (swapped or off) / 4):
        item.refusals.append(
            f"The adapter {item.found.file}: in a mixed batch with the others of its task the "
            f"output differs by {error:.2g} from that of each adapter alone."
        )
