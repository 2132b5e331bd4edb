"""The operators that integers of shapes are followed over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from normsurgery.nodes import attribute, int_attribute
from normsurgery.shapes.sizes import Size

if TYPE_CHECKING:
    from collections.abc import Callable

    from onnx import NodeProto

    from normsurgery.shapes.arithmetic import Arithmetic

MOST_ELEMENTS = 64
INTEGERS = {6, 7}  # int32, int64

Array = Any  # an object array of int, Size, or None where the number is not known


class UnknownError(Exception):
    """Nothing is known of an array, not even its shape."""


def objects(array: Any) -> Array:
    """Return an array as one of Python's integers."""
    made = np.empty(array.shape, object)
    made.ravel()[:] = [int(i) for i in array.ravel()]
    return made


def _constant(a: Arithmetic, node: NodeProto) -> Array:
    for found in node.attribute:
        if found.name == "value":
            return a.stored(found.t)
        if found.name == "value_int":
            return objects(np.array(found.i))
        if found.name == "value_ints":
            return objects(np.array(found.ints))
    raise UnknownError


def _shape(a: Arithmetic, node: NodeProto) -> Array:
    sizes = a.sizes(a.scope, node.input[0])
    if sizes is None:
        raise UnknownError
    end = attribute(node, "end")
    picked = sizes[int_attribute(node, "start", 0) : None if end is None else end.i]
    made = np.empty(len(picked), object)
    made[:] = [s if s.fixed is None else s.fixed for s in picked]
    return made


def _size(a: Arithmetic, node: NodeProto) -> Array:
    sizes = a.sizes(a.scope, node.input[0])
    if sizes is None:
        raise UnknownError
    made = np.empty((), object)
    made[()] = _plain(Size.of(sizes))
    return made


def _same(a: Arithmetic, node: NodeProto) -> Array:
    return a.array(node.input[0])


def _cast(a: Arithmetic, node: NodeProto) -> Array:
    if int_attribute(node, "to", 0) not in INTEGERS:
        raise UnknownError
    return a.array(node.input[0])


def _gather(a: Arithmetic, node: NodeProto) -> Array:
    index = np.array(a.array(node.input[1]), np.int64)
    return np.asarray(
        a.array(node.input[0]).take(index, int_attribute(node, "axis", 0)), dtype=object
    )


def _slice(a: Arithmetic, node: NodeProto) -> Array:
    starts, ends = a.ints(node, "starts", 1), a.ints(node, "ends", 2)
    axes, steps = a.ints(node, "axes", 3), a.ints(node, "steps", 4)
    if starts is None or ends is None or len(starts) != 1 or axes not in (None, [0], [-1]):
        raise UnknownError
    step = steps[0] if steps else 1
    if step <= 0:
        raise UnknownError
    return a.array(node.input[0])[starts[0] : ends[0] : step]


def _concat(a: Arithmetic, node: NodeProto) -> Array:
    return np.concatenate([a.array(n) for n in node.input], int_attribute(node, "axis", 0))


def _squeeze(a: Arithmetic, node: NodeProto) -> Array:
    axes = a.ints(node, "axes", 1)
    return a.array(node.input[0]).squeeze(None if axes is None else tuple(axes))


def _unsqueeze(a: Arithmetic, node: NodeProto) -> Array:
    return np.expand_dims(a.array(node.input[0]), tuple(a.ints(node, "axes", 1) or ()))


def _reshape(a: Arithmetic, node: NodeProto) -> Array:
    return a.array(node.input[0]).reshape(a.ints(node, "shape", 1))


def _binary(function: Callable[[Any, Any], Any]) -> Callable[[Arithmetic, NodeProto], Array]:
    def run(a: Arithmetic, node: NodeProto) -> Array:
        x, y = np.broadcast_arrays(a.array(node.input[0]), a.array(node.input[1]))
        made = np.empty(x.shape, object)
        made.ravel()[:] = [
            None if p is None or q is None else function(p, q)
            for p, q in zip(x.ravel().tolist(), y.ravel().tolist(), strict=True)
        ]
        return made

    return run


def _plain(size: Size) -> int | Size:
    return size if size.fixed is None else size.fixed


def sized(value: int | Size) -> Size:
    """Return a number as the size that it is."""
    return Size(value) if isinstance(value, int) else value


def _product(x: Any, y: Any) -> Any:
    return _plain(Size.of((sized(x), sized(y))))


def _quotient(x: Any, y: Any) -> Any:
    """Return a quotient without remainder; any other depends on how it is rounded."""
    found = sized(x).over(sized(y))
    return None if found is None else _plain(found)


def _sum(x: Any, y: Any) -> Any:
    if isinstance(x, int) and isinstance(y, int):
        return x + y
    return y if x == 0 else x if y == 0 else None


def _difference(x: Any, y: Any) -> Any:
    if isinstance(x, int) and isinstance(y, int):
        return x - y
    return x if y == 0 else 0 if x == y else None


def _remainder(x: Any, y: Any) -> Any:
    return x % y if isinstance(x, int) and isinstance(y, int) and x >= 0 and y > 0 else None


def _whole(a: Arithmetic, node: NodeProto) -> Array:
    axes, x = a.ints(node, "axes", 1), a.array(node.input[0])
    if axes not in (None, [0], [-1]) or x.ndim != 1 or None in x.tolist():
        raise UnknownError
    made = np.empty((1,) if int_attribute(node, "keepdims", 1) else (), object)
    made[...] = _plain(Size.of(sized(i) for i in x.tolist()))
    return made


def _filled(a: Arithmetic, node: NodeProto) -> Array:
    shape = a.array(node.input[0]).tolist()
    fill = attribute(node, "value")
    if fill is None or not all(isinstance(i, int) and 0 <= i <= MOST_ELEMENTS for i in shape):
        raise UnknownError
    return np.broadcast_to(a.stored(fill.t).ravel(), shape).copy()


def _equal(x: Any, y: Any) -> Any:
    """Compare; a size by name is never negative, and may be any other number."""
    if isinstance(x, int) and isinstance(y, int):
        return x == y
    if x == y:
        return True
    return False if any(isinstance(i, int) and i < 0 for i in (x, y)) else None


def _where(a: Arithmetic, node: NodeProto) -> Array:
    arrays = np.broadcast_arrays(*(a.array(n) for n in node.input))
    made = np.empty(arrays[0].shape, object)
    made.ravel()[:] = [
        None if c is None else x if c else y
        for c, x, y in zip(*(i.ravel().tolist() for i in arrays), strict=True)
    ]
    return made


TABLE: dict[str, Callable[[Arithmetic, NodeProto], Array]] = {
    "Constant": _constant,
    "Shape": _shape,
    "Size": _size,
    "Identity": _same,
    "Cast": _cast,
    "Gather": _gather,
    "Slice": _slice,
    "Concat": _concat,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Reshape": _reshape,
    "ReduceProd": _whole,
    "ConstantOfShape": _filled,
    "Where": _where,
    "Equal": _binary(_equal),
    "Add": _binary(_sum),
    "Sub": _binary(_difference),
    "Mul": _binary(_product),
    "Div": _binary(_quotient),
    "Mod": _binary(_remainder),
}
