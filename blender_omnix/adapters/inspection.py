# SPDX-License-Identifier: GPL-3.0-or-later
"""Account for every tensor of an adapter file against the modules it should fill, without torch."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import OmnixError
from . import layout
from .claims import unborne
from .header import Header, read_header, readable
from .layout import Pair
from .values import FLOATS, flaws, raw, scalar

NAMED = 3  # how many tensors a sentence names before it counts the rest

# Findings that refuse a file, in the order they are told: what one and what several are.
PROBLEMS = {
    "mixed": ("tensor is", "tensors are", "named by another layout than the rest"),
    "unknown": ("tensor belongs", "tensors belong", "to no module the adapter may fill"),
    "repeated": ("tensor fills", "tensors fill", "a module that another one fills already"),
    "missing": ("module or tensor is", "modules or tensors are", "missing"),
    "wrong_dtype": ("tensor is", "tensors are", "of a type no adapter has"),
    "wrong_shape": ("tensor has", "tensors have", "the wrong shape"),
    "rank_differs": ("pair has", "pairs have", "a lora_A and a lora_B of different rank"),
    "zero": ("tensor is", "tensors are", "all zero"),
    "nan": ("tensor holds", "tensors hold", "NaN"),
    "infinite": ("tensor holds", "tensors hold", "infinity"),
    "bad_alpha": ("alpha is", "alphas are", "not usable"),
    "metadata": ("metadata entry", "metadata entries", "would change what the tensors mean"),
}


@dataclass(frozen=True)
class LowRank:
    """What a file holds for one module of the model, (alpha / rank) B[rows] A; `a`, `b` and
    `alpha_key` name its tensors."""

    module: str
    a: str
    b: str
    rows: tuple[int, int]
    rank: int
    alpha: float | None
    alpha_key: str | None

    @property
    def scale(self) -> float:
        return 1.0 if self.alpha is None else self.alpha / self.rank


@dataclass
class Inspection:
    """An adapter file, described.

    `expected` counts the modules the model wants filled, `named` those of them that the file has
    tensors for; `modules` maps the names of those that fit to what fills them. `ranks`, `alphas`
    and `dtypes` are the distinct values that occur. `problems` has, for each key of PROBLEMS, the
    names of the tensors concerned: all empty in a good file.
    """

    file: Path
    header: Header
    expected: int
    format: str = "unknown"
    named: int = 0
    ranks: list[int] = field(default_factory=list)
    alphas: list[float] = field(default_factory=list)
    dtypes: list[str] = field(default_factory=list)
    modules: dict[str, LowRank] = field(default_factory=dict)
    problems: dict[str, list[str]] = field(default_factory=lambda: {kind: [] for kind in PROBLEMS})

    @property
    def tensors(self) -> int:
        return len(self.header.tensors)

    @property
    def ok(self) -> bool:
        return not any(self.problems.values())

    def clauses(self) -> list[str]:
        """One clause for each kind of problem, naming the first few tensors."""
        return [clause(kind, names) for kind, names in self.problems.items() if names]

    def require(self) -> None:
        """Raise OmnixError naming the tensors unless the file is exactly what the model expects."""
        if not self.ok:
            raise OmnixError(
                f"The adapter {self.file} is refused: {'; '.join(self.clauses())}. "
                "Download it again, or check that it was made for this model."
            )


def inspect(file: str | Path, expected: Mapping[str, tuple[int, ...]]) -> Inspection:
    """Describe an adapter file and everything that is wrong with it.

    `expected` has the modules the adapter must fill, each with its weight's shape: (rows, columns),
    or (out, in, height, width) of a convolution.
    Raises OmnixError where the file is no sound safetensors file at all.
    """
    header = read_header(file)
    pairs, others = layout.pairs(header.tensors, expected)
    result = Inspection(Path(file), header, len(expected))
    problems = result.problems
    problems["unknown"] += others
    formats = Counter(pair.format for pair in pairs.values())
    if formats:
        usual = formats.most_common(1)[0][0]
        result.format = str(usual)
        problems["mixed"] += [k for p in pairs.values() if p.format != usual for k in p.names]
    claimed: set[str] = set()
    for stem, pair in pairs.items():
        for item in _fill(result, stem, pair, expected, claimed):
            result.modules[item.module] = item
    result.named = len(claimed)
    problems["missing"] += [name for name in expected if name not in claimed]
    problems["bad_alpha"] += _partial_alpha(pairs)
    _check_values(result)
    shapes = [header.tensors[pair.a].shape for pair in pairs.values() if pair.a]
    result.ranks = sorted({shape[0] for shape in shapes if shape})
    result.alphas = sorted({x.alpha for x in result.modules.values() if x.alpha is not None})
    result.dtypes = sorted({entry.dtype for entry in header.tensors.values()})
    scales = {(item.rank, item.scale) for item in result.modules.values()}
    problems["metadata"] += unborne(header, scales)
    return result


def clause(kind: str, names: list[str]) -> str:
    """One of PROBLEMS in words, naming the first few of what it is about."""
    return f"{len(names)} {PROBLEMS[kind][len(names) > 1]} {PROBLEMS[kind][2]} ({listing(names)})"


def listing(names: list[str]) -> str:
    """The first few names, and how many more there are."""
    shown = ", ".join(readable(name) for name in names[:NAMED])
    return shown if len(names) <= NAMED else f"{shown} and {len(names) - NAMED} more"


def _fill(
    result: Inspection,
    stem: str,
    pair: Pair,
    expected: Mapping[str, tuple[int, ...]],
    claimed: set[str],
) -> list[LowRank]:
    """The modules a pair fills; what does not fit goes into the problems."""
    problems, tensors = result.problems, result.header.tensors
    parts = layout.parts(pair)
    if parts is None or not any(part in expected for part in parts) or not (pair.a or pair.b):
        problems["unknown"] += pair.names
        return []
    if repeated := [part for part in parts if part in claimed]:
        problems["repeated"] += [f"{key} ({repeated[0]})" for key in pair.names]
        return []
    claimed.update(part for part in parts if part in expected)
    if pair.a is None or pair.b is None:
        problems["missing"].append(f"{stem}.{'lora_A' if pair.a is None else 'lora_B'}.weight")
        return []
    if foreign := [key for key in (pair.a, pair.b) if tensors[key].dtype not in FLOATS]:
        problems["wrong_dtype"] += [f"{key} {tensors[key].dtype}" for key in foreign]
        return []
    a, b = tensors[pair.a].shape, tensors[pair.b].shape
    if len(a) < 2 or len(b) != len(a) or a[0] == 0:
        problems["wrong_shape"] += [f"{pair.a} {list(a)}", f"{pair.b} {list(b)}"]
        return []
    if a[0] != b[1]:
        problems["rank_differs"].append(f"{stem}: {a[0]} and {b[1]}")
        return []
    ranges = layout.row_ranges(parts, b[0], a[1])
    if ranges is None:
        problems["wrong_shape"].append(f"{pair.b} {list(b)} beside lora_A {list(a)}")
        return []
    alpha = _alpha(result, pair)
    items = []
    for part, rows in zip(parts, ranges, strict=True):
        if part not in expected:  # the MLP's rows of linear1
            whole = raw(result.header, pair.b)
            if not flaws(whole[slice(*rows)], tensors[pair.b].dtype).zero:
                problems["unknown"].append(f"{pair.b} rows {rows[0]} to {rows[1] - 1} ({part})")
            continue
        out, columns, *kernel = expected[part]
        wanted_a, wanted_b = (a[0], columns, *kernel), (out, a[0], *(1 for _ in kernel))
        found_b = (rows[1] - rows[0], *b[1:])
        for key, found, wanted in ((pair.a, a, wanted_a), (pair.b, found_b, wanted_b)):
            if found != wanted:
                problems["wrong_shape"].append(f"{key} {list(found)} instead of {list(wanted)}")
        if a == wanted_a and found_b == wanted_b:
            items.append(LowRank(part, pair.a, pair.b, rows, a[0], alpha, pair.alpha))
    return items


def _alpha(result: Inspection, pair: Pair) -> float | None:
    if pair.alpha is None:
        return None
    alpha = scalar(result.header, pair.alpha)
    if alpha is None:
        result.problems["bad_alpha"].append(f"{pair.alpha} is no single number")
        return None
    if not math.isfinite(alpha) or alpha == 0:
        result.problems["bad_alpha"].append(f"{pair.alpha} is {alpha:g}")
        return None
    return alpha


def _partial_alpha(pairs: Mapping[str, Pair]) -> list[str]:
    """Alphas on some modules but not on all: the fewer of those that have and those that lack."""
    having = [pair.alpha for pair in pairs.values() if pair.alpha]
    lacking = [f"{stem}.alpha is absent" for stem, pair in pairs.items() if not pair.alpha]
    if not having or not lacking:
        return []
    if len(lacking) < len(having):
        return lacking
    return [f"{key} is on some modules but not on all" for key in having]


def _check_values(result: Inspection) -> None:
    seen: dict[tuple[str, tuple[int, int] | None], None] = {}
    for item in result.modules.values():
        seen[item.a, None] = None
        seen[item.b, item.rows] = None
    for key, rows in seen:
        entry = result.header.tensors[key]
        array = raw(result.header, key)
        part = rows is not None and rows != (0, entry.shape[0])
        found = flaws(array[slice(*rows)] if rows else array, entry.dtype)
        name = f"{key} rows {rows[0]} to {rows[1] - 1}" if part and rows else key
        for kind in ("zero", "nan", "infinite"):
            if getattr(found, kind):
                result.problems[kind].append(name)
