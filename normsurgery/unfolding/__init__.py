"""unfold: BatchNormalization put back into a model whose exporter folded it.

``sites`` says behind which layers, ``identity`` which constants leave the function as it is.
"""

from __future__ import annotations

from normsurgery.unfolding.api import UnfoldResult, unfold
from normsurgery.unfolding.report import UnfoldReport

__all__ = ["UnfoldReport", "UnfoldResult", "unfold"]
