"""What a conversion did, layer by layer."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from normsurgery.conversion.choosing import Choice
    from normsurgery.conversion.cost import Cost
    from normsurgery.conversion.drift import Drift


@dataclass(frozen=True)
class Converted:
    """One norm that another took the place of.

    output: the value that it makes, as before. was: the operator. to, groups, channels, gauge,
    epsilon, encoding: of the new one; epsilon includes k². into: the layers that took the affine
    map in front; k: what their weights were multiplied by besides, so that their norm stays.
    unbiased: a bias that had no effect in front of the new norm, and is gone. note: what had to
    give.
    """

    node: str
    output: str
    was: str
    to: str
    channels: int
    groups: int
    gauge: str
    epsilon: float
    affine: str
    encoding: str
    into: tuple[str, ...] = ()
    k: float = 1.0
    unbiased: str = ""
    note: str = ""


@dataclass(frozen=True)
class Left:
    """One norm that stays, and why: a slug, or ``selection`` or ``plan``, and the reason."""

    node: str
    output: str
    was: str
    slug: str
    reason: str


@dataclass
class ConvertReport:
    """The outcome of ``convert``.

    opset: how the operator set was raised, if it was. inlined: functions put where they were
    called. choices: the starting points that data chose from. drift: how far values moved on data.
    cost: of the model before and after, where it was measured. note: where nothing was converted,
    what can be done about it, if that is known.
    """

    converted: list[Converted] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)
    opset: str = ""
    inlined: list[str] = field(default_factory=list)
    choices: list[Choice] = field(default_factory=list)
    drift: Drift | None = None
    cost: tuple[Cost, Cost] | None = None
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data, ready for JSON."""
        return asdict(self)
