"""MaxPool, AveragePool and their global forms: ``onnx.reference`` loops over every window.

It also places the padding that ``ceil_mode`` adds in equal parts on both sides of the image,
where onnxruntime adds it behind.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import numpy as np
from onnx.reference.op_run import OpRun

from normsurgery.validation.budget import spend
from normsurgery.validation.windows import Windows, windows

if TYPE_CHECKING:
    from collections.abc import Sequence


def max_pool(x: np.ndarray, where: Windows) -> np.ndarray:
    """Take the largest element of each window of x (N, C, *sizes): (N, C, *where.counts)."""
    image = where.pad(x, -np.inf)
    y = np.full((*x.shape[:2], *where.counts), -np.inf, x.dtype)
    for _, seen in where.taps():
        np.maximum(y, image[seen], out=y)
    return y


def max_pool_indices(x: np.ndarray, where: Windows, *, column_major: bool) -> np.ndarray:
    """Find the flat index into x (int64) of each window's first largest element."""
    offsets = np.arange(prod(where.sizes)).reshape(where.sizes, order="F" if column_major else "C")
    planes = np.arange(prod(x.shape[:2])).reshape(*x.shape[:2], *[1] * len(where.sizes))
    image = where.pad(x, -np.inf)
    places = where.pad((planes * prod(where.sizes) + offsets).astype(np.float64)).astype(np.int64)
    best = np.full((*x.shape[:2], *where.counts), -np.inf, x.dtype)
    index = np.zeros(best.shape, np.int64)
    for _, seen in where.taps():
        better = image[seen] > best
        np.copyto(best, image[seen], where=better)
        np.copyto(index, places[seen], where=better)
    return index


def average_pool(x: np.ndarray, where: Windows, *, include_pad: bool) -> np.ndarray:
    """Take the mean of each window of x (N, C, *sizes): (N, C, *where.counts).

    Padding counts as zeros if `include_pad`; what lies beyond it (``ceil_mode``) never counts.
    """
    image = where.pad(x)
    counted = _inside(where, include_pad=include_pad)
    total = np.zeros((*x.shape[:2], *where.counts), x.dtype)
    number = np.zeros(where.counts, x.dtype)
    for _, seen in where.taps():
        total += image[seen]
        number += counted[seen]
    return np.asarray(total / number)


def _inside(where: Windows, *, include_pad: bool) -> np.ndarray:
    """Mark with 1 where the padded image counts, and with 0 where not."""
    if not include_pad:
        return np.asarray(where.pad(np.ones((1, 1, *where.sizes)))[0, 0])
    mask = np.zeros(where.reach())
    mask[
        tuple(
            slice(0, lead + size + tail)
            for lead, size, tail in zip(where.before, where.sizes, where.after, strict=True)
        )
    ] = 1
    return mask


class MaxPool(OpRun):
    """https://onnx.ai/onnx/operators/onnx__MaxPool.html."""

    op_domain = ""

    def _run(
        self,
        x: np.ndarray,
        auto_pad: str | None = None,
        ceil_mode: int | None = None,
        dilations: Sequence[int] | None = None,
        kernel_shape: Sequence[int] = (),
        pads: Sequence[int] | None = None,
        storage_order: int | None = None,
        strides: Sequence[int] | None = None,
    ) -> tuple[np.ndarray, ...]:
        where = windows(
            x.shape[2:],
            kernel_shape,
            strides=strides,
            dilations=dilations,
            pads=pads,
            auto_pad=auto_pad,
            ceil_mode=ceil_mode,
        )
        spend(self, prod(x.shape[:2]) * prod(where.counts) * prod(where.kernel))
        if x.dtype.kind != "f":
            pooled = max_pool(x.astype(np.float64), where).astype(x.dtype)
        else:
            pooled = max_pool(x, where)
        if len(self.output) == 1:
            return (pooled,)
        return pooled, max_pool_indices(x, where, column_major=bool(storage_order))


class AveragePool(OpRun):
    """https://onnx.ai/onnx/operators/onnx__AveragePool.html."""

    op_domain = ""

    def _run(
        self,
        x: np.ndarray,
        auto_pad: str | None = None,
        ceil_mode: int | None = None,
        count_include_pad: int | None = None,
        dilations: Sequence[int] | None = None,
        kernel_shape: Sequence[int] = (),
        pads: Sequence[int] | None = None,
        strides: Sequence[int] | None = None,
    ) -> tuple[np.ndarray]:
        where = windows(
            x.shape[2:],
            kernel_shape,
            strides=strides,
            dilations=dilations,
            pads=pads,
            auto_pad=auto_pad,
            ceil_mode=ceil_mode,
        )
        spend(self, prod(x.shape[:2]) * prod(where.counts) * prod(where.kernel))
        return (average_pool(x, where, include_pad=bool(count_include_pad)),)
