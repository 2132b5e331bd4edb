"""Second opinions: what rounding alone does to an output, measured on changed copies.

They are asked about a candidate that is over the bound, one after the other, each dearer than the
one before. The error of a few numbers is a matter of luck: right candidates with outputs of 1 to 20
elements are over twice the largest error of twenty copies in one case of 2,700
(``benchmarks/false_alarms.py``). So a candidate that is near to passing is held against more of
them, and then is itself run on inputs that are an ulp away, which rolls the dice of its rounding
anew: luck does not last, a bug does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

Kind = Literal["error", "mask"]
"""An rms (flips where there is nothing to round), or elements that are not finite in one alone."""

Opinion = Callable[[Kind, float], float]
"""The largest of what the copies show; no more of them need be asked once it is so much."""

Again = Callable[[], float]
"""The candidate's error over `AGAIN` inputs that are an ulp away: an rms."""

AGAIN = 8

NEAR = 8.0
"""How far over the bound a candidate may be for more copies to be made. The largest of fifty is
seldom more than twice that of twenty; a bug is more often off by hundreds."""


def explain(
    error: float,
    scale: float,
    bound: float,
    opinions: Sequence[Opinion],
    *,
    kind: Kind = "error",
    floor: float = 0.0,
) -> float:
    """The `scale` that `error` is to be held against, raised to what the copies show.

    Args:
        error: of the candidate.
        scale: what explains an error without any opinion.
        bound: the ratio of the two that still passes.
        opinions: asked in turn, until one is enough.
        kind: what `error` is.
        floor: the least scale that `NEAR` is taken of: 1 for what is counted.

    """
    for number, ask in enumerate(opinions):
        far = number > 0 and error > NEAR * bound * max(scale, floor)
        if error <= bound * scale or far:
            break
        scale = max(scale, ask(kind, error / bound))
    return scale


def typical(error: float, scale: float, bound: float, again: Again | None) -> float:
    """The candidate's `error`, or what it is by and large where that may let it pass."""
    if again is None or error <= bound * scale or error > NEAR * bound * scale:
        return error
    return again()


def larger(*opinions: Opinion) -> Opinion:
    """The opinion that goes by the one which shows more."""

    def ask(kind: Kind, enough: float) -> float:
        return max(one(kind, enough) for one in opinions)

    return ask
