"""An exported model, and how it was made."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from normsurgery.outcome import Outcome

if TYPE_CHECKING:
    from normsurgery.report import FoldReport
    from normsurgery.validation import Parity


@dataclass
class ExportReport:
    """The outcome of ``export``.

    norms: how many of each normalization the model has, GroupNormalization in its portable form
    included (``groups``). was_training: the module was in training mode, and was exported in
    evaluation mode. baked: weights that parametrizations (weight_norm, spectral_norm) computed.
    frozen: modules that were a BatchNorm written by hand.
    folded: the report of folding, with ``norms="fold"``.
    """

    exporter: str
    opset: int
    norms: dict[str, int] = field(default_factory=dict)
    was_training: bool = False
    baked: list[str] = field(default_factory=list)
    frozen: list[str] = field(default_factory=list)
    folded: FoldReport | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data, ready for JSON."""
        return asdict(self)


@dataclass
class ExportResult(Outcome):
    """An exported model, the report, and the verdict of parity (None if it was not asked for)."""

    report: ExportReport
    parity: Parity | None
