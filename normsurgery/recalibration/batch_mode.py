"""A copy of a model in which BatchNormalizations use the statistics of the batch, as in training.

::

    y = scale·(x − m)/√(v + ε) + B,   m, v: mean and variance of x over samples and positions

as nodes of their own, since onnxruntime's operator has no training mode. Two passes in float32
(float64 for a float64 model): no E[x²] − E[x]².
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from normsurgery import dtypes, shapes
from normsurgery.folding.sources.batch_normalization import epsilon
from normsurgery.graph import Graph

if TYPE_CHECKING:
    from normsurgery.graph import Scope
    from normsurgery.io import Model

_AXES_ARE_INPUT = 18  # operator set from which on reductions take their axes as an input


def with_batch_statistics(content: Model, outputs: set[str]) -> Model:
    """Return a copy in which the norms that make ``outputs`` normalize by the batch."""
    proto = ModelProto()
    proto.CopyFrom(content.proto)
    copy = replace(content, proto=proto)
    main = Graph(copy).main
    nodes: list[NodeProto] = []
    for node in main.nodes:
        if node.output[0] in outputs:
            made, constants = _arithmetic(main, node)
            nodes += made
            proto.graph.initializer.extend(constants)
        else:
            kept = NodeProto()
            kept.CopyFrom(node)
            nodes.append(kept)
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    return copy


def _arithmetic(scope: Scope, node: NodeProto) -> tuple[list[NodeProto], list[TensorProto]]:
    """Return the nodes that take the place of ``node``, and their constants.

    Any rank is taken as (N, C, M): samples, channels, positions.
    """
    nodes: list[NodeProto] = []
    x, scale, B = node.input[:3]
    y = node.output[0]
    elem_type = shapes.elem_type(scope, x) or shapes.elem_type(scope, scale) or dtypes.FLOAT
    wide = TensorProto.DOUBLE if elem_type == dtypes.DOUBLE else TensorProto.FLOAT

    def add(op_type: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        made = name or scope.graph.unique_name(f"{y}_batch_{op_type.lower()}")
        nodes.append(helper.make_node(op_type, list(inputs), [made], **attributes))
        return made

    values = {
        "flat": np.array([0, 0, -1]),
        "row": np.array([1, -1, 1]),
        "epsilon": np.array(epsilon(node), helper.tensor_dtype_to_np_dtype(wide)),
        "axes": np.array([0, 2]),
    }
    named = {key: scope.graph.unique_name(f"{y}_batch_{key}") for key in values}
    constants = [numpy_helper.from_array(values[key], named[key]) for key in values]
    over: tuple[tuple[str, ...], dict[str, Any]] = ((), {"axes": [0, 2]})
    if scope.opset >= _AXES_ARE_INPUT:
        over = ((named["axes"],), {})
    else:
        constants.pop()
    flat = add("Cast", add("Reshape", x, named["flat"]), to=wide)
    centred = add("Sub", flat, add("ReduceMean", flat, *over[0], keepdims=1, **over[1]))
    square = add("Mul", centred, centred)
    var = add("ReduceMean", square, *over[0], keepdims=1, **over[1])
    unit = add("Div", centred, add("Sqrt", add("Add", var, named["epsilon"])))
    factor, shift = (add("Cast", add("Reshape", one, named["row"]), to=wide) for one in (scale, B))
    scaled = add("Cast", add("Add", add("Mul", unit, factor), shift), to=elem_type)
    add("Reshape", scaled, add("Shape", x), name=y)
    return nodes, constants
