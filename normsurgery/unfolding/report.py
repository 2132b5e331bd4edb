"""What unfold did, for people, JSON and callers."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Unfolded:
    """One BatchNormalization that was put in.

    node, op_type: the layer that it stands behind. output: the value that it makes now.
    count: elements of a channel that its statistics are of. mean, deviation: the smallest and
    largest mean and standard deviation of the layer's channels, as they were. dead: channels that
    did not vary. weight_factor: what the layer's weights were multiplied by, a power of two.
    """

    node: str
    op_type: str
    output: str
    channels: int
    count: int
    mean: tuple[float, float]
    deviation: tuple[float, float]
    dead: int
    weight_factor: float


@dataclass(frozen=True)
class Left:
    """One linear layer that got no norm: the slug of the reason, and the reason in words."""

    node: str
    op_type: str
    slug: str
    reason: str


@dataclass
class UnfoldReport:
    """The outcome of ``unfold``. samples: how many the statistics are of."""

    samples: int
    unfolded: list[Unfolded] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)
    inlined: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data, ready for JSON."""
        return asdict(self)
