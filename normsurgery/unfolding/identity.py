"""Constants that make a BatchNormalization the identity, to the last bit.

The layer's output x has mean μ and standard deviation σ per channel, and its weights are multiplied
by k, so that what the norm sees is k·x. With

    scale = s/k,  B = μ,  mean = k·μ,  var = s² − ε      (s ≈ k·σ)

``scale·(k·x − mean)/√(var + ε) + B = (s/k)·k·(x − μ)/s + μ = x``. That must survive rounding, so:

- k and ε are powers of two: multiplying by k is exact, and so is ``mean·(scale/√(var + ε)) = B``;
- s is rounded to half the bits of its type, so that s² and √(s²) are exact: 11 bits for float32;
- of those s the nearest is taken for which scale/√(var + ε) is 1/k however it is computed, as a
  quotient or as a product with the rounded reciprocal. It is at most two steps from the nearest of
  all for float32 (every significand, tried with exponents from −20 to 39), so s is within 2.5
  steps of 2⁻¹⁰, 0.24 %, of k·σ: far less than what a few images leave uncertain.

The runtime's ``y = a·x + b`` then has a = 1/k and b = 0: y has the bits of x. A channel that does
not vary, or hardly, gets var = 0 and ``s = √ε``: still 1/k, and nothing is divided by zero, neither
now nor in training. ε is 2⁻¹⁶ (1.5e-5, above cuDNN's least), or less for a layer that is quiet as
a whole.

Source: the ONNX operator BatchNormalization.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from normsurgery import dtypes

if TYPE_CHECKING:
    from normsurgery.dtypes import Float64
    from normsurgery.moments import Moments

LARGEST_EPSILON = 2.0**-16
_BELOW = 10  # binary orders that ε lies at least below the variance of the median channel
_LEAST_EXPONENT = -100
# Bits that s may have, so that s² fits the significand with one bit to spare.
_BITS = {dtypes.FLOAT: 11, dtypes.DOUBLE: 26, dtypes.FLOAT16: 5, dtypes.BFLOAT16: 4}
# Tries at s, s + 1, s − 1, s + 2 … units. Of float64's units, which are small, one in 4,000 needs
# more than seven; half of those left find theirs with every two units more.
_MOST_STEPS = {dtypes.FLOAT: 7, dtypes.DOUBLE: 1000, dtypes.FLOAT16: 7, dtypes.BFLOAT16: 7}


@dataclass(frozen=True)
class Norm:
    """The constants of a BatchNormalization: float64 of shape (C,), exact in the layer's type.

    dead: channels that get ``var = 0``.
    """

    scale: Float64
    B: Float64
    mean: Float64
    var: Float64
    epsilon: float
    dead: int


def identity(moments: Moments, elem_type: int, k: float = 1.0) -> Norm | None:
    """Return the norm that changes nothing behind a layer with these moments.

    moments: of the layer's output before its weights are multiplied by k, a power of two.
    elem_type: of the layer's output, and so of the constants.
    None if the type cannot hold one (float16 ends at variances of 65504).
    """
    sigma = k * np.sqrt(moments.var)
    epsilon = _epsilon(np.square(sigma))
    floor = np.sqrt(epsilon)
    quiet = sigma <= floor
    s = np.where(quiet, floor, _exact_divisor(sigma, epsilon, elem_type))
    if not _divides(s, epsilon, elem_type).all():
        return None
    var = _rounded(np.square(s) - epsilon, elem_type)
    least = min(k, 1.0)  # k·B is a number of the type, too, where that is subnormal
    B = _rounded(least * moments.mean, elem_type) / least
    return Norm(s / k, B, k * B, var, epsilon, int(quiet.sum()))


def _epsilon(variance: Float64) -> float:
    """Return a power of four, so that √ε is a power of two."""
    alive = variance[variance > 0]
    if not alive.size:
        return LARGEST_EPSILON
    exponent = int(np.floor(np.log2(np.median(alive)))) - _BELOW
    exponent = max(_LEAST_EXPONENT, min(exponent, int(np.log2(LARGEST_EPSILON))))
    return float(2.0 ** (exponent - exponent % 2))


def _exact_divisor(sigma: Float64, epsilon: float, elem_type: int) -> Float64:
    """Return the nearest s of few bits with s/√(var + ε) = 1 in the type's own arithmetic."""
    with np.errstate(divide="ignore"):
        exponent = np.floor(np.log2(np.where(sigma > 0, sigma, 1.0)))
    unit = 2.0 ** (exponent + 1 - _BITS[elem_type])
    nearest = np.rint(sigma / unit)
    s = nearest * unit
    for step in range(1, _MOST_STEPS[elem_type]):
        wrong = ~_divides(s, epsilon, elem_type)
        if not wrong.any():
            break
        away = (step + 1) // 2 * (1 if step % 2 else -1)
        s[wrong] = (nearest[wrong] + away) * unit[wrong]
    return s


def _divides(s: Float64, epsilon: float, elem_type: int) -> np.ndarray:
    """Whether a runtime gets 1, by a quotient or by a reciprocal; narrow types go by float32."""
    wide = np.dtype(np.float64 if elem_type == dtypes.DOUBLE else np.float32)
    var = _rounded(np.square(s) - epsilon, elem_type).astype(wide)
    root = np.sqrt(var + np.asarray(epsilon, wide))
    scale, one = s.astype(wide), np.ones((), wide)
    with np.errstate(divide="ignore", invalid="ignore"):
        if elem_type in {dtypes.FLOAT, dtypes.DOUBLE}:
            return np.asarray((scale / root == 1) & (one / root * scale == 1))
        # var has too few bits for s² − ε: what is left is under half a unit in the last place
        return np.asarray(np.abs(scale / root - 1) <= dtypes.half_ulp(elem_type) / 2)


def _rounded(values: Float64, elem_type: int) -> Float64:
    return dtypes.round_to(values, elem_type).astype(np.float64)
