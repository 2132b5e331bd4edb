"""Element types and shapes of values, as far as the model or ONNX's shape inference tells."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx import FunctionProto, TypeProto, shape_inference

if TYPE_CHECKING:
    from collections.abc import Iterable

    from onnx import ValueInfoProto

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
    found = type_of(scope, name)
    if found is None or not found.tensor_type.HasField("shape"):
        found = _inferred(scope.graph).get((id(scope.proto), name), found)
    if found is None or not found.tensor_type.HasField("shape"):
        return None
    return tuple(
        d.dim_value if d.HasField("dim_value") else None for d in found.tensor_type.shape.dim
    )


def rank(scope: Scope, name: str) -> int | None:
    """Return the number of dimensions of a tensor; None if nothing tells it."""
    found = dims(scope, name)
    return None if found is None else len(found)


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


def _declared(scope: Scope) -> dict[str, TypeProto]:
    if scope.types is None:
        proto = scope.proto
        infos: list[ValueInfoProto] = [*getattr(proto, "value_info", ())]
        if not isinstance(proto, FunctionProto):
            infos += (*proto.input, *proto.output)
        scope.types = _tensor_types(infos)
    return scope.types


def _inferred(graph: Graph) -> dict[tuple[int, str], TypeProto]:
    """Run ONNX's inference over the whole model, once, and only when somebody asks."""
    if graph.inferred is None:
        graph.inferred = {}
        # nodes that were folded away are still in the proto until ``finish``, and do no harm
        try:
            result = shape_inference.infer_shapes(graph.proto, data_prop=True)
        except Exception:  # noqa: BLE001  a C++ library on an arbitrary model: unknown is the answer
            return graph.inferred
        graph.inferred = {
            (id(graph.main.proto), name): found
            for name, found in _tensor_types(
                (*result.graph.input, *result.graph.value_info, *result.graph.output)
            ).items()
        }
    return graph.inferred


def _tensor_types(infos: Iterable[ValueInfoProto]) -> dict[str, TypeProto]:
    return {i.name: i.type for i in infos if i.type.HasField("tensor_type")}
