"""Operators that make elements: of attributes, of a shape, or in another type."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import AttributeProto

from normsurgery import dtypes
from normsurgery.constants.calls import Call, UnsupportedError, Value
from normsurgery.nodes import attribute, int_attribute

if TYPE_CHECKING:
    from collections.abc import Callable


def _constant(call: Call) -> Value:
    found = next(iter(call.node.attribute), None)
    if found is None or found.name not in {
        "value_float",
        "value_floats",
        "value_int",
        "value_ints",
    }:
        raise UnsupportedError("a Constant of strings or of a sparse tensor")
    elem_type = dtypes.FLOAT if "float" in found.name else dtypes.INT64
    values: Any = {
        "value_float": found.f, "value_floats": list(found.floats),
        "value_int": found.i, "value_ints": list(found.ints),
    }[found.name]  # fmt: skip
    return Value(elem_type, np.array(values, dtypes.numpy_dtype(elem_type)))


def _cast(call: Call) -> Value:
    return _cast_to(call, int_attribute(call.node, "to", 0))


def _cast_like(call: Call) -> Value:
    return _cast_to(call, call.operand(1).elem_type)


def _cast_to(call: Call, elem_type: int) -> Value:
    """Round to the old type and then to the new one, as a runtime does."""
    value, dtype = call.operand(0), dtypes.numpy_dtype(elem_type)
    if elem_type == value.elem_type:
        return call.moved(call.array())
    if dtype is None or not (elem_type in dtypes.FLOATS or dtype.kind in "iub"):
        raise UnsupportedError(f"a cast to {dtypes.name_of(elem_type)}")
    call.sized(value.array.shape)
    array = value.rounded()
    if value.elem_type in dtypes.FLOATS:
        array = array.astype(np.float64)
    if array.dtype.kind == "f" and dtype.kind in "iu":
        return Value(elem_type, _truncated(array, dtype))
    if elem_type in dtypes.FLOATS and dtype.kind != "f":  # bfloat16
        return Value(elem_type, dtypes.round_to(array.astype(np.float64), elem_type))
    return Value(elem_type, array.astype(dtype))


def _truncated(array: dtypes.Array, dtype: np.dtype[Any]) -> dtypes.Array:
    info = np.iinfo(dtype)
    whole = np.trunc(array)
    # the largest integer may be no float64, the power of 2 above it is one
    if not np.all((whole >= float(info.min)) & (whole < float(info.max // 2 + 1) * 2)):
        raise UnsupportedError(f"a cast of numbers that {dtype.name} does not have")
    return whole.astype(dtype)


def _shape(call: Call) -> Value:
    start, end = int_attribute(call.node, "start", 0), attribute(call.node, "end")
    shape = call.operand(0).array.shape[start : end.i if end else None]
    return Value(dtypes.INT64, np.array(shape, np.int64))


def _size(call: Call) -> Value:
    return Value(dtypes.INT64, np.array(call.operand(0).array.size, np.int64))


def _constant_of_shape(call: Call) -> Value:
    wanted = call.ints(0)
    if wanted is None:
        raise UnsupportedError("no shape")
    shape = call.sized(tuple(wanted))
    fill = attribute(call.node, "value")
    if fill is None:
        return Value(dtypes.FLOAT, np.broadcast_to(np.float32(0), shape))
    if fill.type != AttributeProto.TENSOR:
        raise UnsupportedError("a fill that is no tensor")
    one = call.read(fill.t)
    return Value(one.elem_type, np.broadcast_to(one.array.reshape(()), shape))


def _range(call: Call) -> Value:
    elem_type = call.operand(0).elem_type
    dtype = dtypes.numpy_dtype(elem_type)
    bounds = [call.operand(i).rounded() for i in range(3)]
    if dtype is not None and dtype.kind in "iu":
        start, limit, delta = (b.item() for b in bounds)
        count = max(0, -((start - limit) // delta))
        call.sized((count,))
        return Value(elem_type, (start + np.arange(count) * delta).astype(dtype))
    start, limit, delta = (b.astype(np.float64).item() for b in bounds)
    count = max(0, math.ceil((limit - start) / delta))
    call.sized((count,))
    return Value(elem_type, start + np.arange(count, dtype=np.float64) * delta)


TABLE: dict[str, Callable[[Call], Value]] = {
    "Constant": _constant,
    "Cast": _cast,
    "CastLike": _cast_like,
    "Shape": _shape,
    "Size": _size,
    "ConstantOfShape": _constant_of_shape,
    "Range": _range,
}
