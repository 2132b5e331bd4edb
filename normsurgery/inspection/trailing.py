"""What scales and shifts a value that was normalized: the Mul and the Add behind it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from normsurgery import dtypes, shapes
from normsurgery.adain.sites import inputs_behind
from normsurgery.constants import Constant, constant_of
from normsurgery.folding.elementwise import with_constant
from normsurgery.folding.obstacles import Obstacle
from normsurgery.nodes import int_attribute

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnx import NodeProto

    from normsurgery.constants import Limits
    from normsurgery.graph import Scope


@dataclass(frozen=True)
class Factor:
    """A scale or a bias. values: None where they are not constant; node: what applies it alone."""

    values: dtypes.Float64 | None
    node: NodeProto | None = None
    along: frozenset[int] = frozenset()


@dataclass
class Trail:
    """Scale and bias behind a norm, their nodes, and the axes that they may vary along."""

    along: frozenset[int] | None = None
    scale: Factor | None = None
    bias: Factor | None = None
    nodes: list[NodeProto] = field(default_factory=list)


def follow(
    scope: Scope,
    value: str,
    x: str,
    allowed: Sequence[frozenset[int]],
    limits: Limits,
    scale: Factor | None,
) -> Trail | None:
    """Return what scales and shifts ``value``, which is the norm of ``x``.

    allowed: sets of axes; the first that holds those along which the first factor varies is that
    of both. A factor along other axes, or one number, belongs to what follows. scale: one that was
    applied before; None is returned if it is along none of ``allowed``.
    """
    trail = Trail()
    if scale is not None:
        trail.along = next((one for one in allowed if scale.along <= one), None)
        trail.scale = scale
        if trail.along is None:
            return None
    casts: list[NodeProto] = []
    while scope.only_reader(value):
        (node,) = scope.value_readers(value)
        if not scope.is_onnx(node):
            break
        if node.op_type == "Cast" and int_attribute(node, "to", 0) in dtypes.FLOATS:
            casts.append(node)
            value = node.output[0]
            continue
        is_scale = node.op_type == "Mul" and trail.scale is None and trail.bias is None
        if not is_scale and not (node.op_type == "Add" and trail.bias is None):
            break
        found = beside(scope, node, list(node.input).index(value), x, limits)
        choice = allowed if trail.along is None else [trail.along]
        along = next((one for one in choice if found is not None and found.along <= one), None)
        if along is None:
            break
        trail.along = along
        if is_scale:
            trail.scale = found
        else:
            trail.bias = found
        trail.nodes += [*casts, node]
        casts, value = [], node.output[0]
    if casts:
        before, after = (
            shapes.elem_type(scope, n) for n in (casts[0].input[0], casts[0].output[0])
        )
        if before != after == shapes.elem_type(scope, x):
            trail.nodes.append(casts[0])
    return trail


def beside(scope: Scope, node: NodeProto, slot: int, x: str, limits: Limits) -> Factor | None:
    """Return the other operand of a Mul or Add, if it can be a parameter of a norm of ``x``.

    A constant that does not widen the value and is more than one number; or a value of a fixed
    shape, the same for all samples, that is computed of none of the inputs behind x.
    """
    read = with_constant(scope, node, limits)
    if not isinstance(read, Obstacle):
        along = frozenset(i for i, size in enumerate(read.shape) if size != 1)
        values = read.constant.float64()
        return Factor(values, node, along) if read.slot == slot and along else None
    other = node.input[1 - slot]
    constant = constant_of(scope, other, limits)
    own = constant.shape if isinstance(constant, Constant) else shapes.dims(scope, other)
    whole = shapes.dims(scope, x)  # whose shape it has
    if own is None or whole is None or None in own or len(own) > len(whole) or scope.opset < 7:
        return None
    before = len(whole) - len(own)
    along = frozenset(before + i for i, size in enumerate(own) if size != 1)
    if not along or 0 in along or any(whole[i] not in {None, own[i - before]} for i in along):
        return None
    if not isinstance(constant, Constant) and (
        inputs_behind(scope, [other]) & inputs_behind(scope, [x])
    ):
        return None
    return Factor(_values(scope, other, limits), node, along)


def _values(scope: Scope, name: str, limits: Limits) -> dtypes.Float64 | None:
    """Return the values of a constant, or of one whose shape alone is computed (PaddlePaddle's)."""
    node = scope.producer.get(name)
    if node is not None and node.op_type == "Reshape" and scope.is_onnx(node):
        name = node.input[0]
    found = constant_of(scope, name, limits)
    known = isinstance(found, Constant) and found.elem_type in dtypes.FLOATS
    return found.float64() if known and isinstance(found, Constant) else None
