# SPDX-License-Identifier: GPL-3.0-or-later
"""Conversion of an adapter file between the layouts of `layout`, without torch.

(alpha / rank) B A of every module of the model stays what it was. Towards peft and bfl, which carry
no alpha, alpha / rank is folded into B, once; where that cannot be exact in the file's own type, A
and B are stored in a wider one, B rounded to nearest there. What is needed for the way back (alpha,
types, names, metadata) is recorded in the metadata, so that foreign -> peft -> foreign gives the
same bits. A file is read back and compared before it takes its name.

Towards a fused projection, parts with one common A are stacked as they are. Parts with an A each
become [A_q; A_k; A_v] and a block-diagonal B, three times the rank: nothing is averaged.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import OmnixError, refuse_overlong_name
from . import layout
from .claims import unborne
from .fusing import fuse, split
from .header import read_header, write
from .inspection import clause, listing
from .layout import Format
from .product import Matrix, Product, Products, folded, mantissa, same_changes
from .record import Spelling, metadata, restored
from .values import FLOATS, flaws, raw, scalar, scalar_bytes

TARGETS = {
    "peft": (Format("peft", layout.PUBLISHED_PREFIX), ("lora_A.weight", "lora_B.weight")),
    "bfl": (Format("bfl", ""), ("lora_A.weight", "lora_B.weight")),
    "kohya": (Format("kohya", layout.KOHYA_PREFIX), ("lora_down.weight", "lora_up.weight")),
}


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
    place in the layout, where metadata would change what the tensors mean, and where `target`
    exists.
    """
    source, target = Path(source), Path(target)
    refuse_overlong_name(target)
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
    former = restored(source, products, spelling, to)
    written, result = former or _respelled(source, products, spelling, to)
    count = _write(target, written, result)
    wider = mantissa(result) > mantissa(products)
    return Converted(str(spelling.format), str(written.format), count, wider)


def _respelled(
    file: Path, products: Products, spelling: Spelling, to: str
) -> tuple[Spelling, Products]:
    """The same changes as the layout `to` has them, and a record of how they were spelled."""
    format, roles = TARGETS[to]
    record = metadata(spelling, products)
    if spelling.format.family != "peft":
        products = split(file, products, spelling.format)
    products = folded(file, products) if to == "peft" else fuse(file, products, format)
    # Loaders that find no alpha disagree on what it is: Kohya's files always state it.
    alphas: dict[str, tuple[str, tuple[int, ...]]] = {}
    if to == "kohya":
        alphas = {module: (_alpha_type(product), ()) for module, product in products.items()}
    return Spelling(format, roles, record, alphas), products


def _alpha_type(product: Product) -> str:
    """The type that loaders expect of an alpha, or one that holds it."""
    exact = product.alpha is None or np.float32(product.alpha) == product.alpha
    return "F32" if exact else "F64"


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
        if 0 in a.data.shape or any(_infinite(matrix) for matrix in (a, b)):
            raise OmnixError(f"{file} cannot be converted: {stem} is empty or not finite.")
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
    scales = {(product.rank, product.scale) for product in products.values()}
    if claims := unborne(header, scales):
        raise OmnixError(f"{file} cannot be converted: {clause('metadata', claims)}.")
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

    def verify(partial: Path) -> None:
        found, stored = _read(partial)
        if found.format != spelling.format or not same_changes(stored, products):
            raise OmnixError(
                f"{file} is not written: read back, it does not hold what it should; report this."
            )

    write(file, tensors, spelling.metadata, verify)
    return len(tensors)


def _infinite(matrix: Matrix) -> bool:
    found = flaws(matrix.data, matrix.dtype)
    return found.nan or found.infinite
