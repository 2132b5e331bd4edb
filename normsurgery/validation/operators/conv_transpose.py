"""ConvTranspose in float64: ``onnx.reference`` gathers and scatters with Python loops."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import numpy as np
from onnx.reference.op_run import OpRun

from normsurgery.validation.budget import spend
from normsurgery.validation.windows import Index, Windows

if TYPE_CHECKING:
    from collections.abc import Sequence


def conv_transpose(
    x: np.ndarray, w: np.ndarray, b: np.ndarray | None, where: Windows, group: int
) -> np.ndarray:
    """Apply the adjoint of a convolution whose output is x (N, C, *where.counts).

    w is (C, M/group, *kernel), b is (M,), and the result is (N, M, *where.sizes). One matrix
    product per kernel tap, added to the places that the tap touches.
    """
    batch, channels = x.shape[:2]
    maps = w.shape[1]
    rank = len(where.counts)
    reach = [
        max(length, lead + size)
        for length, lead, size in zip(where.reach(), where.before, where.sizes, strict=True)
    ]
    wide = np.zeros((batch, group, maps, *reach), x.dtype)
    source = x.reshape(batch, group, channels // group, -1)
    filters = np.moveaxis(w.reshape(group, channels // group, maps, *where.kernel), 1, 2)
    for tap, touched in where.taps():
        part = np.ascontiguousarray(filters[tap]) @ source
        wide[touched] += part.reshape(batch, group, maps, *where.counts)
    crop: Index = (
        ...,
        *(slice(o, o + n) for o, n in zip(where.before, where.sizes, strict=True)),
    )
    y = wide.reshape(batch, group * maps, *reach)[crop]
    return np.ascontiguousarray(y) if b is None else y + b.reshape(-1, *[1] * rank)


def transposed_windows(
    counts: Sequence[int],
    kernel: Sequence[int],
    *,
    strides: Sequence[int] | None,
    dilations: Sequence[int] | None,
    pads: Sequence[int] | None,
    auto_pad: str | None,
    output_padding: Sequence[int] | None,
    output_shape: Sequence[int] | None,
) -> Windows:
    """Find the windows of the convolution whose adjoint has these attributes and input sizes.

    With `output_shape`, or an `auto_pad` of SAME, the padding follows from the output's size.
    """
    rank = len(counts)
    strides = tuple(strides or [1] * rank)
    dilations = tuple(dilations or [1] * rank)
    extra = output_padding or [0] * rank
    full = [
        (n - 1) * s + d * (k - 1) + 1 + o
        for n, s, d, k, o in zip(counts, strides, dilations, kernel, extra, strict=True)
    ]
    if output_shape or auto_pad in {"SAME_UPPER", "SAME_LOWER"}:
        sizes = tuple(output_shape or [n * s for n, s in zip(counts, strides, strict=True)])
        sizes = sizes[-rank:]
        total = [max(f - n, 0) for f, n in zip(full, sizes, strict=True)]
        # The spec: the odd one goes behind for SAME_UPPER, and ahead for every other mode.
        before = [t // 2 if auto_pad == "SAME_UPPER" else t - t // 2 for t in total]
        after = [t - b for t, b in zip(total, before, strict=True)]
    else:
        given = [0] * (2 * rank) if auto_pad == "VALID" or not pads else list(pads)
        before, after = given[:rank], given[rank:]
        sizes = tuple(f - b - a for f, b, a in zip(full, before, after, strict=True))
    return Windows(
        sizes, tuple(kernel), strides, dilations, tuple(before), tuple(after), tuple(counts)
    )


class ConvTranspose(OpRun):
    """https://onnx.ai/onnx/operators/onnx__ConvTranspose.html."""

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
        output_padding: Sequence[int] | None = None,
        output_shape: Sequence[int] | None = None,
        pads: Sequence[int] | None = None,
        strides: Sequence[int] | None = None,
    ) -> tuple[np.ndarray]:
        if X.shape[1] != W.shape[0] or W.shape[0] % group:
            raise ValueError(f"X {X.shape} and W {W.shape} do not fit with group {group}")
        where = transposed_windows(
            X.shape[2:],
            kernel_shape or W.shape[2:],
            strides=strides,
            dilations=dilations,
            pads=pads,
            auto_pad=auto_pad,
            output_padding=output_padding,
            output_shape=output_shape,
        )
        spend(self, X.shape[0] * prod(where.counts) * W.size)
        return (conv_transpose(X, W, B, where, group),)
