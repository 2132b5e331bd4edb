"""What stands beside a verdict: the local certificate, the coverage, and the course of the errors.

Collected by one function, so that it can run in a child process like the comparison itself. What
cannot be collected is told as a reason and takes nothing else with it.
"""

from __future__ import annotations

import functools
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from normsurgery import folding, io, models
from normsurgery.errors import NormSurgeryError
from normsurgery.isolation import Step
from normsurgery.validation import sweep
from normsurgery.validation.certificate import LocalCertificate, certify
from normsurgery.validation.comparison import Status
from normsurgery.validation.coverage import Coverage, coverage
from normsurgery.validation.sets import input_sets
from normsurgery.validation.setups import Setup

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import numpy as np

    from normsurgery.validation.diverging import Course
    from normsurgery.validation.plan import Plan
    from normsurgery.validation.sets import InputSet

    Progress = Callable[[Step], None]


@dataclass(frozen=True)
class Wanted:
    """A course to run: in which setup, on which input set, and whether the verdict failed there."""

    setup: Setup
    set_number: int
    failed: bool


@dataclass(frozen=True)
class Evidence:
    """What was found.

    Attributes:
        certificate: of the coefficients.
        coverage: of the input sets.
        courses: in the order in which they were wanted; None where one could not be run.
        reasons: what could not be collected, and why.

    """

    certificate: LocalCertificate
    coverage: Coverage | None = None
    courses: tuple[Course | None, ...] = ()
    reasons: tuple[str, ...] = field(default=())


def nothing(why: str) -> Evidence:
    """Stand for evidence that could not be collected at all."""
    return Evidence(LocalCertificate(Status.INCONCLUSIVE, "none", reason=why))


def collect(
    reference: Path,
    candidate: Path,
    plan: Plan,
    wanted: Sequence[Wanted] = (),
    progress: Progress | None = None,
) -> Evidence:
    """Collect the evidence on two model files.

    Args:
        reference: the model that is right by definition.
        candidate: the other one.
        plan: of the verdict: its input sets are those whose coverage is taken.
        wanted: courses of errors through depth.
        progress: called before each step.

    Raises:
        NormSurgeryError: the reference cannot be read.

    """
    tell = progress or (lambda _: None)
    tell(Step("comparing coefficients"))
    certificate = certify(reference, candidate)
    covered: Coverage | None = None
    reasons: list[str] = []
    courses: list[Course | None] = []
    setup = wanted[0].setup if wanted else Setup()
    try:
        sets = _sets(reference, plan, setup)
        covered = coverage(reference, _told(sets, tell), threads=plan.threads)
    except NormSurgeryError as failure:
        reasons.append(f"coverage was not taken: {failure}")
    for one in wanted:
        try:
            chosen = _sets(reference, plan, one.setup)[one.set_number]
            courses.append(_course(reference, candidate, plan, one, chosen, tell))
        except NormSurgeryError as failure:
            courses.append(None)
            reasons.append(f"errors were not followed through depth: {failure}")
    return Evidence(certificate, covered, tuple(courses), tuple(reasons))


def _sets(reference: Path, plan: Plan, setup: Setup) -> tuple[InputSet, ...]:
    made = input_sets(
        onnx.load(str(reference), load_external_data=False),
        setup.start(reference, plan.threads).run,
        plan.sets,
        plan.seed,
        batch=plan.batch,
        feeds=plan.feeds,
        shapes=plan.shapes,
    )
    return tuple(made)


def _told(sets: Sequence[InputSet], tell: Progress) -> Iterator[Mapping[str, np.ndarray]]:
    for number, one in enumerate(sets):
        tell(Step(f"coverage of set {number + 1}", "", number, len(sets)))
        yield one.make()


def _course(
    reference: Path, candidate: Path, plan: Plan, one: Wanted, chosen: InputSet, tell: Progress
) -> Course:
    """Follow the errors; those of a failed fold against the fold made again.

    A fold may scale values on purpose that lie between its layers. Made again, it has them too.
    """
    with tempfile.TemporaryDirectory(prefix="normsurgery-") as folder:
        source, title = reference, one.setup.label()
        if one.failed and models.verb(io.load(candidate)) == "fold":
            source = Path(folder, "fold.onnx")
            io.save(folding.fold(reference).content, source)
            title += ", against the fold made again"
        return sweep.course(
            source,
            candidate,
            chosen.make(),
            bound=plan.bound,
            start=functools.partial(one.setup.start, threads=plan.threads),
            float64=plan.float64,
            multiply_adds=plan.multiply_adds,
            label=chosen.label,
            title=title,
            tell=lambda done, total: tell(Step("following errors", "", done, total)),
        )
