"""How exporters write ``chunk``, ``split`` and ``x[:, :, None]``, written shorter.

AdaIN and gated layers cut a vector into halves. The dynamo exporter makes a sequence of it and
takes elements out, the legacy one computes the bounds from the shape at every run; both slice whole
axes where Python has a colon.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from normsurgery import edits, shapes
from normsurgery.constants import Constant, Limits, constant_of
from normsurgery.nodes import int_attribute, remove_attribute

if TYPE_CHECKING:
    from collections.abc import Callable

    from onnx import NodeProto

    from normsurgery.graph import Scope

_LIMITS = Limits(1 << 16)


def known_shape(scope: Scope, node: NodeProto) -> np.ndarray | None:
    """Return what a Shape with bounds, or a Gather of a Shape, gives; None if it is not known.

    Only parts of a shape, such as the channels: a Reshape to the whole of one is left as it is,
    since it says what it means.
    """
    if node.op_type == "Shape" and node.attribute:
        dims = shapes.dims(scope, node.input[0])
        if dims is None:
            return None
        start = int_attribute(node, "start", 0)
        part = dims[start : int_attribute(node, "end", len(dims))]
        whole = len(part) == len(dims)
        return None if not part or whole or None in part else np.array(part, np.int64)
    maker = scope.producer.get(node.input[0]) if node.op_type == "Gather" else None
    if maker is None or maker.op_type != "Shape" or maker.attribute or not scope.is_onnx(maker):
        return None
    dims, indices = shapes.dims(scope, maker.input[0]), _numbers(scope, node.input[1])
    if dims is None or indices is None or int_attribute(node, "axis", 0) != 0:
        return None
    if any(not -len(dims) <= i < len(dims) or dims[i] is None for i in indices.ravel()):
        return None
    return np.array([dims[i] for i in indices.ravel()], np.int64).reshape(indices.shape)


def keeps_all(scope: Scope, node: NodeProto, _: Limits) -> bool:
    """Whether a Slice takes the whole of each axis that it names, in steps of 1."""
    numbers = [_numbers(scope, name) if name else None for name in node.input[1:]]
    if len(numbers) < 2 or numbers[0] is None or numbers[1] is None:
        return False
    if len(numbers) > 3 and (numbers[3] is None or np.any(numbers[3] != 1)):
        return False
    return bool(np.all(numbers[0] == 0) and np.all(numbers[1] >= np.iinfo(np.int32).max))


def as_split(scope: Scope, node: NodeProto, add: Callable[[Scope, str, np.ndarray], str]) -> None:
    """Write a SplitToSequence, all of whose elements are taken by number, as one Split.

    ``add`` makes an initializer and returns its name.
    """
    if node.op_type != "SplitToSequence" or len(node.input) < 2 or scope.opset < 13:
        return
    sequence = node.output[0]
    dims, split = shapes.dims(scope, node.input[0]), _numbers(scope, node.input[1])
    takers = scope.readers.get(sequence, [])
    if dims is None or split is None or sequence in scope.outputs or sequence in scope.pinned:
        return
    if any(taker.op_type != "SequenceAt" or not scope.is_onnx(taker) for taker in takers):
        return
    size = dims[int_attribute(node, "axis", 0)]
    if size is None or np.any(split <= 0):
        return
    step = int(split) if split.ndim == 0 else 0
    sizes = [min(step, size - at) for at in range(0, size, step)] if step else split.tolist()
    at = [_numbers(scope, taker.input[1]) for taker in takers]
    places = [int(i) % len(sizes) for i in at if i is not None and -len(sizes) <= i < len(sizes)]
    if len(places) < len(takers) or len(set(places)) < len(places):
        return
    names = [scope.graph.unique_name(f"{sequence}.{i}") for i in range(len(sizes))]
    for taker, place in zip(takers, places, strict=True):
        names[place] = taker.output[0]
        scope.dead.add(id(taker))
    for taker in list(takers):
        edits.set_input(scope, taker, 1, "")
    edits.set_input(scope, node, 1, add(scope, f"{sequence}.sizes", np.array(sizes, np.int64)))
    del scope.readers[sequence], scope.producer[sequence]
    scope.gone.add(sequence)
    node.op_type = "Split"
    remove_attribute(node, "keepdims")
    node.output[:] = names
    scope.producer.update(dict.fromkeys(names, node))


def _numbers(scope: Scope, name: str) -> np.ndarray | None:
    """Return the integers of a constant."""
    found = constant_of(scope, name, _LIMITS)
    if not isinstance(found, Constant) or found.tensor.base.dtype.kind != "i":
        return None
    return np.array(found.tensor.base)
