"""What recalibrate did, for people, JSON and callers."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Recalibrated:
    """One BatchNormalization with new statistics.

    output: the value that it makes. count: elements of a channel that they are of.
    shift: the largest ``|mean − old mean|/√(old var + ε)`` of a channel.
    ratio: the smallest and the largest ``√((var + ε)/(old var + ε))``.
    constant: channels that did not vary in the data.
    """

    node: str
    output: str
    channels: int
    count: int
    shift: float
    ratio: tuple[float, float]
    constant: int


@dataclass(frozen=True)
class Left:
    """One BatchNormalization that kept its statistics: the slug of the reason, and the reason."""

    node: str
    slug: str
    reason: str


@dataclass
class RecalibrateReport:
    """The outcome of ``recalibrate``.

    samples: how many the statistics are of. passes: how often the data were run through.
    processes: among how many the work was shared.
    """

    mode: str
    samples: int
    passes: int
    processes: int = 1
    recalibrated: list[Recalibrated] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)
    inlined: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data, ready for JSON."""
        return asdict(self)
