"""Put the bodies of local functions where they are called, so that fold can see through them.

A function is one definition for many calls with different weights; folding a call's weights needs
its own copy. Only functions that hold a normalization or a linear layer are touched, and only
where the result stays under a cap: calls can nest and grow without bound.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx import NodeProto, inliner

from normsurgery.errors import GraphError
from normsurgery.nodes import bodies

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from onnx import FunctionProto, ModelProto

    from normsurgery.io import Model

MOST_NODES = 100_000
NORMALIZATIONS = frozenset({"BatchNormalization"})
LINEAR = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})

Key = tuple[str, str]


def inline(
    model: Model, most_nodes: int = MOST_NODES, *, because: frozenset[str] = NORMALIZATIONS
) -> list[str]:
    """Inline in place what fold needs to see; return the functions' names.

    Nothing is inlined if no function and no caller has an operator of ``because``, or if the main
    graph would have over ``most_nodes`` nodes. Raises ``GraphError`` for functions that call each
    other in a circle.
    """
    proto = model.proto
    if not proto.functions:
        return []
    functions = {(f.domain, f.name): f for f in proto.functions}
    sizes = _sizes(functions)
    inside = {key: _operators(key, functions) for key in functions}
    everywhere = set().union(_op_types(proto.graph.node), *inside.values())
    if not everywhere & because:
        return []
    wanted = [key for key, ops in inside.items() if ops & (NORMALIZATIONS | LINEAR)]
    if not wanted or _size(proto.graph.node, sizes) > most_nodes:
        return []
    try:
        result: ModelProto = inliner.inline_selected_functions(proto, wanted)
    except (RuntimeError, ValueError):  # operator sets that do not fit together
        return []
    model.proto = result
    return [name for _, name in wanted]


def _all_nodes(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    """Yield nodes and those of their bodies."""
    for node in nodes:
        yield node
        for body in bodies(node):
            yield from _all_nodes(body.node)


def _op_types(nodes: Iterable[NodeProto]) -> set[str]:
    return {node.op_type for node in _all_nodes(nodes) if node.domain in {"", "ai.onnx"}}


def _operators(key: Key, functions: dict[Key, FunctionProto]) -> set[str]:
    """Return the ONNX operators in a function and in all that it calls."""
    found: set[str] = set()
    seen: set[Key] = set()
    waiting = [key]
    while waiting:
        one = waiting.pop()
        if one in seen or one not in functions:
            continue
        seen.add(one)
        found |= _op_types(functions[one].node)
        waiting += [(n.domain, n.op_type) for n in _all_nodes(functions[one].node)]
    return found


def _sizes(functions: dict[Key, FunctionProto]) -> dict[Key, int]:
    """Return how many nodes each function is when everything in it is inlined."""
    sizes: dict[Key, int] = {}
    waiting = {
        key: {(n.domain, n.op_type) for n in _all_nodes(f.node)} & functions.keys()
        for key, f in functions.items()
    }
    while waiting:
        ready = [key for key, calls in waiting.items() if calls <= sizes.keys()]
        if not ready:
            raise GraphError(f"function {next(iter(waiting))[1]!r} calls itself")
        for key in ready:
            sizes[key] = _size(functions[key].node, sizes)
            del waiting[key]
    return sizes


def _size(nodes: Iterable[NodeProto], sizes: dict[Key, int]) -> int:
    return sum(sizes.get((n.domain, n.op_type), 1) for n in _all_nodes(nodes))
