"""Types, dimensions and sizes of the values of a graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx import FunctionProto, TypeProto

from normsurgery.shapes.arithmetic import Arithmetic
from normsurgery.shapes.inference import inferred, tensor_types
from normsurgery.shapes.sizes import Size

if TYPE_CHECKING:
    from onnx import NodeProto, ValueInfoProto

    from normsurgery.graph import Graph, Scope

Dims = tuple[int | None, ...]


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
    known = _inferred(scope, name)
    if known is None or len(known.tensor_type.shape.dim) != len(declared):
        return declared
    other = _sizes(scope.graph, name, known)
    return tuple(
        o if f"{name}[{i}]" in d.names else d
        for i, (d, o) in enumerate(zip(declared, other, strict=True))
    )


def target(scope: Scope, node: NodeProto) -> tuple[Size | None, ...] | None:
    """Return the sizes that the operands of a Reshape or Expand tell it to make.

    And those of the input of an operator that keeps them.
    """
    if node.op_type == "GroupNormalization":
        return sizes(scope, node.input[0])
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
            return (
                found
                if found is not None
                else inferred(here.graph, target).get((id(here.proto), name))
            )
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
        found = _inferred(scope, name) or found
    return found if found is not None and found.tensor_type.HasField("shape") else None


def _inferred(scope: Scope, name: str) -> TypeProto | None:
    return inferred(scope.graph, target).get((id(scope.proto), name))


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
        scope.types = tensor_types(infos)
    return scope.types
