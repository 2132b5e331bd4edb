"""convert: other norms in the place of BatchNormalization, started where the model stood."""

from __future__ import annotations

from normsurgery.conversion.api import ConvertResult, convert
from normsurgery.conversion.layers import Layer

__all__ = ["ConvertResult", "Layer", "convert"]
