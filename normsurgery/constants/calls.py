"""What an operator works on while a constant is computed: values, and one node with its operands.

Results are sized before they are made: a few bytes of a model can ask for any shape.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from normsurgery import dtypes
from normsurgery.nodes import attribute
from normsurgery.payloads import Computed

if TYPE_CHECKING:
    from collections.abc import Callable

    from onnx import NodeProto, TensorProto

_MOST_INTS = 64  # numbers in a shape or a list of axes: what NumPy allows


class TooLargeError(Exception):
    """The result would be larger than allowed."""


class UnsupportedError(Exception):
    """The operator, or this use of it, is not evaluated."""


@dataclass(frozen=True)
class Value:
    """A constant on the way: elements in their stored dtype, or float64 after arithmetic.

    ``factors`` are those of a folded tensor that has not been multiplied out yet.
    """

    elem_type: int
    array: dtypes.Array
    factors: tuple[dtypes.Float64, ...] = ()

    def as_computed(self) -> Computed:
        """Return the payload that these elements are."""
        return Computed(self.array, self.factors, self.elem_type)

    def numbers(self) -> dtypes.Array:
        """Return the elements for arithmetic: unrounded float64 for floats, integers as they are.

        Raises ``UnsupportedError`` for other types.
        """
        if self.elem_type in dtypes.FLOATS:
            return self.as_computed().float64()
        if self.array.dtype.kind not in "iub":
            raise UnsupportedError(f"arithmetic in {dtypes.name_of(self.elem_type)}")
        return self.array

    def rounded(self) -> dtypes.Array:
        """Return the elements as a runtime holds them: floats rounded to their own type."""
        if self.elem_type not in dtypes.FLOATS:
            return self.numbers()
        if not self.factors and self.array.dtype == dtypes.numpy_dtype(self.elem_type):
            return self.array
        return dtypes.round_to(self.numbers(), self.elem_type)


@dataclass(frozen=True)
class Call:
    """One node with its operands.

    limit: bytes that the result, or an operand as float64, may take.
    read: returns the value of a tensor that an attribute holds.
    """

    node: NodeProto
    operands: list[Value | None]
    limit: int
    read: Callable[[TensorProto], Value]

    def optional(self, i: int) -> Value | None:
        """Return operand ``i`` if it is there."""
        return self.operands[i] if i < len(self.operands) else None

    def operand(self, i: int) -> Value:
        """Return operand ``i``, which the spec requires."""
        value = self.optional(i)
        if value is None:
            raise UnsupportedError(f"input {i} is missing")
        return value

    def numbers(self, i: int) -> dtypes.Array:
        """Return the elements of operand ``i`` for arithmetic, if they are not too many."""
        self.sized(self.operand(i).array.shape)
        return self.operand(i).numbers()

    def array(self, i: int = 0) -> dtypes.Array:
        """Return the elements of operand ``i`` to move them: no copy where they are stored."""
        value = self.operand(i)
        return self.numbers(i) if value.factors else value.array

    def moved(self, array: dtypes.Array) -> Value:
        """Return elements of operand 0 in a new order or shape."""
        return Value(self.operand(0).elem_type, array)

    def ints(self, i: int) -> list[int] | None:
        """Return operand ``i``, a shape or a list of axes, if it is there."""
        value = self.optional(i)
        if value is None:
            return None
        if value.array.dtype.kind not in "iu" or value.array.size > _MOST_INTS:
            raise UnsupportedError(f"input {i} is no short list of integers")
        return [int(n) for n in value.array.ravel()]

    def listed(self, name: str, i: int) -> list[int] | None:
        """Return integers that are attribute ``name`` in older opsets, input ``i`` in newer."""
        old, new = attribute(self.node, name), self.ints(i)
        return list(old.ints) if new is None and old is not None else new

    def sized(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return ``shape``; raise ``TooLargeError`` if a float64 tensor of it passes the limit."""
        if any(d < 0 for d in shape):
            raise UnsupportedError(f"a shape of {list(shape)}")
        if math.prod(shape) * np.dtype(np.float64).itemsize > self.limit:
            raise TooLargeError(
                f"{math.prod(shape)} elements pass the limit of {self.limit >> 20} MiB"
            )
        return shape
