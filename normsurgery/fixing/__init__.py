"""Fold, with some inputs of the graph fixed to values first if wanted."""

from __future__ import annotations

from normsurgery.fixing.api import fold
from normsurgery.fixing.binding import bound, read

__all__ = ["bound", "fold", "read"]
