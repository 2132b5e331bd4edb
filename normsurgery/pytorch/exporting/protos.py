"""Plain edits of an exported ModelProto: metadata, names, shared and unread initializers."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from normsurgery.nodes import bodies

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from onnx import GraphProto, ModelProto, NodeProto

_NOISE = ("pkg.", "namespace")


def strip(model: ModelProto) -> None:
    """Remove the exporter's metadata, doc strings and stack traces, in place.

    They name files and folders of the machine that exported.
    """
    _strip_part(model)
    for function in model.functions:
        _strip_part(function)
        for node in function.node:
            _strip_node(node)
    _strip_graph(model.graph)


def _strip_graph(graph: GraphProto) -> None:
    for part in (graph, *graph.initializer, *graph.input, *graph.output, *graph.value_info):
        _strip_part(part)
    for node in graph.node:
        _strip_node(node)


def _strip_node(node: NodeProto) -> None:
    _strip_part(node)
    for one in node.attribute:
        one.ClearField("doc_string")
    for body in bodies(node):
        _strip_graph(body)


def _strip_part(part: Any) -> None:
    part.ClearField("doc_string")
    props = part.metadata_props
    for i in range(len(props) - 1, -1, -1):
        if props[i].key.startswith(_NOISE):
            del props[i]


def name_nodes(graph: GraphProto) -> None:
    """Name the nodes of a dynamo export by their modules: ``layer1.0.bn1/BatchNormalization``."""
    taken = {node.name for node in graph.node}
    for node in graph.node:
        scopes = [p.value for p in node.metadata_props if p.key == "pkg.torch.onnx.name_scopes"]
        path = ast.literal_eval(scopes[0]) if scopes else []
        if len(path) < 2:
            continue
        wanted = f"{path[-2]}/{node.op_type}".lstrip("/")
        name, count = wanted, 0
        while name in taken:
            count += 1
            name = f"{wanted}_{count}"
        taken.add(name)
        node.name = name


def separate(graph: GraphProto, same: Mapping[str, str]) -> None:
    """Undo each Identity of an initializer, in place.

    The legacy exporter writes tensors of equal content once, so that a fresh BatchNorm's
    ``running_var`` is an Identity of its ``weight``. Two parameters get a tensor each; where both
    are one tensor (``same`` maps every parameter to the first name of its tensor), or where one
    is no parameter, the readers share it.
    """
    stored = {tensor.name: tensor for tensor in graph.initializer}
    outputs = {value.name for value in graph.output}
    shared: dict[str, str] = {}
    for i in range(len(graph.node) - 1, -1, -1):
        node = graph.node[i]
        if node.op_type != "Identity" or node.input[0] not in stored or node.output[0] in outputs:
            continue
        source, result = node.input[0], node.output[0]
        if result in same and same.get(source, source) != same[result]:
            graph.initializer.add().CopyFrom(stored[source])
            graph.initializer[-1].name = result
        else:
            shared[result] = source
        del graph.node[i]
    rename(graph, shared)


def rename(graph: GraphProto, names: Mapping[str, str]) -> None:
    """Rename values everywhere in ``graph`` and its bodies, in place."""
    if not names:
        return
    for node in graph.node:
        for strings in (node.input, node.output):
            for i, name in enumerate(strings):
                if name in names:
                    strings[i] = names[name]
        for body in bodies(node):
            rename(body, names)
    parts: list[Any] = [*graph.initializer, *graph.value_info, *graph.output]
    for part in parts:
        if part.name in names:
            part.name = names[part.name]


def tidy(graph: GraphProto) -> None:
    """Make Constant nodes of numbers initializers, and drop initializers that nobody reads."""
    outputs = {value.name for value in graph.output}
    for i in range(len(graph.node) - 1, -1, -1):
        node = graph.node[i]
        if node.op_type != "Constant" or node.domain or node.output[0] in outputs:
            continue
        tensor = _tensor(node)
        if tensor is not None:
            graph.initializer.add().CopyFrom(tensor)
            graph.initializer[-1].name = node.output[0]
            del graph.node[i]
    read = {*_reads(graph), *outputs}
    for i in range(len(graph.initializer) - 1, -1, -1):
        if graph.initializer[i].name not in read:
            del graph.initializer[i]
    stored = {tensor.name for tensor in graph.initializer}
    for i in range(len(graph.value_info) - 1, -1, -1):
        if graph.value_info[i].name in stored:
            del graph.value_info[i]


def _reads(graph: GraphProto) -> Iterator[str]:
    for node in graph.node:
        yield from node.input
        for body in bodies(node):
            yield from _reads(body)
            yield from (value.name for value in body.output)


def _tensor(node: NodeProto) -> TensorProto | None:
    """Return the value of a Constant node; None for strings and sparse tensors."""
    one = node.attribute[0]
    if one.name == "value":
        return one.t
    value: float | Sequence[float] = helper.get_attribute_value(one)
    if one.name in {"value_int", "value_ints"}:
        return numpy_helper.from_array(np.array(value, np.int64))
    if one.name in {"value_float", "value_floats"}:
        return numpy_helper.from_array(np.array(value, np.float32))
    return None
