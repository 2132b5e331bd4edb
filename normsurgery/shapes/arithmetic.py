"""Integers that a graph computes of shapes, with the dimensions that are not fixed by name.

PyTorch's legacy exporter writes ``x.view(x.size(0), 64, -1)`` and ``Unflatten`` as
``Shape → Slice or Gather → Concat → Reshape``. Followed with names in place of numbers, the
target of such a Reshape is ``(N, 64, …)``, and it is known which dimensions stay what they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from normsurgery.nodes import attribute, int_attribute
from normsurgery.shapes.sizes import Size

if TYPE_CHECKING:
    from collections.abc import Callable

    from onnx import NodeProto

    from normsurgery.graph import Scope

_MOST_ELEMENTS = 64
_MOST_NODES = 200
_INTEGERS = {6, 7}  # int32, int64

Array = Any  # an object array of int, Size, or None where the number is not known
Sizes = tuple[Size | None, ...]


class UnknownError(Exception):
    """Nothing is known of an array, not even its shape."""


class Arithmetic:
    """Follows integers through one scope and those around it."""

    def __init__(
        self, scope: Scope, sizes: Callable[[Scope, str], tuple[Size, ...] | None]
    ) -> None:
        """``sizes``: what tells the dimensions of a value."""
        self.scope, self.sizes, self.steps = scope, sizes, 0

    def integers(self, name: str) -> list[int | Size | None] | None:
        """Return the numbers of a value in order; None if they cannot be followed."""
        try:
            return list(self.array(name).ravel().tolist())
        except UnknownError:
            return None

    def expanded(self, node: NodeProto) -> Sizes | None:
        """Return the sizes of an Expand's output: of the shape, where the input has size 1."""
        own, told = self.sizes(self.scope, node.input[0]), self.integers(node.input[1])
        if own is None or told is None or any(isinstance(d, int) and d < 0 for d in told):
            return None
        rank = max(len(own), len(told))
        wide = (*(Size(1),) * (rank - len(own)), *own)
        wanted = [*[1] * (rank - len(told)), *told]
        found: list[Size | None] = []
        for size, other in zip(wide, wanted, strict=True):
            if size == Size(1):
                found.append(None if other is None else _sized(other))
            elif other is None:  # it is 1 or the size, unless the run fails
                found.append(size if size.fixed else None)
            else:
                found.append(size if _sized(other) in (size, Size(1)) else None)
        return tuple(found)

    def reshaped(self, node: NodeProto) -> Sizes | None:
        """Return the sizes of a Reshape's output; None where not even its rank is told.

        A 0 copies the input's dimension, unless ``allowzero``; −1 is what is left of the product
        of all input dimensions, if that divides.
        """
        old = attribute(node, "shape")
        try:
            wanted = np.array(old.ints, object) if old is not None else self.array(node.input[1])
        except UnknownError:
            return None
        if wanted.ndim != 1:
            return None
        own = self.sizes(self.scope, node.input[0])
        copies = not int_attribute(node, "allowzero", 0)
        found: list[Size | None] = []
        for i, d in enumerate(wanted):
            if isinstance(d, int) and d == 0 and copies:
                found.append(own[i] if own is not None and i < len(own) else None)
            elif isinstance(d, int):
                found.append(Size(d) if d >= 0 else None)
            else:
                found.append(d)
        left = [i for i, d in enumerate(wanted) if isinstance(d, int) and d < 0]
        others = [size for i, size in enumerate(found) if i not in left]
        if len(left) == 1 and own is not None and None not in others:
            whole = Size.of(own)
            found[left[0]] = whole.over(Size.of(s for s in others if s is not None))
        return tuple(found)

    def array(self, name: str) -> Array:
        """Return the integers of a value; raise ``UnknownError`` if they cannot be followed."""
        self.steps += 1
        if self.steps > _MOST_NODES:
            raise UnknownError
        holder = self.scope.lookup(name)
        if holder is not None:
            if name in holder.inputs and not holder.graph.inputs_are_constants:
                raise UnknownError
            return self._stored(holder.initializers[name])
        node = self.scope.producer.get(name)
        if node is None or not self.scope.is_onnx(node) or node.output[0] != name:
            raise UnknownError
        if any(a.ref_attr_name for a in node.attribute):
            raise UnknownError
        run = _TABLE.get(node.op_type)
        if run is None:
            raise UnknownError
        try:
            result = run(self, node)
        except (ValueError, IndexError, TypeError, ZeroDivisionError) as error:
            raise UnknownError from error
        if result.size > _MOST_ELEMENTS:
            raise UnknownError
        return result

    def ints(self, node: NodeProto, name: str, slot: int) -> list[int] | None:
        """Return a list that is an attribute in old opsets, and an input of known numbers later."""
        old = attribute(node, name)
        if old is not None:
            return list(old.ints)
        if len(node.input) <= slot or not node.input[slot]:
            return None
        found = self.array(node.input[slot]).ravel().tolist()
        if not all(isinstance(i, int) for i in found):
            raise UnknownError
        return [int(i) for i in found]

    def _stored(self, tensor: Any) -> Array:
        if tensor.data_type not in _INTEGERS or np.prod(tensor.dims) > _MOST_ELEMENTS:
            raise UnknownError
        return _objects(np.asarray(self.scope.graph.store.array(tensor)))


def _objects(array: Any) -> Array:
    """Return an array as one of Python's integers."""
    made = np.empty(array.shape, object)
    made.ravel()[:] = [int(i) for i in array.ravel()]
    return made


def _constant(a: Arithmetic, node: NodeProto) -> Array:
    for found in node.attribute:
        if found.name == "value":
            return a._stored(found.t)  # noqa: SLF001
        if found.name == "value_int":
            return _objects(np.array(found.i))
        if found.name == "value_ints":
            return _objects(np.array(found.ints))
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
    if int_attribute(node, "to", 0) not in _INTEGERS:
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


def _sized(value: int | Size) -> Size:
    return Size(value) if isinstance(value, int) else value


def _product(x: Any, y: Any) -> Any:
    return _plain(Size.of((_sized(x), _sized(y))))


def _quotient(x: Any, y: Any) -> Any:
    """Return a quotient without remainder; any other depends on how it is rounded."""
    found = _sized(x).over(_sized(y))
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
    made[...] = _plain(Size.of(_sized(i) for i in x.tolist()))
    return made


def _filled(a: Arithmetic, node: NodeProto) -> Array:
    shape = a.array(node.input[0]).tolist()
    fill = attribute(node, "value")
    if fill is None or not all(isinstance(i, int) and 0 <= i <= _MOST_ELEMENTS for i in shape):
        raise UnknownError
    return np.broadcast_to(a._stored(fill.t).ravel(), shape).copy()  # noqa: SLF001


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


_TABLE: dict[str, Callable[[Arithmetic, NodeProto], Array]] = {
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
