"""Where a folded BatchNormalization may have stood: behind which linear layers."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal, get_args

from normsurgery import dtypes, shapes
from normsurgery.constants import Constant, constant_of
from normsurgery.nodes import label
from normsurgery.unfolding.report import Left

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from onnx import NodeProto

    from normsurgery.graph import Graph, Scope

Sites = Literal["hidden", "convolutions", "all"]
SITES: tuple[Sites, ...] = get_args(Sites)

CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})
DENSE = frozenset({"Gemm", "MatMul"})
NORMS = frozenset({"BatchNormalization", "InstanceNormalization", "GroupNormalization",
                   "LayerNormalization", "LpNormalization"})  # fmt: skip
NONLINEAR = frozenset({
    "Relu", "LeakyRelu", "PRelu", "ThresholdedRelu", "Clip", "Elu", "Selu", "Celu", "Gelu", "Erf",
    "Sigmoid", "HardSigmoid", "HardSwish", "Swish", "Mish", "Tanh", "Softplus", "Softsign",
})  # fmt: skip
# What a layer's output may pass on its way to its nonlinearity, or to the next layer.
PASSED = frozenset({
    "Add", "Sub", "Mul", "Div", "Sum", "Concat", "Identity", "Dropout", "Cast", "Pad", "Slice",
    "Split", "AveragePool", "MaxPool", "Resize", "Upsample", "Transpose", "Reshape", "Flatten",
    "Squeeze", "Unsqueeze", "DepthToSpace", "SpaceToDepth",
})  # fmt: skip


@dataclass(frozen=True)
class Site:
    """A linear layer of the main graph that a norm can stand behind. elem_type: of its output."""

    node: NodeProto
    name: str
    value: str
    elem_type: int


def find(
    graph: Graph, sites: Sites, only: Sequence[str], skip: Sequence[str]
) -> tuple[list[Site], list[Left]]:
    """Return the layers that get a norm, and all others with the reason why they get none.

    only, skip: shell patterns (``*``, ``?``) for the names of nodes; a node without a name goes by
    its output.
    """
    found: list[Site] = []
    left: list[Left] = []
    for scope in graph.scopes:
        for node in scope.nodes:
            if not scope.is_onnx(node) or node.op_type not in CONVOLUTIONS | DENSE:
                continue
            name = node.name or node.output[0]
            why = _unfit(scope, node, name, sites, only, skip)
            if why is not None:
                left.append(Left(name, node.op_type, *why))
            else:
                found.append(Site(node, name, node.output[0], _type(scope, node) or dtypes.FLOAT))
    return found, left


def _unfit(
    scope: Scope,
    node: NodeProto,
    name: str,
    sites: Sites,
    only: Sequence[str],
    skip: Sequence[str],
) -> tuple[str, str] | None:
    """Return the slug and the reason why a layer gets no norm; None if it gets one."""
    value = node.output[0]
    if (only and not _matches(name, only)) or _matches(name, skip):
        return "not-selected", "not selected"
    if scope is not scope.graph.main:
        return "in-body", "in a body or a function, whose values cannot be looked at"
    if node.op_type in DENSE:
        if sites != "all":
            return "dense", "no convolution; --sites all takes it in"
        rank = shapes.rank(scope, value)
        if rank != 2:
            return "rank", f"channels of `{value}` are not on axis 1 for certain (rank {rank})"
        if not isinstance(constant_of(scope, node.input[1]), Constant):
            return "no-weight", f"its second operand `{node.input[1]}` is no constant weight"
    elem_type = _type(scope, node)
    if elem_type not in dtypes.FLOATS:
        what = "not known" if elem_type is None else dtypes.name_of(elem_type)
        return "type", f"the type of `{value}` is {what}"
    reached = list(_ahead(scope, value))
    norm = next((one for one in reached if one.op_type in NORMS), None)
    if norm is not None:
        return "normalized", f"it is normalized already, by {label(norm)}"
    if sites == "hidden" and not _is_hidden(scope, reached):
        return "not-hidden", "no nonlinearity with a layer behind it follows"
    return None


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _type(scope: Scope, node: NodeProto) -> int | None:
    return shapes.elem_type(scope, node.output[0]) or shapes.elem_type(scope, node.input[1])


def _ahead(scope: Scope, value: str) -> Iterator[NodeProto]:
    """Yield the first operators behind ``value`` on every path that are not just passed."""
    waiting, seen = [value], {value}
    while waiting:
        for node in scope.value_readers(waiting.pop()):
            if node.op_type not in PASSED or not scope.is_onnx(node):
                yield node
                continue
            fresh = [name for name in node.output if name and name not in seen]
            seen.update(fresh)
            waiting += fresh


def _is_hidden(scope: Scope, reached: list[NodeProto]) -> bool:
    """Whether a nonlinearity is among ``reached``, and a linear layer somewhere behind it."""
    waiting = [node for node in reached if node.op_type in NONLINEAR and scope.is_onnx(node)]
    seen = {id(node) for node in waiting}
    while waiting:
        node = waiting.pop()
        for name in node.output:
            for reader in scope.value_readers(name):
                if reader.op_type in CONVOLUTIONS | DENSE:
                    return True
                if id(reader) not in seen:
                    seen.add(id(reader))
                    waiting.append(reader)
    return False
