"""An exported graph without the exporter's noise: what it computes stays the same.

Gone are: metadata and stack traces, which name folders of the exporting machine; biases of zeros
that a bias-free Conv computes at every run (dynamo; of rank 2 for Conv3d, which onnxruntime
refuses); CastLike to the type a value already has; Identity of an initializer; slices of everything
and sequences made to be taken apart (``slicing``); and constants that are computed at every run,
which become initializers under the name of the one that they came from (``baking``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import AttributeProto

from normsurgery import dtypes, edits, io, shapes
from normsurgery.constants import Constant, Limits, constant_of
from normsurgery.graph import Graph
from normsurgery.nodes import int_attribute
from normsurgery.pytorch.exporting import baking, groups, protos, slicing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from onnx import ModelProto, NodeProto

    from normsurgery.graph import Scope

_BIAS = {"Conv": 2, "ConvTranspose": 2, "Gemm": 2}


def clean(model: ModelProto, same: Mapping[str, str]) -> io.Model:
    """Return ``model``, an export of torch's that is changed on the way, cleaned.

    same: for each parameter's name the first name of its tensor, another one where it is tied.
    """
    protos.name_nodes(model.graph)
    protos.strip(model)
    protos.separate(model.graph, same)
    groups.to_portable(model)
    content = io.from_proto(model)
    scope = Graph(content).main
    limits = Limits()
    for node in _nodes(scope):
        _fix_shape(scope, node)
    for node in _nodes(scope):
        slicing.as_split(scope, node, baking.add)
    for node in _nodes(scope):
        _drop_zero_bias(scope, node, limits)
    for node in _nodes(scope):
        _as_gemm(scope, node)
    named: dict[str, str] = {}
    for node in _nodes(scope):
        baking.bake(scope, node, limits, named)
    for node in _nodes(scope):
        _skip_if_idle(scope, node, limits, {*same, *named})
    gone = set(scope.gone)
    edits.finish(scope)
    whole = io.to_proto(content)
    protos.rename(whole.graph, {made: name for made, name in named.items() if name in gone})
    protos.tidy(whole.graph)
    stored = {tensor.name for tensor in whole.graph.initializer}
    tied = {name: first for name, first in same.items() if name in stored and first not in stored}
    protos.rename(whole.graph, tied)
    return io.from_proto(whole)


def _nodes(scope: Scope) -> Iterator[NodeProto]:
    for node in list(scope.live()):
        if id(node) not in scope.dead and scope.is_onnx(node):
            yield node


def _fix_shape(scope: Scope, node: NodeProto) -> None:
    """Write a part of a shape that is known as the constant that it is."""
    if node.output[0] in scope.outputs or not node.input:
        return
    known = slicing.known_shape(scope, node)
    if known is None:
        return
    made = baking.add(scope, f"{node.output[0]}.known", known)
    for reader in list(scope.readers.get(node.output[0], ())):
        for slot, name in enumerate(reader.input):
            if name == node.output[0]:
                edits.set_input(scope, reader, slot, made)


def _drop_zero_bias(scope: Scope, node: NodeProto, limits: Limits) -> None:
    """Leave out a bias that is made of no parameter and zero: its module has none."""
    slot = _BIAS.get(node.op_type)
    if slot is None or len(node.input) <= slot or not baking.is_computed(scope, node.input[slot]):
        return
    bias = constant_of(scope, node.input[slot], limits)
    made_up = not baking.parameters(scope, node.input[slot])
    if made_up and isinstance(bias, Constant) and not np.any(bias.float64()):
        edits.set_input(scope, node, slot, "")
        del node.input[slot:]


def _as_gemm(scope: Scope, node: NodeProto) -> None:
    """Write a matrix product with a transposed weight as the Gemm that it is, for rank 2.

    That is a Linear without bias; its weight keeps name and layout.
    """
    if node.op_type != "MatMul" or shapes.rank(scope, node.input[0]) != 2:
        return
    turned = scope.producer.get(node.input[1])
    if turned is None or turned.op_type != "Transpose" or not scope.is_onnx(turned):
        return
    if turned.input[0] in scope.initializers and shapes.rank(scope, turned.input[0]) == 2:
        edits.set_input(scope, node, 1, turned.input[0])
        node.op_type = "Gemm"
        node.attribute.add(name="transB", type=AttributeProto.INT, i=1)


def _skip_if_idle(scope: Scope, node: NodeProto, limits: Limits, parameters: set[str]) -> None:
    """Remove a node that gives back its first input, unless a body or the caller reads it."""
    idle = _IDLE.get(node.op_type)
    result = node.output[0]
    if idle is None or result in scope.outputs or node.input[0] not in scope.readers:
        return
    if any(result in names for names in scope.captures.values()):
        return
    if idle(scope, node, limits) and not (len(node.input) > 1 and node.input[1] in parameters):
        edits.skip(scope, node)


def _same_type(scope: Scope, node: NodeProto, _: Limits) -> bool:
    have = shapes.elem_type(scope, node.input[0])
    to = int_attribute(node, "to", 0)
    return have is not None and have == (to or shapes.elem_type(scope, node.input[-1]))


def _is_neutral(scope: Scope, node: NodeProto, limits: Limits) -> bool:
    """Whether it multiplies by made-up ones or adds made-up zeros, and widens nothing.

    That is how a GroupNorm without scale and bias is exported.
    """
    operand = constant_of(scope, node.input[1], limits)
    have = shapes.dims(scope, node.input[0])
    if not isinstance(operand, Constant) or operand.elem_type not in dtypes.FLOATS:
        return False
    if have is None or len(operand.shape) > len(have):
        return False
    aligned = have[len(have) - len(operand.shape) :]
    if any(size not in (1, other) for size, other in zip(operand.shape, aligned, strict=True)):
        return False
    return bool(np.all(operand.float64() == (node.op_type == "Mul")))


_IDLE: dict[str, Callable[[Scope, NodeProto, Limits], bool]] = {
    "Identity": lambda *_: True,
    "Slice": slicing.keeps_all,
    "Cast": _same_type,
    "CastLike": _same_type,
    "Mul": _is_neutral,
    "Add": _is_neutral,
}
