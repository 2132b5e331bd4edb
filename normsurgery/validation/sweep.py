"""The error of every value that two models share, in one pass over both.

The reference, the candidate and the reference in float64 are run in step, a few nodes at a time
(`steps`), and each shared value is compared while all three have it. So one pass costs one run of
each and holds a handful of values; nothing is marked as an output of the whole. A bisection would
take a run for each of its steps, and would have to assume that errors only grow.
"""

from __future__ import annotations

import functools
import gc
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Any

import numpy as np

from normsurgery import io
from normsurgery.errors import NormSurgeryError
from normsurgery.nodes import label as label_of
from normsurgery.validation import oracle
from normsurgery.validation.budget import DEFAULT_MULTIPLY_ADDS, NoOracleError
from normsurgery.validation.deviations import compare
from normsurgery.validation.diverging import Course, Deviation
from normsurgery.validation.matching import matching
from normsurgery.validation.setups import Setup
from normsurgery.validation.steps import CannotStepError, Stepper

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from normsurgery.validation.setups import Running

    Feeds = Mapping[str, Any]
    Start = Callable[[Path], Running]

AT_ONCE = 8
"""Values that are held at the same time, from each of the three runs, if they are small."""
BYTES = 1 << 21
"""What they may take together, as the last ones did; one is held in any case."""
_LARGE = 1 << 20


def course(
    reference: str | os.PathLike[str],
    candidate: str | os.PathLike[str],
    feeds: Feeds,
    *,
    bound: float = 2.0,
    start: Start | None = None,
    float64: bool = True,
    multiply_adds: float = DEFAULT_MULTIPLY_ADDS,
    label: str = "",
    title: str = "",
    tell: Callable[[int, int], None] | None = None,
) -> Course:
    """Compare every value that two model files share, on one set of inputs.

    Args:
        reference: the model that is right by definition.
        candidate: the other one.
        feeds: the inputs, by name.
        bound: the ratio beyond which a value diverges.
        start: starts a model file (``Setup.start``); onnxruntime on the CPU, optimizations off, if
            None.
        float64: run the reference in float64 too.
        multiply_adds: what the float64 run of a few nodes may cost.
        label: of the input set.
        title: of what runs the models.
        tell: called before each step, with how many of all values are done.

    Raises:
        NormSurgeryError: a model cannot be read, or the *reference* cannot be run.

    """
    run = functools.partial(_run, start or Setup().start)
    model = io.load(reference)
    ours, theirs = Stepper(model, feeds, run), Stepper(io.load(candidate), feeds, run)
    truth = None
    if float64:
        truth = Stepper(model, feeds, functools.partial(_run_double, multiply_adds))
    names = matching(ours.graph, theirs.graph)
    ours.watched, theirs.watched = set(names), set(names.values())
    if truth is not None:
        truth.watched = set(names)
    walk = _Walk(ours, theirs, truth, names)
    shared = [name for node in ours.order for name in node.output if name in names]
    done, count = 0, 1
    while done < len(shared):
        if tell is not None:
            tell(done, len(shared))
        if not walk.step(shared[done : done + count]):
            break
        done += count
        count = max(1, min(AT_ONCE, BYTES // max(walk.largest, 1)))
    outputs = tuple(value.name for value in ours.graph.proto.graph.output)
    reason = walk.reason if float64 else "not asked for"
    return Course(tuple(walk.found), outputs, bound, label, title, reason, walk.stopped)


@dataclass
class _Walk:
    ours: Stepper
    theirs: Stepper
    truth: Stepper | None
    names: dict[str, str]
    found: list[Deviation] = field(default_factory=list)
    reason: str = ""
    stopped: str = ""
    largest: int = 0  # bytes, of the values of the last step

    def step(self, wanted: Sequence[str]) -> bool:
        """Compare the next values; return whether the two models can go on."""
        try:
            right = self.ours.advance(wanted)
        except CannotStepError as failure:
            self.stopped = f"compared as far as `{wanted[0]}`: {failure}"
            return False
        self.largest = max(_nbytes(value) for value in right.values())
        exact = self._exact(wanted)
        wrong, broken = self._candidate(wanted)
        for name in wanted:
            if name in wrong:
                ours, theirs, ratio, note = compare(right[name], wrong[name], exact.get(name))
                self.found.append(self._deviation(name, ours, theirs, ratio, note))
        if broken is not None:
            self.found.append(broken)
        return not self.stopped

    def _exact(self, wanted: Sequence[str]) -> dict[str, Any]:
        if self.truth is None:
            return {}
        try:
            return self.truth.advance(wanted)
        except (CannotStepError, NoOracleError) as failure:
            self.truth, self.reason = None, f"no float64 run from `{wanted[0]}` on: {failure}"
            return {}

    def _candidate(self, wanted: Sequence[str]) -> tuple[dict[str, Any], Deviation | None]:
        """The candidate's values by the reference's names, and the one that it does not reach.

        One by one if together they fail.
        """
        mine = {name: self.names[name] for name in wanted}
        try:
            values = self.theirs.advance(list(mine.values()))
            return {name: values[mine[name]] for name in wanted}, None
        except (CannotStepError, NormSurgeryError):
            pass
        values = {}
        for name in wanted:
            try:
                values[name] = self.theirs.advance([mine[name]])[mine[name]]
            except (CannotStepError, NormSurgeryError) as failure:
                note = f"the candidate does not run as far as this: {failure}"
                self.stopped = f"`{name}`: {note}"
                return values, self._deviation(name, None, None, inf, note)
        return values, None

    def _deviation(
        self, name: str, ours: float | None, theirs: float | None, ratio: float, note: str
    ) -> Deviation:
        main, other = self.ours.graph.main, self.theirs.graph.main
        node, twin = main.producer[name], other.producer[self.names[name]]
        before: dict[str, None] = {}
        waiting, seen = list(main.reads(node)), set()
        while waiting:
            one = waiting.pop(0)
            maker = main.producer.get(one)
            if one in seen or maker is None:
                continue
            seen.add(one)
            if one in self.names:
                before[one] = None
            else:
                waiting += main.reads(maker)
        labels = label_of(node), label_of(twin)
        return Deviation(name, *labels, tuple(before), ours, theirs, ratio, note)


def _run(start: Start, path: Path, feeds: Feeds) -> Mapping[str, Any]:
    return start(path).run(feeds)


def _run_double(multiply_adds: float, path: Path, feeds: Feeds) -> Mapping[str, Any]:
    found = oracle.run(oracle.load(path, multiply_adds=multiply_adds), feeds)
    if path.stat().st_size > _LARGE:  # an evaluator is a cycle, and holds its weights until then
        gc.collect()
    return found


def _nbytes(value: Any) -> int:
    """Return the bytes of a tensor, or of the tensors of a sequence, whose shapes may differ."""
    if isinstance(value, list):
        return sum(_nbytes(one) for one in value)
    return int(np.asarray(value).nbytes)
