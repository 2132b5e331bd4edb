"""Where two models part: the course of errors through depth, and its first diverging value.

``error = rms(value − float64) / rms(float64)``; the *ratio* is the candidate's over the
reference's, which is never taken to be better than rounding the result once. The first diverging
value is looked for from a failed output upwards: through values over the bound, to one whose own
inputs are all within. A value that a fold scaled on purpose, and that is right again behind it, is
on no such path.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Deviation:
    """One value that both models compute.

    Attributes:
        name: in the reference; `node` made it there, `twin` in the candidate.
        inputs: the nearest shared values that it is computed from.
        reference, candidate: relative errors against float64; None where nothing tells.
        ratio: of the two errors; infinite where the values cannot be compared.
        note: what is wrong besides an error, or empty.

    """

    name: str
    node: str
    twin: str
    inputs: tuple[str, ...]
    reference: float | None
    candidate: float | None
    ratio: float
    note: str = ""


@dataclass(frozen=True)
class Course:
    """The errors of all shared values on one input set, in the order of the reference.

    Attributes:
        values: every shared value up to where a model stopped.
        outputs: the graph outputs among them.
        bound: the ratio beyond which a value diverges.
        label: the input set. runtime: what ran the models.
        reason: why there is no float64 run, or none to the end.
        stopped: why the comparison ends early, or empty.

    """

    values: tuple[Deviation, ...]
    outputs: tuple[str, ...]
    bound: float
    label: str = ""
    runtime: str = ""
    reason: str = ""
    stopped: str = ""

    @property
    def first(self) -> Deviation | None:
        """The value at which the candidate leaves the reference; None if no output does."""
        known = {one.name: one for one in self.values}
        waiting = [one for one in self.values if one.name in self.outputs and self._bad(one, 0)]
        if self.stopped and not waiting:
            waiting = [one for one in self.values[-1:] if self._bad(one, 0)]
        seen, starts = set(), []
        while waiting:
            one = waiting.pop()
            if one.name in seen:
                continue
            seen.add(one.name)
            before = [known[n] for n in one.inputs if n in known and self._bad(known[n], one.ratio)]
            waiting += before
            if not before:
                starts.append(one)
        return max(starts, key=lambda one: one.ratio, default=None)

    def _bad(self, one: Deviation, later: float) -> bool:
        """Whether a value is over the bound, and its error may be the cause of the later one's."""
        share = later / 30 if isfinite(later) else 0.0
        return not one.ratio <= max(self.bound, share)

    def growth(self, one: Deviation) -> tuple[float | None, float | None]:
        """Error of a value over the largest of its inputs', in the reference and the candidate."""
        known = {value.name: value for value in self.values}
        before = [known[name] for name in one.inputs if name in known]
        return (
            _over(one.reference, [value.reference for value in before]),
            _over(one.candidate, [value.candidate for value in before]),
        )

    def worst(self, count: int = 5) -> list[Deviation]:
        """The values of the largest ratios, of those whose error reaches the end.

        A value that was scaled on purpose, or that has its name from one further on, is right again
        in all that is computed from it; it is left out unless there are no others.
        """
        found = self._reaching() or self.values
        return sorted(found, key=lambda one: -one.ratio)[:count]

    def _reaching(self) -> list[Deviation]:
        """The values over the bound whose error goes on to an output, or to the last values."""
        readers: dict[str, list[str]] = {}
        for one in self.values:
            for name in one.inputs:
                readers.setdefault(name, []).append(one.name)
        bad = {one.name for one in self.values if self._bad(one, 0)}
        reach: set[str] = set()
        for one in reversed(self.values):
            behind = readers.get(one.name)
            ends = not behind or one.name in self.outputs
            if one.name in bad and (ends or reach.intersection(behind or ())):
                reach.add(one.name)
        return [one for one in self.values if one.name in reach]

    def lines(self) -> list[str]:
        """For a terminal: where it begins, its inputs, how far it grew, and the worst values."""
        found = []
        first = self.first
        if first is not None:
            made = first.twin if first.twin == first.node else f"{first.twin}, was {first.node}"
            found.append(f"first diverging value: `{first.name}` ({made}): {_told(first)}")
            known = {one.name: one for one in self.values}
            before = [known[name] for name in first.inputs if name in known]
            found += [f"  its input `{one.name}`: {_told(one)}" for one in before]
            if not before:
                found.append("  its inputs are those of the graph")
            ours, theirs = self.growth(first)
            if theirs is not None and ours is not None:
                found.append(
                    f"  the error grows {theirs:.3g} times here; {ours:.3g} in the reference"
                )
        if self.stopped:
            found.append(self.stopped)
        if first is not None:
            found.append("worst values:")
            found += [f"  `{one.name}`: {_told(one)}" for one in self.worst()]
        return found

    def to_dict(self) -> dict[str, Any]:
        """For JSON: plain types only."""
        first = self.first
        growth = (None, None) if first is None else self.growth(first)
        return {
            "first": None if first is None else asdict(first),
            "growth": {"reference": growth[0], "candidate": growth[1]},
            **asdict(self),
        }


def _told(one: Deviation) -> str:
    if one.note:
        return one.note
    if one.candidate is None:
        return f"{one.ratio:.3g} times what rounding explains"
    told = f"error {one.candidate:.2e}"
    if one.reference is None:
        return f"{told} from the reference"
    return f"{told}, the reference's {one.reference:.2e}, ratio {one.ratio:.3g}"


def _over(value: float | None, before: Sequence[float | None]) -> float | None:
    largest = max((v for v in before if v is not None), default=0.0)
    return value / largest if value is not None and largest > 0 else None
