"""Add, Sub, Mul and Div of an activation and a constant: reading them, and what they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from normsurgery import dtypes, shapes
from normsurgery.affine import ChannelAffine
from normsurgery.constants import Constant, NotConstant, constant_of
from normsurgery.folding import obstacles
from normsurgery.nodes import attribute, int_attribute

if TYPE_CHECKING:
    from onnx import NodeProto

    from normsurgery.constants import Limits
    from normsurgery.folding.obstacles import Obstacle
    from normsurgery.graph import Scope


@dataclass(frozen=True)
class WithConstant:
    """An elementwise node with one constant operand.

    slot: the input that is not constant. rank, dims: of that input.
    shape: the constant's, aligned to ``rank`` with leading ones; it does not widen the input as
    far as ``dims`` tell.
    """

    slot: int
    constant: Constant
    rank: int
    dims: shapes.Dims
    shape: tuple[int, ...]

    @property
    def values(self) -> dtypes.Float64:
        """The constant's values, aligned."""
        return self.constant.float64().reshape(self.shape)

    def along_one_axis(self) -> tuple[int, dtypes.Float64] | None:
        """Return (axis, vector) of a constant per channel; axis −1 if it is one number."""
        wide = [axis for axis, size in enumerate(self.shape) if size != 1]
        if len(wide) > 1:
            return None
        return (wide[0] if wide else -1), self.constant.float64().ravel()


def with_constant(scope: Scope, node: NodeProto, limits: Limits) -> WithConstant | Obstacle:
    """Read a binary elementwise node; an obstacle if none or both of its operands are constant.

    Before opset 7 only the second operand broadcasts, and only by attribute.
    """
    if len(node.input) != 2:
        return obstacles.not_linear(node)
    found = [constant_of(scope, name, limits) for name in node.input]
    known = [c for c in found if isinstance(c, Constant)]
    if len(known) != 1 or known[0].elem_type not in dtypes.FLOATS:
        why = found[0] if isinstance(found[0], NotConstant) else found[1]
        if isinstance(why, NotConstant) and not known:
            return obstacles.not_linear(node)
        return obstacles.no_channel(node, "it has no constant operand of a float type")
    slot = 0 if isinstance(found[0], NotConstant) else 1
    constant, value = known[0], node.input[slot]
    dims = shapes.dims(scope, value)
    if dims is None:
        return obstacles.unknown_rank(value)
    rank = len(dims)
    shape = _aligned(scope, node, constant.shape, rank)
    if shape is None or (scope.opset < 7 and slot == 1):
        return obstacles.no_channel(node, f"its constant of shape {list(constant.shape)} widens")
    if any(c != 1 and x is not None and x != c for c, x in zip(shape, dims, strict=True)):
        return obstacles.no_channel(node, f"its constant of shape {list(constant.shape)} widens")
    return WithConstant(slot, constant, rank, dims, shape)


def _aligned(
    scope: Scope, node: NodeProto, shape: tuple[int, ...], rank: int
) -> tuple[int, ...] | None:
    """Return the constant's shape with ones put before it (and, before opset 7, behind it)."""
    behind = 0
    if scope.opset < 7 and int_attribute(node, "broadcast", 0):
        axis = attribute(node, "axis")
        behind = rank - len(shape) - axis.i if axis is not None and axis.i >= 0 else 0
    before = rank - len(shape) - behind
    return (1,) * before + shape + (1,) * behind if before >= 0 and behind >= 0 else None


def affine_of_node(op_type: str, slot: int, c: dtypes.Float64) -> ChannelAffine | None:
    """Return the map of ``x ∘ c`` (slot 0) or ``c ∘ x`` (slot 1); None for ``c / x``."""
    one, zero = np.ones_like(c), np.zeros_like(c)
    with np.errstate(all="ignore"):
        if op_type == "Add":
            return ChannelAffine(one, c)
        if op_type == "Sub":
            return ChannelAffine(one, -c) if slot == 0 else ChannelAffine(-one, c)
        if op_type == "Mul":
            return ChannelAffine(c, zero)
        return ChannelAffine(1 / c, zero) if slot == 0 else None
