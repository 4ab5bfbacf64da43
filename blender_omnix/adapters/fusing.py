# SPDX-License-Identifier: GPL-3.0-or-later
"""Products of fused projections as those of the model's modules, and back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import OmnixError
from . import layout
from .inspection import listing
from .layout import Format, Pair
from .product import Matrix, Product, Products, folded


def split(file: Path, products: Products, format: Format) -> Products:
    """Products of fused modules as those of the model's modules, by rows; A is shared.

    Raises OmnixError, naming `file`, for a module OmniX adapters do not fill.
    """
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


def fuse(file: Path, products: Products, format: Format) -> Products:
    """Products of the model's modules as those of fused modules.

    Parts with one common A are stacked; others become a block-diagonal B of all ranks together.
    Raises OmnixError, naming `file`, for a module without a place, or one whose parts are missing.
    """
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
        products = folded(file, products)
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
