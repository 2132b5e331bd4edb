"""ChannelAffine: the map ``y = a·x + b`` with one ``a`` and one ``b`` per channel, in float64.

It is what an inference-mode normalization is, and what fold moves through a graph. NumPy only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from normsurgery.dtypes import Float64


@dataclass(frozen=True)
class ChannelAffine:
    """``y[c] = a[c]·x[c] + b[c]``; a and b are float64 of shape (C,)."""

    a: Float64
    b: Float64

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

    def then(self, other: ChannelAffine) -> ChannelAffine:
        """Return "first this, then other": ``a₂(a₁x + b₁) + b₂``."""
        return ChannelAffine(other.a * self.a, other.a * self.b + other.b)

    def inverse(self) -> ChannelAffine:
        """Return the map that undoes this one; non-finite where ``a`` is 0."""
        with np.errstate(all="ignore"):
            return ChannelAffine(1 / self.a, -self.b / self.a)

    def scale_only(self) -> ChannelAffine:
        """Return ``y = a·x``."""
        return ChannelAffine(self.a, np.zeros_like(self.b))

    def shift_only(self) -> ChannelAffine:
        """Return ``y = x + b``."""
        return ChannelAffine(np.ones_like(self.a), self.b)

    def cut(self, first: int, last: int) -> ChannelAffine:
        """Return the map of channels ``first`` up to, not including, ``last``."""
        return ChannelAffine(self.a[first:last], self.b[first:last])

    def bad_channel(self) -> int | None:
        """Return the first channel whose coefficients are not finite, if there is one."""
        bad = np.flatnonzero(~(np.isfinite(self.a) & np.isfinite(self.b)))
        return int(bad[0]) if bad.size else None
