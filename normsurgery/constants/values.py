"""``constant_of``: the value of a name, if it has one before the model runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from onnx import AttributeProto, NodeProto, TensorProto

from normsurgery import dtypes, shapes
from normsurgery.constants import operators
from normsurgery.constants.operators import TooLargeError, UnsupportedError, Value
from normsurgery.nodes import attribute, label
from normsurgery.payloads import Computed

if TYPE_CHECKING:
    from normsurgery.graph import Scope

_DEEPEST = 10_000  # nodes of one cone


@dataclass(frozen=True)
class Limits:
    """What evaluating constants may cost.

    nbytes: size that no intermediate result may pass; a model can ask for any shape.
    """

    nbytes: int = 1 << 28


@dataclass(frozen=True)
class Constant:
    """A tensor known before the model runs.

    name: the value's name in the graph, for derived names.
    tensor: its values, unrounded where they were computed.
    """

    name: str
    tensor: Computed

    @property
    def shape(self) -> tuple[int, ...]:
        """The dimensions."""
        return self.tensor.base.shape

    @property
    def elem_type(self) -> int:
        """The ``TensorProto.DataType``."""
        return self.tensor.elem_type

    def float64(self) -> dtypes.Float64:
        """Return the values in float64 (a new array)."""
        return self.tensor.float64()


@dataclass(frozen=True)
class NotConstant:
    """Why a value is not known before the model runs.

    kind: "input", "overridable", "computed", "sparse", "too-large" or "unsupported".
    """

    name: str
    kind: str
    detail: str


def constant_of(scope: Scope, name: str, limits: Limits | None = None) -> Constant | NotConstant:
    """Return the constant called ``name`` as seen from ``scope``, or why it is none.

    Walks its cone without recursion, operands first, so that no depth is too much.
    """
    limits = limits or Limits()
    known: dict[str, Value] = {}
    stack = [name]
    visited = 0
    while stack:
        top = stack[-1]
        if top in known:
            stack.pop()
            continue
        leaf = _leaf(scope, top)
        if isinstance(leaf, NotConstant):
            return leaf
        if isinstance(leaf, Value):
            known[top] = leaf
            continue
        visited += 1
        if leaf.op_type == "CastLike" and leaf.input[1] not in known:
            # only its type matters, and it may be a value of run time
            elem_type = shapes.elem_type(scope, leaf.input[1])
            if elem_type is not None:
                known[leaf.input[1]] = Value(elem_type, np.zeros(0, np.float32))
        missing = [n for n in leaf.input if n and n not in known]
        if missing:
            if visited > _DEEPEST or any(n in stack for n in missing):
                return NotConstant(name, "too-large", f"a computation of over {_DEEPEST} nodes")
            stack += missing
            continue
        try:
            operands = [known[n] if n else None for n in leaf.input]
            results = operators.evaluate(leaf, operands, scope.opset, limits.nbytes)
        except (TooLargeError, UnsupportedError) as error:
            kind = "too-large" if isinstance(error, TooLargeError) else "unsupported"
            return NotConstant(top, kind, f"{label(leaf)}: {error}")
        known.update(zip(leaf.output, results, strict=False))
        if top not in known:
            return NotConstant(top, "unsupported", f"{label(leaf)}: its outputs beyond the first")
    return Constant(name, known[name].as_computed())


def _leaf(scope: Scope, name: str) -> Value | NotConstant | NodeProto:
    """Return a stored tensor's value, or the node that computes ``name``."""
    here: Scope | None = scope
    while here is not None:
        if name in here.initializers:
            if name in here.inputs and here.parent is None and not here.graph.inputs_are_constants:
                return NotConstant(name, "overridable", "a graph input with a default value")
            return _stored(scope, here.initializers[name])
        if name in here.sparse:
            return NotConstant(name, "sparse", "a sparse initializer")
        if name in here.inputs:
            return NotConstant(name, "input", "an input of the graph")
        node = here.producer.get(name)
        if node is not None:
            return _made(here, node, name)
        here = here.parent
    return NotConstant(name, "input", "unknown")


def _made(scope: Scope, node: NodeProto, name: str) -> Value | NotConstant | NodeProto:
    if not scope.is_onnx(node):
        return NotConstant(name, "computed", f"computed by {label(node)} of {node.domain!r}")
    if any(a.ref_attr_name for a in node.attribute):
        return NotConstant(name, "computed", f"{label(node)} takes an attribute of its function")
    if node.op_type == "Constant":
        value = attribute(node, "value")
        if value is not None and value.type == AttributeProto.TENSOR:
            return _stored(scope, value.t)
        return node
    if node.op_type not in operators.TABLE:
        return NotConstant(name, "computed", f"computed by {label(node)}")
    return node


def _stored(scope: Scope, tensor: TensorProto) -> Value:
    payload = scope.graph.store.payload(tensor)
    if isinstance(payload, Computed):
        return Value(payload.elem_type, payload.base, payload.factors)
    return Value(tensor.data_type, np.asarray(scope.graph.store.array(tensor)))
