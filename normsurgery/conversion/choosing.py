"""Let data choose where the norms start: by agreement of the outputs with those of the original."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from normsurgery.conversion.drift import measure
from normsurgery.isolation import Step

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from normsurgery import io
    from normsurgery.conversion.drift import Drift
    from normsurgery.conversion.grouping import Grouping
    from normsurgery.data import Data

SAMPLES = 64  # more tell little more
ALLOWED = 1.25  # times the error of one group


@dataclass(frozen=True)
class Choice:
    """One starting point that was tried. error, agreement: as in ``Drift``."""

    gauge: str
    grouping: str
    error: float
    agreement: float | None
    chosen: bool = False


def choose(
    original: io.Model,
    make: Callable[[str, Grouping], io.Model],
    gauges: Sequence[str],
    groupings: Sequence[Grouping],
    data: Data,
    *,
    samples: int | None = SAMPLES,
    threads: int | None = None,
    progress: Callable[[Step], None] | None = None,
) -> tuple[str, Grouping, list[Choice]]:
    """Return the gauge and the grouping to take, and what was tried.

    make: converts with a gauge and a grouping. The gauge is the one whose outputs have the least
    error in the first grouping. A later grouping, which normalizes more, is taken where its error
    is at most 1.25 times that. progress: called with each that is tried.
    """
    tried: dict[tuple[str, Grouping], Drift] = {}

    def error(gauge: str, grouping: Grouping) -> float:
        if progress is not None:
            most = len(gauges) + len(groupings) - 1
            progress(Step(f"trying {gauge}, {grouping}", done=len(tried), total=most))
        made = make(gauge, grouping)
        tried[gauge, grouping] = measure(original, made, {}, data, samples=samples, threads=threads)
        return tried[gauge, grouping].error

    gauge = min(gauges, key=lambda one: error(one, groupings[0]))
    least = tried[gauge, groupings[0]].error
    allowed = [one for one in groupings[1:] if error(gauge, one) <= ALLOWED * least]
    grouping = allowed[-1] if allowed else groupings[0]
    choices = [
        Choice(one, str(how), drift.error, drift.agreement, (one, how) == (gauge, grouping))
        for (one, how), drift in tried.items()
    ]
    return gauge, grouping, choices
