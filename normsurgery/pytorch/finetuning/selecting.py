"""Which parameters are trained, and what is to be said of the model before."""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatchcase
from glob import escape
from typing import TYPE_CHECKING

import numpy as np
from onnx import inliner

from normsurgery.errors import UsageError
from normsurgery.graph import Graph

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from onnx import NodeProto
    from torch import nn

    from normsurgery import io
    from normsurgery.graph import Scope
    from normsurgery.pytorch.interpreter import GraphModule

NORMS = frozenset({
    "BatchNormalization", "InstanceNormalization", "GroupNormalization", "LayerNormalization",
    "RMSNormalization", "LpNormalization", "MeanVarianceNormalization", "LRN",
})  # fmt: skip
PLAIN = frozenset({"InstanceNormalization", "LayerNormalization"})
ELEMENTWISE = frozenset({"Mul", "Add", "Sub", "Div", "PRelu"})
RESHAPES = frozenset({"Reshape", "Flatten"})
NO_NORM = (
    "no normalization is left in the model: its folded weights diverge at an ordinary learning "
    "rate (9.5 % where the model with its BatchNormalization kept learning); `normsurgery unfold` "
    "puts BatchNormalization back, or train with a tenth of the learning rate"
)
FEW_SAMPLES = (
    "{live} BatchNormalization take their statistics from batches of {batch_size}: at 2, a "
    "ResNet-20 ended at 81.7 % where --norms frozen gave 86.2 % and `normsurgery convert --to "
    "group` 86.1 %"
)
SMALL = 16  # samples in a batch, from which on live statistics were no worse


def flat(content: io.Model) -> Graph:
    """Return an index of the graph that ``to_module`` runs: local functions where they are called.

    Its nodes and tensors have the names that the module knows them by.
    """
    if not content.proto.functions:
        return Graph(content)
    return Graph(replace(content, proto=inliner.inline_local_functions(content.proto)))


def freeze(
    parameters: Mapping[str, nn.Parameter], patterns: Sequence[str], fixed: Iterable[str]
) -> list[str]:
    """Freeze what matches a pattern or is in ``fixed``; return the names of what stays trained.

    parameters: by ONNX name. patterns: globs of ONNX names, as ``fnmatch`` reads them.
    Raises ``UsageError`` for a pattern that matches nothing: a typo would train everything.
    """
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in parameters):
            some = ", ".join(repr(name) for name in list(parameters)[:3])
            raise UsageError(
                f"--freeze {pattern!r} matches no parameter; the first of {len(parameters)} "
                f"are {some}"
            )
    held = set(fixed)
    for name, parameter in parameters.items():
        frozen = name in held or any(fnmatchcase(name, pattern) for pattern in patterns)
        parameter.requires_grad_(not frozen)
    return [name for name, parameter in parameters.items() if parameter.requires_grad]


def hold(module: GraphModule, graph: Graph, norms: str) -> tuple[list[str], int]:
    """Fix what is no parameter of a norm; return its names, and how many BatchNorms are live.

    norms: ``train``, or ``frozen``: no BatchNormalization is live. The module then keeps the
    statistics of those that are not.

    Raises ``UsageError`` for another word, or where there is nothing to freeze.
    """
    if norms not in {"train", "frozen"}:
        raise UsageError(f"norms are train or frozen, not {norms!r}")
    nodes = batch_norms(graph)
    if norms == "frozen" and not nodes:
        raise UsageError("there is no BatchNormalization in the model for --norms frozen to freeze")
    still = [node for scope, node in nodes if norms == "frozen" or hands_over(scope, node)]
    names = {node.name or node.output[0] for node in still}
    lost = names.difference(module.freeze_statistics(*map(escape, sorted(names))) if names else ())
    if lost:
        raise UsageError(f"BatchNormalization `{min(lost)}` cannot be frozen: nothing reads it")
    fixed = [name for node in still for name in node.input[1:3]]
    return standardisers(graph) + fixed, len(nodes) - len(still)


def standardisers(graph: Graph) -> list[str]:
    """Return the ones and zeros of norms that only standardise, on their way into a scale and bias.

    A GroupNorm written as Reshape → InstanceNormalization(1, 0) → Reshape → Mul → Add has its scale
    in the Mul. The 1 and 0 are there because the operator wants them; trained, they would be a
    second scale of the same thing, and change the size of its steps.
    """
    found: list[str] = []
    for scope in graph.scopes:
        for node in scope.nodes:
            if node.op_type in PLAIN and scope.is_onnx(node) and _is_reshaped(scope, node):
                found += _trivial(scope, node)
    return found


def scales(graph: Graph) -> set[str]:
    """Return the tensors that scale or shift channels, whatever their number of axes.

    They are the scale and bias of a norm, or read by elementwise operators alone and longer than 1
    along one axis at most: GroupNorm's scale in a Mul has the shape (C, 1, 1).
    """
    found: set[str] = set()
    others: set[str] = set()
    for scope in graph.scopes:
        for node in scope.nodes:
            of_norm = set(node.input[1:3]) if node.op_type in NORMS else set()
            for name in node.input:
                holder = scope.lookup(name)
                if holder is None:
                    continue
                long = sum(size > 1 for size in holder.initializers[name].dims)
                plain = node.op_type in ELEMENTWISE and long < 2
                (found if name in of_norm or plain else others).add(name)
    return found - others


def batch_norms(graph: Graph) -> list[tuple[Scope, NodeProto]]:
    """Return every BatchNormalization."""
    return [
        (scope, node)
        for scope in graph.scopes
        for node in scope.nodes
        if node.op_type == "BatchNormalization" and scope.is_onnx(node)
    ]


def hands_over(scope: Scope, node: NodeProto) -> bool:
    """Whether a BatchNormalization is there for another norm: all that reads it normalizes again.

    ``convert`` leaves such ones where no layer could take the map in front of the new norm. They
    are a fixed map, whatever the batch.
    """
    if node.output[0] in scope.outputs:
        return False
    readers = list(scope.value_readers(node.output[0]))
    for reader in readers:
        if reader.op_type in RESHAPES:
            readers += scope.value_readers(reader.output[0])
    others = {reader.op_type for reader in readers} - RESHAPES
    return bool(others) and others <= NORMS - {"BatchNormalization"}


def warnings(graph: Graph, live: int, batch_size: int | None) -> list[str]:
    """Return what the caller should know before training.

    live: how many BatchNormalizations compute statistics of the batch. batch_size: of one process,
    None if it is not known.
    """
    types = {node.op_type for scope in graph.scopes for node in scope.nodes}
    taken_apart = {"ReduceMean", "Sqrt"} <= types  # a norm in arithmetic
    if "Conv" in types and not types & NORMS and not taken_apart:
        return [NO_NORM]
    if live and batch_size is not None and batch_size < SMALL:
        return [FEW_SAMPLES.format(live=live, batch_size=batch_size)]
    return []


def last_softmax(graph: Graph, output: str) -> bool:
    """Whether an output is made by a Softmax, seen through Identity and changes of shape."""
    name = output
    while (node := graph.main.producer.get(name)) is not None:
        if node.op_type not in {"Identity", "Squeeze", "Unsqueeze", *RESHAPES}:
            return node.op_type == "Softmax" and graph.main.is_onnx(node)
        name = node.input[0]
    return False


def _is_reshaped(scope: Scope, node: NodeProto) -> bool:
    before = scope.producer.get(node.input[0])
    after = scope.readers.get(node.output[0], [])
    if before is None or before.op_type not in RESHAPES or node.output[0] in scope.outputs:
        return False
    scaled = [reader for one in after for reader in scope.readers.get(one.output[0], [])]
    behind = all(one.op_type in RESHAPES for one in after)
    return behind and bool(scaled) and all(one.op_type == "Mul" for one in scaled)


def _trivial(scope: Scope, node: NodeProto) -> list[str]:
    names = []
    for name, value in zip(node.input[1:3], (1.0, 0.0), strict=False):
        holder = scope.lookup(name)
        if holder is None:
            return []
        array = np.asarray(scope.graph.store.array(holder.initializers[name])).astype(np.float64)
        if not (array == value).all():
            return []
        names.append(name)
    return names
