# SPDX-License-Identifier: GPL-3.0-or-later
"""How a converted file was spelled before, recorded in its metadata for an exact way back."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import OmnixError
from . import layout
from .fusing import fuse, split
from .header import MAX_DIMENSIONS, is_text
from .layout import Format, Pair
from .product import Matrix, Product, Products, folded, same_changes
from .values import narrowed, scalar_bytes, scalar_of

RECORD = "omnix_conversion"


@dataclass(frozen=True)
class Spelling:
    """How a file names its tensors, and the alphas it states: by module, their type and shape."""

    format: Format
    roles: tuple[str, str]
    metadata: dict[str, str]
    alphas: dict[str, tuple[str, tuple[int, ...]]]


def metadata(spelling: Spelling, products: Products) -> dict[str, str]:
    """Metadata for a file converted from `products`, which were spelled so."""
    record = {
        "format": [spelling.format.family, spelling.format.prefix],
        "roles": spelling.roles,
        "metadata": {k: v for k, v in spelling.metadata.items() if k != RECORD},
        "products": {
            module: {
                "alpha": product.alpha,
                "alpha_as": spelling.alphas.get(module),
                "dtypes": [product.a.dtype, product.b.dtype],
                "rank": product.rank,
            }
            for module, product in products.items()
        },
    }
    return {"format": "pt", RECORD: json.dumps(record, ensure_ascii=False)}


def restored(
    file: Path, products: Products, spelling: Spelling, to: str
) -> tuple[Spelling, Products] | None:
    """The file that `products` were once converted from, by the record in the metadata.

    None where there is no such record, or where converting that file again would not give exactly
    `products`: they were changed since, or the record is another's.
    """
    try:
        record = json.loads(spelling.metadata[RECORD])
        format, notes = Format(*record["format"]), record["products"]
        if format.family != to or not _sensible(record):
            return None
        restore = _restore_parts if to == "peft" else _restore_fused
        former = restore(products, notes, spelling.format if to == "peft" else format)
        back = (
            fuse(file, former, spelling.format)
            if to == "peft"
            else folded(file, split(file, former, format))
        )
        alphas = {
            module: (note["alpha_as"][0], tuple(note["alpha_as"][1]))
            for module, note in notes.items()
            if note["alpha_as"]
        }
        found = Spelling(format, tuple(record["roles"]), dict(record["metadata"]), alphas)
    # A record is text that anyone may have written; one that makes no sense is no record.
    except (
        *(LookupError, TypeError, ValueError, ArithmeticError),
        *(AttributeError, RecursionError, OmnixError),
    ):
        return None
    return (found, former) if same_changes(back, products) else None


def _sensible(record: dict) -> bool:
    """Whether a file spelled as the record says holds what it should and can be read again."""
    family, prefix = record["format"]
    notes = record["products"].values()
    return (
        prefix in ([layout.KOHYA_PREFIX] if family == "kohya" else layout.PREFIXES)
        and [layout.ROLES[role] for role in record["roles"]] == ["a", "b"]
        and all(is_text(text) for item in record["metadata"].items() for text in item)
        and all(_alpha_fits(note["alpha"], note["alpha_as"]) for note in notes)
    )


def _alpha_fits(alpha: float | None, stated: list | None) -> bool:
    """Whether an alpha is stated as a single number, in a type that holds it; or there is none."""
    if alpha is None or stated is None:
        return alpha is stated
    dtype, shape = stated
    single = len(shape) <= MAX_DIMENSIONS and all(type(n) is int and n == 1 for n in shape)
    usable = alpha != 0 and math.isfinite(alpha)
    return single and usable and scalar_of(scalar_bytes(alpha, dtype), dtype) == alpha


def _restore_fused(products: Products, notes: Mapping[str, dict], format: Format) -> Products:
    result: Products = {}
    for module, note in notes.items():
        parts = layout.parts(Pair(module, format)) or []
        pieces = [products[part] for part in parts if not part.endswith("." + layout.MLP)]
        a, dtype = pieces[0].a.cast(note["dtypes"][0]), note["dtypes"][1]
        scale = Product(a, a, note["alpha"]).scale
        b = np.concatenate([piece.b.wide() for piece in pieces]) / scale
        if len(pieces) < len(parts):
            b = np.pad(b, ((0, layout.MLP_RATIO * a.data.shape[1]), (0, 0)))
        result[module] = Product(a, Matrix(dtype, narrowed(b, dtype)), note["alpha"])
    return result


def _restore_parts(products: Products, notes: Mapping[str, dict], format: Format) -> Products:
    """Take block-diagonal products apart again."""
    result: Products = {}
    for module, product in products.items():
        parts = layout.parts(Pair(module, format)) or []
        ranges = layout.row_ranges(parts, product.b.data.shape[0], product.a.data.shape[1]) or []
        ranks = [int(notes[part]["rank"]) for part in parts if part in notes]
        stacked = sum(ranks) == product.rank
        column = 0
        for part, rows in zip(parts, ranges, strict=True):
            if part not in notes:
                continue
            rank = int(notes[part]["rank"])
            columns = slice(column, column + rank) if stacked else slice(None)
            column += rank
            a, b = product.a.data[columns], product.b.data[slice(*rows), columns]
            result[part] = Product(Matrix(product.a.dtype, a), Matrix(product.b.dtype, b))
    return result
