"""inspect: every normalization of a model, whole or taken apart, and what becomes of it."""

from __future__ import annotations

from normsurgery.inspection.api import inspect
from normsurgery.inspection.report import Inspection, Norm, Parts, Range

__all__ = ["Inspection", "Norm", "Parts", "Range", "inspect"]
