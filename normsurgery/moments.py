"""Moments: count, mean and M2 per channel, in float64, mergeable in any order.

``M2 = Σ (x − mean)²``. Two sets merge by Chan, Golub and LeVeque's update (1979, "Updating formulae
and a pairwise algorithm for computing sample variances"), which has no cancellation, unlike
E[x²] − E[x]²::

    n = n₁ + n₂,  δ = mean₂ − mean₁
    mean = mean₁ + δ·n₂/n
    M2 = M2₁ + M2₂ + δ²·n₁·n₂/n

NumPy only.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING

import numpy as np

from normsurgery.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from numpy.typing import NDArray

    Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """What is known of C channels after ``count`` elements of each.

    mean, M2: float64 of shape (C,); both 0 while ``count`` is 0.
    """

    count: int
    mean: Float64
    M2: Float64

    @classmethod
    def none(cls, channels: int) -> Moments:
        """Return the moments of no elements: merging with them changes nothing."""
        return cls(0, np.zeros(channels), np.zeros(channels))

    @classmethod
    def of(cls, array: NDArray[Any], axis: int = 1) -> Moments:
        """Return the moments of each channel along ``axis``, by two passes in float64."""
        channels = array.shape[axis]
        rows = np.moveaxis(array, axis, 0).reshape(channels, -1).astype(np.float64)
        if rows.shape[1] == 0:
            return cls.none(channels)
        mean = rows.mean(axis=1)
        rows -= mean[:, None]
        # the mean's own rounding error e leaves Σ(x − mean) = n·e, which would add n·e² to M2
        rest = rows.mean(axis=1)
        M2 = np.square(rows).sum(axis=1) - rows.shape[1] * np.square(rest)
        return cls(rows.shape[1], mean + rest, np.maximum(M2, 0.0))

    @property
    def channels(self) -> int:
        """Number of channels C."""
        return self.mean.size

    @property
    def var(self) -> Float64:
        """Population variance (C,): ``M2 / count``. NaN for no elements."""
        with np.errstate(invalid="ignore"):
            return self.M2 / np.float64(self.count)

    @property
    def unbiased_var(self) -> Float64:
        """Sample variance (C,), ``M2 / (count − 1)``, which PyTorch keeps as running variance."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.M2 / np.float64(self.count - 1)

    def merge(self, other: Moments) -> Moments:
        """Return the moments of both sets together. Raises ``UsageError`` for another C."""
        if self.channels != other.channels:
            raise UsageError(
                f"moments of {self.channels} and {other.channels} channels do not merge; "
                "they come from different tensors"
            )
        if not self.count or not other.count:
            return self if self.count else other
        count = self.count + other.count
        delta = other.mean - self.mean
        share = other.count / count
        M2 = self.M2 + other.M2 + np.square(delta) * (self.count * share)
        return Moments(count, self.mean + delta * share, M2)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return plain arrays ``count``, ``mean``, ``M2``, for ``numpy.savez``."""
        return {"count": np.asarray(self.count, np.int64), "mean": self.mean, "M2": self.M2}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Moments:
        """Return what ``to_arrays`` gave. Raises ``UsageError`` where it is none."""
        try:
            count = int(arrays["count"])
            mean, M2 = (arrays[key].astype(np.float64, casting="safe") for key in ("mean", "M2"))
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(f"these are no moments: {error}; need count, mean and M2") from None
        if mean.ndim != 1 or mean.shape != M2.shape or count < 0:
            raise UsageError(
                f"these are no moments: mean has shape {mean.shape}, M2 {M2.shape}, count {count}"
            )
        if np.any(M2 < 0):
            raise UsageError("these are no moments: M2 has a value below 0")
        return cls(count, mean, M2)


def merge_all(parts: Iterable[Moments]) -> Moments:
    """Return the moments of all parts together, merged in the order given.

    Raises ``UsageError`` for no parts, and where their channels differ.
    """
    parts = list(parts)
    if not parts:
        raise UsageError("there are no moments to merge")
    return reduce(Moments.merge, parts)
