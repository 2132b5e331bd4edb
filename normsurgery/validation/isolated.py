"""A comparison in a child process: what is called there, and what a crash there means."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from normsurgery import isolation, runtime
from normsurgery.errors import CrashError
from normsurgery.providers import short_name
from normsurgery.validation.bench import does_not
from normsurgery.validation.comparison import Status
from normsurgery.validation.drift import Drift, drift
from normsurgery.validation.evidence import Evidence, Wanted, collect, nothing
from normsurgery.validation.plan import Plan
from normsurgery.validation.report import ProviderRun
from normsurgery.validation.result import Parity
from normsurgery.validation.saturation import settled, unsaturated
from normsurgery.validation.setups import FLOAT64, Setup, setups
from normsurgery.validation.truth import Truth
from normsurgery.validation.verdict import parities, parity

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import numpy as np

    from normsurgery.isolation import Limits, Step

    Feeds = Mapping[str, np.ndarray]
    Progress = Callable[[Step], None]


class Work:
    """The calls into the child, or into this process."""

    def __init__(
        self,
        reference: Path,
        candidate: Path,
        plan: Plan,
        limits: Limits,
        isolate: bool,
        progress: Progress | None,
    ) -> None:
        self._common: dict[str, Any] = {
            "reference": reference,
            "candidate": candidate,
            "plan": plan,
        }
        self._plan = plan
        self._limits = limits
        self._isolate = isolate
        self._progress = progress

    def runs(self, names: Sequence[str], *, optimized: bool) -> tuple[ProviderRun, ...]:
        """One run per provider, each in a process of its own; the float64 truths go along."""
        found: list[ProviderRun] = []
        known: dict[str, dict[str, np.ndarray]] = {}
        for name in names:
            ways = setups(name, optimized=optimized)
            try:
                parts, known = self._call(judge, setups=ways, needed=names, known=known)
            except CrashError as crash:
                if getattr(crash.step, "model", "") != "candidate":
                    raise
                parts = (_crashed(crash, ways[0], self._plan),)
            found.append(ProviderRun(short_name(name), parts[0], tuple(parts[1:])))
        return tuple(found)

    def evidence(
        self, names: Sequence[str], runs: Sequence[ProviderRun], *, depth: bool
    ) -> Evidence:
        """Certificate and coverage, and a course per provider if asked for or if one failed."""
        wanted = []
        for name, run in zip(names, runs, strict=True):
            failed = run.verdict.status is Status.FAILED
            if depth or failed:
                evaluated = run.verdict.runtime == Setup(FLOAT64).label()
                setup = Setup(FLOAT64 if evaluated else name)
                wanted.append(Wanted(setup, _worst_set(run.verdict), failed))
        try:
            found: Evidence = self._call(collect, wanted=wanted)
        except CrashError as crash:
            return nothing(f"no further evidence: {crash}")
        courses = iter(found.courses)
        asked = [depth or run.verdict.status is Status.FAILED for run in runs]
        return replace(found, courses=tuple(next(courses, None) if a else None for a in asked))

    def drift(self, name: str, labels: np.ndarray | None) -> Drift:
        """The drift on one provider."""
        found: Drift = self._call(drift, setup=Setup(name), labels=labels)
        return found

    def _call(self, function: Callable[..., Any], **arguments: Any) -> Any:
        arguments = self._common | arguments
        if not self._isolate:
            return function(**arguments, progress=self._progress)
        return isolation.call(function, arguments, limits=self._limits, progress=self._progress)


def check(
    reference: Path, candidate: Path, *, limits: Limits | None = None, fork: bool = False
) -> Parity:
    """The parity check of a verb's own output: three input sets on the CPU, in a child process.

    fork: as in ``normsurgery.isolation.call``. Errors are those of ``validate``.
    """
    arguments = {"reference": reference, "candidate": candidate}
    try:
        found: Parity = isolation.call(_parity, arguments, limits=limits, fork=fork)
    except CrashError as crash:
        if getattr(crash.step, "model", "") != "candidate":
            raise
        return _crashed(crash, Setup(), Plan())
    return found


def _parity(reference: Path, candidate: Path, progress: Progress | None = None) -> Parity:
    with unsaturated(reference, candidate) as (ours, theirs):
        return settled(parity(ours, theirs, progress=progress))


def judge(
    reference: Path,
    candidate: Path,
    plan: Plan,
    setups: Sequence[Setup],
    needed: Sequence[str],
    known: dict[str, dict[str, np.ndarray]],
    progress: Progress | None = None,
) -> tuple[tuple[Parity, ...], dict[str, dict[str, np.ndarray]]]:
    """The comparison in each setup, and the float64 outputs of the reference by input set.

    needed: providers that must be there before anything is run.
    known: such outputs, from an earlier call with the same plan. They are given back where more
    than one provider is needed.
    """
    runtime.require(needed)
    with unsaturated(reference, candidate) as (ours, theirs):
        truth = Truth(ours, plan.multiply_adds, progress, known)
        found = parities(ours, theirs, setups, plan, truth=truth, progress=progress)
    return tuple(settled(one) for one in found), truth.known if len(needed) > 1 else {}


def _worst_set(parity: Parity) -> int:
    """The input set of the largest ratio of the output that is worst; the first if none is."""
    worst = parity.worst()
    comparisons = () if worst is None else worst.comparisons
    if len(comparisons) != len(parity.sets):
        return 0
    ranks = [(one.status is Status.FAILED, one.ratio or 0.0) for one in comparisons]
    return max(range(len(ranks)), key=ranks.__getitem__, default=0)


def _crashed(crash: CrashError, setup: Setup, plan: Plan) -> Parity:
    """The verdict on a candidate that took the child with it, where the reference did not."""
    return Parity(
        outputs=does_not(["every output"], f"run: {crash}"),
        sets=(),
        bound=plan.bound,
        oracle="none",
        reason="nothing was compared",
        runtime=setup.label(),
    )
