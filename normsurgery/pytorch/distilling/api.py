"""``normsurgery.pytorch.distill``: which tensors are taught, on which samples, and the report."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from normsurgery import data as datasets
from normsurgery import models, runtime
from normsurgery.conversion import drift
from normsurgery.errors import UsageError
from normsurgery.graph import Graph
from normsurgery.outcome import Outcome
from normsurgery.pytorch.distilling.lessons import Lesson, spread, train
from normsurgery.pytorch.interpreter import to_module, update_weights

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto

    from normsurgery.conversion.drift import Drift
    from normsurgery.data import Data
    from normsurgery.graph import Scope

SAMPLES = 256
STEPS = 150
SIXTEEN_BIT = (torch.float16, torch.bfloat16)
OF_THE_DATA = frozenset({
    "InstanceNormalization", "GroupNormalization", "LayerNormalization", "RMSNormalization",
})  # fmt: skip


@dataclass
class DistillReport:
    """The outcome of ``distill``.

    trained: names of the scales and biases. samples: how many were trained on. held: how many
    others the result was judged on. before, after: the loss on the latter. best: the step whose
    scales and biases the model has, the best of a dozen; 0 if none was better than the start, and
    then the model is as it was. drift: of a changed model, on all data, if onnxruntime is there.
    """

    steps: int
    samples: int
    held: int
    trained: list[str] = field(default_factory=list)
    before: float = 0.0
    after: float = 0.0
    best: int = 0
    drift: Drift | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data, ready for JSON."""
        return asdict(self)

    def line(self) -> str:
        """Return it in one line."""
        share = f"{self.before**0.5:.3g} to {self.after**0.5:.3g} of the outputs' deviation"
        if not self.best:
            return f"not distilled: on {self.held} other samples the error did not fall"
        moved = "" if self.drift is None else f"; then {self.drift.line()}"
        return f"distilled: {self.best} steps on {self.samples} samples, error {share}{moved}"


@dataclass
class DistillResult(Outcome):
    """The model with its new scales and biases, and what was learned."""

    report: DistillReport


@torch.inference_mode(mode=False)
@torch.enable_grad()
def distill(
    reference: str | os.PathLike[str] | ModelProto | Any,
    converted: str | os.PathLike[str] | ModelProto | Any,
    data: str | os.PathLike[str] | Data | Mapping[str, NDArray[Any]],
    *,
    steps: int = STEPS,
    samples: int = SAMPLES,
    batch_size: int = 32,
    lr: float = 3e-3,
    seed: int = 0,
    pixels: datasets.Pixels | None = None,
    step: Callable[[int, int], None] | None = None,
) -> DistillResult:
    """Train scale and bias of a converted model's norms to give the original's outputs.

    reference, converted: paths, protos or ``onnx_ir.Model``; the latter is what ``convert`` made of
    the former. Neither is changed.
    data: what ``normsurgery.data.read`` reads, or arrays by input name; labels are not used.
    steps, batch_size, lr: of Adam; the rate, relative to the rms of each tensor, falls to 0 along
    a cosine. samples: how many to train on, spread evenly over the data; others, as many or a
    quarter of all, judge when to stop. seed: of the order. step: called with how many steps are
    done, of how many.

    Scales and biases are those of the norms that compute their statistics from the data; nothing
    else changes. On one machine with the same threads the result is the same to the bit.

    Raises ``UsageError`` where there is nothing to train, or settings make no sense, and what
    ``to_module`` and reading data raise.
    """
    if steps < 1 or samples < 1 or batch_size < 1:
        raise UsageError("steps, samples and batch size of a distillation are 1 or more")
    if not 0 < lr < math.inf or seed < 0:
        raise UsageError("the rate of a distillation is above 0, and its seed is 0 or more")
    content, form = models.take(converted)
    names = list(norm_parameters(Graph(content)))
    student = to_module(content, check=runtime.available())
    teacher = to_module(reference, check=runtime.available())
    own = dict(student.named_parameters())
    chosen = {n: own[key] for n in names if (key := student.names.get(n)) in own}
    if not chosen:
        raise UsageError(
            "no norm of the converted model computes its statistics from the data: there is "
            "nothing to distill"
        )
    given = datasets.take(data, datasets.inputs_of(content.proto), pixels=pixels)
    first, second = spread(len(given), samples)
    report = DistillReport(steps, len(first), len(second), list(chosen))
    for one in (teacher, student):
        if any(p.dtype in SIXTEEN_BIT for p in one.parameters()):
            one.float()
        one.requires_grad_(requires_grad=False)
    taught = Lesson(student, teacher, given, first, batch_size)
    exam = Lesson(student, teacher, given, second, batch_size)
    report.before = exam.loss()
    if not math.isfinite(report.before):
        raise UsageError("the data, or what the models make of them, are not finite")
    report.best, report.after = train(
        taught, exam, list(chosen.values()), steps, lr, seed, step or (lambda _done, _of: None)
    )
    if report.best:
        content = update_weights(content, student).content
        if runtime.available():
            report.drift = drift.measure(models.take(reference)[0], content, {}, given)
    return DistillResult(content, form, report)


def norm_parameters(graph: Graph) -> Iterator[str]:
    """Yield the names of scale and bias of every norm that computes its statistics.

    A norm that only standardises, on its way through a Reshape into a Mul and an Add, has them
    there (``normsurgery.norms``).
    """
    for scope in graph.scopes:
        for node in scope.nodes:
            if node.op_type in OF_THE_DATA and scope.is_onnx(node):
                yield from _behind(scope, node) or [name for name in node.input[1:3] if name]


def _behind(scope: Scope, node: NodeProto) -> list[str]:
    """Return the scale of the Mul and the bias of the Add behind a norm and a Reshape, if so."""
    value, names = node.output[0], []
    for wanted in ("Reshape", "Mul", "Add"):
        reader = next((r for r in scope.value_readers(value) if r.op_type == wanted), None)
        if reader is None:
            return []
        if wanted != "Reshape":
            names += [name for name in reader.input if name != value and scope.lookup(name)]
        value = reader.output[0]
    return names
