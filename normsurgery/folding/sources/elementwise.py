"""Add, Sub, Mul and Div by a constant per channel; in a row they are a decomposed BN."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from normsurgery.folding import obstacles
from normsurgery.folding.elementwise import affine_of_node, with_constant
from normsurgery.folding.obstacles import Obstacle
from normsurgery.folding.table import Source, source

if TYPE_CHECKING:
    from onnx import NodeProto

    from normsurgery.constants import Limits
    from normsurgery.graph import Scope


@source("Add", "Sub", "Mul", "Div")
def elementwise(scope: Scope, node: NodeProto, limits: Limits) -> Source | Obstacle | None:
    """``x + c``, ``x − c``, ``c − x``, ``c·x`` and ``x/c`` are maps ``a·x + b``.

    The constant is one number, or a vector along one axis: (C, 1, 1), (1, C, 1, 1), (C,) for the
    last axis. A constant along two axes is none, nor one that widens the value. Exporters that
    write BN as ``Sub, Div(Sqrt(Add)), Mul, Add`` make four of these, which fold one by one into
    the same coefficients, unrounded in between.
    Source: ONNX operators Add, Sub, Mul, Div, versions 1 to 14 (numpy broadcasting).
    """
    found = with_constant(scope, node, limits)
    if isinstance(found, Obstacle):
        return None
    vector = found.along_one_axis()
    if vector is None:
        return None
    axis, values = vector
    affine = affine_of_node(node.op_type, found.slot, values)
    if affine is None:
        return None
    bad = affine.bad_channel()
    if bad is not None:
        return obstacles.not_finite(node, bad)
    if axis < 0:
        return Source(node, found.slot, replace(affine, uniform=True), min(1, found.rank - 1))
    sure = found.dims[axis] == affine.channels
    return Source(node, found.slot, affine, axis, sure)
