"""Element types and shapes of values, as far as the model, ONNX's inference or algebra tells.

``dims`` gives numbers; ``sizes`` also what is only known by name: ``N``, ``4·N``. Two values
whose sizes are equal as products have the same dimension in every run.
"""

from __future__ import annotations

from normsurgery.shapes.sizes import Size
from normsurgery.shapes.types import (
    Dims,
    declare,
    declare_like,
    dims,
    elem_type,
    integers,
    rank,
    sizes,
    target,
    type_of,
)

__all__ = [
    "Dims",
    "Size",
    "declare",
    "declare_like",
    "dims",
    "elem_type",
    "integers",
    "rank",
    "sizes",
    "target",
    "type_of",
]
