"""The tensors that a graph holds, and which of them are parameters.

A float tensor is a parameter, under its own name, unless

- it is a running statistic of a BatchNormalization: a buffer that training mode updates;
- all that reads it takes it for a setting (the bounds of a Clip, the scales of a Resize …);
- it is one number and no weight: exporters write literals so (epsilon, 0.5, √d);
- it is not finite: a mask of −inf is no weight.

An initializer that reaches several readers through Identity nodes is what torch's legacy exporter
makes of parameters that happened to be equal: the output of each such Identity is a parameter of
its own. One that is read directly by several nodes is shared, and stays so.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import numpy as np

from normsurgery import dtypes
from normsurgery.nodes import attribute
from normsurgery.tensors import size_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnx import NodeProto, TensorProto

    from normsurgery.graph import Scope


PARAMETER, STATISTIC, CONSTANT = "parameter", "statistic", "constant"

# Input slots that hold weights, even of one element.
WEIGHTS: dict[str, tuple[int, ...]] = {
    "Conv": (1, 2), "ConvTranspose": (1, 2), "Gemm": (0, 1, 2), "MatMul": (0, 1),
    "BatchNormalization": (1, 2), "InstanceNormalization": (1, 2), "GroupNormalization": (1, 2),
    "LayerNormalization": (1, 2), "RMSNormalization": (1,), "PRelu": (1,),
    "LSTM": (1, 2, 3, 7), "GRU": (1, 2, 3), "RNN": (1, 2, 3),
}  # fmt: skip
STATISTICS: dict[str, tuple[int, ...]] = {"BatchNormalization": (3, 4)}
# Input slots that hold settings, whatever their type.
SETTINGS: dict[str, tuple[int, ...]] = {
    "Clip": (1, 2), "Dropout": (1, 2), "Pad": (2,), "Pow": (1,), "Range": (0, 1, 2),
    "Resize": (1, 2), "Upsample": (1,), "OneHot": (2,), "QuantizeLinear": (1,),
    "DequantizeLinear": (1,), "CastLike": (1,), "Shape": (0,), "Size": (0,),
    "NonMaxSuppression": (3, 4), "Equal": (0, 1), "Greater": (0, 1), "Less": (0, 1),
    "GreaterOrEqual": (0, 1), "LessOrEqual": (0, 1),
}  # fmt: skip


@dataclass
class Stored:
    """A tensor that a graph holds: an initializer or the value of a Constant node.

    name: of the value that readers see. origin: where its numbers are, which is another name for
    the output of an Identity. own: the Identity that makes it a copy of its own, if any.
    """

    name: str
    tensor: TensorProto
    origin: str
    own: NodeProto | None = None
    kind: str = CONSTANT
    uses: list[tuple[NodeProto, int]] = field(default_factory=list)


def held(scope: Scope) -> dict[str, TensorProto]:
    """Return the tensors that one graph holds, by the name of the value."""
    found = dict(scope.initializers)
    for node in scope.nodes:
        value = attribute(node, "value")
        if node.op_type == "Constant" and value is not None and scope.is_onnx(node):
            found[node.output[0]] = value.t
    return found


def collect(scope: Scope, train: Sequence[str], writable: set[str]) -> dict[str, Stored]:
    """Return every stored tensor of one graph, by the name that readers see it under.

    train: glob patterns of names that are parameters whatever they look like.
    writable: the names that a parameter may have, since it can be written back.
    """
    tensors = held(scope)
    found = {name: Stored(name, tensor, name) for name, tensor in tensors.items()}
    direct = {
        name: [n for n in scope.readers.get(name, ()) if not _copies(scope, n)] for name in found
    }
    for node in scope.nodes:
        source = node.input[0] if _copies(scope, node) else ""
        if source not in found:
            continue
        original = found[source]
        # The first reader, if it is an Identity, is the tensor itself.
        alone = original.own is None and not direct[source] and source not in scope.outputs
        if alone and scope.readers[source][0] is node:
            found[node.output[0]] = original
        else:
            made = Stored(node.output[0], original.tensor, original.origin, own=node)
            found[node.output[0]] = made
        direct[node.output[0]] = [
            n for n in scope.readers.get(node.output[0], ()) if not _copies(scope, n)
        ]
    uses = _uses(scope)
    for name, one in found.items():
        one.uses += uses.get(name, ())
    for one in found.values():
        one.kind = _kind(scope, one, train, writable)
    return found


def _uses(scope: Scope) -> dict[str, list[tuple[NodeProto, int]]]:
    """Return the nodes and slots that read each value, here and in bodies below."""
    uses: dict[str, list[tuple[NodeProto, int]]] = {}
    for one in scope.graph.scopes:
        around: Scope | None = one
        while around is not None and around is not scope:
            around = around.parent
        for node in one.nodes if around is scope else ():
            for slot, name in enumerate(node.input):
                if not _copies(one, node):
                    uses.setdefault(name, []).append((node, slot))
    return uses


def _copies(scope: Scope, node: NodeProto) -> bool:
    return node.op_type == "Identity" and scope.is_onnx(node)


def _kind(scope: Scope, one: Stored, train: Sequence[str], writable: set[str]) -> str:
    if one.tensor.data_type not in dtypes.FLOATS:
        return CONSTANT
    if any(_in(STATISTICS, node, slot) for node, slot in one.uses):
        return STATISTIC
    if one.origin not in writable:
        return CONSTANT
    if any(fnmatchcase(one.name, pattern) for pattern in train):
        return PARAMETER
    if any(_in(WEIGHTS, node, slot) for node, slot in one.uses):
        return PARAMETER
    if _count(one.tensor) <= 1 or (
        one.uses and all(_in(SETTINGS, node, slot) for node, slot in one.uses)
    ):
        return CONSTANT
    finite = np.isfinite(np.asarray(scope.graph.store.array(one.tensor)).astype(np.float64))
    return PARAMETER if bool(finite.all()) else CONSTANT


def _in(table: dict[str, tuple[int, ...]], node: NodeProto, slot: int) -> bool:
    return slot in table.get(node.op_type, ())


def _count(tensor: TensorProto) -> int:
    size_of(tensor)  # refuses negative and giant dimensions
    return int(np.prod(tensor.dims, dtype=np.int64))
