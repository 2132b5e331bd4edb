"""Outputs behind a function that saturates, looked at in front of it as well.

A Softmax whose winner is certain gives 1 and zeros, whatever its inputs are off by, and so do
Sigmoid and Tanh far from 0. They can be undone, though: two models that compute the same output
have the same input to them, up to a constant in the case of Softmax. So that input, less its mean
over the axis for Softmax, is one more output of both models, to be judged like the others.
"""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import NodeProto, helper, numpy_helper

from normsurgery import io
from normsurgery.errors import InvalidModelError, NormSurgeryError
from normsurgery.graph import Graph
from normsurgery.nodes import int_attribute
from normsurgery.tensors import tensors_in
from normsurgery.validation.comparison import Status

if TYPE_CHECKING:
    from collections.abc import Iterator

    from normsurgery.graph import Scope
    from normsurgery.validation.result import Parity

SATURATING = frozenset({"Sigmoid", "Softmax", "Tanh"})
_UNMOVED = frozenset({"Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
_MARK = " before "
MOST = 1 << 32
"""Bytes of weights of both models together that are copied for this."""


@contextlib.contextmanager
def unsaturated(reference: Path, candidate: Path) -> Iterator[tuple[Path, Path]]:
    """Yield files of the two models with more outputs; the same files where none saturates.

    An output counts where it comes from the same saturating operator in both models. A model that
    cannot be read stays as it is: whoever runs it says why. So do models of over `MOST` bytes,
    since the files are copies.
    """
    try:
        ours, theirs = io.load(reference), io.load(candidate)
        graphs = Graph(ours), Graph(theirs)
    except NormSurgeryError:
        yield reference, candidate
        return
    pairs = []
    for output in ours.proto.graph.output:
        node, twin = (_saturating(graph.main, output.name) for graph in graphs)
        if node is not None and twin is not None and node.op_type == twin.op_type:
            pairs.append((f"{output.name}{_MARK}{node.op_type}", node, twin))
    old = any(graph.main.opset < 11 for graph in graphs)
    if not pairs or old or sum(map(_bytes, (ours, theirs))) > MOST:
        yield reference, candidate
        return
    with tempfile.TemporaryDirectory(prefix="normsurgery-") as folder:
        paths = []
        for side, (model, graph) in enumerate(zip((ours, theirs), graphs, strict=True)):
            for title, *nodes in pairs:
                _add(graph.main, title, nodes[side])
            paths.append(Path(folder, f"{('reference', 'candidate')[side]}.onnx"))
            io.save(replace(model, proto=graph.proto), paths[-1])
        try:
            yield paths[0], paths[1]
        except InvalidModelError as failure:  # of the reference, which is not where the copy was
            if type(failure) is not InvalidModelError:
                raise
            named = str(failure).replace(str(paths[0]), str(reference))
            raise InvalidModelError(named) from None


def settled(parity: Parity) -> Parity:
    """Let the added outputs say what they can, and no more.

    One that says nothing goes: a mask of infinities in front of a Softmax has no say in a verdict.
    An output that is zero throughout is judged by what is in front of it, if that passed.
    """
    fronts = {one.name.rpartition(_MARK)[0]: one for one in parity.outputs if _MARK in one.name}
    kept = []
    for one in parity.outputs:
        front = fronts.get(one.name)
        passed = front is not None and front.status is Status.PASSED
        if one.status is not Status.INCONCLUSIVE:
            kept.append(one)
        elif front is not None and passed:
            kept.append(replace(one, status=Status.PASSED, note=f"{one.note}; {front.name} passed"))
        elif _MARK not in one.name:
            kept.append(one)
    return replace(parity, outputs=tuple(kept))


def _bytes(model: io.Model) -> int:
    payloads = (model.store.payload(tensor) for tensor in tensors_in(model.proto))
    return sum(payload.nbytes for payload in payloads if payload is not None)


def _saturating(main: Scope, name: str) -> NodeProto | None:
    """Return the saturating node that an output comes from, by nodes that move values at most."""
    for _ in range(64):
        node = main.producer.get(name)
        if node is None or not main.is_onnx(node):
            return None
        if node.op_type in SATURATING:
            return node
        if node.op_type not in _UNMOVED:
            return None
        name = node.input[0]
    return None


def _add(main: Scope, title: str, node: NodeProto) -> None:
    """Make the input of a saturating node a graph output called ``title``."""
    graph, value = main.graph.proto.graph, node.input[0]
    if node.op_type != "Softmax":
        graph.node.append(helper.make_node("Identity", [value], [title]))
    else:
        mean = main.graph.unique_name(f"{value}_mean")
        over, attributes = _axes(main, node, mean)
        graph.node.append(helper.make_node("ReduceMean", [value, *over], [mean], **attributes))
        graph.node.append(helper.make_node("Sub", [value, mean], [title]))
    graph.output.add(name=title)  # onnxruntime infers the type


def _axes(main: Scope, node: NodeProto, mean: str) -> tuple[list[str], dict[str, Any]]:
    """Return the further inputs and the attributes of a ReduceMean over the axis of a Softmax.

    Before operator set 13, a Softmax is over its axis and all behind it; the mean over the axis
    alone is then still the same in both models.
    """
    axis = int_attribute(node, "axis", -1 if main.opset >= 13 else 1)
    if main.opset < 18:
        return [], {"axes": [axis], "keepdims": 1}
    name = main.graph.unique_name(f"{mean}_axes")
    main.graph.proto.graph.initializer.append(numpy_helper.from_array(np.array([axis]), name))
    return [name], {"keepdims": 1}
