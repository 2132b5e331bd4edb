"""Write the arithmetic of an instance norm as an InstanceNormalization."""

from __future__ import annotations

from math import isnan
from typing import TYPE_CHECKING

import numpy as np
from onnx import helper

from normsurgery import dtypes, edits, shapes
from normsurgery.adain.sites import Core, cores
from normsurgery.constants import Constant, constant_of
from normsurgery.nodes import label
from normsurgery.payloads import Computed

if TYPE_CHECKING:
    from onnx import NodeProto

    from normsurgery.constants import Limits
    from normsurgery.graph import Scope


def restore(scope: Scope, limits: Limits) -> tuple[list[str], list[NodeProto]]:
    """Restore the instance norms of the scope; return the labels of the nodes that divided.

    And, apart from them, the nodes that still do: where n below is not fixed, or the shape.

    ``(x − μ)/√(f·v + ε) = (1/√f)·(x − μ)/√(v + ε/f)``, v the mean of the squares: f is n/(n − 1)
    where the variance is the unbiased one of n positions, which have to be fixed in number then.
    ε/f is rounded to float32, as the attribute of the operator is.
    Source: ONNX operator InstanceNormalization, versions 6 on.
    """
    done, left = [], []
    for core in list(cores(scope, limits)):
        name = label(core.node)
        if _restore(scope, core):
            done.append(name)
        else:
            left.append(core.node)
    spread(scope, limits)
    return done, left


def _restore(scope: Scope, core: Core) -> bool:
    sizes, elem_type = shapes.sizes(scope, core.x), shapes.elem_type(scope, core.x)
    channels = None if sizes is None else sizes[1].fixed
    out = core.node.output[0]
    if isnan(core.std.factor) or not channels or elem_type not in dtypes.FLOATS or scope.opset < 6:
        return False
    if out in scope.outputs or out in scope.pinned:
        return False
    stem = core.node.name or out
    scale = np.full(channels, core.std.factor**-0.5)
    names = [
        edits.add_constant(scope, f"{stem}_{what}", Computed(values, (), elem_type))
        for what, values in (("scale", scale), ("bias", np.zeros(channels)))
    ]
    made = scope.graph.unique_name(f"{stem}_standardized")
    norm = helper.make_node(
        "InstanceNormalization", [core.x, *names], [made], name=made,
        epsilon=core.std.epsilon / core.std.factor,
    )  # fmt: skip
    maker = scope.producer.get(core.x)
    if maker is None:
        edits.insert_first(scope, norm)
    else:
        edits.insert_after(scope, maker, [norm])
    shapes.declare_like(scope, made, core.x)
    edits.set_input(scope, core.reader, core.slot, made)
    edits.skip(scope, core.node, core.divided)
    return True


def spread(scope: Scope, limits: Limits) -> None:
    """Leave it to elementwise operators to repeat constants: an Expand before them goes.

    Likewise a constant that is the same all along an axis gets size 1 there. So a constant for
    each channel is recognised as one.
    """
    for node in list(scope.live()):
        if node.op_type not in {"Add", "Sub", "Mul", "Div"} or not scope.is_onnx(node):
            continue
        for slot in (0, 1):
            made = scope.producer.get(node.input[slot])
            other = shapes.sizes(scope, node.input[1 - slot])
            if other is None or id(node) in scope.dead:
                continue
            if made is not None and made.op_type == "Expand":
                constant = isinstance(constant_of(scope, made.input[0], limits), Constant)
                if constant and other == shapes.sizes(scope, made.output[0]):
                    edits.set_input(scope, node, slot, made.input[0])
            _shrink(scope, node, slot, other, limits)


def _shrink(
    scope: Scope, node: NodeProto, slot: int, other: tuple[shapes.Size, ...], limits: Limits
) -> None:
    """Give a constant operand size 1 along each axis where it repeats itself."""
    found = constant_of(scope, node.input[slot], limits)
    if not isinstance(found, Constant) or found.elem_type not in dtypes.FLOATS:
        return
    values = found.float64()
    if values.ndim > len(other) or values.size == 0:
        return
    for axis in range(values.ndim):
        same = other[len(other) - values.ndim + axis].fixed == values.shape[axis]
        first = values.take([0], axis)
        if same and np.array_equal(np.broadcast_to(first, values.shape), values):
            values = first
    if values.shape != found.shape:
        edits.set_constant(scope, node, slot, found.name, Computed(values, (), found.elem_type))
