"""Integers that a graph computes of shapes, with the dimensions that are not fixed by name.

PyTorch's legacy exporter writes ``x.view(x.size(0), 64, -1)`` and ``Unflatten`` as
``Shape → Slice or Gather → Concat → Reshape``. Followed with names in place of numbers, the
target of such a Reshape is ``(N, 64, …)``, and it is known which dimensions stay what they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from normsurgery.nodes import attribute, int_attribute
from normsurgery.shapes.operators import (
    INTEGERS,
    MOST_ELEMENTS,
    TABLE,
    Array,
    UnknownError,
    objects,
    sized,
)
from normsurgery.shapes.sizes import Size

if TYPE_CHECKING:
    from collections.abc import Callable

    from onnx import NodeProto

    from normsurgery.graph import Scope

_MOST_NODES = 200

Sizes = tuple[Size | None, ...]


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
                found.append(None if other is None else sized(other))
            elif other is None:  # it is 1 or the size, unless the run fails
                found.append(size if size.fixed else None)
            else:
                found.append(size if sized(other) in (size, Size(1)) else None)
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
            return self.stored(holder.initializers[name])
        node = self.scope.producer.get(name)
        if node is None or not self.scope.is_onnx(node) or node.output[0] != name:
            raise UnknownError
        if any(a.ref_attr_name for a in node.attribute):
            raise UnknownError
        run = TABLE.get(node.op_type)
        if run is None:
            raise UnknownError
        try:
            result = run(self, node)
        except (ValueError, IndexError, TypeError, ZeroDivisionError) as error:
            raise UnknownError from error
        if result.size > MOST_ELEMENTS:
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

    def stored(self, tensor: Any) -> Array:
        """Return a short stored tensor of integers; raise ``UnknownError`` for any other."""
        if tensor.data_type not in INTEGERS or np.prod(tensor.dims) > MOST_ELEMENTS:
            raise UnknownError
        return objects(np.asarray(self.scope.graph.store.array(tensor)))
