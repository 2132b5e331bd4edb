"""Operators that only move elements: they keep the stored array, and with it the memory map.

Semantics: the ONNX operator specs, latest opset; where a list moved from attribute to input, both.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from normsurgery.constants.calls import Call, UnsupportedError, Value
from normsurgery.nodes import attribute, int_attribute

if TYPE_CHECKING:
    from collections.abc import Callable

    from normsurgery.dtypes import Array


def _identity(call: Call) -> Value:
    return call.moved(call.array())


def _reshaped(call: Call, shape: list[int]) -> Value:
    array = call.array()
    if not array.flags.c_contiguous:  # has to be copied
        call.sized(array.shape)
    return call.moved(array.reshape(shape))


def _reshape(call: Call) -> Value:
    wanted = call.listed("shape", 1)
    if wanted is None:
        raise UnsupportedError("no shape")
    if not int_attribute(call.node, "allowzero", 0):
        wanted = [call.array().shape[i] if d == 0 else d for i, d in enumerate(wanted)]
    return _reshaped(call, wanted)


def _flatten(call: Call) -> Value:
    shape = call.array().shape
    axis = int_attribute(call.node, "axis", 1)
    if not -len(shape) <= axis <= len(shape):
        raise UnsupportedError(f"axis {axis}")
    axis += len(shape) if axis < 0 else 0
    return _reshaped(call, [math.prod(shape[:axis]), math.prod(shape[axis:])])


def _transpose(call: Call) -> Value:
    perm = attribute(call.node, "perm")
    return call.moved(call.array().transpose(list(perm.ints) if perm else None))


def _squeeze(call: Call) -> Value:
    axes = call.listed("axes", 1)
    return call.moved(call.array().squeeze(None if axes is None else tuple(axes)))


def _unsqueeze(call: Call) -> Value:
    return call.moved(np.expand_dims(call.array(), tuple(call.listed("axes", 1) or ())))


def _expand(call: Call) -> Value:
    wanted = call.ints(1)
    if wanted is None:
        raise UnsupportedError("no shape")
    shape = call.sized(np.broadcast_shapes(call.array().shape, tuple(wanted)))
    return call.moved(np.broadcast_to(call.array(), shape))


def _tile(call: Call) -> Value:
    array, repeats = call.array(), call.ints(1) or []
    call.sized(tuple(d * r for d, r in zip(array.shape, repeats, strict=True)))
    return call.moved(np.tile(array, repeats))


def _concat(call: Call) -> Value:
    arrays = [call.array(i) for i in range(len(call.operands))]
    call.sized((sum(a.size for a in arrays),))
    if len({a.dtype for a in arrays}) > 1:  # some are computed, and float64
        arrays = [call.numbers(i) for i in range(len(arrays))]
    return call.moved(np.concatenate(arrays, int_attribute(call.node, "axis", 1)))


def _gather(call: Call) -> Value:
    array, indices = call.array(), call.array(1)
    axis = int_attribute(call.node, "axis", 0)
    axis += array.ndim if axis < 0 else 0
    call.sized((*array.shape[:axis], *indices.shape, *array.shape[axis + 1 :]))
    return call.moved(array.take(indices, axis))


def _slice(call: Call) -> Value:
    starts, ends = call.listed("starts", 1), call.listed("ends", 2)
    if starts is None or ends is None:
        raise UnsupportedError("no starts or ends")
    axes = call.listed("axes", 3) or list(range(len(starts)))
    steps = call.ints(4) or [1] * len(starts)
    array = call.array()
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        array = _cut(array, axis, start, end, step)
    return call.moved(array)


def _cut(array: Array, axis: int, start: int, end: int, step: int) -> Array:
    """Slice one axis. Both bounds are clamped to the axis, as the spec of Slice has it."""
    size = array.shape[axis]
    start += size if start < 0 else 0
    end += size if end < 0 else 0
    if step > 0:
        picked = slice(min(max(start, 0), size), min(max(end, 0), size), step)
    else:
        first, last = min(max(start, 0), size - 1), min(max(end, -1), size - 1)
        # an end of -1 is before the first element, which Python calls None
        picked = slice(first, None if last < 0 else last, step) if size else slice(0)
    where = [slice(None)] * array.ndim
    where[axis] = picked
    return array[tuple(where)]


TABLE: dict[str, Callable[[Call], Value]] = {
    "Identity": _identity,
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
}
