"""Do two models compute the same, up to the rounding errors that the first one has anyway?

The yardstick is a float64 run of the reference (`oracle`); where there is none, its rounding
noise (`noise`). Fixed tolerances are no use: they pass broken models and fail good ones.
"""

from __future__ import annotations

import functools
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from normsurgery import runtime
from normsurgery.errors import NormSurgeryError, UsageError
from normsurgery.validation import judges, noise, oracle
from normsurgery.validation.budget import DEFAULT_MULTIPLY_ADDS, NoOracleError
from normsurgery.validation.compare import Comparison, Status
from normsurgery.validation.result import OutputParity, Parity, sum_up
from normsurgery.validation.sets import InputSet, flatten, input_sets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import numpy as np

BOUND = 2.0
"""A correct fold sits at 1; the mildest of nine planted bugs at 4."""


def parity(
    reference: str | Path,
    candidate: str | Path,
    *,
    sets: int = 3,
    seed: int = 0,
    feeds: Sequence[Mapping[str, np.ndarray]] | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    bound: float = BOUND,
    float64: bool = True,
    multiply_adds: float = DEFAULT_MULTIPLY_ADDS,
    providers: Sequence[str] = (runtime.CPU,),
    threads: int | None = None,
) -> Parity:
    """Compare the model file `candidate` with `reference`, graph optimizations disabled.

    Args:
        reference: the model that is right by definition, external data beside it.
        candidate: the model to be judged.
        sets: how many input sets to make, each of another distribution (`inputs.KINDS`).
        seed: of the first set; the i-th one uses ``seed + i``.
        feeds: input sets to use in place of made ones.
        shapes: input shapes by input name, for dynamic dimensions.
        bound: the ratio of errors that still passes.
        float64: look for a float64 oracle at all.
        multiply_adds: what a float64 run may cost before the noise floor is used instead.
        providers: of onnxruntime. The oracle runs on the CPU always.
        threads: for onnxruntime; every core by default.

    Raises:
        MissingPackageError: onnxruntime or a provider is not there.
        InvalidModelError: the *reference* does not load or run. A candidate that does not is a
            failed parity, not an error.
        UsageError: `feeds` or `shapes` do not fit the model, or no inputs can be made for it.

    """
    reference, candidate = Path(reference), Path(candidate)
    start = functools.partial(runtime.session, providers=providers, threads=threads)
    ours = start(reference)
    skeleton = onnx.load(str(reference), load_external_data=False)
    chosen = tuple(
        input_sets(
            skeleton, functools.partial(runtime.run, ours), sets, seed, feeds=feeds, shapes=shapes
        )
    )
    if not chosen:
        raise UsageError("no input sets: parity cannot be judged")
    made = functools.partial(
        Parity,
        sets=tuple(one.label for one in chosen),
        bound=bound,
        runtime=_runtime_label(providers),
    )
    names = [value.name for value in ours.get_outputs()]
    try:
        theirs = start(candidate)
    except NormSurgeryError as failure:
        broken = [Comparison(Status.FAILED, note=f"the candidate does not load: {failure}")]
        outputs = tuple(sum_up(name, broken) for name in names)
        return made(outputs=outputs, oracle="none", reason="nothing was compared")
    pairs = functools.partial(_run_both, ours, theirs)
    reason = "not asked for"
    with ExitStack() as stack:

        @functools.cache
        def changed(copies: int) -> noise.Doubles:
            return stack.enter_context(
                noise.doubles(reference, copies=copies, seed=seed, threads=threads)
            )

        if float64:
            try:
                truth = oracle.load(reference, multiply_adds=multiply_adds)
                judge = functools.partial(judges.by_oracle, truth, changed, bound)
                return made(outputs=_judge_all(chosen, pairs, judge), oracle="float64", reason="")
            except NoOracleError as failure:
                reason = f"no float64 oracle: {failure}"
        judge = functools.partial(judges.by_noise, changed, bound)
        return made(outputs=_judge_all(chosen, pairs, judge), oracle="noise floor", reason=reason)


def _judge_all(
    chosen: Iterable[InputSet],
    pairs: Callable[[Mapping[str, np.ndarray]], tuple[dict[str, np.ndarray], Any]],
    judge: Callable[..., dict[str, Comparison]],
) -> tuple[OutputParity, ...]:
    """Run and judge one input set after the other, so that one set's tensors are held."""
    found: dict[str, list[Comparison]] = {}
    for one in chosen:
        feeds = one.make()
        reference, candidate = pairs(feeds)
        if isinstance(candidate, NormSurgeryError):
            note = f"the candidate does not run: {candidate}"
            for name in reference:
                found.setdefault(name, []).append(Comparison(Status.FAILED, note=note))
            continue
        shared = [name for name in reference if name in candidate]
        for name in {**reference, **candidate}:
            if name not in shared:
                note = "missing" if name in reference else "the reference has no such output"
                found.setdefault(name, []).append(Comparison(Status.FAILED, note=note))
        judged = judge(feeds, shared, reference, candidate)
        for name in shared:
            found.setdefault(name, []).append(judged[name])
    return tuple(sum_up(name, comparisons) for name, comparisons in found.items())


def _run_both(
    ours: Any,
    theirs: Any,
    feeds: Mapping[str, np.ndarray],
) -> tuple[dict[str, np.ndarray], Any]:
    """Outputs of the reference, and those of the candidate or the error that it raised."""
    reference = flatten(runtime.run(ours, feeds))
    try:
        return reference, flatten(runtime.run(theirs, feeds))
    except NormSurgeryError as failure:
        return reference, failure


def _runtime_label(providers: Sequence[str]) -> str:
    short = ".".join(runtime.version().split(".")[:2])
    return f"onnxruntime {providers[0].removesuffix('ExecutionProvider')} {short}"
