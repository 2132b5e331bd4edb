"""``normsurgery.validate``: the verb as a library function."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from normsurgery import diagnosis, isolation, models, runtime
from normsurgery.errors import CrashError, MissingPackageError, UsageError
from normsurgery.isolation import Limits, Step
from normsurgery.providers import CUDA, missing, short_name
from normsurgery.validation import given
from normsurgery.validation.bench import does_not
from normsurgery.validation.comparison import Status
from normsurgery.validation.drift import Drift, drift
from normsurgery.validation.evidence import Evidence, Wanted, collect, nothing
from normsurgery.validation.plan import BOUND, Plan
from normsurgery.validation.report import ProviderRun, Validation
from normsurgery.validation.result import Parity
from normsurgery.validation.saturation import settled, unsaturated
from normsurgery.validation.setups import FLOAT64, Setup, setups
from normsurgery.validation.truth import Truth
from normsurgery.validation.verdict import parities, parity

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from onnx import ModelProto

    from normsurgery.data import Data, Pixels

    Feeds = Mapping[str, np.ndarray]
    Progress = Callable[[Step], None]

CHANGING = frozenset({"convert", "finetune", "recalibrate"})
"""The verbs that change what a model computes, as they record it in its metadata."""

MULTIPLY_ADDS = 5e10
"""What the float64 run of one input set may cost: 12 images of 224² through a ResNet-50."""


def validate(
    reference: str | os.PathLike[str] | ModelProto | Any,
    candidate: str | os.PathLike[str] | ModelProto | Any,
    *,
    providers: Sequence[str] = ("cpu",),
    data: str | os.PathLike[str] | Data | Sequence[Feeds] | None = None,
    pixels: Pixels | None = None,
    arrays: Mapping[str, str] | None = None,
    samples: int = 64,
    shapes: Mapping[str, Sequence[int]] | None = None,
    batch: int = 4,
    sets: int = 12,
    seed: int = 0,
    bound: float = BOUND,
    multiply_adds: float = MULTIPLY_ADDS,
    optimized: bool = True,
    allow_fallback: Sequence[str] = (),
    kind: str = "auto",
    depth: bool = False,
    isolate: bool = True,
    timeout: float | None = 300.0,
    memory: int | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Validation:
    """Say whether ``candidate`` computes what ``reference`` computes, up to rounding.

    The yardstick is the reference in float64: the candidate's error may be ``bound`` times the
    reference's own, per output and input set, on each provider. Neither model is changed.

    reference, candidate: a path, an ``onnx.ModelProto`` or an ``onnx_ir.Model``.
    providers: of onnxruntime, ``cpu`` and ``cuda``. CUDA must have run every node.
    data: inputs to use: a path or ``Data`` (``normsurgery.data.read``), or feeds by input name, one
    mapping per input set. None makes them: ``sets`` of six distributions, seeded from ``seed`` on.
    pixels: mean and std for the images at a path. arrays: which array at a path is which input's.
    samples: how many of the data to use.
    shapes: by input name, where dimensions are dynamic; images are resized to them.
    batch: of every second set, 1 in others.
    multiply_adds: what a float64 run of one set may cost; beyond it the noise floor judges.
    optimized: run the models with onnxruntime's graph optimizations too, to report it beside.
    allow_fallback: nodes, by name or operator, that may run on the CPU though CUDA was asked for.
    kind: ``parity``, ``drift``, or ``auto``: drift for a candidate whose metadata say that it went
    through a verb, and the reference did not, that changes the function (convert, recalibrate,
    finetune), else parity.
    depth: follow the errors of every value that both models have through depth, on one input set;
    done anyhow where the verdict fails, to say which value diverges first.
    isolate: run it all in a child process: a crash, a step longer than ``timeout`` seconds or more
    than ``memory`` bytes (None for 9/10 of what is free, on CUDA for no cap) end that child and not
    this process. ``progress`` gets each step.

    Raises ``InvalidModelError`` if the reference does not load or run (``CrashError`` if it takes
    the child with it), ``MissingPackageError`` if a provider is not there, ``UsageError`` where
    data or shapes do not fit, ``UnsafeModelError`` or ``ModelIOError`` for a file. A candidate that
    does not load or run has failed, and that is no error.
    """
    names = given.providers(providers)
    if kind not in {"auto", "parity", "drift"}:
        raise UsageError(f"kind {kind!r} is none of auto, parity and drift")
    with contextlib.ExitStack() as stack:
        stack.enter_context(_explained(names))
        ours, ref_path = stack.enter_context(given.file(reference, "reference"))
        theirs, cand_path = stack.enter_context(given.file(candidate, "candidate"))
        feeds, labels = given.feeds(ours, data, pixels, arrays, samples, batch, shapes)
        verb = models.verb(theirs)
        plan = Plan(
            sets=sets,
            seed=seed,
            batch=batch,
            feeds=feeds,
            shapes=shapes,
            bound=bound,
            multiply_adds=multiply_adds,
            threads=threads,
            allow_fallback=tuple(allow_fallback),
        )
        if memory is None and CUDA in names:
            memory = isolation.NO_CAP  # CUDA maps what it likes: a cap is the caller's to set
        work = _Work(ref_path, cand_path, plan, Limits(timeout, memory), isolate, progress)
        found = Validation(given.title(reference), given.title(candidate), verb)
        changed = bool(CHANGING.intersection(models.since(theirs, ours)))
        if kind == "drift" or (kind == "auto" and changed):
            return replace(found, drift=work.drift(names[0], labels))
        runs = work.runs(names, optimized=optimized)
        proof = work.evidence(names, runs, depth=depth)
        courses = proof.courses or (None,) * len(runs)
        runs = tuple(replace(r, course=c) for r, c in zip(runs, courses, strict=True))
        return replace(
            found,
            runs=runs,
            certificate=proof.certificate,
            coverage=proof.coverage,
            reasons=proof.reasons,
        )


@contextlib.contextmanager
def _explained(names: Sequence[str]) -> Iterator[None]:
    """Say of CUDA that is missing what `doctor` finds, and what mends that."""
    try:
        yield
    except MissingPackageError:
        if CUDA not in names:
            raise
        found = diagnosis.cuda()
        if found.ok:
            raise
        raise missing(CUDA, found.text, found.mend) from None


class _Work:
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
