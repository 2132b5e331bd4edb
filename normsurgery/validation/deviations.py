"""The errors of one value in two models, as root mean squares, and their ratio."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np

from normsurgery.validation.distances import is_float
from normsurgery.validation.ulps import onnx_limits

_BLOCK = 1 << 16
_ROUNDINGS = 32.0
"""Roundings of a result that pass as the reference's error where no float64 run tells it."""


def compare(right: Any, wrong: Any, truth: Any) -> tuple[float | None, float | None, float, str]:
    """Return both relative errors, their ratio, and what is wrong besides."""
    if isinstance(right, (list, dict)) or isinstance(wrong, (list, dict)):
        return None, None, 0.0, "no tensor: not compared"
    if (right.dtype, right.shape) != (wrong.dtype, wrong.shape):
        note = f"{wrong.dtype} {list(wrong.shape)} in place of {right.dtype} {list(right.shape)}"
        return None, None, inf, note
    if not is_float(right):
        flips = int(np.sum(right != wrong))
        note = f"{flips} of {right.size} elements differ" if flips else ""
        return None, None, inf if flips else 0.0, note
    exact = truth is not None and np.shape(truth) == right.shape
    sums = _Sums.of(right, wrong, truth if exact else right)
    if not sums.finite:
        return None, None, inf, "NaN or Inf in one model alone"
    unit = onnx_limits(right.dtype)[2]
    if sums.scale == 0:
        return 0.0, 0.0, inf if sums.wrong else 0.0, "not zero, was zero" if sums.wrong else ""
    error = sums.wrong / sums.scale
    if not exact:
        return None, error, error / (_ROUNDINGS * unit), ""
    own = sums.right / sums.scale
    return own, error, error / max(own, unit), ""


@dataclass
class _Sums:
    """Root mean squares of a value and of the two errors, over what is finite; in its units."""

    scale: float = 0.0
    right: float = 0.0
    wrong: float = 0.0
    finite: bool = True

    @classmethod
    def of(cls, right: np.ndarray, wrong: np.ndarray, base: np.ndarray) -> _Sums:
        """Go through the arrays a block at a time: copies of all of them would be the peak."""
        flat = [np.asarray(one).reshape(-1) for one in (right, wrong, base)]
        sums = cls()
        peak = max((_peak(flat[2][i : i + _BLOCK]) for i in _starts(flat[0])), default=0.0)
        unit = peak if 0 < peak < inf else 1.0
        for i in _starts(flat[0]):
            ours, theirs, true = (one[i : i + _BLOCK].astype(np.float64) for one in flat)
            there = np.isfinite(ours)
            if not np.array_equal(there, np.isfinite(theirs)):
                return cls(finite=False)
            there &= np.isfinite(true)
            ours, theirs, true = (one[there] / unit for one in (ours, theirs, true))
            sums.scale += float(true @ true)
            sums.right += float((ours - true) @ (ours - true))
            sums.wrong += float((theirs - true) @ (theirs - true))
        scale, own, error = (float(np.sqrt(x)) for x in (sums.scale, sums.right, sums.wrong))
        return cls(scale, own, error)


def _starts(flat: np.ndarray) -> range:
    return range(0, flat.size, _BLOCK)


def _peak(block: np.ndarray) -> float:
    wide = np.abs(block.astype(np.float64))
    return float(wide[np.isfinite(wide)].max(initial=0.0))
