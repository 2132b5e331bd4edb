"""Which values of two models stand for each other, where nodes were folded away or renamed."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from normsurgery.constants import Constant, constant_of
from normsurgery.validation.steps import ordered

if TYPE_CHECKING:
    from onnx import NodeProto

    from normsurgery.graph import Graph, Scope

_FEW = 0.3
_AFFINE = frozenset({"Add", "BatchNormalization", "Div", "Dropout", "Identity", "Mul", "Sub"})


def matching(reference: Graph, candidate: Graph) -> dict[str, str]:
    """Return values of the reference with their counterparts in the candidate.

    By name: fold gives the layer that absorbed a norm the norm's output, so names keep their
    meaning. Where few names are left, by what they are computed from: the same operator on matched
    values, shapes of the constants alike; affine nodes, which come and go in a fold, do not count,
    and what the last of a chain makes stands for the layer in front of it.
    """
    ours, theirs = (
        {name for node in ordered(graph) for name in node.output if name}
        for graph in (reference, candidate)
    )
    shared = {name: name for name in ours & theirs}
    if len(shared) >= _FEW * min(len(ours), len(theirs)):
        return shared
    keys = {key: name for name, key in _keys(candidate).items()}
    by_key = {name: keys[key] for name, key in _keys(reference).items() if key in keys}
    return by_key | shared


def _keys(graph: Graph) -> dict[str, str]:
    """Return a key for each value that stands for a layer: the last of its affine chain."""
    main = graph.main
    key_of = {value.name: f"input {value.name}" for value in graph.proto.graph.input}
    last: dict[str, str] = {}
    count: Counter[str] = Counter()
    for node in ordered(graph):
        inputs = [key_of[name] for name in main.reads(node) if name in key_of]
        if _is_affine(main, node, len(inputs)):
            key_of[node.output[0]] = inputs[0]
            last[inputs[0]] = node.output[0]
            continue
        if not inputs:
            continue
        shapes = [
            tuple(main.initializers[name].dims)
            for name in node.input[1:2]
            if name in main.initializers
        ]
        key = f"{node.domain}.{node.op_type}({', '.join(inputs)}; {shapes})"
        count[key] += 1
        digest = str(hash((key, count[key])))
        for index, name in enumerate(node.output):
            if name:
                key_of[name] = f"{digest}.{index}"
                last[key_of[name]] = name
    return {name: key for key, name in last.items()}


def _is_affine(main: Scope, node: NodeProto, inputs: int) -> bool:
    if node.op_type not in _AFFINE or not main.is_onnx(node) or inputs != 1:
        return False
    if node.op_type in {"BatchNormalization", "Dropout", "Identity"}:
        return True
    return any(isinstance(constant_of(main, name), Constant) for name in node.input)
