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

from normsurgery.errors import (
    InvalidModelError,
    NormSurgeryError,
    UsageError,
)
from normsurgery.isolation import Step
from normsurgery.providers import CPU
from normsurgery.validation import judges, noise
from normsurgery.validation.bench import Bench, judge
from normsurgery.validation.budget import DEFAULT_MULTIPLY_ADDS, NoOracleError
from normsurgery.validation.double import coarsest
from normsurgery.validation.judges import Yardsticks
from normsurgery.validation.plan import BOUND, Plan
from normsurgery.validation.sets import input_sets
from normsurgery.validation.setups import FLOAT64, Setup
from normsurgery.validation.truth import Truth

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import numpy as np

    from normsurgery.validation.result import Parity
    from normsurgery.validation.setups import Running

    Feeds = Mapping[str, np.ndarray]
    Progress = Callable[[Step], None]


def parity(
    reference: str | Path,
    candidate: str | Path,
    *,
    sets: int = 3,
    seed: int = 0,
    feeds: Sequence[Feeds] | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    bound: float = BOUND,
    float64: bool = True,
    multiply_adds: float = DEFAULT_MULTIPLY_ADDS,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Parity:
    """Compare the model file `candidate` with `reference` on the CPU, optimizations disabled.

    The arguments are those of `Plan`; errors are those of :func:`parities`.
    """
    plan = Plan(
        sets=sets,
        seed=seed,
        feeds=feeds,
        shapes=shapes,
        bound=bound,
        float64=float64,
        multiply_adds=multiply_adds,
        threads=threads,
    )
    return parities(reference, candidate, (Setup(),), plan, progress=progress)[0]


def parities(
    reference: str | Path,
    candidate: str | Path,
    setups: Sequence[Setup],
    plan: Plan,
    *,
    truth: Truth | None = None,
    progress: Progress | None = None,
) -> tuple[Parity, ...]:
    """Compare the model file `candidate` with `reference`, once per setup, on the same inputs.

    Args:
        reference: the model that is right by definition, external data beside it.
        candidate: the model to be judged.
        setups: how to run the two, on one provider. The float64 oracle runs once for all of
            them, on the CPU.
        plan: inputs, bound and costs.
        truth: float64 outputs of the reference, where they were computed before.
        progress: called before each step.

    Raises:
        MissingPackageError: onnxruntime or a provider is not there.
        InvalidModelError: the *reference* does not load or run in the first setup. A candidate
            that does not is a failed parity, not an error.
        UsageError: feeds or shapes do not fit the model, or no inputs can be made for it.

    """
    reference, candidate = Path(reference), Path(candidate)
    tell = progress or (lambda _: None)
    tell(Step("loading the reference", "reference"))
    true: judges.TrueOutputs = truth or Truth(reference, plan.multiply_adds, tell)
    if not plan.float64:
        true = _without("not asked for")
    try:
        ours = setups[0].start(reference, plan.threads)
    except InvalidModelError as refused:
        ours = _started_in_float64(reference, setups[0], plan, refused)
        true = _without(str(refused).removeprefix(f"{reference}: "))
        try:
            return _compared(reference, candidate, (Setup(FLOAT64),), plan, ours, true, tell)
        except InvalidModelError:  # it does not run there either: what onnxruntime said says more
            raise refused from None
    return _compared(reference, candidate, setups, plan, ours, true, tell)


def _compared(
    reference: Path,
    candidate: Path,
    setups: Sequence[Setup],
    plan: Plan,
    ours: Running,
    true: judges.TrueOutputs,
    tell: Progress,
) -> tuple[Parity, ...]:
    """As `parities`, with the reference `ours` started in the first setup."""
    if not ours.names:
        raise InvalidModelError(f"{reference} has no outputs to compare; name some in its graph")
    skeleton = onnx.load(str(reference), load_external_data=False)
    tell(Step("looking for input shapes", "reference"))
    chosen = tuple(
        input_sets(
            skeleton,
            ours.run,
            plan.sets,
            plan.seed,
            batch=plan.batch,
            feeds=plan.feeds,
            shapes=plan.shapes,
        )
    )
    if not chosen:
        raise UsageError("no input sets: parity cannot be judged")
    found = []
    with ExitStack() as stack:
        changed = _changed(reference, setups[0].provider, plan, stack)
        more = _further(reference, setups[0].provider, plan, tell)
        by = Yardsticks(true, changed, more, plan.bound, coarsest(skeleton))
        for index, setup in enumerate(setups):
            told = _counted(tell, index * len(chosen), len(setups) * len(chosen))
            bench = Bench(reference, candidate, setup, chosen, by, plan, told)
            found.append(judge(bench, ours if index == 0 else None))
    return tuple(found)


def _changed(
    reference: Path, provider: str, plan: Plan, stack: ExitStack
) -> Callable[[int], noise.Doubles]:
    """Makes changed copies of the reference when they are asked for; `stack` removes them."""

    @functools.cache
    def changed(copies: int) -> noise.Doubles:
        made = noise.doubles(
            reference,
            copies=copies,
            seed=plan.seed,
            threads=plan.threads,
            provider=provider,
        )
        return stack.enter_context(made)

    return changed


def _further(
    reference: Path, provider: str, plan: Plan, tell: Progress
) -> Callable[[Feeds], Iterator[Mapping[str, Any]]]:
    """Makes more of them one by one, for a candidate that is near to passing.

    None in float64: there a right candidate errs by the rounding of its coefficients alone, half
    of what the first copies show, and luck plays no part.
    """
    if provider == FLOAT64:
        return lambda _: iter(())

    def told(number: int) -> None:
        tell(Step(f"measuring what rounding does, copy {number + 1}", "reference"))

    return functools.partial(
        noise.further,
        reference,
        tell=told,
        seed=plan.seed,
        threads=plan.threads,
        provider=provider,
    )


def _without(why: str) -> judges.TrueOutputs:
    """No float64 truth."""

    def truth(_label: str, _feeds: Feeds) -> Mapping[str, np.ndarray]:
        raise NoOracleError(why)

    return truth


def _started_in_float64(
    reference: Path, setup: Setup, plan: Plan, refused: InvalidModelError
) -> Running:
    """The reference in float64, where onnxruntime's CPU provider refuses it.

    It has no kernels for bfloat16 or float64 convolutions, among others. Then both models are
    evaluated in float64, which leaves the rounding of their coefficients alone to be compared:
    with what moving the reference's by one unit does.

    Raises `refused`, if nothing else runs it.
    """
    if setup.provider != CPU or not plan.float64:
        raise refused
    try:
        return Setup(FLOAT64).start(reference)
    except NormSurgeryError:
        raise refused from None


def _counted(tell: Progress, before: int, total: int) -> Callable[[str, str, int], None]:
    """Tell a step, with how many of all comparisons are done."""

    def told(text: str, model: str, number: int) -> None:
        tell(Step(text, model, before + number, total))

    return told
