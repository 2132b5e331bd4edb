"""convert: other norms in the place of BatchNormalization, started where the model stood.

Names are imported when they are first used (PEP 562): what a model would become is told without
what runs models.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from normsurgery.conversion.api import ConvertResult, convert
    from normsurgery.conversion.layers import Layer

_WHERE = {
    "ConvertResult": "normsurgery.conversion.api",
    "Layer": "normsurgery.conversion.layers",
    "convert": "normsurgery.conversion.api",
}

__all__ = ["ConvertResult", "Layer", "convert"]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)
