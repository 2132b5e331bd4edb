"""``constant_of``: the value of a name, if it has one before the model runs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from normsurgery import dtypes, shapes
from normsurgery.constants.calls import Call, TooLargeError, UnsupportedError, Value
from normsurgery.constants.operators import TABLE, evaluate
from normsurgery.nodes import attribute, label
from normsurgery.payloads import Computed

if TYPE_CHECKING:
    from onnx import NodeProto, TensorProto

    from normsurgery.graph import Scope

_MOST_NODES = 10_000  # of one cone
_MOST_VISITS = 2 * _MOST_NODES  # on the way down, and on the way up

_Key = tuple[int, str]  # the id() of the scope that makes a value, and its name


@dataclass(frozen=True)
class Limits:
    """What evaluating constants may cost.

    nbytes: what the results inside one constant's computation may take together, and what any
        one of them or of their operands may take as float64; a model can ask for any shape.
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

    Walks its cone without recursion, operands first, so that a deep one is no problem. A value of
    run time stays one whatever is edited, so that answer is kept for the next who asks.
    Raises ``GraphError`` for a tensor of the wrong size, and the errors of external data.
    """
    found = _evaluate(scope, name, limits or Limits())
    if isinstance(found, NotConstant) and found.kind in {"input", "computed", "overridable"}:
        holder = _holder(scope, name)
        if holder is not None:
            holder.not_constant[name] = found
    return found


def _evaluate(scope: Scope, name: str, limits: Limits) -> Constant | NotConstant:
    left = limits.nbytes
    known: dict[_Key, Value] = {}
    stack = [(scope, name)]
    visited = 0
    while stack:
        seen_from, top = stack[-1]
        holder = _holder(seen_from, top)
        if holder is None:
            return NotConstant(top, "input", "unknown")
        if top in holder.not_constant:
            return holder.not_constant[top]
        key = (id(holder), top)
        if key in known:
            stack.pop()
            continue
        leaf = _leaf(holder, top)
        if isinstance(leaf, NotConstant):
            return leaf
        if isinstance(leaf, Value):
            known[key] = leaf
            continue
        visited += 1
        if visited > _MOST_VISITS:
            return NotConstant(name, "too-large", f"a computation of over {_MOST_NODES} nodes")
        operands = _operands(holder, leaf, known)
        missing = [o for o in operands if isinstance(o, str)]
        if missing:
            stack += ((holder, n) for n in missing)
            continue
        if leaf.output[0] != top:
            return NotConstant(top, "unsupported", f"{label(leaf)}: its outputs beyond the first")
        values = [o for o in operands if not isinstance(o, str)]
        try:
            known[key] = evaluate(Call(leaf, values, left, partial(_stored, scope)))
        except (TooLargeError, UnsupportedError) as error:
            kind = "too-large" if isinstance(error, TooLargeError) else "unsupported"
            return NotConstant(top, kind, f"{label(leaf)}: {error}")
        left -= _new_bytes(known[key], values)
    return Constant(name, known[key].as_computed())


def _operands(holder: Scope, node: NodeProto, known: dict[_Key, Value]) -> list[Value | str | None]:
    """Return the operands of ``node``: a value, None if left out, or the name if not known yet."""
    operands: list[Value | str | None] = []
    for slot, name in enumerate(node.input):
        if node.op_type == "CastLike" and slot == 1:
            # only its type matters, and it may be a value of run time
            elem_type = shapes.elem_type(holder, name)
            if elem_type is not None:
                operands.append(Value(elem_type, np.zeros(0, np.float32)))
                continue
        home = _holder(holder, name)
        operands.append(known.get((id(home), name), name) if name else None)
    return operands


def _new_bytes(value: Value, operands: list[Value | None]) -> int:
    """Return the memory that a result takes; a view of an operand takes none."""
    array = value.array
    if any(o is not None and np.may_share_memory(array, o.array) for o in operands):
        return 0
    while isinstance(array.base, np.ndarray):  # one element stands for all of a broadcast
        array = array.base
    return array.nbytes


def _holder(scope: Scope, name: str) -> Scope | None:
    """Return the scope, this one or one around, in which ``name`` is made."""
    here: Scope | None = scope
    while here is not None:
        made = name in here.producer or name in here.initializers
        if made or name in here.inputs or name in here.sparse:
            return here
        here = here.parent
    return None


def _leaf(holder: Scope, name: str) -> Value | NotConstant | NodeProto:
    """Return a stored tensor's value, or the node that computes ``name``."""
    if name in holder.initializers:
        if name in holder.inputs and not _fixed(holder):
            return NotConstant(name, "overridable", "a graph input with a default value")
        return _stored(holder, holder.initializers[name])
    if name in holder.sparse:
        return NotConstant(name, "sparse", "a sparse initializer")
    if name in holder.inputs:
        return NotConstant(name, "input", "an input of the graph")
    return _made(holder, holder.producer[name], name)


def _fixed(scope: Scope) -> bool:
    """Whether initializers that are inputs too are constants.

    Nobody can feed the branches of an If; other bodies are fed by their node.
    """
    if scope.owner is not None:
        return scope.owner.op_type == "If"
    return scope.graph.inputs_are_constants


def _made(scope: Scope, node: NodeProto, name: str) -> Value | NotConstant | NodeProto:
    if not scope.is_onnx(node):
        return NotConstant(name, "computed", f"computed by {label(node)} of {node.domain!r}")
    if any(a.ref_attr_name for a in node.attribute):
        return NotConstant(name, "computed", f"{label(node)} takes an attribute of its function")
    value = attribute(node, "value")
    if node.op_type == "Constant" and value is not None and value.HasField("t"):
        return _stored(scope, value.t)
    if node.op_type not in TABLE:
        return NotConstant(name, "computed", f"computed by {label(node)}")
    return node


def _stored(scope: Scope, tensor: TensorProto) -> Value:
    payload = scope.graph.store.payload(tensor)
    if isinstance(payload, Computed):
        return Value(payload.elem_type, payload.base, payload.factors)
    return Value(tensor.data_type, np.asarray(scope.graph.store.array(tensor)))
