"""Floats moved by a unit in the last place, and the limits of their types.

That is the smallest change that a coefficient can go through, and what rounding it anew may do.
"""

from __future__ import annotations

import numpy as np


def one_ulp(array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """`array`, each normal number of which is moved by −1, 0 or 1 unit in the last place.

    Floats are ordered like their bits, so one unit is one bit step. Zeros, subnormals, the
    largest numbers and non-finite ones stay. Other types come back as they are.
    """
    if array.dtype.kind != "f" and array.dtype.name != "bfloat16":
        return array
    values = np.ascontiguousarray(array).reshape(array.shape)
    limits = onnx_limits(array.dtype)
    with np.errstate(over="ignore"):
        size = np.abs(values.astype(np.float64))
    movable = (size > 2 * limits[0]) & (size < limits[1] / 2)
    bits = values.view(f"i{array.dtype.itemsize}")
    steps = rng.integers(-1, 2, array.shape).astype(bits.dtype)
    moved: np.ndarray = np.where(movable, bits + steps, bits).astype(bits.dtype)
    return moved.view(array.dtype)


def half_ulp(array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """`array` in float64, moved by up to half a unit in the last place of its own type.

    That is what rounding anew does to a coefficient, where nothing else is rounded. A float64
    array has no finer type to be moved in: it is moved by `one_ulp`.
    """
    if array.dtype == np.float64:
        return one_ulp(array, rng)
    smallest, _, unit = onnx_limits(array.dtype)
    wide = array.astype(np.float64)
    _, exponent = np.frexp(np.maximum(np.abs(wide), smallest))
    # The numbers from 2^(e−1) to 2^e are 2u · 2^(e−1) apart.
    moved: np.ndarray = wide + rng.uniform(-0.5, 0.5, array.shape) * np.ldexp(unit, exponent)
    return np.where(wide == 0, wide, moved)


def onnx_limits(dtype: np.dtype) -> tuple[float, float, float]:
    """Smallest normal number, largest number and unit roundoff u of a float type."""
    if dtype.name == "bfloat16":
        return 2.0**-126, float(np.finfo(np.float32).max) * (1 - 2.0**-9), 2.0**-8
    info = np.finfo(dtype)
    return float(info.smallest_normal), float(info.max), float(info.eps) / 2
