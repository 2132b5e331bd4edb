"""Types, dimensions and sizes of the values of a graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from onnx import FunctionProto, ModelProto, TypeProto, shape_inference

from normsurgery.shapes.arithmetic import Arithmetic
from normsurgery.shapes.sizes import Size

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from onnx import NodeProto, ValueInfoProto

    from normsurgery.graph import Graph, Scope

Dims = tuple[int | None, ...]
_ROUNDS = 8  # of inference, each with the shapes of Reshapes that the one before made known


def elem_type(scope: Scope, name: str) -> int | None:
    """Return the element type of a tensor; None if nothing tells it."""
    tensor = scope.lookup(name)
    if tensor is not None:
        return tensor.initializers[name].data_type
    found = type_of(scope, name)
    return found.tensor_type.elem_type or None if found is not None else None


def dims(scope: Scope, name: str) -> Dims | None:
    """Return the dimensions of a tensor, None for those not fixed; None if the rank is unknown."""
    tensor = scope.lookup(name)
    if tensor is not None:
        return tuple(tensor.initializers[name].dims)
    found = _shaped(scope, name)
    if found is None:
        return None
    return tuple(
        d.dim_value if d.HasField("dim_value") else None for d in found.tensor_type.shape.dim
    )


def rank(scope: Scope, name: str) -> int | None:
    """Return the number of dimensions of a tensor; None if nothing tells it."""
    found = dims(scope, name)
    return None if found is None else len(found)


def sizes(scope: Scope, name: str) -> tuple[Size, ...] | None:
    """Return the size of every dimension of a tensor; None if the rank is unknown.

    Names of the model are trusted to stand for one number each, as the ONNX spec has it. A
    dimension that the value's declaration leaves open gets the name that inference gave it.
    """
    tensor = scope.lookup(name)
    if tensor is not None:
        return tuple(Size(d) for d in tensor.initializers[name].dims)
    found = _shaped(scope, name)
    if found is None:
        return None
    declared = _sizes(scope.graph, name, found)
    if all(f"{name}[{i}]" not in size.names for i, size in enumerate(declared)):
        return declared
    inferred = _inferred(scope.graph).get((id(scope.proto), name))
    if inferred is None or len(inferred.tensor_type.shape.dim) != len(declared):
        return declared
    other = _sizes(scope.graph, name, inferred)
    return tuple(
        o if f"{name}[{i}]" in d.names else d
        for i, (d, o) in enumerate(zip(declared, other, strict=True))
    )


def target(scope: Scope, node: NodeProto) -> tuple[Size | None, ...] | None:
    """Return the sizes that the operands of a Reshape or Expand tell it to make."""
    arithmetic = Arithmetic(scope, sizes)
    return arithmetic.expanded(node) if node.op_type == "Expand" else arithmetic.reshaped(node)


def integers(scope: Scope, name: str) -> list[int | Size | None] | None:
    """Return the integers that the graph computes of shapes as ``name``; None if of something else.

    A number, a size by name, or None for one that is not known.
    """
    return Arithmetic(scope, sizes).integers(name)


def type_of(scope: Scope, name: str) -> TypeProto | None:
    """Return the type of a value in ``scope`` or a scope around it."""
    here: Scope | None = scope
    while here is not None:
        if name in here.producer or name in here.inputs:
            found = _declared(here).get(name)
            return found if found is not None else _inferred(here.graph).get((id(here.proto), name))
        here = here.parent
    return None


def declare(scope: Scope, name: str, elem_type: int, dims: Dims | None = None) -> None:
    """Record the type of a value that was added to ``scope``, for those who ask from now on."""
    found = TypeProto()
    found.tensor_type.elem_type = elem_type
    if dims is not None:
        found.tensor_type.shape.SetInParent()
        for size in dims:
            added = found.tensor_type.shape.dim.add()
            if size is not None:
                added.dim_value = size
    _declared(scope)[name] = found


def declare_like(scope: Scope, name: str, other: str) -> None:
    """Record that a value that was added to ``scope`` has the type and sizes of ``other``."""
    kind, own = elem_type(scope, other), sizes(scope, other)
    if kind is None or own is None:
        return
    declare(scope, name, kind, tuple(size.fixed for size in own))
    for d, size in zip(_declared(scope)[name].tensor_type.shape.dim, own, strict=True):
        if size.fixed is None:
            d.dim_param = str(size)
            scope.graph.sizes[str(size)] = size


def _shaped(scope: Scope, name: str) -> TypeProto | None:
    """Return the type of a value, if it has a shape."""
    found = type_of(scope, name)
    if found is None or not found.tensor_type.HasField("shape"):
        found = _inferred(scope.graph).get((id(scope.proto), name), found)
    return found if found is not None and found.tensor_type.HasField("shape") else None


def _sizes(graph: Graph, name: str, type_: TypeProto) -> tuple[Size, ...]:
    found = []
    for i, d in enumerate(type_.tensor_type.shape.dim):
        if d.HasField("dim_value"):
            found.append(Size(d.dim_value))
        else:
            called = d.dim_param or f"{name}[{i}]"
            found.append(graph.sizes.get(called) or Size(1, (called,)))
    return tuple(found)


def _declared(scope: Scope) -> dict[str, TypeProto]:
    if scope.types is None:
        proto = scope.proto
        infos: list[ValueInfoProto] = [*getattr(proto, "value_info", ())]
        if not isinstance(proto, FunctionProto):
            infos += (*proto.input, *proto.output)
        scope.types = _tensor_types(infos)
    return scope.types


def _inferred(graph: Graph) -> dict[tuple[int, str], TypeProto]:
    """Run ONNX's inference over the whole model, once, and only when somebody asks.

    It does not follow every computation of a shape; where a Reshape is left without dimensions
    that ``Arithmetic`` finds, they are told to it, and it runs again for what lies behind.
    """
    if graph.inferred is not None:
        return graph.inferred
    graph.inferred = {}
    # nodes that were folded away are still in the proto until ``finish``, and do no harm
    proto = ModelProto()
    proto.CopyFrom(graph.proto)
    for value in proto.graph.input:
        for i, d in enumerate(value.type.tensor_type.shape.dim):
            if not d.HasField("dim_value") and not d.dim_param:
                d.dim_param = f"{value.name}[{i}]"  # so that it is followed
    for _ in range(_ROUNDS):
        try:
            result = shape_inference.infer_shapes(proto, data_prop=True)
        except Exception:  # noqa: BLE001  a C++ library on an arbitrary model: unknown is the answer
            break
        infos = (*result.graph.input, *result.graph.value_info, *result.graph.output)
        graph.inferred = {
            (id(graph.main.proto), name): found for name, found in _tensor_types(infos).items()
        }
        more = dict(_reshaped(graph))
        if not more:
            break
        proto = result  # with the names that it gave, so that they stay the same
        _tell(proto, more)
        _forget_behind(proto, set(more))
    return graph.inferred


def _reshaped(graph: Graph) -> Iterable[tuple[str, TypeProto]]:
    """Yield the outputs of which the operands of Reshape or Expand tell more than inference."""
    assert graph.inferred is not None  # noqa: S101
    scope = graph.main
    for node in scope.nodes:
        if node.op_type not in {"Reshape", "Expand"} or not scope.is_onnx(node):
            continue
        name = node.output[0]
        known = graph.inferred.get((id(scope.proto), name))
        shape = None if known is None else known.tensor_type.shape.dim
        if shape and all(d.HasField("dim_value") for d in shape):
            continue
        told = target(scope, node)
        if told is None or (shape and len(shape) != len(told)):
            continue
        own = elem_type(scope, node.input[0])
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


def _forget_behind(proto: ModelProto, names: set[str]) -> None:
    """Drop what inference said of values that depend on ``names``: it may say more now."""
    behind: set[str] = set()
    reached = set(names)
    for node in proto.graph.node:  # in order, as the ONNX spec has it
        if any(name in reached for name in node.input):
            reached.update(node.output)
            behind.update(node.output)
    infos = proto.graph.value_info
    for i in range(len(infos) - 1, -1, -1):
        if infos[i].name in behind - names:
            del infos[i]


def _tensor_types(infos: Iterable[ValueInfoProto]) -> dict[str, TypeProto]:
    return {i.name: i.type for i in infos if i.type.HasField("tensor_type")}
