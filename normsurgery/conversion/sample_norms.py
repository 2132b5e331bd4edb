"""Where norms stand that take their statistics from each sample: group, instance and layer norm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from normsurgery import dtypes, shapes
from normsurgery.conversion.report import Left
from normsurgery.nodes import int_attribute

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnx import NodeProto

    from normsurgery.graph import Graph, Scope

NORMS = frozenset({"InstanceNormalization", "GroupNormalization", "LayerNormalization"})


@dataclass(frozen=True)
class SampleNorm:
    """A norm over channels on axis 1 of the main graph.

    node: the norm. value: what goes in; output: what comes out, of the same shape; they are those
    of the node, or of the Reshapes around it that make groups of channels one channel each.
    last: the node that makes ``output``.
    """

    node: NodeProto
    value: str
    last: NodeProto
    dims: shapes.Dims
    elem_type: int

    @property
    def output(self) -> str:
        """The value that it makes."""
        return self.last.output[0]

    @property
    def name(self) -> str:
        """The node's name, or its output's where it has none."""
        return self.node.name or self.node.output[0]


def find(graph: Graph) -> Iterator[SampleNorm | Left]:
    """Yield the norms in graph order, and those that no BatchNormalization can follow, with why."""
    for scope in graph.scopes:
        for node in scope.nodes:
            if node.op_type in NORMS and scope.is_onnx(node):
                found = _site(scope, node)
                if isinstance(found, str):
                    name = node.name or node.output[0]
                    yield Left(name, node.output[0], node.op_type, "no-batch-norm", found)
                else:
                    yield found


def behind(scope: Scope, value: str) -> NodeProto | None:
    """Return the norm over samples that alone reads ``value``, as it is or in another shape."""
    while scope.only_reader(value):
        (reader,) = scope.value_readers(value)
        if not scope.is_onnx(reader) or reader.input[0] != value:
            return None
        if reader.op_type in NORMS:
            return reader
        if reader.op_type not in {"Reshape", "Cast"}:
            return None
        value = reader.output[0]
    return None


def _site(scope: Scope, node: NodeProto) -> SampleNorm | str:
    """Return the norm, or why it is left."""
    if scope is not scope.graph.main:
        return "in a body or a function, whose values cannot be looked at"
    if any(scope.is_read(name) for name in node.output[1:]):
        return "its mean or deviation is an output that is read"
    value, last = node.input[0], node
    around = None
    if node.op_type != "GroupNormalization":
        around = reshaped(scope, node.input[0], node.output[0])
    if around is not None:
        value, last = around
    dims = shapes.dims(scope, value)
    if dims is None or len(dims) < 2:
        return f"the rank of `{value}` is not known"
    if node.op_type == "LayerNormalization" and not _over_channels(scope, node, dims, around):
        return "it normalizes the last axes of a value whose channels are not on axis 1"
    elem_type = shapes.elem_type(scope, value)
    if elem_type not in dtypes.FLOATS:
        return f"the type of `{value}` is not known"
    return SampleNorm(node, value, last, dims, elem_type)


def _over_channels(scope: Scope, node: NodeProto, dims: shapes.Dims, around: object) -> bool:
    """Whether a LayerNormalization is over whole channels of a value (N, C, …) of ``dims``.

    It starts on axis 1; or, between Reshapes, on axis 2 of (N, G, …), where G divides C: those of
    (N·L, D), and of L tokens in place of G groups, are rows of D of (N, L, D) or (N, H, W, D).
    """
    axis = int_attribute(node, "axis", -1)
    if around is None:
        return axis % len(dims) == 1
    apart = shapes.dims(scope, node.input[0])
    if apart is None or len(apart) < 3 or axis % len(apart) != 2 or not apart[1]:
        return False
    return dims[1] is None or dims[1] % apart[1] == 0


def reshaped(scope: Scope, given: str, made: str) -> tuple[str, NodeProto] | None:
    """Return the value before a Reshape that makes ``given``, and one of ``made`` that undoes it.

    Both keep the order of elements, so the second undoes the first if shapes agree before and
    behind; as far as they are known here, and data will tell the rest.
    """
    first = scope.producer.get(given)
    readers = scope.value_readers(made)
    if first is None or first.op_type != "Reshape" or not scope.is_onnx(first):
        return None
    if len(readers) != 1 or readers[0].op_type != "Reshape" or not scope.is_onnx(readers[0]):
        return None
    if not scope.only_reader(made):
        return None
    before, after = shapes.dims(scope, first.input[0]), shapes.dims(scope, readers[0].output[0])
    if before is None or (after is not None and len(after) != len(before)):
        return None
    pairs = zip(before, after or before, strict=True)
    if any(a is not None and b is not None and a != b for a, b in pairs):
        return None
    return first.input[0], readers[0]
