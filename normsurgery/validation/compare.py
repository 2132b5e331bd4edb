"""One output on one input set: is the candidate as near to the truth as the reference is?

::

    ratio = rms(candidate − oracle) / max(rms(reference − oracle), u · rms(oracle))

u is the unit roundoff of the output's type (2⁻²⁴ for float32): even a perfect computation has
to round its result, so no reference is taken to be better than that.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from normsurgery.validation.budget import NoOracleError
from normsurgery.validation.comparison import Comparison, Status
from normsurgery.validation.distances import is_float, masks_differ, rms
from normsurgery.validation.opinions import AGAIN, explain, typical
from normsurgery.validation.ulps import onnx_limits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from normsurgery.validation.opinions import Again, Opinion


_NO_DIGITS = 0.5
"""The share of an output's rms from which on its noise leaves it no correct digit."""


def against_oracle(
    reference: np.ndarray,
    candidate: np.ndarray,
    truth: np.ndarray,
    *,
    bound: float,
    opinions: Sequence[Opinion] = (),
    again: Again | None = None,
    unit: float = 0.0,
) -> Comparison:
    """Judge by the float64 `truth`.

    Args:
        reference: the output of the model as it was, any type.
        candidate: the output of the changed model.
        truth: the oracle's output, float64 where `reference` is of a float type.
        bound: the ratio that still passes.
        opinions: how far from `truth` the reference gets with its coefficients moved by an ulp.
            Asked for only when the candidate is over the bound, since a reference may be exact by
            luck (weights that are powers of two, no near tie before an ArgMax), and a correctly
            rounded fold of it is not.
        again: the candidate's error on inputs that are an ulp away, asked for in the end.
        unit: the unit roundoff of the coarsest float type inside the model, where that is coarser
            than the output's own.

    Raises:
        NoOracleError: `truth` is no truth: its shape is another one, it is not finite where the
            reference is, or it shares less than half of the type's digits with the reference, and
            with the candidate too. An oracle that is wrong by itself would make every ratio 1.

    """
    early = _without_numbers(reference, candidate)
    if truth.shape != reference.shape:
        raise NoOracleError(f"its shape is {truth.shape}, the reference's {reference.shape}")
    if early is not None and early.flips and truth.dtype == reference.dtype:
        ours, theirs = (int(np.sum(array != truth)) for array in (candidate, reference))
        explained = int(explain(ours, theirs, bound, opinions, floor=1))
        if ours <= bound * explained:
            note = f"{early.note}; {ours} are wrong, and up to {explained} by rounding alone"
            return Comparison(Status.PASSED, flips=early.flips, note=note, yardstick="float64")
    if early is not None:
        return early
    both, masked = _finite(reference, candidate, bound, opinions)
    if masked.status is not Status.PASSED:
        return masked
    true, ref, cand = (a[both].astype(np.float64) for a in (truth, reference, candidate))
    if not np.isfinite(true).all():
        raise NoOracleError("it is not finite where the reference is")
    own = onnx_limits(reference.dtype)[2]
    floor, theirs_error, error = own * rms(true), rms(ref - true), rms(cand - true)
    doubtful = np.sqrt(max(own, unit)) * rms(true)
    # Where the candidate is as near as that, two computations agree against the reference.
    if theirs_error > doubtful and error > doubtful:
        share = theirs_error / max(rms(true), np.finfo(np.float64).tiny)
        raise NoOracleError(f"it is {share:.1e} away from the reference, too much for rounding")
    own_scale = max(theirs_error, floor)
    scale, note = explain(error, own_scale, bound, opinions), masked.note
    if scale > own_scale:
        moved = "scale from the reference with coefficients moved by an ulp"
        note = f"{note}; {moved}" if note else moved
    return _verdict(error, scale, bound, note, "float64", again)


def against_noise(
    reference: np.ndarray,
    candidate: np.ndarray,
    *,
    bound: float,
    opinions: Sequence[Opinion] = (),
    again: Again | None = None,
) -> Comparison:
    """Judge by the reference's rounding noise where there is no oracle.

    opinions: how far the reference gets from itself. That, too, is a difference of two runs, with
    the errors of both in it; so the bound is the same as with an oracle. again: how far the
    candidate is from the reference on inputs that are an ulp away.
    """
    early = _without_numbers(reference, candidate)
    if early is not None and early.flips:
        noise = explain(early.flips, 0.0, bound, opinions, floor=1)
        if early.flips <= bound * noise:
            note = f"{early.note}, as up to {noise:.0f} do by rounding alone"
            return Comparison(Status.PASSED, flips=early.flips, note=note, yardstick="noise floor")
    if early is not None:
        return early
    both, masked = _finite(reference, candidate, bound, opinions)
    if masked.status is not Status.PASSED:
        return masked
    ref, cand = (array[both].astype(np.float64) for array in (reference, candidate))
    error, floor = rms(cand - ref), onnx_limits(reference.dtype)[2] * rms(ref)
    noise = max([floor, *(ask("error", 0.0) for ask in opinions[:1])])
    noise = explain(error, noise, bound, opinions)
    found = _verdict(error, noise, bound, masked.note, "noise floor", again)
    if found.status is Status.PASSED and noise > _NO_DIGITS * rms(ref):
        return replace(found, status=Status.INCONCLUSIVE, note="nothing but rounding noise")
    return found


def _verdict(
    error: float, scale: float, bound: float, note: str, yardstick: str, again: Again | None
) -> Comparison:
    mostly = typical(error, scale, bound, again)
    ratio = mostly / scale
    if ratio > bound:
        over = f"the error is {error / scale:.3g} times what rounding explains"
        return Comparison(
            Status.FAILED, error / scale, error, scale, note=over, yardstick=yardstick
        )
    if mostly != error:
        luck = f"{error / scale:.3g} here, {ratio:.3g} over {AGAIN} inputs that are an ulp away"
        note = f"{note}; {luck}" if note else luck
    return Comparison(Status.PASSED, ratio, mostly, scale, note=note, yardstick=yardstick)


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
    return None


def _finite(
    reference: np.ndarray, candidate: np.ndarray, bound: float, opinions: Sequence[Opinion]
) -> tuple[np.ndarray, Comparison]:
    """Where both are finite, and what there is to say without their numbers.

    What overflows in one of them alone is counted like a flip: near the largest number of a type
    rounding decides. It may be as often as it is in the changed copies.
    """
    ref, cand = reference.astype(np.float64), candidate.astype(np.float64)
    both = np.isfinite(ref) & np.isfinite(cand)
    note = ""
    if unlike := masks_differ(reference, candidate):
        note = f"{unlike} elements are NaN or Inf in one model alone"
        noise = explain(unlike, 0.0, bound, opinions, kind="mask", floor=1)
        if unlike > bound * noise:
            return both, Comparison(Status.FAILED, note=note)
        note += f", as up to {noise:.0f} are by rounding alone"
    if rms(ref[both]) >= onnx_limits(reference.dtype)[0]:
        return both, Comparison(Status.PASSED, note=note)
    if rms(cand[both]) >= onnx_limits(reference.dtype)[0]:
        return both, Comparison(Status.FAILED, note="not zero, was zero")
    nothing = "zero" if both.any() else "no finite elements"
    return both, Comparison(Status.INCONCLUSIVE, note=nothing)
