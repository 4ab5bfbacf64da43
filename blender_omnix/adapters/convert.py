# SPDX-License-Identifier: GPL-3.0-or-later
"""Exact conversion of an adapter file between the layouts of `layout`, without torch.

(alpha / rank) B A of every module of the model stays what it was. Towards peft and bfl, which carry
no alpha, alpha / rank is folded into B, once; where that cannot be exact in the file's own type, A
and B are stored in the next wider one. What is needed for the way back (alpha, types, names,
metadata) is recorded in the metadata, so that foreign -> peft -> foreign gives the same bits.

Towards a fused projection, parts with one common A are stacked as they are. Parts with an A each
become [A_q; A_k; A_v] and a block-diagonal B, three times the rank: nothing is averaged.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import OmnixError
from . import layout
from .header import read_header, write
from .inspection import listing
from .layout import Format, Pair
from .values import FLOATS, flaws, narrowed, raw, scalar, scalar_bytes, widened

TARGETS = {
    "peft": (Format("peft", layout.PUBLISHED_PREFIX), ("lora_A.weight", "lora_B.weight")),
    "bfl": (Format("bfl", ""), ("lora_A.weight", "lora_B.weight")),
    "kohya": (Format("kohya", layout.KOHYA_PREFIX), ("lora_down.weight", "lora_up.weight")),
}
WIDER = {"F16": "F32", "BF16": "F32", "F32": "F64", "F64": "F64"}
RECORD = "omnix_conversion"


@dataclass(frozen=True)
class Matrix:
    """A raw array with its safetensors type."""

    dtype: str
    data: NDArray

    def same(self, other: Matrix) -> bool:
        """Equal type, shape and bits."""
        return (
            self.dtype == other.dtype
            and self.data.shape == other.data.shape
            and self.data.tobytes() == other.data.tobytes()
        )

    def zero(self) -> bool:
        return flaws(self.data, self.dtype).zero

    def cast(self, dtype: str) -> Matrix:
        return self if dtype == self.dtype else Matrix(dtype, narrowed(self.wide(), dtype))

    def wide(self) -> NDArray[np.float64]:
        return widened(self.data, self.dtype)


@dataclass(frozen=True)
class Product:
    """(alpha / rank) B A; alpha None stands for the rank."""

    a: Matrix
    b: Matrix
    alpha: float | None = None

    @property
    def rank(self) -> int:
        return self.a.data.shape[0]

    @property
    def scale(self) -> float:
        return 1.0 if self.alpha is None else self.alpha / self.rank


Products = dict[str, Product]


@dataclass(frozen=True)
class Spelling:
    """How a file names its tensors, and the alphas it states: by module, their type and shape."""

    format: Format
    roles: tuple[str, str]
    metadata: dict[str, str]
    alphas: dict[str, tuple[str, tuple[int, ...]]]


@dataclass(frozen=True)
class Converted:
    """What was written: from which format to which, how many tensors, whether in a wider type."""

    source: str
    target: str
    tensors: int
    widened: bool


def convert(source: str | Path, target: str | Path, to: str) -> Converted:
    """Convert the adapter file `source` to the layout `to` (peft, bfl or kohya) as file `target`.

    Raises OmnixError where the keys already match, where a tensor is unaccounted for or has no
    place in the layout, and where `target` exists.
    """
    source, target = Path(source), Path(target)
    if target.exists():
        raise OmnixError(f"{target} exists already; choose another name.")
    spelling, products = _read(source)
    family = spelling.format.family
    scaled = any(product.alpha is not None for product in products.values())
    usual, _ = TARGETS[to]
    if family == to and (to != "peft" or (spelling.format == usual and not scaled)):
        raise OmnixError(
            f"{source} already has the keys of {to} ({spelling.format}): nothing is to be "
            "converted; use it as it is."
        )
    restored = _restored(source, products, spelling, to)
    written, result = restored or _respelled(source, products, spelling, to)
    count = _write(target, written, result)
    wider = _mantissa(result) > _mantissa(products)
    return Converted(str(spelling.format), str(written.format), count, wider)


def _respelled(
    file: Path, products: Products, spelling: Spelling, to: str
) -> tuple[Spelling, Products]:
    """The same changes as the layout `to` has them, and a record of how they were spelled."""
    format, roles = TARGETS[to]
    family = spelling.format.family
    metadata = _metadata(spelling, products)
    if family != "peft":
        products = _split(file, products, spelling.format)
    products = _folded(products) if to == "peft" else _fused(file, products, format)
    # Loaders that find no alpha disagree on what it is: Kohya's files always state it.
    alphas: dict[str, tuple[str, tuple[int, ...]]] = {}
    if to == "kohya":
        alphas = dict.fromkeys(products, ("F32", ()))
    return Spelling(format, roles, metadata, alphas), products


def _mantissa(products: Products) -> int:
    return max(FLOATS[m.dtype][3] for p in products.values() for m in (p.a, p.b))


def _read(file: Path) -> tuple[Spelling, Products]:
    """All products of a file by its own module names; every tensor must belong to one."""
    header = read_header(file)
    pairs, others = layout.pairs(header.tensors)
    formats = {pair.format for pair in pairs.values()}
    if others or len(formats) != 1:
        unfit = others or [name for pair in pairs.values() for name in pair.names]
        raise OmnixError(
            f"{file} cannot be converted: it holds tensors that are no low-rank pair or follow "
            f"several layouts at once ({listing(unfit)})."
        )
    products: Products = {}
    alphas = {}
    for stem, pair in pairs.items():
        if pair.a is None or pair.b is None:
            raise OmnixError(f"{file} cannot be converted: {stem} lacks lora_A or lora_B.")
        if foreign := [k for k in (pair.a, pair.b) if header.tensors[k].dtype not in FLOATS]:
            raise OmnixError(f"{file} cannot be converted: {foreign[0]} is not floating point.")
        a, b = (Matrix(header.tensors[key].dtype, raw(header, key)) for key in (pair.a, pair.b))
        if a.data.ndim != b.data.ndim or a.data.ndim < 2 or a.data.shape[0] != b.data.shape[1]:
            raise OmnixError(f"{file} cannot be converted: lora_A and lora_B of {stem} do not fit.")
        alpha = None
        if pair.alpha is not None:
            alpha = scalar(header, pair.alpha)
            if not alpha or not math.isfinite(alpha):
                raise OmnixError(f"{file} cannot be converted: {pair.alpha} is no usable number.")
            alphas[pair.module] = (
                header.tensors[pair.alpha].dtype,
                header.tensors[pair.alpha].shape,
            )
        products[pair.module] = Product(a, b, alpha)
    if alphas and len(alphas) < len(products):
        raise OmnixError(
            f"{file} cannot be converted: {len(alphas)} of {len(products)} modules have an alpha "
            f"({listing(list(alphas))}), so the others' scale is unknown."
        )
    first = next(iter(pairs.values()))
    stem = f"{first.format.prefix}{first.module}."
    roles = str(first.a).removeprefix(stem), str(first.b).removeprefix(stem)
    return Spelling(first.format, roles, header.metadata, alphas), products


def _write(file: Path, spelling: Spelling, products: Products) -> int:
    tensors = {}
    for module, product in products.items():
        stem = spelling.format.prefix + module
        for role, matrix in zip(spelling.roles, (product.a, product.b), strict=True):
            tensors[f"{stem}.{role}"] = (matrix.dtype, matrix.data.shape, matrix.data.tobytes())
        if stated := spelling.alphas.get(module):
            alpha = product.rank if product.alpha is None else product.alpha
            tensors[f"{stem}.alpha"] = (*stated, scalar_bytes(alpha, stated[0]))
    write(file, tensors, spelling.metadata)
    return len(tensors)


def _split(file: Path, products: Products, format: Format) -> Products:
    """Products of fused modules as those of the model's modules."""
    result: Products = {}
    for module, product in products.items():
        parts = layout.parts(Pair(module, format))
        if parts is None:
            raise OmnixError(
                f"{file} cannot be converted: {format.prefix}{module} is no module that OmniX "
                "adapters fill."
            )
        ranges = layout.row_ranges(parts, product.b.data.shape[0], product.a.data.shape[1])
        if ranges is None:
            raise OmnixError(
                f"{file} cannot be converted: {format.prefix}{module} has "
                f"{product.b.data.shape[0]} rows, which its parts cannot share."
            )
        for part, rows in zip(parts, ranges, strict=True):
            b = Matrix(product.b.dtype, product.b.data[slice(*rows)])
            if not part.endswith("." + layout.MLP):
                result[part] = replace(product, b=b)
            elif not b.zero():
                raise OmnixError(
                    f"{file} cannot be converted: rows {rows[0]} to {rows[1] - 1} of "
                    f"{format.prefix}{module} change {part}, which OmniX adapters leave alone."
                )
    return result


def _fused(file: Path, products: Products, format: Format) -> Products:
    """Products of the model's modules as those of fused modules."""
    groups: dict[str, list[str]] = {}
    for module in products:
        group = layout.fused(module, format)
        if group is None:
            raise OmnixError(f"{file} cannot be converted: {module} has no place in {format}.")
        groups[group[0]] = [part for part in group[1] if not part.endswith("." + layout.MLP)]
    for parts in groups.values():
        if lacking := [part for part in parts if part not in products]:
            raise OmnixError(f"{file} cannot be converted: {listing(lacking)} is missing.")
        if len({m.dtype for part in parts for m in (products[part].a, products[part].b)}) > 1:
            raise OmnixError(f"{file} cannot be converted: {listing(parts)} differ in type.")
    shared = {name: _share(products, parts) for name, parts in groups.items()}
    if format.family != "kohya" or not all(shared.values()):
        products = _folded(products)
    result: Products = {}
    for name, parts in groups.items():
        pieces = [products[part] for part in parts]
        if shared[name]:
            a, b = pieces[0].a.data, np.concatenate([piece.b.data for piece in pieces])
        else:
            a = np.concatenate([piece.a.data for piece in pieces])
            b = _block_diagonal([piece.b.data for piece in pieces])
        everything = layout.fused(parts[0], format)
        if everything is not None and len(everything[1]) > len(parts):
            b = np.pad(b, ((0, layout.MLP_RATIO * a.shape[1]), (0, 0)))
        dtype = pieces[0].b.dtype
        result[name] = Product(Matrix(pieces[0].a.dtype, a), Matrix(dtype, b), pieces[0].alpha)
    return result


def _share(products: Products, parts: list[str]) -> bool:
    first = products[parts[0]]
    return all(
        products[part].a.same(first.a) and products[part].alpha == first.alpha for part in parts
    )


def _block_diagonal(blocks: list[NDArray]) -> NDArray:
    rows = sum(block.shape[0] for block in blocks)
    result = np.zeros((rows, sum(block.shape[1] for block in blocks)), blocks[0].dtype)
    row = column = 0
    for block in blocks:
        result[row : row + block.shape[0], column : column + block.shape[1]] = block
        row, column = row + block.shape[0], column + block.shape[1]
    return result


def _folded(products: Products) -> Products:
    """The same changes without alphas: alpha / rank goes into B, exactly."""
    same = {module: _fold(product, product.b.dtype) for module, product in products.items()}
    if all(_exact(products[module], same[module]) for module in products):
        return same
    return {
        module: replace(_fold(p, WIDER[p.b.dtype]), a=p.a.cast(WIDER[p.a.dtype]))
        for module, p in products.items()
    }


def _fold(product: Product, dtype: str) -> Product:
    return Product(product.a, Matrix(dtype, narrowed(product.b.wide() * product.scale, dtype)))


def _exact(product: Product, folded: Product) -> bool:
    """Whether folding rounded nothing: only a power of two can be taken out again for certain."""
    if math.frexp(product.scale)[0] not in (0.5, -0.5):
        return False
    return np.array_equal(folded.b.wide(), product.b.wide() * product.scale, equal_nan=True)


def _metadata(spelling: Spelling, products: Products) -> dict[str, str]:
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
    return {"format": "pt", RECORD: json.dumps(record)}


def _restored(
    file: Path, products: Products, spelling: Spelling, to: str
) -> tuple[Spelling, Products] | None:
    """The file that `products` were once converted from, by the record in the metadata.

    None where there is no such record, or where converting that file again would not give exactly
    `products`: they were changed since, or the record is another's.
    """
    try:
        record = json.loads(spelling.metadata[RECORD])
        format, notes = Format(*record["format"]), record["products"]
        if format.family != to or not set(record["roles"]) <= set(layout.ROLES):
            return None
        restore = _restore_parts if to == "peft" else _restore_fused
        restored = restore(products, notes, spelling.format if to == "peft" else format)
        back = (
            _fused(file, restored, spelling.format)
            if to == "peft"
            else _folded(_split(file, restored, format))
        )
        alphas = {
            module: (note["alpha_as"][0], tuple(note["alpha_as"][1]))
            for module, note in notes.items()
            if note["alpha_as"]
        }
        found = Spelling(format, tuple(record["roles"]), dict(record["metadata"]), alphas)
    # A record is text that anyone may have written; one that makes no sense is no record.
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError, OmnixError):
        return None
    same = back.keys() == products.keys() and all(
        back[m].a.same(p.a) and back[m].b.same(p.b) and back[m].scale == p.scale
        for m, p in products.items()
    )
    return (found, restored) if same else None


def _restore_fused(products: Products, notes: Mapping[str, dict], format: Format) -> Products:
    result: Products = {}
    for module, note in notes.items():
        parts = layout.parts(Pair(module, format)) or []
        pieces = [products[part] for part in parts if not part.endswith("." + layout.MLP)]
        a, dtype = pieces[0].a.cast(note["dtypes"][0]), note["dtypes"][1]
        b = np.concatenate([piece.b.wide() for piece in pieces])
        if len(pieces) < len(parts):
            b = np.pad(b, ((0, layout.MLP_RATIO * a.data.shape[1]), (0, 0)))
        scale = Product(a, a, note["alpha"]).scale
        result[module] = Product(a, Matrix(dtype, narrowed(b / scale, dtype)), note["alpha"])
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
