# SPDX-License-Identifier: GPL-3.0-or-later
"""`python -m blender_omnix adapters check` and `adapters convert`."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import OmnixError
from ..maps import sha256
from .check import Checked, Measure, check
from .header import printable
from .inspection import PROBLEMS
from .report import findings, table

# Columns of the table: heading, key of a row.
COLUMNS = {
    "well": "ok",
    "task": "task",
    "adapter": "name",
    "format": "format",
    "rank": "rank",
    "alpha": "alpha",
    "dtype": "dtype",
    "modules": "modules",
    "tensors": "tensors",
    "mixed": "mixed",
    "unknown": "unknown",
    "repeated": "repeated",
    "missing": "missing",
    "type": "wrong_dtype",
    "shape": "wrong_shape",
    "ranks": "rank_differs",
    "zero": "zero",
    "nan": "nan",
    "inf": "infinite",
    "alphas": "bad_alpha",
    "metadata": "metadata",
}
MEASURED = {
    "injected": "modules_injected",
    "equal": "tensors_equal",
    "routing": "routing_error",
    "off": "effect_off",
    "swapped": "effect_swapped",
}


def add_parsers(commands: argparse._SubParsersAction, measure: Measure | None = None) -> None:
    """Add `adapters` with its own commands; each sets `run`, which returns the exit code: 0
    all well, 1 refused.

    `measure` runs the adapters in a folder that holds their own network.
    """
    parser = commands.add_parser("adapters", help="check and convert LoRA adapter files")
    actions = parser.add_subparsers(required=True, metavar="ACTION")

    checker = actions.add_parser(
        "check",
        help="account for every tensor of adapter files",
        description="Exit code 0 only when all is well. --base also injects the adapters, verifies "
        "them bit for bit, and measures their routing and effects.",
    )
    checker.add_argument("path", type=Path, help="one adapter file, or the folder with all tasks")
    checker.add_argument(
        "--base", type=Path, metavar="DIR", help="the FLUX model: a folder with transformer/ in it"
    )
    checker.add_argument("--json", action="store_true", help="print JSON instead of a table")
    checker.set_defaults(run=_check, measure=measure)

    converter = actions.add_parser(
        "convert", help="rename an adapter's tensors for another program"
    )
    converter.add_argument("source", type=Path)
    converter.add_argument("target", type=Path, help="the file to write; must not exist")
    converter.add_argument("--to", required=True, choices=("peft", "kohya", "bfl"))
    converter.set_defaults(run=_convert)


def _check(args: argparse.Namespace) -> int:
    try:
        items, remarks = check(args.path, args.base, args.measure)
    except OmnixError as error:
        if args.json:
            _print_json(args, [], [str(error)])
        raise
    refusals = [text for item in items for text in item.refusals] + remarks
    if args.json:
        _print_json(args, items, refusals)
    else:
        keys = COLUMNS | MEASURED if any(item.measured for item in items) else COLUMNS
        print(table([_row(item, keys) for item in items]))
        bad = sum(bool(item.refusals) for item in items)
        print(f"\n{len(items) - bad} of {len(items)} adapters are well.")
        if any(item.measured and item.measured.effect_off is None for item in items):
            print(f"Outputs were not measured: {args.base / 'transformer'} holds no weights.")
    for text in dict.fromkeys(refusals):
        print(text, file=sys.stderr)
    return 1 if refusals else 0


def _print_json(args: argparse.Namespace, items: list[Checked], refusals: list[str]) -> None:
    document = {
        "path": str(args.path),
        "base": None if args.base is None else str(args.base),
        "ok": not refusals,
        "refusals": refusals,
        "adapters": [_document(item) | {"sha256": _sha256(item)} for item in items],
    }
    print(json.dumps(document, indent=2))


def _convert(args: argparse.Namespace) -> int:
    from .convert import convert

    done = convert(args.source, args.target, args.to)
    print(f"{printable(str(args.target))}: {done.source} -> {done.target}, {done.tensors} tensors")
    if done.widened:
        print(
            "The values are in a wider type and rounded to nearest there: the old one cannot hold "
            "them with alpha folded in."
        )
    return 0


def _document(item: Checked) -> dict[str, Any]:
    document: dict[str, Any] = {
        "task": item.found.task,
        "name": item.found.name,
        "file": str(item.found.file),
        "ok": not item.refusals,
        "refusals": item.refusals,
        **dict.fromkeys(MEASURED.values()),
    }
    if item.inspection:
        document |= findings(item.inspection)
    if item.measured:
        document |= {key: _finite(value) for key, value in asdict(item.measured).items()}
    return document


def _sha256(item: Checked) -> str | None:
    return sha256(item.found.file) if item.inspection else None


def _finite(value: float | None) -> float | None:
    """JSON has neither NaN nor infinity; the refusals tell what happened."""
    return value if value is not None and math.isfinite(value) else None


def _row(item: Checked, keys: Mapping[str, str]) -> dict[str, Any]:
    document = _document(item)
    row = {head: document.get(key) for head, key in keys.items()}
    for head, key in COLUMNS.items():
        if key in PROBLEMS and item.inspection:
            row[head] = len(item.inspection.problems[key])
    return row
