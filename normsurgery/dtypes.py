"""ONNX element types: their NumPy dtypes, sizes, and one correct rounding from float64.

Element types are the ``TensorProto.DataType`` numbers of onnx.proto3.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

FLOAT, INT64, FLOAT16, DOUBLE, BFLOAT16 = 1, 7, 10, 11, 16
FLOATS = (FLOAT, FLOAT16, DOUBLE, BFLOAT16)

Array = npt.NDArray[Any]
Float64 = npt.NDArray[np.float64]

_NAMES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64",
    9: "bool", 10: "float16", 11: "float64", 12: "uint32", 13: "uint64", 14: "complex64",
    15: "complex128", 16: "bfloat16", 17: "float8_e4m3fn", 18: "float8_e4m3fnuz",
    19: "float8_e5m2", 20: "float8_e5m2fnuz", 24: "float8_e8m0fnu",
}  # fmt: skip
# Elements that share bytes: uint4, int4, float4e2m1, uint2, int2, float6e2m3, float6e3m2.
_PACKED_BITS = {21: 4, 22: 4, 23: 4, 25: 2, 26: 2, 27: 6, 28: 6}
# Bits of the stored significand, and the smallest normal number.
_SIGNIFICAND = {FLOAT: 23, FLOAT16: 10, DOUBLE: 52, BFLOAT16: 7}
_TINY = {FLOAT: 2.0**-126, FLOAT16: 2.0**-14, DOUBLE: 2.0**-1022, BFLOAT16: 2.0**-126}
_LARGEST = {
    FLOAT: float(np.finfo(np.float32).max),
    FLOAT16: 65504.0,
    DOUBLE: float(np.finfo(np.float64).max),
    BFLOAT16: 2.0**128 - 2.0**120,
}


def name_of(elem_type: int) -> str:
    """Return the NumPy name of an element type, for messages."""
    return _NAMES.get(elem_type, f"element type {elem_type}")


def numpy_dtype(elem_type: int) -> np.dtype[Any] | None:
    """Return the little-endian dtype whose items are the elements; None for packed and strings."""
    name = _NAMES.get(elem_type)
    if name is None:
        return None
    if name.startswith(("bfloat", "float8")):
        import ml_dtypes

        narrow: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
        return narrow
    dtype: np.dtype[Any] = np.dtype(name).newbyteorder("<")
    return dtype


def nbytes(elem_type: int, count: int) -> int | None:
    """Return the size of ``count`` elements as raw bytes; None if the type has no such form."""
    if elem_type in _PACKED_BITS:
        return (count * _PACKED_BITS[elem_type] + 7) // 8
    dtype = numpy_dtype(elem_type)
    return None if dtype is None else dtype.itemsize * count


def tiny(elem_type: int) -> float:
    """Return the smallest positive normal number."""
    return _TINY[elem_type]


def half_ulp(elem_type: int) -> float:
    """Return half a unit in the last place, relative to a number: what it is at the least."""
    return 2.0 ** -(_SIGNIFICAND[elem_type] + 2)


def largest(elem_type: int) -> float:
    """Return the largest finite number."""
    return _LARGEST[elem_type]


def round_to(values: Float64, elem_type: int) -> Array:
    """Round float64 ``values`` to the nearest number of a float or integer type, ties to even.

    NumPy rounds to float16 and float32 in one step. ml_dtypes goes to bfloat16 by way of float32,
    which rounds twice; rounding to float32 *to odd* first makes the second rounding the only one
    (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", 2008, theorem 3).
    """
    dtype = numpy_dtype(elem_type)
    if dtype is not None and dtype.kind in "iu":
        return np.asarray(np.rint(values).astype(dtype))
    if dtype is None or elem_type not in FLOATS:
        raise TypeError(f"{name_of(elem_type)} is no type to round to")
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        if elem_type == BFLOAT16:
            return _round_to_odd(values).astype(dtype)
        return np.asarray(values.astype(dtype, copy=False))


def _round_to_odd(values: Float64) -> npt.NDArray[np.float32]:
    """Round to float32; an inexact result is the neighbour whose last bit is set."""
    near = values.astype(np.float32)
    back = near.astype(np.float64)
    other = np.where(back < values, np.float32(np.inf), np.float32(-np.inf))
    even = (near.view(np.uint32) & 1) == 0
    inexact = (back != values) & np.isfinite(near) & np.isfinite(values)
    return np.where(inexact & even, np.nextafter(near, other), near)


class Scratch:
    """Float64 memory to compute blocks in: asking for it anew for each costs page faults."""

    def __init__(self) -> None:
        """Start with none; it grows to the largest block."""
        self._buffers: dict[int, Float64] = {}

    def like(self, index: int, block: Array) -> Float64:
        """Return buffer ``index`` in the shape of ``block``, with whatever it holds."""
        buffer = self._buffers.get(index)
        if buffer is None or buffer.size < block.size:
            buffer = self._buffers[index] = np.empty(block.size)
        return buffer[: block.size].reshape(block.shape)


def error_in_ulp(exact: Float64, rounded: Array, elem_type: int) -> Float64:
    """Return ``|rounded − exact|`` in units of the last place of the smaller of the two.

    A correct rounding is within 0.5, and any other is not unless ``exact`` is half way. Non-finite
    where either side is.
    """
    return _relative_error(exact, rounded, elem_type, Scratch()) * 2.0 ** _SIGNIFICAND[elem_type]


def ulps(exact: Float64, rounded: Array, elem_type: int, scratch: Scratch) -> tuple[float, float]:
    """Return the largest and the sum of ``error_in_ulp``; the block must not be empty."""
    error = _relative_error(exact, rounded, elem_type, scratch)
    one = 2.0 ** _SIGNIFICAND[elem_type]
    return float(error.max()) * one, float(error.sum()) * one


def _relative_error(exact: Float64, rounded: Array, elem_type: int, scratch: Scratch) -> Float64:
    """Return ``|rounded − exact|`` over the power of two below the smaller of the two."""
    error, unit, other = (scratch.like(-i, exact) for i in (1, 2, 3))
    np.copyto(error, rounded)
    # 2**exponent of a float64 is what remains when its significand's bits and sign are cleared,
    # and as integers such powers compare as they do as numbers
    mask = np.uint64(0x7FF0_0000_0000_0000)
    np.copyto(other, exact)
    bits, others = unit.view(np.uint64), other.view(np.uint64)
    np.bitwise_and(error.view(np.uint64), mask, out=bits)
    np.minimum(bits, np.bitwise_and(others, mask, out=others), out=bits)
    np.maximum(bits, np.float64(_TINY[elem_type]).view(np.uint64), out=bits)
    # the reciprocal of a power of two, by its exponent: division is slow
    np.subtract(np.uint64(0x7FE0_0000_0000_0000), bits, out=bits)
    with np.errstate(invalid="ignore", over="ignore"):
        np.abs(np.subtract(error, exact, out=error), out=error)
        return np.multiply(error, unit, out=error)
