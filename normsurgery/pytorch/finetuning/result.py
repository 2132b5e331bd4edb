"""What ``finetune`` gives back: the trained model, and how it was trained."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from normsurgery.outcome import Outcome

if TYPE_CHECKING:
    from normsurgery import io
    from normsurgery.pytorch.finetuning.progress import Epoch, Score
    from normsurgery.report import FoldReport


@dataclass
class FinetuneReport:
    """The outcome of ``finetune``.

    before: of the model that came in, on the validation data. epochs: what each pass gave.
    steps: of the optimizer, in all. resumed_at: the step of the checkpoint that it went on from.
    trained, frozen: names of tensors. seconds: of this call's training. threads: of a step on the
    CPU. processes: how many.
    writes: whether this is the process that is to write. fold: what was folded at the end.
    """

    before: Score | None = None
    epochs: list[Epoch] = field(default_factory=list)
    steps: int = 0
    resumed_at: int | None = None
    trained: list[str] = field(default_factory=list)
    frozen: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    device: str = "cpu"
    threads: int = 1
    bf16: bool = False
    processes: int = 1
    writes: bool = True
    seconds: float = 0.0
    fold: FoldReport | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data, ready for JSON."""
        return asdict(self)


@dataclass
class FinetuneResult(Outcome):
    """A trained model, and the report of how it was trained.

    tuned: the model before what was left of its norms was folded.
    """

    report: FinetuneReport
    tuned: io.Model
