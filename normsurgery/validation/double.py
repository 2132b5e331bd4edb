"""A model's graph in float64: every float type that the nodes and declarations name.

Initializers stay as they are; whoever runs the graph widens them one at a time
(:func:`widen`), so that no third copy of the weights is made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Iterable

NARROW = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16})
"""The element types that become ``DOUBLE``."""

# Attributes that hold an element type: of Cast, EyeLike, the windows, (De)QuantizeLinear.
_TYPE_ATTRIBUTES = frozenset({"to", "dtype", "output_dtype", "output_datatype"})


_UNITS = {TensorProto.FLOAT16: 2.0**-11, TensorProto.BFLOAT16: 2.0**-8}


def coarsest(model: onnx.ModelProto) -> float:
    """The largest unit roundoff of the 16-bit float types that a model computes in; 0 if in none.

    It is looked for in initializers, inputs, and what nodes cast to; weights need not be loaded.
    """
    kinds = {tensor.data_type for tensor in model.graph.initializer}
    kinds |= {value.type.tensor_type.elem_type for value in model.graph.input}
    bodies = [model.graph.node, *(function.node for function in model.functions)]
    kinds |= {
        attribute.i
        for nodes in bodies
        for node in nodes
        for attribute in node.attribute
        if node.op_type == "Cast" and attribute.name == "to"
    }
    return max((unit for kind, unit in _UNITS.items() if kind in kinds), default=0.0)


def widen(array: np.ndarray) -> np.ndarray:
    """float16, bfloat16 and float32 arrays as float64, exactly; others as they are."""
    if array.dtype.kind == "f" or array.dtype.name == "bfloat16":
        return array.astype(np.float64, copy=False)
    return array


def to_double(model: onnx.ModelProto) -> None:
    """Rewrite the nodes and types of `model` in place, local functions and subgraphs too."""
    double_graph(model.graph)
    for function in model.functions:
        double_function(function)


def double_graph(graph: onnx.GraphProto) -> None:
    """Rewrite one graph in place."""
    for info in (*graph.input, *graph.output, *graph.value_info):
        _double_type(info.type)
    _double_nodes(graph.node)


def double_function(function: onnx.FunctionProto) -> None:
    """Rewrite the body of a function in place."""
    for info in function.value_info:
        _double_type(info.type)
    _double_nodes(function.node)


def _double_nodes(nodes: Iterable[onnx.NodeProto]) -> None:
    for node in nodes:
        for attribute in node.attribute:
            _double_attribute(attribute)
        if node.op_type == "ConstantOfShape" and not node.attribute:
            zero = numpy_helper.from_array(np.zeros(1, np.float64))
            node.attribute.append(onnx.helper.make_attribute("value", zero))


def _double_attribute(attribute: AttributeProto) -> None:
    if attribute.type == AttributeProto.GRAPH:
        double_graph(attribute.g)
    elif attribute.type == AttributeProto.TENSOR:
        _double_tensor(attribute.t)
    elif attribute.type == AttributeProto.TYPE_PROTO:
        _double_type(attribute.tp)
    elif attribute.name in _TYPE_ATTRIBUTES and attribute.i in NARROW:
        attribute.i = TensorProto.DOUBLE
    elif attribute.name in {"value_float", "value_floats"} and not attribute.ref_attr_name:
        single = attribute.name == "value_float"
        values = np.asarray(attribute.f if single else list(attribute.floats), np.float64)
        attribute.CopyFrom(onnx.helper.make_attribute("value", numpy_helper.from_array(values)))


def _double_tensor(tensor: TensorProto) -> None:
    if tensor.data_type in NARROW:
        tensor.CopyFrom(numpy_helper.from_array(widen(numpy_helper.to_array(tensor)), tensor.name))


def _double_type(kind: onnx.TypeProto) -> None:
    held = kind.WhichOneof("value")
    if held in {"tensor_type", "sparse_tensor_type"}:
        tensor = getattr(kind, held)
        if tensor.elem_type in NARROW:
            tensor.elem_type = TensorProto.DOUBLE
    elif held == "sequence_type":
        _double_type(kind.sequence_type.elem_type)
    elif held == "optional_type":
        _double_type(kind.optional_type.elem_type)
    elif held == "map_type":
        _double_type(kind.map_type.value_type)
