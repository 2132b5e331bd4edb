"""Conv in float64: ``onnx.reference`` gathers every window of the whole batch first."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import numpy as np
from numpy.lib.stride_tricks import as_strided
from onnx.reference.op_run import OpRun

from normsurgery.validation.budget import spend
from normsurgery.validation.windows import Windows, windows

if TYPE_CHECKING:
    from collections.abc import Sequence

# Elements of the buffer that windows are gathered into: 4 MiB of float64. Smaller ones stay in
# cache but make many small matrix products, each with a barrier between BLAS threads.
_BLOCK = 1 << 19
# Elements of the channels that a depthwise product handles at once: 256 KiB.
_PLANES = 1 << 15


def conv(
    x: np.ndarray, w: np.ndarray, b: np.ndarray | None, where: Windows, group: int
) -> np.ndarray:
    """Cross-correlation of x (N, C, *sizes) with w (M, C/group, *kernel), plus b (M,).

    Returns (N, M, *where.counts). A block of output rows at a time is gathered and multiplied,
    so memory stays at one padded image; a depthwise kernel is summed tap by tap instead.
    """
    image = where.pad(x)
    maps, per_group = w.shape[:2]
    y = np.zeros((x.shape[0], maps, *where.counts), x.dtype)
    if y.size and x.shape[1] and per_group == 1 and maps == group:
        _depthwise(y, image, w, where)
    elif y.size and x.shape[1]:
        for source, target in zip(image, y, strict=True):
            _grouped(target, source, w, where, group)
    if b is not None:
        y += b.reshape(-1, *[1] * len(where.counts))
    return y


def _grouped(y: np.ndarray, image: np.ndarray, w: np.ndarray, where: Windows, group: int) -> None:
    """One image: y (M, *counts) = w (M, C/group, *kernel) over image (C, *padded)."""
    matrix = w.reshape(group, w.shape[0] // group, -1)
    flat = y.reshape(group, w.shape[0] // group, -1)
    unit = all(k == s == 1 for k, s in zip(where.kernel, where.strides, strict=True))
    if unit and image.shape[1:] == where.counts:
        np.matmul(matrix, image.reshape(group, -1, prod(where.counts)), out=flat)
        return
    seen = _view(image, where)
    row = prod(where.counts[1:])
    depth = prod(seen.shape[: 1 + len(where.kernel)])
    rows = min(max(1, _BLOCK // (depth * row)), where.counts[0])
    buffer = np.empty(depth * rows * row, image.dtype)
    for start in range(0, where.counts[0], rows):
        stop = min(start + rows, where.counts[0])
        columns = seen[(slice(None),) * (1 + len(where.kernel)) + (slice(start, stop),)]
        gathered = buffer[: columns.size].reshape(columns.shape)
        np.copyto(gathered, columns)
        flat[:, :, start * row : stop * row] = matrix @ gathered.reshape(group, depth // group, -1)


def _view(image: np.ndarray, where: Windows) -> np.ndarray:
    """(C, *kernel, *counts) of image (C, *padded), sharing its memory."""
    steps = image.strides[1:]
    return as_strided(
        image,
        (image.shape[0], *where.kernel, *where.counts),
        (
            image.strides[0],
            *(n * d for n, d in zip(steps, where.dilations, strict=True)),
            *(n * s for n, s in zip(steps, where.strides, strict=True)),
        ),
        writeable=False,
    )


def _depthwise(y: np.ndarray, image: np.ndarray, w: np.ndarray, where: Windows) -> None:
    """One filter per channel: a product with one row would waste BLAS."""
    taps = list(where.taps())
    ones = (1,) * len(where.counts)
    step = max(1, _PLANES // prod(image.shape[2:]))
    for source, target in zip(image, y, strict=True):
        for first in range(0, len(w), step):
            some = slice(first, first + step)
            for tap, seen in taps:
                target[some] += w[some, 0][tap].reshape(-1, *ones) * source[some][seen]


class Conv(OpRun):
    """https://onnx.ai/onnx/operators/onnx__Conv.html, 1-D to 3-D and beyond."""

    op_domain = ""

    def _run(
        self,
        X: np.ndarray,
        W: np.ndarray,
        B: np.ndarray | None = None,
        auto_pad: str | None = None,
        dilations: Sequence[int] | None = None,
        group: int = 1,
        kernel_shape: Sequence[int] | None = None,
        pads: Sequence[int] | None = None,
        strides: Sequence[int] | None = None,
    ) -> tuple[np.ndarray]:
        if X.shape[1] != W.shape[1] * group or W.shape[0] % group:
            raise ValueError(f"X {X.shape} and W {W.shape} do not fit with group {group}")
        kernel = kernel_shape or W.shape[2:]
        where = windows(
            X.shape[2:], kernel, strides=strides, dilations=dilations, pads=pads, auto_pad=auto_pad
        )
        spend(self, X.shape[0] * prod(where.counts) * W.size)
        return (conv(X, W, B, where, group),)
