"""fold: absorb every per-channel affine map into linear layers; the function stays the same."""

from __future__ import annotations

from normsurgery.folding.api import FoldResult, fold

__all__ = ["FoldResult", "fold"]
