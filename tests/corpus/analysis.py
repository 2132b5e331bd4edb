"""What a fold has to do to a model, by a simple reading of its graph that shares no code with it.

``direct``: BatchNormalizations that one linear layer feeds, alone and through Identity at most,
with every coefficient known: these must go. ``stuck``: those that no path of linear or merely
moving operators joins to a linear layer, before them or after them: these must stay. What is
neither may go either way, and the expectation is an interval.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from onnx import numpy_helper

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnx import GraphProto, ModelProto, NodeProto

LINEAR = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
MOVES = {
    *("Identity", "Dropout", "Cast", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze"),
    *("Concat", "Split", "Slice", "Pad", "Resize", "Upsample", "DepthToSpace"),
    *("Add", "Sub", "Sum", "Mul", "Div", "Relu", "LeakyRelu"),
    *("AveragePool", "GlobalAveragePool", "MaxPool"),
    *("BatchNormalization", "QuantizeLinear", "DequantizeLinear"),
}


@dataclass(frozen=True)
class Facts:
    """Numbers of BatchNormalizations: in all, that must be folded, that cannot be."""

    bn: int
    direct: int
    stuck: int

    @property
    def left(self) -> tuple[int, int]:
        """The fewest and the most that a correct fold leaves."""
        return self.stuck, self.bn - self.direct


def subgraphs(graph: GraphProto) -> Iterator[GraphProto]:
    """Yield the graph and every body within it."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for body in [attribute.g, *attribute.graphs]:
                if body.node:
                    yield from subgraphs(body)


def facts(model: ModelProto) -> Facts:
    """Return what a fold of the model must come to."""
    readings = [Reading(g) for g in subgraphs(model.graph)]
    return Facts(
        sum(len(r.norms) for r in readings),
        sum(r.is_direct(n) for r in readings for n in r.norms),
        sum(not r.joined(n) for r in readings for n in r.norms),
    )


def underflows(model: ModelProto, output: str) -> bool:
    """Return whether folding the norm that makes ``output`` leaves a channel's weights subnormal.

    That is its own to see: a channel whose largest ``scale/√(var + ε)·W`` is not 0, and below the
    smallest normal number of the weight's type.
    """
    stored = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    maker = {o: n for n in model.graph.node for o in n.output}

    def value(name: str) -> np.ndarray:
        while name not in stored:
            name = maker[name].input[0]  # Identity
        return stored[name]

    norm = maker[output]
    conv = maker[norm.input[0]]
    while conv.op_type == "Identity":
        conv = maker[conv.input[0]]
    scale, _, _, var = (value(name).astype(np.float64) for name in norm.input[1:])
    epsilon = next((a.f for a in norm.attribute if a.name == "epsilon"), 1e-5)
    weight = value(conv.input[1])
    largest = np.abs(weight.astype(np.float64)).reshape(len(weight), -1).max(axis=1)
    folded = np.abs(scale) / np.sqrt(var + epsilon) * largest
    return bool(np.any((folded > 0) & (folded < np.finfo(weight.dtype).tiny)))


class Reading:
    """One graph: who makes and who reads each value, and which values are constants."""

    def __init__(self, graph: GraphProto) -> None:
        self.maker = {o: n for n in graph.node for o in n.output if o}
        self.readers: dict[str, list[NodeProto]] = {}
        self.uses = Counter(o.name for o in graph.output)
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
                self.uses[name] += 1
        self.constants = {t.name for t in graph.initializer}
        for node in graph.node:  # sorted: a constant's own inputs come first
            if not node.domain and all(i in self.constants for i in node.input if i):
                self.constants.update(node.output)
        self.norms = [n for n in graph.node if n.op_type == "BatchNormalization"]

    def is_direct(self, norm: NodeProto) -> bool:
        """Return whether a linear layer that nothing else reads feeds the norm directly."""
        value, known = norm.input[0], all(i in self.constants for i in norm.input[1:])
        while known and self.uses[value] == 1 and value in self.maker:
            maker = self.maker[value]
            if maker.op_type != "Identity":
                return self._is_linear(maker)
            value = maker.input[0]
        return False

    def joined(self, norm: NodeProto) -> bool:
        """Return whether a linear layer can be reached, backwards or forwards."""
        back = self._reaches(norm.input[0], forwards=False)
        return back or self._reaches(norm.output[0], forwards=True)

    def _reaches(self, value: str, *, forwards: bool) -> bool:
        seen, todo = set(), [value]
        while todo:
            value = todo.pop()
            if value in seen or value in self.constants:
                continue
            seen.add(value)
            nodes = self.readers.get(value, []) if forwards else [self.maker.get(value)]
            for node in filter(None, nodes):
                if self._is_linear(node):
                    return True
                if self._moves(node):
                    todo += node.output if forwards else node.input
        return False

    def _is_linear(self, node: NodeProto) -> bool:
        if node.op_type == "MatMul":
            return sum(i in self.constants for i in node.input) == 1
        return node.op_type in LINEAR and all(i in self.constants for i in node.input[1:] if i)

    def _moves(self, node: NodeProto) -> bool:
        if node.op_type in {"Mul", "Div"} and not any(i in self.constants for i in node.input):
            return False  # a product of two unknowns: a gate
        return node.op_type in MOVES
