"""One setup's comparison: both models run on every input set, and what they gave is judged."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import onnx

from normsurgery import runtime
from normsurgery.errors import MissingPackageError, NormSurgeryError
from normsurgery.providers import CPU, missing
from normsurgery.validation import judges
from normsurgery.validation.comparison import Comparison, Status
from normsurgery.validation.judges import Pair, Yardsticks
from normsurgery.validation.placement import Placement, place
from normsurgery.validation.result import OutputParity, Parity, sum_up
from normsurgery.validation.sets import InputSet, flatten
from normsurgery.validation.setups import FLOAT64, Setup

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import numpy as np

    from normsurgery.validation.plan import Plan
    from normsurgery.validation.setups import Running


@dataclass(frozen=True)
class Bench:
    """Everything that one setup's comparison needs."""

    reference: Path
    candidate: Path
    setup: Setup
    chosen: tuple[InputSet, ...]
    by: Yardsticks
    plan: Plan
    tell: Callable[[str, str, int], None]


def judge(bench: Bench, ours: Running | None) -> Parity:
    """The comparison in one setup; `ours` is the reference if it was started already."""
    empty = Parity(
        outputs=(),
        sets=tuple(one.label for one in bench.chosen),
        bound=bench.by.bound,
        oracle="none",
        reason="nothing was compared",
        runtime=bench.setup.label(),
    )
    bench.tell("loading the reference", "reference", 0)
    try:
        ours = ours or bench.setup.start(bench.reference, bench.plan.threads)
    except MissingPackageError:
        raise
    except NormSurgeryError as failure:
        return replace(empty, reason=f"the reference does not load: {failure}")
    bench.tell("loading the candidate", "candidate", 0)
    try:
        theirs = bench.setup.start(bench.candidate, bench.plan.threads)
    except MissingPackageError:
        raise
    except NormSurgeryError as failure:
        why = str(failure).removeprefix(f"{bench.candidate}: ")
        return replace(empty, outputs=does_not(ours.names, f"load: {why}"))
    placement = _placed(bench, theirs)
    outputs, yardsticks, reason = _judge_sets(bench, ours, theirs)
    return replace(empty, outputs=outputs, oracle=yardsticks, reason=reason, placement=placement)


def does_not(names: Sequence[str], what: str) -> tuple[OutputParity, ...]:
    """The outputs of a comparison whose candidate does not do something at all."""
    broken = [Comparison(Status.FAILED, note=f"the candidate does not {what}")]
    return tuple(sum_up(name, broken) for name in names)


def _placed(bench: Bench, theirs: Running) -> Placement | None:
    """Where the candidate's nodes run; None on the CPU, where everything does."""
    if bench.setup.provider in {CPU, FLOAT64}:
        return None
    record = runtime.assigned(theirs.session)
    if record is None:
        why = f"onnxruntime {runtime.version()} does not record where nodes run, 1.24 does"
        raise missing(bench.setup.provider, why)
    graph = onnx.load(str(bench.candidate), load_external_data=False)
    return place(record, bench.setup.provider, graph, bench.plan.allow_fallback)


def _judge_sets(
    bench: Bench, ours: Running, theirs: Running
) -> tuple[tuple[OutputParity, ...], str, str]:
    """Run and judge one input set after the other, so that one set's tensors are held.

    Returns the outputs, the yardsticks that were used, and why it is not float64 alone.
    """
    found: dict[str, list[Comparison]] = {}
    reason = ""
    asks = _asks(bench.candidate)
    for number, one in enumerate(bench.chosen):
        bench.tell(f"making set {number + 1}", "reference", number)
        feeds = one.make()
        bench.tell(f"running the reference on set {number + 1}", "reference", number)
        reference = flatten(ours.run(feeds))
        bench.tell(f"running the candidate on set {number + 1}", "candidate", number)
        try:
            unlike = asks(feeds)
            candidate = {} if unlike else flatten(theirs.run(feeds))
        except NormSurgeryError as failure:
            unlike = f"the candidate does not run: {failure}"
        if unlike:
            for name in reference:
                found.setdefault(name, []).append(Comparison(Status.FAILED, note=unlike))
            continue
        shared = [name for name in reference if name in candidate]
        for name in {**reference, **candidate}:
            if name not in shared:
                note = "missing" if name in reference else "the reference has no such output"
                found.setdefault(name, []).append(Comparison(Status.FAILED, note=note))
        bench.tell(f"judging set {number + 1}", "reference", number)
        lost = frozenset(
            name for name in shared if any(c.status is Status.FAILED for c in found.get(name, ()))
        )
        pair = Pair(
            one.label,
            feeds,
            shared,
            reference,
            candidate,
            ours.run,
            theirs.run,
            lost,
        )
        judged, why = judges.judge(bench.by, pair)
        reason = reason or why
        for name in shared:
            found.setdefault(name, []).append(judged[name])
    used = {c.yardstick for cs in found.values() for c in cs} - {"reference"}
    yardsticks = " and ".join(sorted(used)) or ("float64" if not reason else "noise floor")
    outputs = tuple(sum_up(name, comparisons) for name, comparisons in found.items())
    if reason and bench.setup.provider != FLOAT64:
        reason = f"no float64 oracle: {reason}"
    return outputs, yardsticks, reason


def _asks(path: Path) -> Callable[[Mapping[str, np.ndarray]], str]:
    """Says which inputs a model has that nobody fills, or which it has not; "" where all fit."""
    graph = onnx.load(str(path), load_external_data=False).graph
    filled = {tensor.name for tensor in graph.initializer}
    filled |= {tensor.values.name for tensor in graph.sparse_initializer}
    known = [value.name for value in graph.input]

    def unlike(feeds: Mapping[str, np.ndarray]) -> str:
        more = [name for name in known if name not in filled and name not in feeds]
        lost = [name for name in feeds if name not in known]
        if more:
            return f"the candidate wants {_some(more)}, which the reference does not"
        return f"the candidate has no {_some(lost)}" if lost else ""

    return unlike


def _some(names: Sequence[str]) -> str:
    more = len(names) - 1
    rest = f" and {more} more input{'s' if more > 1 else ''}" if more else ""
    return f"input {names[0]!r}{rest}"
