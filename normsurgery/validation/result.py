"""What a comparison of two models found: for people, for JSON, and for an exit status."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from normsurgery.validation.comparison import Comparison, Status

if TYPE_CHECKING:
    from collections.abc import Sequence

    from normsurgery.validation.placement import Placement


@dataclass(frozen=True)
class OutputParity:
    """One output over all input sets: `comparisons` pairs with `Parity.sets`."""

    name: str
    status: Status
    ratio: float | None
    note: str
    comparisons: tuple[Comparison, ...]


@dataclass(frozen=True)
class Parity:
    """The verdict on two models.

    Attributes:
        outputs: per output of the reference, and per output that only the candidate has.
        sets: what each input set was, such as ``normal, seed 0, x (1, 3, 64, 64)``.
        bound: the ratio up to which an output passes.
        oracle: the yardstick: ``float64``, ``noise floor``, or both where some outputs or input
            sets are without a float64 result.
        reason: why there is no float64 oracle for all of it, if there is none.
        runtime: what ran the models, such as ``onnxruntime CPU 1.32``.
        placement: which provider ran the nodes of the candidate, if it is not the CPU alone.

    """

    outputs: tuple[OutputParity, ...]
    sets: tuple[str, ...]
    bound: float
    oracle: str
    reason: str
    runtime: str
    placement: Placement | None = None

    @property
    def ok(self) -> bool:
        """Every output passed, where it was asked to run; an inconclusive one did not."""
        placed = self.placement is None or self.placement.ok
        return placed and self.status is Status.PASSED

    @property
    def status(self) -> Status:
        """Of all outputs together: failed if one failed, passed if all passed."""
        kinds = {output.status for output in self.outputs}
        if Status.FAILED in kinds:
            return Status.FAILED
        return Status.PASSED if kinds == {Status.PASSED} else Status.INCONCLUSIVE

    @property
    def ratio(self) -> float | None:
        """The largest ratio of all outputs; None where nothing was measured."""
        return max((o.ratio for o in self.outputs if o.ratio is not None), default=None)

    def worst(self) -> OutputParity | None:
        """The output to look at first: a failed one, then an inconclusive, then by ratio."""
        rank = {Status.FAILED: 2, Status.INCONCLUSIVE: 1, Status.PASSED: 0}
        return max(self.outputs, key=lambda o: (rank[o.status], o.ratio or 0.0), default=None)

    def to_dict(self) -> dict[str, Any]:
        """For JSON: plain types only."""
        placement = self.placement.to_dict() if self.placement else None
        told = {"ok": self.ok, "status": self.status, "ratio": self.ratio}
        return {**told, **asdict(self), "placement": placement}

    def short(self) -> str:
        """The runtime and the largest ratio, without a verdict."""
        if self.ratio is None:
            return f"{self.runtime}: {self.reason or 'nothing was measured'}"
        worst = self.worst()
        which = f" ({worst.name})" if worst else ""
        return f"{self.runtime}: largest ratio {self.ratio:.3g}{which}"

    def line(self) -> str:
        """One line for a terminal."""
        worst = self.worst()
        words = {Status.FAILED: "FAILED", Status.INCONCLUSIVE: "inconclusive", Status.PASSED: "ok"}
        parts = [words[worst.status] if worst else "inconclusive", self.runtime]
        parts.append(f"{len(self.sets)} input set{'' if len(self.sets) == 1 else 's'}")
        if worst and worst.ratio is not None:
            parts.append(f"worst ratio {worst.ratio:.3g} ({worst.name})")
        parts.append("float64 oracle" if not self.reason else f"{self.oracle} ({self.reason})")
        line = f"parity: {', '.join(parts)}"
        if worst and worst.status is not Status.PASSED:
            line += f"; {worst.name}: {worst.note}"
        return " ".join(line.split())


def sum_up(name: str, comparisons: Sequence[Comparison]) -> OutputParity:
    """Failed if one failed; passed if one passed; else there was nothing to compare."""
    kinds = [comparison.status for comparison in comparisons]
    status = next(s for s in (Status.FAILED, Status.PASSED, Status.INCONCLUSIVE) if s in kinds)
    ratios = [c.ratio for c in comparisons if c.ratio is not None]
    noted = [c for c in comparisons if c.status is status and c.note]
    worst = max(noted, key=lambda c: float("inf") if c.ratio is None else c.ratio, default=None)
    note = "" if worst is None else worst.note
    if status is Status.INCONCLUSIVE:
        note = f"{note} on every input set"
    return OutputParity(name, status, max(ratios, default=None), note, tuple(comparisons))
