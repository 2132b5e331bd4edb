"""What the comparison of one output on one input set says."""

from __future__ import annotations

import enum
from dataclasses import dataclass


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
