# SPDX-License-Identifier: GPL-3.0-or-later
"""Low-rank products as files hold them, and the folding of their alpha."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import OmnixError
from .values import FLOATS, flaws, narrowed, widened

# Where alpha cannot be folded without rounding, and where not even that type has the range;
# float64 has nothing wider.
WIDER = {"F16": "F32", "BF16": "F32", "F32": "F64", "F64": "F64"}
WIDEST = dict.fromkeys(WIDER, "F64")


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


def same_changes(ones: Products, others: Products) -> bool:
    """Whether all products agree in module, A, B and scale, bit for bit."""
    return ones.keys() == others.keys() and all(
        ones[m].a.same(p.a) and ones[m].b.same(p.b) and ones[m].scale == p.scale
        for m, p in others.items()
    )


def folded(file: Path, products: Products) -> Products:
    """The same changes without alphas: alpha / rank goes into B.

    Exact where it is a power of two and no value leaves the type's range. Otherwise all products
    come back in the next wider type, or in float64, with B rounded to nearest there.
    Raises OmnixError, naming `file`, for a product that has no wider type or leaves its range.
    """
    same = {module: _fold(product, product.b.dtype) for module, product in products.items()}
    rounded = [module for module in products if not _exact(products[module], same[module])]
    if not rounded:
        return same
    if widest := [module for module in rounded if products[module].b.dtype == "F64"]:
        raise OmnixError(
            f"{file} cannot be converted: alpha / rank does not go into the F64 values of "
            f"{widest[0]} without rounding; store them as F32."
        )
    for wider in (WIDER, WIDEST):
        result = {
            module: replace(_fold(p, wider[p.b.dtype]), a=p.a.cast(wider[p.a.dtype]))
            for module, p in products.items()
        }
        beyond = [module for module in products if not _in_range(products[module], result[module])]
        if not beyond:
            return result
    raise OmnixError(
        f"{file} cannot be converted: alpha / rank takes values of {beyond[0]} out of the range of "
        "F64; download it again."
    )


def _fold(product: Product, dtype: str) -> Product:
    with np.errstate(over="ignore"):
        scaled = product.b.wide() * product.scale
    return Product(product.a, Matrix(dtype, narrowed(scaled, dtype)))


def _exact(product: Product, folded: Product) -> bool:
    """Whether folding rounded nothing: only a power of two can be taken out again for certain."""
    if math.frexp(product.scale)[0] not in (0.5, -0.5):
        return False
    return np.array_equal(folded.b.wide() / product.scale, product.b.wide())


def _in_range(product: Product, folded: Product) -> bool:
    """Whether folding rounded to nearest and no more: nothing overflows or loses bits to zero."""
    exponent_bits = FLOATS[folded.b.dtype][2]
    smallest = 2.0 ** (2 - 2 ** (exponent_bits - 1))
    size = np.abs(folded.b.wide())
    return bool(((smallest <= size) & np.isfinite(size) | (product.b.wide() == 0)).all())


def mantissa(products: Products) -> int:
    """Mantissa bits of the widest type among products."""
    return max(FLOATS[m.dtype][3] for p in products.values() for m in (p.a, p.b))
