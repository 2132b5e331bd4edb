"""Operators that compute: floats in float64, unrounded; integers in their own type."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np

from normsurgery.constants.calls import Call, UnsupportedError, Value
from normsurgery.nodes import attribute, int_attribute

if TYPE_CHECKING:
    from collections.abc import Callable

    from normsurgery import dtypes


def _result(call: Call, array: dtypes.Array, like: dtypes.Array) -> Value:
    """Return a result in the type of operand 0; NumPy has made some integers float or wider."""
    array = np.asarray(array)
    if like.dtype.kind != "f" and array.dtype.kind == "f":
        raise UnsupportedError("a fraction of integers")
    return call.moved(array.astype(like.dtype, copy=False))


def _unary(function: Callable[[dtypes.Array], dtypes.Array]) -> Callable[[Call], Value]:
    def run(call: Call) -> Value:
        x = call.numbers(0)
        return _result(call, function(x), x)

    return run


def _binary(
    function: Callable[[dtypes.Array, dtypes.Array], dtypes.Array],
) -> Callable[[Call], Value]:
    def run(call: Call) -> Value:
        x, y = call.numbers(0), call.numbers(1)
        if int_attribute(call.node, "broadcast", 0):  # opset < 7
            y = _unidirectional(call, x, y)
        call.sized(np.broadcast_shapes(x.shape, y.shape))
        return _result(call, function(x, y), x)

    return run


def _unidirectional(call: Call, x: dtypes.Array, y: dtypes.Array) -> dtypes.Array:
    """Line the first axis of ``y`` up with ``axis`` of ``x``; by default the last ones match."""
    found = attribute(call.node, "axis")
    if found is None:
        return y
    axis = found.i + (x.ndim if found.i < 0 else 0)
    return y.reshape(y.shape + (1,) * max(0, x.ndim - axis - y.ndim))


def _variadic(
    function: Callable[[dtypes.Array, dtypes.Array], dtypes.Array],
) -> Callable[[Call], Value]:
    def run(call: Call) -> Value:
        arrays = [call.numbers(i) for i in range(len(call.operands))]
        call.sized(np.broadcast_shapes(*(a.shape for a in arrays)))
        return _result(call, reduce(function, arrays), arrays[0])

    return run


def _divide(x: dtypes.Array, y: dtypes.Array) -> dtypes.Array:
    if x.dtype.kind == "f":
        return np.asarray(x / y)
    if np.any(y == 0):
        raise UnsupportedError("an integer division by 0")
    inexact = x % y != 0  # truncated in ONNX as in C, rounded down in NumPy
    return np.asarray(x // y + (inexact & ((x < 0) != (y < 0))).astype(x.dtype))


def _remainder(call: Call) -> Value:
    """Of integers, with the divisor's sign, or with ``fmod`` the dividend's, as in C."""
    function = np.fmod if int_attribute(call.node, "fmod", 0) else np.mod
    x, y = call.numbers(0), call.numbers(1)
    if x.dtype.kind not in "iu" or np.any(y == 0):
        raise UnsupportedError("a remainder of fractions, or of a division by 0")
    call.sized(np.broadcast_shapes(x.shape, y.shape))
    return _result(call, function(x, y), x)


def _clip(call: Call) -> Value:
    x = array = call.numbers(0)
    for slot, name, function in ((1, "min", np.maximum), (2, "max", np.minimum)):
        old = attribute(call.node, name)
        if call.optional(slot) is not None:
            array = function(array, call.numbers(slot).reshape(()))
        elif old is not None:
            array = function(array, old.f)
    return _result(call, array, x)


def _reduction(function: Callable[..., dtypes.Array]) -> Callable[[Call], Value]:
    def run(call: Call) -> Value:
        axes = call.listed("axes", 1)
        if not axes and int_attribute(call.node, "noop_with_empty_axes", 0):
            raise UnsupportedError("no axes to reduce")
        x = call.numbers(0)
        keep = bool(int_attribute(call.node, "keepdims", 1))
        return _result(call, function(x, axis=tuple(axes) if axes else None, keepdims=keep), x)

    return run


def _mean(x: dtypes.Array, **how: Any) -> dtypes.Array:
    if x.size == 0:
        raise UnsupportedError("the mean of nothing")
    return np.asarray(np.mean(x, **how))


def _l2(x: dtypes.Array, **how: Any) -> dtypes.Array:
    return np.asarray(np.sqrt(np.sum(x * x, **how)))


def _sum_square(x: dtypes.Array, **how: Any) -> dtypes.Array:
    return np.asarray(np.sum(x * x, **how))


def _matmul(call: Call) -> Value:
    x, y = call.numbers(0), call.numbers(1)
    batch = np.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    call.sized((*batch, *x.shape[-2:-1], *(y.shape[-1:] if y.ndim > 1 else ())))
    return _result(call, np.asarray(x @ y), x)


TABLE: dict[str, Callable[[Call], Value]] = {
    "Add": _binary(np.add),
    "Sub": _binary(np.subtract),
    "Mul": _binary(np.multiply),
    "Div": _binary(_divide),
    "Mod": _remainder,
    "Pow": _binary(np.power),
    "Neg": _unary(np.negative),
    "Abs": _unary(np.abs),
    "Sqrt": _unary(np.sqrt),
    "Reciprocal": _unary(np.reciprocal),
    "Exp": _unary(np.exp),
    "Log": _unary(np.log),
    "Max": _variadic(np.maximum),
    "Min": _variadic(np.minimum),
    "Clip": _clip,
    "ReduceL2": _reduction(_l2),
    "ReduceSum": _reduction(np.sum),
    "ReduceMean": _reduction(_mean),
    "ReduceMax": _reduction(np.max),
    "ReduceSumSquare": _reduction(_sum_square),
    "MatMul": _matmul,
}
