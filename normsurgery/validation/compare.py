"""One output on one input set: is the candidate as near to the truth as the reference is?

::

    ratio = rms(candidate − oracle) / max(rms(reference − oracle), u · rms(oracle))

u is the unit roundoff of the output's type (2⁻²⁴ for float32): even a perfect computation has
to round its result, so no reference is taken to be better than that.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from normsurgery.validation.budget import NoOracleError
from normsurgery.validation.noise import onnx_limits

if TYPE_CHECKING:
    from collections.abc import Callable


_NO_DIGITS = 0.5
"""The share of an output's rms from which on its noise leaves it no correct digit."""


class Status(enum.StrEnum):
    """What a comparison says. ``INCONCLUSIVE``: nothing there to compare; never a pass."""

    PASSED = "passed"
    FAILED = "failed"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class Comparison:
    """What one output was like on one input set.

    Attributes:
        status: the verdict.
        ratio: the error over the allowed scale, to be held against the bound; None where
            nothing was measured.
        error: rms(candidate − oracle), or rms(candidate − reference) against a noise floor.
        scale: the denominator of `ratio`.
        flips: elements of a non-float output that differ from the reference.
        yardstick: what it was held against: ``float64``, ``noise floor``, or ``reference``
            where nothing was there to be measured.
        note: why it failed or says nothing, or what was special; else empty.

    """

    status: Status
    ratio: float | None = None
    error: float | None = None
    scale: float | None = None
    flips: int = 0
    note: str = ""
    yardstick: str = "reference"


def rms(values: np.ndarray) -> float:
    """√(mean of squares) in float64, without overflow; 0 for no values."""
    wide = np.abs(values.astype(np.float64, copy=False))
    peak = float(wide.max(initial=0.0))
    if peak == 0 or not np.isfinite(peak):
        return peak
    return peak * float(np.sqrt(np.mean(np.square(wide / peak))))


def is_float(array: np.ndarray) -> bool:
    """Whether rounding is to be expected in it: floats of 16 bits and more."""
    return array.dtype.kind == "f" or array.dtype.name == "bfloat16"


def against_oracle(
    reference: np.ndarray,
    candidate: np.ndarray,
    truth: np.ndarray,
    *,
    bound: float,
    second_opinion: Callable[[], float],
    unit: float = 0.0,
) -> Comparison:
    """Judge by the float64 `truth`.

    Args:
        reference: the output of the model as it was, any type.
        candidate: the output of the changed model.
        truth: the oracle's output, float64 where `reference` is of a float type.
        bound: the ratio that still passes.
        second_opinion: the error against `truth` (an rms; flips where there is nothing to
            round) of the reference with its coefficients moved by an ulp. Asked for only when the
            candidate is over the bound, since a reference may be exact by luck (weights that are
            powers of two, no near tie before an ArgMax), and a correctly rounded fold of it is not.
        unit: the unit roundoff of the coarsest float type inside the model, where that is coarser
            than the output's own.

    Raises:
        NoOracleError: `truth` is no truth: its shape is another one, it is not finite where the
            reference is, or the two share less than half of the type's digits. An oracle that is
            wrong by itself would make every ratio 1.

    """
    early = _without_numbers(reference, candidate)
    if truth.shape != reference.shape:
        raise NoOracleError(f"its shape is {truth.shape}, the reference's {reference.shape}")
    if early is not None and early.flips and truth.dtype == reference.dtype:
        ours, theirs = (int(np.sum(array != truth)) for array in (candidate, reference))
        if ours > bound * theirs:
            theirs = int(second_opinion())
        if ours <= bound * theirs:
            note = f"{early.note}; {ours} are wrong, and up to {theirs} by rounding alone"
            return Comparison(Status.PASSED, flips=early.flips, note=note, yardstick="float64")
    if early is not None:
        return early
    finite = np.isfinite(reference.astype(np.float64))
    true, ref, cand = (a[finite].astype(np.float64) for a in (truth, reference, candidate))
    if not np.isfinite(true).all():
        raise NoOracleError("it is not finite where the reference is")
    own = onnx_limits(reference.dtype)[2]
    floor, theirs_error, error = own * rms(true), rms(ref - true), rms(cand - true)
    if theirs_error > np.sqrt(max(own, unit)) * rms(true):
        share = theirs_error / max(rms(true), np.finfo(np.float64).tiny)
        raise NoOracleError(f"it is {share:.1e} away from the reference, too much for rounding")
    scale, note = max(theirs_error, floor), ""
    if error > bound * scale:
        moved = second_opinion()
        if moved > scale:
            scale, note = moved, "scale from the reference with coefficients moved by an ulp"
    return _verdict(error, scale, bound, note, "float64")


def against_noise(
    reference: np.ndarray, candidate: np.ndarray, *, noise: float, bound: float
) -> Comparison:
    """Judge by the reference's rounding noise where there is no oracle.

    noise: an rms, or a count of flips where there is nothing to round. It, too, is a difference of
    two runs, with the errors of both in it; so the bound is the same as with an oracle.
    """
    early = _without_numbers(reference, candidate)
    if early is not None and 0 < early.flips <= bound * noise:
        note = f"{early.note}, as up to {noise:.0f} do by rounding alone"
        return Comparison(Status.PASSED, flips=early.flips, note=note, yardstick="noise floor")
    if early is not None:
        return early
    finite = np.isfinite(reference.astype(np.float64))
    ref, cand = (array[finite].astype(np.float64) for array in (reference, candidate))
    scale = max(noise, onnx_limits(reference.dtype)[2] * rms(ref))
    found = _verdict(rms(cand - ref), scale, bound, "", "noise floor")
    if found.status is Status.PASSED and noise > _NO_DIGITS * rms(ref):
        return replace(found, status=Status.INCONCLUSIVE, note="nothing but rounding noise")
    return found


def _verdict(error: float, scale: float, bound: float, note: str, yardstick: str) -> Comparison:
    ratio = error / scale
    if ratio <= bound:
        return Comparison(Status.PASSED, ratio, error, scale, note=note, yardstick=yardstick)
    over = f"the error is {ratio:.3g} times what rounding explains"
    return Comparison(Status.FAILED, ratio, error, scale, note=over, yardstick=yardstick)


def _without_numbers(reference: np.ndarray, candidate: np.ndarray) -> Comparison | None:
    """What can be said before any rounding error is looked at; None if nothing yet."""
    failed, nothing = Status.FAILED, Status.INCONCLUSIVE
    if reference.dtype != candidate.dtype:
        return Comparison(failed, note=f"type {candidate.dtype}, was {reference.dtype}")
    if reference.shape != candidate.shape:
        return Comparison(failed, note=f"shape {candidate.shape}, was {reference.shape}")
    if not reference.size:
        return Comparison(nothing, note="no elements")
    if not is_float(reference):
        flips = int(np.sum(reference != candidate))
        note = f"{flips} of {reference.size} elements differ" if flips else ""
        return Comparison(failed if flips else Status.PASSED, flips=flips, note=note)
    ref, cand = reference.astype(np.float64), candidate.astype(np.float64)
    # Where both are not finite they must be the same NaN or the same infinity.
    odd = ~(np.isfinite(ref) & np.isfinite(cand))
    unlike = int(np.sum(odd & ~((ref == cand) | (np.isnan(ref) & np.isnan(cand)))))
    if unlike:
        return Comparison(failed, note=f"{unlike} elements are NaN or Inf in one model alone")
    tiny = onnx_limits(reference.dtype)[0]
    if rms(ref[~odd]) < tiny:
        if rms(cand[~odd]) < tiny:
            return Comparison(nothing, note="no finite elements" if odd.all() else "zero")
        return Comparison(failed, note="not zero, was zero")
    return None
