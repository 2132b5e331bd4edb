"""What a verb did and why, for people, JSON and callers."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Folded:
    """One affine map that is gone.

    node, op_type: what it was. into: the nodes that took it, as ``op_type `name```.
    tensors: the initializers made for it. shift_left: an Add of the shift stayed in its place.
    output: the value that it made, which no other node makes (names of nodes may repeat).
    """

    node: str
    op_type: str
    into: tuple[str, ...]
    tensors: tuple[str, ...]
    shift_left: bool = False
    output: str = ""


@dataclass(frozen=True)
class Merged:
    """Two branches that met in an Add and are one Conv now: the Add, and the Conv's label.

    norm: the output of a BatchNormalization that was one of the branches, else empty.
    """

    node: str
    into: str
    tensors: tuple[str, ...]
    norm: str = ""


@dataclass(frozen=True)
class Kept:
    """One normalization that stays: the slug of the reason, and the obstacle by name."""

    node: str
    op_type: str
    slug: str
    reason: str
    output: str = ""


@dataclass(frozen=True)
class CertificateEntry:
    """How far a written tensor is from its float64 values, in units in the last place."""

    tensor: str
    count: int
    max_ulp: float
    mean_ulp: float


@dataclass
class FoldReport:
    """The outcome of ``fold``.

    before, after: numbers of BatchNormalization nodes, bodies and functions included.
    baked: tensors that were computed at every run. inlined: functions put where they were called.
    fixed: inputs that became constants. restored: nodes whose arithmetic of mean and deviation
    became an InstanceNormalization then.
    """

    before: int = 0
    after: int = 0
    folded: list[Folded] = field(default_factory=list)
    merged: list[Merged] = field(default_factory=list)
    baked: list[str] = field(default_factory=list)
    inlined: list[str] = field(default_factory=list)
    fixed: list[str] = field(default_factory=list)
    restored: list[str] = field(default_factory=list)
    kept: list[Kept] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data, ready for JSON."""
        return asdict(self)
