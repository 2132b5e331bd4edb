"""``normsurgery.pytorch.distill``: a converted model taught by the original, without labels.

A converted norm starts where the running statistics put it. What a sample's own statistics do
besides can be learned away from a few dozen samples: scale and bias of the converted norms alone
are trained to give the original's outputs. All other weights stay as they are.

The loss is, over the outputs, the mean of ``mean((y − t)²) / var(t)``: t the original's output, its
variance over all samples in use. Samples that are not trained on say when to stop.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from normsurgery import data as datasets
from normsurgery import models, runtime
from normsurgery.conversion import drift
from normsurgery.errors import UsageError
from normsurgery.graph import Graph
from normsurgery.outcome import Outcome
from normsurgery.pytorch.interpreter import GraphModule, to_module, update_weights

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto

    from normsurgery.conversion.drift import Drift
    from normsurgery.data import Data
    from normsurgery.graph import Scope

SAMPLES = 256
FEWEST = 8
STEPS = 150
EXAMS = 12
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
    report.best, report.after = _train(
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


def spread(count: int, samples: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return positions to train on, and others to judge by, both evenly over ``count``.

    At most ``samples`` each; a quarter judges where there are few, and all do both below 8.
    """
    everything = np.arange(count)
    if count < FEWEST:
        return everything, everything
    judges = min(samples, count // 4)
    judging = np.unique(np.linspace(0, count - 1, judges).astype(np.int64))
    rest = np.setdiff1d(everything, judging)
    chosen = np.linspace(0, len(rest) - 1, min(samples, len(rest))).astype(np.int64)
    return rest[chosen], judging


class Lesson:
    """Samples with the original's outputs: what the student has to give."""

    def __init__(
        self,
        student: GraphModule,
        teacher: GraphModule,
        data: Data,
        positions: NDArray[np.int64],
        batch_size: int,
    ) -> None:
        """Run the teacher once over the samples at ``positions``."""
        self.student, self.data = student, data
        self.positions, self.batch_size = positions, batch_size
        targets: list[list[torch.Tensor]] = []
        with torch.no_grad():
            targets += (
                _floats(teacher.run(self.feeds(part)))
                for part in self.parts(np.arange(len(positions)))
            )
        self.targets = [torch.cat(one) for one in zip(*targets, strict=True)]
        self.variances = [one.double().var(correction=0).clamp(min=1e-30) for one in self.targets]

    def parts(self, order: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        """Yield batches of ``order``, which counts within the positions."""
        for at in range(0, len(order), self.batch_size):
            yield order[at : at + self.batch_size]

    def feeds(self, part: NDArray[np.int64]) -> dict[str, torch.Tensor]:
        """Return inputs by name."""
        given = self.data.feeds(self.positions[part])
        return {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in given.items()}

    def loss_of(self, part: NDArray[np.int64]) -> torch.Tensor:
        """Return the loss of one batch."""
        made = _floats(self.student.run(self.feeds(part)))
        index = torch.from_numpy(part)
        errors = [
            (y - t[index]).square().mean() / v.to(y.dtype)
            for y, t, v in zip(made, self.targets, self.variances, strict=True)
        ]
        return torch.stack(errors).mean()

    def loss(self) -> float:
        """Return the loss over all samples."""
        parts = list(self.parts(np.arange(len(self.positions))))
        with torch.no_grad():
            total = sum(float(self.loss_of(part)) * len(part) for part in parts)
        return total / len(self.positions)


def _train(
    lesson: Lesson,
    exam: Lesson,
    parameters: list[torch.nn.Parameter],
    steps: int,
    lr: float,
    seed: int,
    tell: Callable[[int, int], None],
) -> tuple[int, float]:
    """Take ``steps`` steps of Adam, over the samples in an order drawn anew each time around.

    Leave the parameters that did best in the exam; return their step and loss.
    """
    rng = np.random.default_rng(seed)
    for parameter in parameters:
        parameter.requires_grad_()
    groups = [
        {"params": [p], "lr": lr * max(float(p.detach().square().mean().sqrt()), 1e-3)}
        for p in parameters
    ]
    optimizer = torch.optim.Adam(groups)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    waiting: list[NDArray[np.int64]] = []
    best = (0, exam.loss(), [p.detach().clone() for p in parameters])
    for step in range(1, steps + 1):
        if not waiting:
            waiting = list(lesson.parts(rng.permutation(len(lesson.positions))))
        optimizer.zero_grad()
        lesson.loss_of(waiting.pop()).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        falling.step()
        tell(step, steps)
        if step == steps or step % max(steps // EXAMS, 1) == 0:
            loss = exam.loss()
            if loss < best[1]:
                best = (step, loss, [p.detach().clone() for p in parameters])
    with torch.no_grad():
        for parameter, value in zip(parameters, best[2], strict=True):
            parameter.copy_(value)
    return best[:2]


def _floats(made: Mapping[str, Any]) -> list[torch.Tensor]:
    """Return the outputs that can be compared: floats with a batch in front."""
    return [
        y for y in made.values()
        if isinstance(y, torch.Tensor) and y.is_floating_point() and y.dim()
    ]  # fmt: skip
