"""Samples with the original's outputs, and the training on them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray

    from normsurgery.data import Data
    from normsurgery.pytorch.interpreter import GraphModule

FEWEST = 8
EXAMS = 12


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


def train(
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
