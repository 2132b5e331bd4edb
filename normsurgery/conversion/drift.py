"""How far a converted model has moved, layer by layer and at its outputs, on data.

Per value, over all samples: ``error = rms(after − before) / rms(before)``. Only sums are kept, and
the values of a few layers at a time come out of a run, so that memory does not grow with the number
of layers or samples.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import ValueInfoProto

from normsurgery import blocks, io, models, runtime

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from normsurgery.data import Data

AT_ONCE = 8  # layers whose values come out of one run
BATCH = 8  # samples of one run


@dataclass(frozen=True)
class ValueDrift:
    """One value.

    error: rms of the difference over rms before, infinite where either is not finite; None where
    the two are no arrays of numbers of one shape.
    """

    value: str
    node: str
    error: float | None


@dataclass(frozen=True)
class Drift:
    """What data say of a conversion.

    layers: the values that converted norms make, in graph order; outputs: of the model.
    agreement: of the first output that is scores, (N, classes): the share of samples whose largest
    score is that of the same class. accuracy: before and after, where the data have labels.
    """

    samples: int
    layers: tuple[ValueDrift, ...]
    outputs: tuple[ValueDrift, ...]
    agreement: float | None = None
    accuracy: tuple[float, float] | None = None

    @property
    def error(self) -> float:
        """The largest error of an output; infinite where one cannot be compared."""
        errors = [float("inf") if o.error is None else o.error for o in self.outputs]
        return max(errors, default=0.0)

    def line(self) -> str:
        """Return it in one line."""
        parts = [f"drift over {self.samples} samples: {self.error:.3g} of the outputs' rms"]
        if self.agreement is not None:
            parts.append(f"top-1 agreement {self.agreement:.1%}")
        if self.accuracy is not None:
            parts.append(f"accuracy {self.accuracy[0]:.1%}, then {self.accuracy[1]:.1%}")
        return ", ".join(parts)


@dataclass
class _Sums:
    difference: float = 0.0
    reference: float = 0.0
    comparable: bool = True

    def add(self, before: Any, after: Any) -> None:
        if not (are_numbers(before) and are_numbers(after)) or before.shape != after.shape:
            self.comparable = False
            return
        ref = before.astype(np.float64)
        self.difference += float(np.square(after.astype(np.float64) - ref).sum())
        self.reference += float(np.square(ref).sum())

    def error(self) -> float | None:
        if not self.comparable:
            return None
        if self.difference == 0:
            return 0.0
        with np.errstate(all="ignore"):
            error = float(np.sqrt(np.float64(self.difference) / self.reference))
        return error if np.isfinite(error) else float("inf")


@dataclass
class _Scores:
    """Counts over the samples of scores."""

    samples: int = 0
    agree: int = 0
    right: list[int] = field(default_factory=lambda: [0, 0])


def measure(
    before: io.Model,
    after: io.Model,
    layers: Mapping[str, str],
    data: Data,
    *,
    samples: int | None = None,
    threads: int | None = None,
    step: Callable[[int, int], None] | None = None,
) -> Drift:
    """Return how far ``after`` is from ``before`` on ``data``.

    layers: values of the main graph that both models make, each with the name to report.
    samples: use so many, spread evenly over the data, which are often sorted by class; None: all.
    step: called with how many samples have run, of how many, as often as layers are many.

    Raises ``MissingPackageError`` without onnxruntime, ``InvalidModelError`` where it does not run
    a model, and what reading the data raises.
    """
    outputs = [output.name for output in before.proto.graph.output]
    sums = {name: _Sums() for name in (*layers, *outputs)}
    scores = _Scores()
    taken = data.spread(samples)
    count = len(taken)
    inner = [name for name in layers if name not in outputs]
    parts = [inner[i : i + AT_ONCE] for i in range(0, len(inner), AT_ONCE)] or [[]]
    done = 0
    for number, part in enumerate(parts):
        wanted = [*part, *(outputs if number == 0 else [])]
        for rows, one, other in _pairs(before, after, part, data, taken, threads):
            for name in wanted:
                sums[name].add(one[name], other[name])
            if number == 0:
                _count(
                    scores, outputs, one, other, None if data.labels is None else data.targets(rows)
                )
            done += len(rows)
            if step is not None:
                step(done, count * len(parts))
    agreement = scores.agree / scores.samples if scores.samples else None
    accuracy = None
    if scores.samples and data.labels is not None and data.labels.ndim == 1:
        accuracy = (scores.right[0] / scores.samples, scores.right[1] / scores.samples)
    return Drift(
        count,
        tuple(ValueDrift(name, node, sums[name].error()) for name, node in layers.items()),
        tuple(ValueDrift(name, name, sums[name].error()) for name in outputs),
        agreement,
        accuracy,
    )


def _pairs(
    before: io.Model,
    after: io.Model,
    values: Sequence[str],
    data: Data,
    taken: NDArray[np.int64],
    threads: int | None,
) -> Iterator[tuple[NDArray[np.int64], dict[str, Any], dict[str, Any]]]:
    """Yield the positions of samples and both models' values, batch by batch."""
    with tempfile.TemporaryDirectory(prefix="normsurgery-") as folder:
        sessions = []
        for name, model in (("before", before), ("after", after)):
            path = Path(folder) / f"{name}.onnx"
            io.save(with_outputs(model, values), path)
            sessions.append(runtime.session(path, threads=threads))
        for first, last in blocks.cut(len(taken), BATCH, data.batch):
            rows = taken[first:last]
            one, other = (runtime.run(session, data.feeds(rows)) for session in sessions)
            yield rows, one, other


def with_outputs(model: io.Model, values: Sequence[str]) -> io.Model:
    """Return a copy of ``model`` that returns ``values`` besides its outputs."""
    copy, _ = models.take(model)
    copy.proto.graph.output.extend(ValueInfoProto(name=name) for name in values)
    return copy


def _count(
    scores: _Scores,
    outputs: Sequence[str],
    one: Mapping[str, Any],
    other: Mapping[str, Any],
    labels: NDArray[Any] | None,
) -> None:
    """Count classes of the first output that is scores."""
    name = next((o for o in outputs if are_scores(one[o]) and are_scores(other[o])), None)
    if name is None or one[name].shape != other[name].shape:
        return
    classes = [np.argmax(values[name].astype(np.float64), axis=1) for values in (one, other)]
    scores.samples += len(classes[0])
    scores.agree += int((classes[0] == classes[1]).sum())
    if labels is not None and labels.ndim == 1:
        for i in (0, 1):
            scores.right[i] += int((classes[i] == labels).sum())


def are_numbers(output: Any) -> bool:
    """Whether an output is an array of numbers or truth values."""
    if not isinstance(output, np.ndarray):
        return False
    return output.dtype.kind in "fiub" or output.dtype.name == "bfloat16"


def are_scores(output: Any) -> bool:
    """Whether an output is scores of classes, (N, classes)."""
    is_float = are_numbers(output) and output.dtype.kind not in "iub"
    return bool(is_float and output.ndim == 2 and output.shape[1] > 1)
