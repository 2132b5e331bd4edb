"""Constants that an exported graph computes at every run, as the initializers that they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import GraphProto, numpy_helper

from normsurgery import dtypes, edits
from normsurgery.constants import Constant, Limits, constant_of

if TYPE_CHECKING:
    from onnx import NodeProto

    from normsurgery.graph import Scope

SMALL = 1 << 14  # elements; a larger constant is baked where a stored one is at least as large


def bake(scope: Scope, node: NodeProto, limits: Limits, named: dict[str, str]) -> None:
    """Make an initializer of each input that is computed from constants.

    One with the elements of a stored tensor, in their order, is to have its name: ``named``.
    """
    if isinstance(constant_of(scope, node.output[0], limits), Constant):
        return  # a part of a constant itself: its reader bakes the whole
    for slot, name in enumerate(node.input):
        if not name or not is_computed(scope, name):
            continue
        constant = constant_of(scope, name, limits)
        if not isinstance(constant, Constant):
            continue
        stored = [scope.initializers[one] for one in parameters(scope, name)]
        size = int(np.prod(constant.shape, dtype=np.int64))
        sizes = [int(np.prod(tensor.dims, dtype=np.int64)) for tensor in stored]
        if size > max(SMALL, *sizes, 0):
            continue
        values = _values(constant)
        wanted, origin = f"{node.name or node.output[0]}.{slot}", ""
        if sizes == [size]:
            before = scope.graph.store.array(stored[0])
            if np.array_equal(values.ravel(), before.ravel()):
                wanted, origin = f"{stored[0].name}_reshaped", stored[0].name
            elif values.ndim == 2 and np.array_equal(values.T, before):
                wanted = f"{stored[0].name}_transposed"
        made = add(scope, wanted, values)
        edits.set_input(scope, node, slot, made)
        if origin:
            named[made] = origin


def parameters(scope: Scope, name: str) -> list[str]:
    """Return the float initializers whose numbers a constant is computed from."""
    found: dict[str, None] = {}
    waiting, seen = [name], {name}
    while waiting:
        one = waiting.pop()
        if one in scope.initializers:
            if scope.initializers[one].data_type in dtypes.FLOATS:
                found[one] = None
        elif one in scope.producer and scope.producer[one].op_type not in {"Shape", "Size"}:
            maker = scope.producer[one]
            inputs = maker.input[:1] if maker.op_type == "CastLike" else maker.input
            fresh = [i for i in inputs if i and i not in seen]
            seen.update(fresh)
            waiting += fresh
    return list(found)


def is_computed(scope: Scope, name: str) -> bool:
    """Whether a node makes the value; a Constant node does not count."""
    maker = scope.producer.get(name)
    return maker is not None and maker.op_type != "Constant"


def add(scope: Scope, wanted: str, values: np.ndarray) -> str:
    """Make an initializer, named ``wanted`` if that is free; return its name."""
    assert isinstance(scope.proto, GraphProto)  # noqa: S101  the main scope is no function
    name = scope.graph.unique_name(wanted)
    scope.proto.initializer.append(numpy_helper.from_array(values, name))
    scope.initializers[name] = scope.proto.initializer[-1]
    return name


def _values(constant: Constant) -> np.ndarray:
    if constant.elem_type in dtypes.FLOATS:
        return np.asarray(dtypes.round_to(constant.float64(), constant.elem_type))
    return np.array(constant.tensor.base)
