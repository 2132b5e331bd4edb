"""What a run has seen, and where it stands."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Totals:
    """Sums over samples: loss times samples, samples, right answers, answers."""

    loss: float = 0.0
    samples: float = 0.0
    right: float = 0.0
    answers: float = 0.0

    def add(self, loss: float, samples: int, right: tuple[int, int]) -> None:
        """Count one batch, its mean loss and its (right answers, answers)."""
        self.loss += loss * samples
        self.samples += samples
        self.right += right[0]
        self.answers += right[1]

    def mean(self) -> Score:
        """Return the mean loss, and the share of right answers if there were any to give."""
        accuracy = self.right / self.answers if self.answers else None
        return Score(self.loss / max(self.samples, 1), accuracy)


@dataclass(frozen=True)
class Score:
    """Mean loss over samples, and share of right answers in 0…1 where the loss has such a thing."""

    loss: float
    accuracy: float | None = None


@dataclass(frozen=True)
class Epoch:
    """What one pass over the batches gave; ``val`` where there was data to validate with."""

    train: Score
    val: Score | None = None


@dataclass(frozen=True)
class Moment:
    """Where the run is, for a progress bar: steps done of ``steps`` (None if unknown)."""

    step: int
    steps: int | None
    epoch: int
    running: Score


@dataclass
class Progress:
    """Where a run stands: ``position`` steps into ``epoch``, ``step`` in all.

    resumed_at: the step of the checkpoint that it went on from, if it did.
    """

    epoch: int = 0
    position: int = 0
    step: int = 0
    resumed_at: int | None = None
    totals: Totals = field(default_factory=Totals)
    history: list[Epoch] = field(default_factory=list)

    @classmethod
    def of(cls, plain: dict[str, Any]) -> Progress:
        """Return what ``asdict`` took apart, as where a run is resumed."""
        history = [
            Epoch(Score(**e["train"]), Score(**e["val"]) if e["val"] else None)
            for e in plain["history"]
        ]
        step, totals = plain["step"], Totals(**plain["totals"])
        return cls(plain["epoch"], plain["position"], step, step, totals, history)
