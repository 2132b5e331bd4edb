"""Where the windows of convolutions and poolings lie.

Everything follows ``Conv``, ``ConvTranspose`` and ``MaxPool`` of the ONNX operator spec
(https://onnx.ai/onnx/operators/); for ``ceil_mode`` the last window must begin inside the image
or its leading padding, which is what onnxruntime and torch do.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


Index = tuple[Any, ...]
"""What an array is indexed with."""


@dataclass(frozen=True)
class Windows:
    """Windows over spatial axes, one entry per axis in each field.

    Attributes:
        sizes: the image. `kernel`, `strides`, `dilations`: of the window.
        before: padding ahead of the image. May be negative: the image is cropped.
        after: padding behind it, as given, without what ``ceil_mode`` adds.
        counts: how many windows fit.

    """

    sizes: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    counts: tuple[int, ...]

    def taps(self) -> Iterator[tuple[Index, Index]]:
        """Yield each kernel position, and the slices of the padded image that it sees.

        Both are indices that begin with an ellipsis: whatever axes come first, stay.
        """
        for tap in itertools.product(*map(range, self.kernel)):
            seen = (
                slice(t * d, t * d + (n - 1) * s + 1, s)
                for t, d, s, n in zip(tap, self.dilations, self.strides, self.counts, strict=True)
            )
            yield (..., *tap), (..., *seen)

    def reach(self) -> tuple[int, ...]:
        """Tell how much of the padded image the windows cover, from its start."""
        return tuple(
            (n - 1) * s + d * (k - 1) + 1
            for n, s, d, k in zip(
                self.counts, self.strides, self.dilations, self.kernel, strict=True
            )
        )

    def pad(self, image: np.ndarray, fill: float = 0.0) -> np.ndarray:
        """Put `fill` around `image` (N, C, *sizes), as far as the windows reach."""
        reach = self.reach()
        if reach == self.sizes and not any(self.before):
            return image
        padded = np.full((*image.shape[:2], *reach), fill, image.dtype)
        target: list[Any] = [...]
        source: list[Any] = [...]
        for size, length, lead in zip(self.sizes, reach, self.before, strict=True):
            start, stop = max(lead, 0), min(lead + size, length)
            target.append(slice(start, max(stop, start)))
            source.append(slice(start - lead, max(stop, start) - lead))
        padded[tuple(target)] = image[tuple(source)]
        return padded


def windows(
    sizes: Sequence[int],
    kernel: Sequence[int],
    *,
    strides: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    auto_pad: str | None = None,
    ceil_mode: int | None = None,
) -> Windows:
    """Lay the windows of an operator with these attributes over an image of `sizes`."""
    rank = len(sizes)
    strides = list(strides or [1] * rank)
    dilations = list(dilations or [1] * rank)
    extents = [d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True)]
    pads = list(pads or [0] * (2 * rank))
    if auto_pad in {"SAME_UPPER", "SAME_LOWER"}:
        total = [
            max(0, (-(-n // s) - 1) * s + e - n)
            for n, s, e in zip(sizes, strides, extents, strict=True)
        ]
        small, large = [t // 2 for t in total], [t - t // 2 for t in total]
        pads = small + large if auto_pad == "SAME_UPPER" else large + small
    elif auto_pad == "VALID":
        pads = [0] * (2 * rank)
    before, after = pads[:rank], pads[rank:]
    counts = []
    for n, lead, tail, e, s in zip(sizes, before, after, extents, strides, strict=True):
        free = n + lead + tail - e
        count = free // s + 1
        if ceil_mode and free % s and count * s < n + lead:
            count += 1
        counts.append(max(count, 0))
    return Windows(
        *map(tuple, (sizes, kernel, strides, dilations, before, after, counts)),
    )
