"""What ``inspect`` tells."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Range:
    """Smallest and largest value of a parameter."""

    low: float
    high: float


@dataclass(frozen=True)
class Parts:
    """The nodes of a normalization that was taken apart: the first, the last, and how many.

    Nodes are called as ``Norm.node``. Constants, and what computes shapes, do not count.
    """

    first: str
    last: str
    count: int


@dataclass(frozen=True)
class Norm:
    """One normalization, a node or the last of several that it was taken apart into.

    op_type: the operator; *decomposed* and the operator that it would be; *Mul, Add*, what is left
    of a BatchNormalization whose statistics were merged into two constants; *AdaIN*.
    channels: length of its scale, None if that is not constant. dead: channels whose scale is 0.
    outcome: "folds", or the slug of the reason why it stays; detail: into what, or the obstacle.
    convert: "converts", or the slug of the reason why ``convert`` leaves it; convert_detail: into
    what by default (target, number of groups, channels of one), or the reason.
    scale_constant, bias_constant: whether they are; None for a norm that has none.
    axes: those that statistics are computed along, None where the kind says so or nothing does.
    parts: the nodes that it was taken apart into, None for one operator.
    """

    node: str
    op_type: str
    channels: int | None
    epsilon: float | None
    num_groups: int | None
    scale: Range | None
    mean: Range | None
    var: Range | None
    dead: int
    outcome: str
    detail: str
    warning: str = ""
    convert: str = "no-target"
    convert_detail: str = "convert takes BatchNormalization"
    bias: Range | None = None
    scale_constant: bool | None = None
    bias_constant: bool | None = None
    axes: tuple[int, ...] | None = None
    parts: Parts | None = None


@dataclass
class Inspection:
    """All normalizations of a model, in graph order, bodies and functions after the main graph.

    inlined: functions with norms; they are listed at each call, as fold and convert see them.
    """

    ir_version: int
    opset: int
    producer: str
    nodes: int
    norms: list[Norm] = field(default_factory=list)
    inlined: list[str] = field(default_factory=list)

    @property
    def whole(self) -> int:
        """How many of the norms are one operator."""
        return sum(norm.parts is None for norm in self.norms)

    @property
    def decomposed(self) -> int:
        """How many of the norms were taken apart."""
        return sum(norm.parts is not None for norm in self.norms)

    def to_dict(self) -> dict[str, Any]:
        """Return the inspection as plain data, ready for JSON."""
        return {**asdict(self), "whole": self.whole, "decomposed": self.decomposed}
