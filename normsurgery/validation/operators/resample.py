"""Upsample and DequantizeLinear in float64.

``onnx.reference`` has Upsample for whole factors and mode "nearest" only, and takes integers
through float32 in DequantizeLinear (int32 biases lose bits there).
"""

from __future__ import annotations

import math

import numpy as np
from onnx.reference.op_run import OpRun


def upsample(x: np.ndarray, factors: np.ndarray, *, linear: bool) -> np.ndarray:
    """x resampled axis by axis at ``output / factor``, with the last pixel repeated."""
    for axis, factor in enumerate(factors.tolist()):
        size = x.shape[axis]
        where = np.arange(math.floor(np.float32(size) * np.float32(factor))) / factor
        low = np.minimum(np.floor(where).astype(np.int64), size - 1)
        near = x.take(low, axis)
        if not linear or factor == 1:
            x = near
            continue
        share = np.minimum(where, size - 1) - low
        share = share.reshape(-1, *[1] * (x.ndim - axis - 1))
        x = near + share * (x.take(np.minimum(low + 1, size - 1), axis) - near)
    return x


class Upsample(OpRun):
    """https://onnx.ai/onnx/operators/onnx__Upsample.html, opset 7 (attribute) and 9 (input)."""

    op_domain = ""

    def _run(
        self,
        x: np.ndarray,
        factors: np.ndarray | None = None,
        mode: str = "nearest",
        scales: list[float] | None = None,
    ) -> tuple[np.ndarray]:
        given = np.asarray(scales if factors is None else factors, np.float64)
        return (upsample(x, given, linear=mode != "nearest"),)


class DequantizeLinear(OpRun):
    """https://onnx.ai/onnx/operators/onnx__DequantizeLinear.html."""

    op_domain = ""

    def _run(
        self,
        x: np.ndarray,
        scale: np.ndarray,
        zero: np.ndarray | None = None,
        axis: int = 1,
        block_size: int = 0,
        output_dtype: int | None = None,
    ) -> tuple[np.ndarray]:
        values = x.astype(np.float64)
        if zero is not None:
            values = values - spread(zero, x.shape, axis, block_size).astype(np.float64)
        return (values * spread(scale, x.shape, axis, block_size),)


def spread(values: np.ndarray, shape: tuple[int, ...], axis: int, block: int) -> np.ndarray:
    """Quantization parameters so that they broadcast against a tensor of `shape`."""
    if block:
        return np.repeat(values, block, axis).take(np.arange(shape[axis]), axis)
    if values.ndim == 1 and shape:
        wide = [1] * len(shape)
        wide[axis] = values.size
        return values.reshape(wide if values.size > 1 else [1] * len(shape))
    return values
