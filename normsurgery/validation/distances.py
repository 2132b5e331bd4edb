"""How far two outputs are apart: by size, by flips, and by what is not finite."""

from __future__ import annotations

import numpy as np


def rms(values: np.ndarray) -> float:
    """√(mean of squares) in float64, without overflow; 0 for no values."""
    wide = np.abs(values.astype(np.float64, copy=False))
    peak = float(wide.max(initial=0.0))
    if peak == 0 or not np.isfinite(peak):
        return peak
    return peak * float(np.sqrt(np.mean(np.square(wide / peak))))


def distance(output: np.ndarray, origin: np.ndarray) -> float:
    """The rms of the difference where it is finite, or the flips; 0 for another shape."""
    if output.shape != origin.shape:
        return 0.0
    if not is_float(output):
        return float(np.sum(output != origin))
    with np.errstate(invalid="ignore"):
        apart = output.astype(np.float64) - origin.astype(np.float64)
    return rms(apart[np.isfinite(apart)])


def is_float(array: np.ndarray) -> bool:
    """Whether rounding is to be expected in it: floats of 16 bits and more."""
    return array.dtype.kind == "f" or array.dtype.name == "bfloat16"


def masks_differ(one: np.ndarray, other: np.ndarray) -> int:
    """How many elements of two float arrays are NaN in one alone, or unlike infinities.

    0 for another shape.
    """
    if one.shape != other.shape:
        return 0
    ours, theirs = one.astype(np.float64), other.astype(np.float64)
    odd = ~(np.isfinite(ours) & np.isfinite(theirs))
    return int(np.sum(odd & ~((ours == theirs) | (np.isnan(ours) & np.isnan(theirs)))))
