"""ChannelAffine: the map ``y = a·x + b`` with one ``a`` and one ``b`` per channel, in float64.

It is what an inference-mode normalization is, and what fold moves through a graph. NumPy only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from normsurgery.dtypes import Float64


@dataclass(frozen=True)
class ChannelAffine:
    """``y[c] = a[c]·x[c] + b[c]``; a and b are float64 of shape (C,).

    uniform: the same for all elements, however many channels there are; a and b have shape (1,).
    """

    a: Float64
    b: Float64
    uniform: bool = False

    @classmethod
    def of_batch_norm(
        cls, scale: Float64, B: Float64, mean: Float64, var: Float64, epsilon: float
    ) -> ChannelAffine:
        """Return ``scale·(x − mean)/√(var + epsilon) + B`` (ONNX operator BatchNormalization)."""
        with np.errstate(all="ignore"):
            a = scale / np.sqrt(var + epsilon)
            return cls(a, B - a * mean)

    @property
    def channels(self) -> int:
        """Number of channels C."""
        return self.a.size

    @property
    def shifts(self) -> bool:
        """Whether any channel is shifted: ``b ≠ 0``."""
        return bool(np.any(self.b != 0))

    @property
    def scales(self) -> bool:
        """Whether any channel is scaled: ``a ≠ 1``."""
        return bool(np.any(self.a != 1))

    def scale_only(self) -> ChannelAffine:
        """Return ``y = a·x``."""
        return replace(self, b=np.zeros_like(self.b))

    def shift_only(self) -> ChannelAffine:
        """Return ``y = x + b``."""
        return replace(self, a=np.ones_like(self.a))

    def of(self, channels: int) -> ChannelAffine | None:
        """Return the map over ``channels`` channels; None if it is one over another number."""
        if self.uniform:
            return ChannelAffine(np.repeat(self.a, channels), np.repeat(self.b, channels))
        return self if self.channels == channels else None

    def spread(self, index: NDArray[np.int64]) -> ChannelAffine:
        """Return the map whose channel i is this one's channel ``index[i]``."""
        return self if self.uniform else ChannelAffine(self.a[index], self.b[index])

    def placed(self, first: int, channels: int) -> ChannelAffine:
        """Return a map over ``channels`` that is this one from ``first`` on, else the identity."""
        a, b = np.ones(channels), np.zeros(channels)
        a[first : first + self.channels] = self.a
        b[first : first + self.channels] = self.b
        return ChannelAffine(a, b)

    def cut(self, first: int, last: int) -> ChannelAffine:
        """Return the map of channels ``first`` up to, not including, ``last``."""
        if self.uniform:
            return self
        return ChannelAffine(self.a[first:last], self.b[first:last])

    def bad_channel(self) -> int | None:
        """Return the first channel whose coefficients are not finite, if there is one."""
        bad = np.flatnonzero(~(np.isfinite(self.a) & np.isfinite(self.b)))
        return int(bad[0]) if bad.size else None
