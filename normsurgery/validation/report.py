"""What ``validate`` found: per provider, for people, for JSON and for an exit status."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from normsurgery.validation.compare import Status

if TYPE_CHECKING:
    from normsurgery.validation.drift import Drift
    from normsurgery.validation.result import Parity


@dataclass(frozen=True)
class ProviderRun:
    """Both models on one provider.

    Attributes:
        provider: ``CPU`` or ``CUDA``.
        verdict: with graph optimizations disabled, and no TF32.
        beside: the same with what onnxruntime does by default; shown, never judged.

    """

    provider: str
    verdict: Parity
    beside: tuple[Parity, ...] = ()


@dataclass(frozen=True)
class Validation:
    """The parity of two models on each provider, or the drift of a conversion.

    Attributes:
        reference, candidate: their paths, or what kind of object they were.
        made_by: the verb that made the candidate, if its metadata say so.
        runs: one per provider; empty where drift was measured.
        drift: of a candidate that is meant to compute something else; never parity.

    """

    reference: str
    candidate: str
    made_by: str = ""
    runs: tuple[ProviderRun, ...] = ()
    drift: Drift | None = None

    @property
    def ok(self) -> bool:
        """Parity was proved on every provider; false where drift was measured."""
        return bool(self.runs) and all(run.verdict.ok for run in self.runs)

    @property
    def status(self) -> Status | None:
        """The worst of the providers; None where drift was measured."""
        kinds = {run.verdict.status for run in self.runs}
        if Status.FAILED in kinds or any(_misplaced(run.verdict) for run in self.runs):
            return Status.FAILED
        return next((s for s in (Status.INCONCLUSIVE, Status.PASSED) if s in kinds), None)

    def lines(self) -> list[str]:
        """A line per provider and setup, for a terminal."""
        if self.drift is not None:
            return [self.drift.line()]
        found = []
        for run in self.runs:
            found.append(run.verdict.line())
            if run.verdict.placement is not None:
                found.append(run.verdict.placement.line())
            found += [f"beside: {one.short()}" for one in run.beside]
        return found

    def to_dict(self) -> dict[str, Any]:
        """For JSON: plain types only."""
        return {
            "ok": self.ok,
            "kind": "parity" if self.drift is None else "drift",
            "status": self.status,
            "reference": self.reference,
            "candidate": self.candidate,
            "made_by": self.made_by,
            "runs": [
                {
                    "provider": run.provider,
                    "verdict": run.verdict.to_dict(),
                    "beside": [one.to_dict() for one in run.beside],
                }
                for run in self.runs
            ],
            "drift": None if self.drift is None else self.drift.to_dict(),
        }


def _misplaced(parity: Parity) -> bool:
    return parity.placement is not None and not parity.placement.ok
