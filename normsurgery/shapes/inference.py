"""ONNX's shape inference, helped over shapes that the graph computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from onnx import ModelProto, NodeProto, TypeProto, shape_inference

from normsurgery.nodes import bodies

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from onnx import GraphProto, ValueInfoProto

    from normsurgery.graph import Graph, Scope
    from normsurgery.shapes.sizes import Size

Target = Callable[["Scope", NodeProto], "tuple[Size | None, ...] | None"]
_TOLD = frozenset({"Reshape", "Expand", "GroupNormalization"})
_ROUNDS = 8  # of inference, each with the shapes of Reshapes that the one before made known


def inferred(graph: Graph, target: Target) -> dict[tuple[int, str], TypeProto]:
    """Run ONNX's inference over the whole model, once, and only when somebody asks.

    It does not follow every computation of a shape; where a Reshape is left without dimensions
    that ``target`` finds, they are told to it, and it runs again for what lies behind.
    """
    if graph.inferred is not None:
        return graph.inferred
    graph.inferred = {}
    # nodes that were folded away are still in the proto until ``finish``, and do no harm
    proto = ModelProto()
    proto.CopyFrom(graph.proto)
    for value in (*proto.graph.input, *proto.graph.value_info, *proto.graph.output):
        _free_negative(value.type)
    for value in proto.graph.input:
        for i, d in enumerate(value.type.tensor_type.shape.dim):
            if not d.HasField("dim_value") and not d.dim_param:
                d.dim_param = f"{value.name}[{i}]"  # so that it is followed
    for _ in range(_ROUNDS):
        try:
            result = shape_inference.infer_shapes(proto, data_prop=True)
        except Exception:  # noqa: BLE001  a C++ library on an arbitrary model: unknown is the answer
            break
        graph.inferred = {
            (id(own), name): found
            for own, told in _pairs(graph.main.proto, result.graph)
            for name, found in tensor_types((*told.input, *told.value_info, *told.output)).items()
        }
        more = dict(_reshaped(graph, target))
        if not more:
            break
        proto = result  # with the names that it gave, so that they stay the same
        _tell(proto, more)
        _forget_behind(proto, set(more), {info.name for info in graph.proto.graph.value_info})
    return graph.inferred


def _pairs(graph: Any, copy: GraphProto) -> Iterator[tuple[Any, GraphProto]]:
    """Yield a graph with its copy, and so for the bodies of its nodes."""
    yield graph, copy
    for node, other in zip(graph.node, copy.node, strict=True):
        for body, told in zip(bodies(node), bodies(other), strict=True):
            yield from _pairs(body, told)


def _reshaped(graph: Graph, target: Target) -> Iterable[tuple[str, TypeProto]]:
    """Yield outputs of which more is told than inference says.

    By the operands of Reshape and Expand, and by the input of GroupNormalization, a function whose
    body ONNX's inference does not look into.
    """
    assert graph.inferred is not None  # noqa: S101
    scope = graph.main
    for node in scope.nodes:
        if node.op_type not in _TOLD or not scope.is_onnx(node):
            continue
        name = node.output[0]
        known = graph.inferred.get((id(scope.proto), name))
        shape = None if known is None else known.tensor_type.shape.dim
        if shape and all(d.HasField("dim_value") for d in shape):
            continue
        told = target(scope, node)
        if told is None or (shape and len(shape) != len(told)):
            continue
        own = _elem_type(scope, node.input[0])
        if own is None:
            continue
        if shape and not any(_is_news(d, s) for d, s in zip(shape, told, strict=True)):
            continue
        made = TypeProto()
        made.tensor_type.elem_type = own
        for i, size in enumerate(told):
            d = made.tensor_type.shape.dim.add()
            if size is None:
                if shape:
                    d.CopyFrom(shape[i])
            elif size.fixed is not None:
                d.dim_value = size.fixed
            else:
                d.dim_param = str(size)
                graph.sizes[str(size)] = size
        yield name, made


def _elem_type(scope: Scope, name: str) -> int | None:
    tensor = scope.lookup(name)
    if tensor is not None:
        return tensor.initializers[name].data_type
    found = (scope.graph.inferred or {}).get((id(scope.proto), name))
    return found.tensor_type.elem_type or None if found is not None else None


def _is_news(dim: Any, size: Size | None) -> bool:
    """Whether a dimension of inference says less than ``size``."""
    if size is None or dim.HasField("dim_value"):
        return False
    return size.fixed is not None or dim.dim_param != str(size)


def _tell(proto: ModelProto, more: Mapping[str, TypeProto]) -> None:
    for info in (*proto.graph.value_info, *proto.graph.output):
        if info.name in more:
            info.type.CopyFrom(more[info.name])
    told = {info.name for info in (*proto.graph.value_info, *proto.graph.output)}
    for name, type_ in more.items():
        if name not in told:
            proto.graph.value_info.add(name=name).type.CopyFrom(type_)


def _forget_behind(proto: ModelProto, names: set[str], declared: set[str]) -> None:
    """Drop what inference said of values that depend on ``names``: it may say more now."""
    behind: set[str] = set()
    reached = set(names)
    for node in proto.graph.node:  # in order, as the ONNX spec has it
        if any(name in reached for name in node.input):
            reached.update(node.output)
            behind.update(node.output)
    infos = proto.graph.value_info
    for i in range(len(infos) - 1, -1, -1):
        if infos[i].name in behind - names - declared:
            del infos[i]


def tensor_types(infos: Iterable[ValueInfoProto]) -> dict[str, TypeProto]:
    """Return the types of those that are tensors, by name.

    A negative size, as PaddlePaddle's exporter writes where a size is free, is none.
    """
    return {i.name: _sized(i.type) for i in infos if i.type.HasField("tensor_type")}


def _sized(type_: TypeProto) -> TypeProto:
    """Return a type as it is, or a copy without its negative sizes if it has any."""
    if all(d.dim_value >= 0 for d in type_.tensor_type.shape.dim):
        return type_
    copy = TypeProto()
    copy.CopyFrom(type_)
    _free_negative(copy)
    return copy


def _free_negative(type_: TypeProto) -> None:
    for d in type_.tensor_type.shape.dim:
        if d.dim_value < 0:
            d.Clear()
