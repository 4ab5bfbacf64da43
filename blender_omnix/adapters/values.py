# SPDX-License-Identifier: GPL-3.0-or-later
"""Tensor values of a safetensors file as numpy arrays, bfloat16 included, without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .header import Header

# dtype -> (the array's own type, unsigned type of the same size, exponent bits, mantissa bits).
# numpy has no bfloat16: its arrays here are the raw 16 bits.
FLOATS = {
    "F64": ("<f8", "<u8", 11, 52),
    "F32": ("<f4", "<u4", 8, 23),
    "F16": ("<f2", "<u2", 5, 10),
    "BF16": ("<u2", "<u2", 8, 7),
}
INTEGERS = {"I64": "<i8", "I32": "<i4", "I16": "<i2", "U8": "u1"}  # some trainers' alphas


@dataclass(frozen=True)
class Flaws:
    """What is wrong with a tensor's values: all zero, any NaN, any infinity."""

    zero: bool
    nan: bool
    infinite: bool


def raw(header: Header, name: str) -> NDArray:
    """The tensor as stored, in its shape, not to be written to; BF16 as its raw 16 bits.

    Raises OmnixError where the file is no longer what it was.
    """
    entry = header.tensors[name]
    dtype = INTEGERS.get(entry.dtype) or FLOATS[entry.dtype][0]
    return np.frombuffer(header.read(name), dtype).reshape(entry.shape)


def widened(array: NDArray, dtype: str) -> NDArray[np.float64]:
    """Values of a raw array of the safetensors type `dtype` as float64, exactly."""
    if dtype == "BF16":
        # A whole number without a type would turn a single value into 64 bits.
        return (array.astype(np.uint32) << np.uint32(16)).view(np.float32).astype(np.float64)
    return array.astype(np.float64)


def narrowed(array: NDArray[np.float64], dtype: str) -> NDArray:
    """float64 values as a raw array of the type `dtype`, to nearest (BF16 by way of float32)."""
    with np.errstate(over="ignore"):
        if dtype != "BF16":
            return array.astype(FLOATS[dtype][0])
        bits = array.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def flaws(array: NDArray, dtype: str) -> Flaws:
    """Look for zeros only, NaN and infinity in a raw array by its bits."""
    _, unsigned, exponent_bits, mantissa_bits = FLOATS[dtype]
    magnitude = np.ascontiguousarray(array).view(unsigned)
    magnitude = magnitude & np.array((1 << (exponent_bits + mantissa_bits)) - 1, unsigned)
    infinity = ((1 << exponent_bits) - 1) << mantissa_bits
    highest = int(magnitude.max(initial=0))
    return Flaws(
        zero=highest == 0,
        nan=highest > infinity,
        infinite=highest >= infinity and bool((magnitude == infinity).any()),
    )


def scalar(header: Header, name: str) -> float | None:
    """Value of a tensor that holds a single number, such as an alpha; None for any other."""
    entry = header.tensors[name]
    if math.prod(entry.shape) != 1 or entry.dtype not in (*FLOATS, *INTEGERS):
        return None
    return scalar_of(header.read(name), entry.dtype)


def scalar_of(data: bytes, dtype: str) -> float:
    """The single number in a tensor's bytes."""
    if dtype in INTEGERS:
        return float(np.frombuffer(data, INTEGERS[dtype])[0])
    return float(widened(np.frombuffer(data, FLOATS[dtype][0]), dtype)[0])


def scalar_bytes(value: float, dtype: str) -> bytes:
    """A single number as a tensor's bytes, the counterpart of `scalar_of`."""
    if dtype in INTEGERS:
        return np.array(value, INTEGERS[dtype]).tobytes()
    return narrowed(np.array(value, np.float64), dtype).tobytes()
