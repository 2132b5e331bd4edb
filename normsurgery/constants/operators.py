"""The operators that a constant may be computed by, one function each.

Arrays of float types are float64 as soon as anything is computed; what only moves elements keeps
the stored array, and with it the memory map. Results are sized before they are made.
Semantics: the ONNX operator specs, latest opset; where axes moved from attribute to input, both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import AttributeProto, NodeProto, numpy_helper

from normsurgery import dtypes
from normsurgery.nodes import attribute, int_attribute
from normsurgery.payloads import Computed

if TYPE_CHECKING:
    from collections.abc import Callable

Function = "Callable[[Call], Value]"


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
        """Return the elements for arithmetic: float64 for floats, as they are otherwise."""
        if self.elem_type in dtypes.FLOATS:
            return self.as_computed().float64() if self.factors else self.array.astype(np.float64)
        return self.array

    def plain(self) -> Value:
        """Return the value without pending factors."""
        return Value(self.elem_type, self.numbers()) if self.factors else self

    def ints(self) -> list[int]:
        """Return the elements as integers, for shapes and axes."""
        return [int(i) for i in self.array.ravel()]


@dataclass(frozen=True)
class Call:
    """One node with its operands."""

    node: NodeProto
    operands: list[Value | None]
    opset: int
    limit: int

    def operand(self, i: int) -> Value:
        """Return operand ``i``, which the spec requires."""
        value = self.optional(i)
        if value is None:
            raise UnsupportedError(f"input {i} is missing")
        return value

    def optional(self, i: int) -> Value | None:
        """Return operand ``i`` if it is there."""
        return self.operands[i] if i < len(self.operands) else None

    def axes(self, slot: int = 1) -> list[int] | None:
        """Return ``axes``, an attribute in older opsets and an input in newer ones."""
        value, old = self.optional(slot), attribute(self.node, "axes")
        if value is not None:
            return value.ints()
        return None if old is None else list(old.ints)

    def sized(self, shape: tuple[int, ...], elem_type: int) -> tuple[int, ...]:
        """Return ``shape``; raise ``TooLargeError`` if a tensor of it passes the limit."""
        if any(d < 0 for d in shape):
            raise UnsupportedError(f"a shape of {list(shape)}")
        if math.prod(shape) * 8 > self.limit:
            raise TooLargeError(
                f"{math.prod(shape)} elements pass the limit of {self.limit >> 20} MiB"
            )
        return shape


def evaluate(node: NodeProto, operands: list[Value | None], opset: int, limit: int) -> list[Value]:
    """Return the first output of ``node``; raise ``TooLargeError`` or ``UnsupportedError``."""
    call = Call(node, [v and v.plain() for v in operands], opset, limit)
    try:
        with np.errstate(all="ignore"):
            return [TABLE[node.op_type](call)]
    except (ValueError, IndexError, TypeError, OverflowError, ZeroDivisionError) as error:
        raise UnsupportedError(str(error) or type(error).__name__) from error


def _constant(call: Call) -> Value:
    found = next(iter(call.node.attribute), None)
    kinds = {"value_float": 1, "value_floats": 1, "value_int": 7, "value_ints": 7}
    if found is None or found.name not in kinds:
        raise UnsupportedError("a Constant of strings or of a sparse tensor")
    listed = {"value_float": found.f, "value_int": found.i}.get(found.name)
    values: Any = list(found.floats or found.ints) if found.name.endswith("s") else listed
    elem_type = kinds[found.name]
    return Value(elem_type, np.array(values, dtypes.numpy_dtype(elem_type)))


def _identity(call: Call) -> Value:
    return call.operand(0)


def _cast(call: Call) -> Value:
    return _cast_to(call.operand(0), int_attribute(call.node, "to", 0))


def _cast_like(call: Call) -> Value:
    return _cast_to(call.operand(0), call.operand(1).elem_type)


def _cast_to(value: Value, elem_type: int) -> Value:
    if elem_type == value.elem_type:
        return value
    dtype = dtypes.numpy_dtype(elem_type)
    if dtype is None or dtype.itemsize == 0 or value.array.dtype.kind not in "fiub":
        raise UnsupportedError(f"a cast to {dtypes.name_of(elem_type)}")
    if elem_type in dtypes.FLOATS:
        return Value(elem_type, dtypes.round_to(value.array.astype(np.float64), elem_type))
    if elem_type not in range(2, 14):
        raise UnsupportedError(f"a cast to {dtypes.name_of(elem_type)}")
    return Value(elem_type, value.array.astype(dtype))


def _moved(call: Call, array: dtypes.Array) -> Value:
    return Value(call.operand(0).elem_type, array)


def _reshape(call: Call) -> Value:
    array = call.operand(0).array
    old = attribute(call.node, "shape")
    wanted = list(old.ints) if old is not None else call.operand(1).ints()
    if not int_attribute(call.node, "allowzero", 0):
        wanted = [array.shape[i] if d == 0 else d for i, d in enumerate(wanted)]
    return _moved(call, array.reshape(wanted))


def _flatten(call: Call) -> Value:
    array = call.operand(0).array
    axis = int_attribute(call.node, "axis", 1) % (array.ndim + 1)
    return _moved(call, array.reshape(math.prod(array.shape[:axis]), -1))


def _transpose(call: Call) -> Value:
    perm = attribute(call.node, "perm")
    return _moved(call, call.operand(0).array.transpose(list(perm.ints) if perm else None))


def _squeeze(call: Call) -> Value:
    axes = call.axes()
    return _moved(call, call.operand(0).array.squeeze(None if axes is None else tuple(axes)))


def _unsqueeze(call: Call) -> Value:
    return _moved(call, np.expand_dims(call.operand(0).array, tuple(call.axes() or ())))


def _expand(call: Call) -> Value:
    array = call.operand(0).array
    shape = np.broadcast_shapes(array.shape, tuple(call.operand(1).ints()))
    return _moved(call, np.broadcast_to(array, call.sized(shape, 1)))


def _tile(call: Call) -> Value:
    array, repeats = call.operand(0).array, call.operand(1).ints()
    call.sized(tuple(d * r for d, r in zip(array.shape, repeats, strict=True)), 1)
    return _moved(call, np.tile(array, repeats))


def _concat(call: Call) -> Value:
    arrays = [v.array for v in call.operands if v is not None]
    call.sized((sum(a.size for a in arrays),), 1)
    return _moved(call, np.concatenate(arrays, int_attribute(call.node, "axis", 1)))


def _gather(call: Call) -> Value:
    axis = int_attribute(call.node, "axis", 0)
    return _moved(call, call.operand(0).array.take(call.operand(1).array, axis))


def _slice(call: Call) -> Value:
    array = call.operand(0).array

    def part(name: str, slot: int) -> list[int] | None:
        old, new = attribute(call.node, name), call.optional(slot)
        return new.ints() if new is not None else (list(old.ints) if old else None)

    starts, ends = part("starts", 1), part("ends", 2)
    if starts is None or ends is None:
        raise UnsupportedError("no starts or ends")
    axes = part("axes", 3) or list(range(len(starts)))
    steps = part("steps", 4) or [1] * len(starts)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        size = array.shape[axis]
        low, high = (0, size) if step > 0 else (-1, size - 1)
        first = min(max(start + size if start < 0 else start, 0), size if step > 0 else size - 1)
        last = min(max(end + size if end < 0 else end, low), high)
        picked = range(first, last, step)
        array = array.take(np.array(picked, np.int64), axis)
    return _moved(call, array)


def _shape(call: Call) -> Value:
    start = int_attribute(call.node, "start", 0)
    end = attribute(call.node, "end")
    return Value(7, np.array(call.operand(0).array.shape[start : end.i if end else None], np.int64))


def _size(call: Call) -> Value:
    return Value(7, np.array(call.operand(0).array.size, np.int64))


def _constant_of_shape(call: Call) -> Value:
    shape = call.sized(tuple(call.operand(0).ints()), 1)
    fill = attribute(call.node, "value")
    if fill is None:
        return Value(1, np.broadcast_to(np.float32(0), shape))
    if fill.type != AttributeProto.TENSOR:
        raise UnsupportedError("a fill that is no tensor")
    return Value(fill.t.data_type, np.broadcast_to(numpy_helper.to_array(fill.t).ravel()[0], shape))


def _range(call: Call) -> Value:
    start, limit, delta = (call.operand(i).numbers().item() for i in range(3))
    count = max(0, math.ceil((limit - start) / delta))
    call.sized((count,), 1)
    elem_type = call.operand(0).elem_type
    dtype = np.float64 if elem_type in dtypes.FLOATS else dtypes.numpy_dtype(elem_type)
    return Value(elem_type, (start + np.arange(count) * delta).astype(dtype))


def _elementwise(function: Callable[..., dtypes.Array], arity: int) -> Callable[[Call], Value]:
    def run(call: Call) -> Value:
        values = [call.operand(i) for i in range(arity)]
        arrays = [v.numbers() for v in values]
        if int_attribute(call.node, "broadcast", 0) and arity == 2:  # opset < 7
            axis = attribute(call.node, "axis")
            after = arrays[0].ndim - (axis.i if axis else arrays[0].ndim) - arrays[1].ndim
            arrays[1] = arrays[1].reshape(arrays[1].shape + (1,) * max(0, after))
        call.sized(np.broadcast_shapes(*(a.shape for a in arrays)), 1)
        return Value(values[0].elem_type, np.asarray(function(*arrays)))

    return run


def _divide(x: dtypes.Array, y: dtypes.Array) -> dtypes.Array:
    if x.dtype.kind == "f":
        return np.asarray(x / y)
    if np.any(y == 0):
        raise UnsupportedError("an integer division by 0")
    return np.asarray((np.sign(x) * np.sign(y) * (np.abs(x) // np.abs(y))).astype(x.dtype))


def _clip(call: Call) -> Value:
    x = call.operand(0)
    bounds: list[Any] = []
    for slot, name in ((1, "min"), (2, "max")):
        old, new = attribute(call.node, name), call.optional(slot)
        bounds.append(new.numbers() if new is not None else (old.f if old else None))
    array = x.numbers()
    array = array if bounds[0] is None else np.maximum(array, bounds[0])
    return Value(x.elem_type, array if bounds[1] is None else np.minimum(array, bounds[1]))


def _reduce(function: Callable[..., dtypes.Array]) -> Callable[[Call], Value]:
    def run(call: Call) -> Value:
        axes = call.axes()
        x = call.operand(0)
        if not axes and int_attribute(call.node, "noop_with_empty_axes", 0):
            raise UnsupportedError("no axes to reduce")
        keep = bool(int_attribute(call.node, "keepdims", 1))
        result = function(x.numbers(), axis=tuple(axes) if axes else None, keepdims=keep)
        return Value(x.elem_type, np.asarray(result))

    return run


def _matmul(call: Call) -> Value:
    x, y = call.operand(0), call.operand(1)
    call.sized((*x.array.shape[:-1], *y.array.shape[-1:]), 1)
    return Value(x.elem_type, np.asarray(x.numbers() @ y.numbers()))


def _l2(x: dtypes.Array, **how: Any) -> dtypes.Array:
    return np.asarray(np.sqrt(np.sum(x * x, **how)))


TABLE: dict[str, Callable[[Call], Value]] = {
    "Constant": _constant,
    "Identity": _identity,
    "Cast": _cast,
    "CastLike": _cast_like,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Transpose": _transpose,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Expand": _expand,
    "Tile": _tile,
    "Concat": _concat,
    "Gather": _gather,
    "Slice": _slice,
    "Shape": _shape,
    "Size": _size,
    "ConstantOfShape": _constant_of_shape,
    "Range": _range,
    "Add": _elementwise(np.add, 2),
    "Sub": _elementwise(np.subtract, 2),
    "Mul": _elementwise(np.multiply, 2),
    "Div": _elementwise(_divide, 2),
    "Pow": _elementwise(np.power, 2),
    "Neg": _elementwise(np.negative, 1),
    "Abs": _elementwise(np.abs, 1),
    "Sqrt": _elementwise(np.sqrt, 1),
    "Reciprocal": _elementwise(np.reciprocal, 1),
    "Exp": _elementwise(np.exp, 1),
    "Log": _elementwise(np.log, 1),
    "Max": _elementwise(np.maximum, 2),
    "Min": _elementwise(np.minimum, 2),
    "Clip": _clip,
    "ReduceL2": _reduce(_l2),
    "ReduceSum": _reduce(np.sum),
    "ReduceMean": _reduce(np.mean),
    "ReduceMax": _reduce(np.max),
    "ReduceSumSquare": _reduce(lambda x, **how: np.sum(x * x, **how)),
    "MatMul": _matmul,
}
