"""The normalizations that an exported graph has."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from normsurgery.errors import ModuleError
from normsurgery.nodes import bodies, int_attribute, label

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnx import GraphProto, NodeProto

NORMS = frozenset(
    {
        "BatchNormalization", "GroupNormalization", "InstanceNormalization",
        "LayerNormalization", "RMSNormalization",
    }
)  # fmt: skip


def refuse_batch_statistics(graph: GraphProto) -> None:
    """Raise for a BatchNormalization of run-time statistics: ``F.batch_norm`` in training mode."""
    stored = {tensor.name for tensor in graph.initializer}
    for node in _nodes(graph):
        if node.op_type != "BatchNormalization":
            continue
        computed = any(name not in stored for name in node.input[3:5])
        if computed or int_attribute(node, "training_mode", 0) or len(node.output) > 1:
            raise ModuleError(
                f"{label(node)}: it normalizes with statistics of the batch at hand "
                "(F.batch_norm in training mode, or without running statistics), so that an "
                "output depends on the rest of its batch; give it stored statistics"
            )


def count(graph: GraphProto) -> dict[str, int]:
    """Return how many of each normalization there are, the portable GroupNormalization included."""
    makers = {name: node.op_type for node in _nodes(graph) for name in node.output}
    kinds = [
        "GroupNormalization"
        if node.op_type == "InstanceNormalization" and makers.get(node.input[0]) == "Reshape"
        else node.op_type
        for node in _nodes(graph)
        if node.op_type in NORMS
    ]
    return dict(sorted(Counter(kinds).items()))


def _nodes(graph: GraphProto) -> Iterator[NodeProto]:
    for node in graph.node:
        yield node
        for body in bodies(node):
            yield from _nodes(body)
