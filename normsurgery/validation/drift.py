"""How far two models are apart that need not be the same: for conversions, which change one.

Parity asks whether a change is rounding; drift asks how large it is. Per output, over all input
sets::

    error = rms(candidate − reference) / rms(reference)

and for scores, float outputs (N, classes), how often both have their largest score at one class.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from normsurgery.errors import UsageError
from normsurgery.isolation import Step
from normsurgery.validation.distances import is_float
from normsurgery.validation.sets import flatten, input_sets
from normsurgery.validation.setups import Setup

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from normsurgery.validation.plan import Plan
    from normsurgery.validation.sets import InputSet
    from normsurgery.validation.setups import Running


@dataclass(frozen=True)
class OutputDrift:
    """One output over all input sets.

    Attributes:
        name: of the output.
        error: rms(candidate − reference) / rms(reference); of outputs that are not float, the
            share of elements that differ. None where nothing could be compared, infinite where
            the reference is 0 and the candidate is not.
        worst: the largest error of a single input set.
        top1: of scores, the share of samples for which both name the same class; else None.
        samples: how many samples `top1` is of.
        note: what made them incomparable, or how many elements were not finite; else empty.

    """

    name: str
    error: float | None
    worst: float | None
    top1: float | None = None
    samples: int = 0
    note: str = ""


@dataclass(frozen=True)
class Drift:
    """How far a candidate is from its reference; never a verdict.

    accuracy: of reference and candidate on labelled data, for the first output that is scores.
    """

    outputs: tuple[OutputDrift, ...]
    sets: tuple[str, ...]
    runtime: str
    accuracy: tuple[float, float] | None = None

    def worst(self) -> OutputDrift | None:
        """The output with the largest error; one that could not be compared comes first."""
        return max(self.outputs, key=lambda o: np.inf if o.error is None else o.error, default=None)

    def to_dict(self) -> dict[str, Any]:
        """For JSON: plain types only."""
        return asdict(self)

    def line(self) -> str:
        """One line for a terminal."""
        parts = [self.runtime, f"{len(self.sets)} input set{'' if len(self.sets) == 1 else 's'}"]
        worst = self.worst()
        if worst is not None:
            error = worst.note if worst.error is None else f"error {worst.error:.3g} of rms"
            parts.append(f"{error} ({worst.name})")
        parts += [
            f"top-1 agreement {o.top1:.1%} of {o.samples} ({o.name})"
            for o in self.outputs
            if o.top1 is not None
        ]
        if self.accuracy is not None:
            parts.append(f"accuracy {self.accuracy[0]:.1%}, then {self.accuracy[1]:.1%}")
        return " ".join(f"drift: {', '.join(parts)}".split())


@dataclass
class _Sums:
    """Sums over the input sets of one output.

    difference, reference: of squares; of outputs that are not float, of elements. power: what
    their quotient is raised to. odd: elements that are not finite in one model or the other.
    """

    difference: float = 0.0
    reference: float = 0.0
    power: float = 0.5
    worst: float = 0.0
    agree: int = 0
    samples: int = 0
    odd: int = 0
    note: str = ""


def drift(
    reference: str | Path,
    candidate: str | Path,
    plan: Plan,
    *,
    setup: Setup | None = None,
    labels: np.ndarray | None = None,
    progress: Callable[[Step], None] | None = None,
) -> Drift:
    """Run both model files on the plan's input sets, optimizations disabled, and compare.

    Args:
        reference: the model before it was changed.
        candidate: the model after.
        plan: which inputs; its bound and oracle play no part.
        setup: the provider and its options, a verdict's by default.
        labels: the class of each sample of ``plan.feeds``, one after the other.
        progress: called before each step.

    Raises:
        MissingPackageError: onnxruntime or the provider is not there.
        InvalidModelError: one of the models does not load or run.
        UsageError: feeds or shapes do not fit, or no inputs can be made.

    """
    setup, tell = setup or Setup(), progress or (lambda _: None)
    tell(Step("loading the reference", "reference"))
    ours = setup.start(Path(reference), plan.threads)
    tell(Step("loading the candidate", "candidate"))
    theirs = setup.start(Path(candidate), plan.threads)
    skeleton = onnx.load(str(reference), load_external_data=False)
    chosen = tuple(_chosen(skeleton, ours, plan))
    if not chosen:
        raise UsageError("no input sets: drift cannot be measured")
    sums: dict[str, _Sums] = {}
    right, first = [0, 0], 0
    for number, one in enumerate(chosen):
        tell(Step(f"running the reference on set {number + 1}", "reference", number, len(chosen)))
        feeds = one.make()
        before = flatten(ours.run(feeds))
        tell(Step(f"running the candidate on set {number + 1}", "candidate", number, len(chosen)))
        after = flatten(theirs.run(feeds))
        for name, array in before.items():
            _add(sums.setdefault(name, _Sums()), array, after.get(name))
        scores = next((name for name, array in before.items() if _are_scores(array)), None)
        if labels is not None and scores is not None and scores in after:
            truth = labels[first : first + len(before[scores])]
            for index, outputs in enumerate((before, after)):
                right[index] += int(np.sum(_classes(outputs[scores]) == truth))
            first += len(truth)
    accuracy = (right[0] / first, right[1] / first) if first else None
    return Drift(
        tuple(_output(name, found) for name, found in sums.items()),
        tuple(one.label for one in chosen),
        setup.label(),
        accuracy,
    )


def _chosen(skeleton: onnx.ModelProto, running: Running, plan: Plan) -> Sequence[InputSet]:
    return tuple(
        input_sets(
            skeleton,
            running.run,
            plan.sets,
            plan.seed,
            batch=plan.batch,
            feeds=plan.feeds,
            shapes=plan.shapes,
        )
    )


def _add(sums: _Sums, before: np.ndarray, after: np.ndarray | None) -> None:
    if after is None or before.shape != after.shape or before.dtype != after.dtype:
        now = "missing" if after is None else f"{after.dtype} {after.shape}"
        sums.note = sums.note or f"{now}, was {before.dtype} {before.shape}"
        return
    if is_float(before):
        ref, cand = before.astype(np.float64), after.astype(np.float64)
        finite = np.isfinite(ref) & np.isfinite(cand)
        sums.odd += int(np.sum(~finite))
        difference = float(np.sum(np.square(cand[finite] - ref[finite])))
        reference = float(np.sum(np.square(ref[finite])))
    else:
        sums.power = 1.0
        difference, reference = float(np.sum(before != after)), float(before.size)
    if _are_scores(before):
        sums.agree += int(np.sum(_classes(before) == _classes(after)))
        sums.samples += len(before)
    sums.difference += difference
    sums.reference += reference
    sums.worst = max(sums.worst, _share(difference, reference) ** sums.power)


def _output(name: str, sums: _Sums) -> OutputDrift:
    if sums.note:
        return OutputDrift(name, None, None, note=sums.note)
    error = _share(sums.difference, sums.reference) ** sums.power
    top1 = sums.agree / sums.samples if sums.samples else None
    note = f"{sums.odd} elements are NaN or Inf" if sums.odd else ""
    return OutputDrift(name, error, sums.worst, top1, sums.samples, note)


def _share(difference: float, reference: float) -> float:
    if reference == 0:
        return float("inf") if difference else 0.0
    return difference / reference


def _are_scores(output: np.ndarray) -> bool:
    return is_float(output) and output.ndim == 2 and output.shape[1] > 1


def _classes(scores: np.ndarray) -> np.ndarray:
    found: np.ndarray = np.argmax(scores.astype(np.float64), axis=1)
    return found
