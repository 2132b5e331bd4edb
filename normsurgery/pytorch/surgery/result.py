"""A module that was changed, and what was done to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from normsurgery.conversion.layers import Layer
    from normsurgery.conversion.report import ConvertReport
    from normsurgery.report import FoldReport
    from normsurgery.validation import Parity


@dataclass
class ModuleResult:
    """A changed copy of a module, and how it was changed.

    report: of the conversion or the fold; its node names are names of modules. difference: how far
    module and changed graph are apart in float64, relative; None if it was not asked for, or one of
    them does not run in float64. parity: of a fold, with the module as it was. plan: the layers of
    a conversion, for ``plan=``. unreached: BatchNorms that ``forward`` does not use in evaluation
    mode; they stay as they were.
    """

    module: nn.Module
    report: ConvertReport | FoldReport
    difference: float | None = None
    parity: Parity | None = None
    plan: list[Layer] = field(default_factory=list)
    unreached: list[str] = field(default_factory=list)
