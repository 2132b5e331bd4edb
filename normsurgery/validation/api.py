"""``normsurgery.validate``: the verb as a library function."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from normsurgery import arguments, diagnosis, isolation, models
from normsurgery.errors import MissingPackageError, UsageError
from normsurgery.isolation import Limits, Step
from normsurgery.providers import CUDA, missing
from normsurgery.validation import given
from normsurgery.validation.isolated import Work
from normsurgery.validation.plan import BOUND, Plan
from normsurgery.validation.report import Validation

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Mapping, Sequence

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
    numbers = arguments.given(threads=threads, memory=memory)
    arguments.whole({"samples": samples, "batch": batch, "sets": sets, **numbers})
    arguments.whole({"seed": seed}, least=0)
    limits = {"bound": bound, "multiply_adds": multiply_adds, **arguments.given(timeout=timeout)}
    arguments.real(limits)
    if not bound > 0:
        raise UsageError(f"bound must be above 0, not {bound}")
    arguments.text({"kind": kind})
    arguments.mappings(arguments.given(shapes=shapes, arrays=arrays))
    arguments.patterns({"allow_fallback": allow_fallback}, "names")
    arguments.functions(arguments.given(progress=progress))
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
        seconds = None if timeout is None else float(timeout)
        work = Work(ref_path, cand_path, plan, Limits(seconds, memory), isolate, progress)
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
