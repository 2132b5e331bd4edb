"""What ``validate`` found: per provider, for people, for JSON and for an exit status."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from normsurgery.validation.comparison import Status

if TYPE_CHECKING:
    from normsurgery.validation.certificate import LocalCertificate
    from normsurgery.validation.coverage import Coverage
    from normsurgery.validation.diverging import Course
    from normsurgery.validation.drift import Drift
    from normsurgery.validation.result import Parity


@dataclass(frozen=True)
class ProviderRun:
    """Both models on one provider.

    Attributes:
        provider: ``CPU`` or ``CUDA``.
        verdict: with graph optimizations disabled, and no TF32.
        course: the errors of all shared values through depth, where it was asked for or failed.
        beside: the same with what onnxruntime does by default; shown, never judged.

    """

    provider: str
    verdict: Parity
    beside: tuple[Parity, ...] = ()
    course: Course | None = None


@dataclass(frozen=True)
class Validation:
    """The parity of two models on each provider, or the drift of a conversion.

    Attributes:
        reference, candidate: their paths, or what kind of object they were.
        made_by: the verb that made the candidate, if its metadata say so.
        runs: one per provider; empty where drift was measured.
        drift: of a candidate that is meant to compute something else; never parity.
        certificate: what the coefficients say, without an input.
        coverage: which channels the input sets excite.
        reasons: what could not be found out, and why.

    """

    reference: str
    candidate: str
    made_by: str = ""
    runs: tuple[ProviderRun, ...] = ()
    drift: Drift | None = None
    certificate: LocalCertificate | None = None
    coverage: Coverage | None = None
    reasons: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Parity was proved on every provider, and no coefficient is wrong; false for a drift."""
        certified = self.certificate is None or self.certificate.ok
        return certified and bool(self.runs) and all(run.verdict.ok for run in self.runs)

    @property
    def status(self) -> Status | None:
        """The worst of the providers and the certificate; None where drift was measured."""
        kinds = {run.verdict.status for run in self.runs}
        if self.runs and self.certificate is not None and not self.certificate.ok:
            return Status.FAILED
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
            if run.course is not None and not run.verdict.ok:
                found += run.course.lines()
        found += [one.line() for one in (self.certificate, self.coverage) if one is not None]
        return [*found, *self.reasons]

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
                    "course": None if run.course is None else run.course.to_dict(),
                }
                for run in self.runs
            ],
            "drift": None if self.drift is None else self.drift.to_dict(),
            "certificate": None if self.certificate is None else self.certificate.to_dict(),
            "coverage": None if self.coverage is None else self.coverage.to_dict(),
            "reasons": list(self.reasons),
        }


def _misplaced(parity: Parity) -> bool:
    return parity.placement is not None and not parity.placement.ok
