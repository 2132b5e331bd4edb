"""Where a converted norm starts: the algebra, in NumPy float64, that keeps a trained network.

A BatchNormalization is ``y = scale·(x − mean)/σ + B`` per channel, ``σ = √(var + epsilon)``. A norm
over groups of channels takes its mean and variance from each sample, so no choice of constants
makes it equal; but one makes it equal wherever a sample's statistics are the running ones, and
close elsewhere. There is one for each *gauge*, the scale in which the channels are handed over.

Let ``z = u·(x − mean)/σ + v`` be the input in a gauge (u, v). If each channel of x has the mean and
variance that BN recorded, channel c of z has mean ``v`` and variance ``u²·r``, ``r = var/σ²`` (1
but for channels that hardly vary). So group g has mean ``m_g`` = the average of v over it, and
variance ``s_g² = average of (u²·r + (v − m_g)²)``, and

    scale' = (scale/u)·√(s_g² + ε),    B' = B − (scale/u)·(v − m_g)

gives ``scale'·(z − m_g)/√(s_g² + ε) + B' = scale·(x − mean)/σ + B``. The gauges:

- *balance*, ``u = ±|scale|, v = 0``: as loud as BN's output, with signs for which the means of a
  group's channels cancel (``conversion.balance``), so that the group's hardly moves;
- *whiten*, ``u = 1, v = 0``: all channels standardised, none is louder than another;
- *fold*, ``u = scale, v = B``: z is BN's output, so scale' and B' are the same within a group;
- *none*, ``u = σ, v = mean``: z is x itself, where nothing in front can absorb an affine map.

What is lost is the variation of a sample's statistics: a large ε, in proportion to s², damps it.
Group normalization: Wu and He 2018, https://arxiv.org/abs/1803.08494.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from normsurgery.affine import ChannelAffine
from normsurgery.conversion import balance

if TYPE_CHECKING:
    from normsurgery.dtypes import Float64

Gauge = Literal["balance", "whiten", "fold", "none"]
GAUGES: tuple[Gauge, ...] = get_args(Gauge)
DEFAULT: Gauge = "balance"
EPSILON = 3.0  # of an input of unit variance; training norms have 1e-5
_FLOOR = 1e-2  # of a channel's loudness, relative to all: one of scale 0 could not be trained again


@dataclass(frozen=True)
class BatchNorm:
    """The constants of an inference-mode BatchNormalization.

    scale, B, mean, var: float64 of shape (C,). epsilon: added to var.
    """

    scale: Float64
    B: Float64
    mean: Float64
    var: Float64
    epsilon: float

    @classmethod
    def of_affine(cls, affine: ChannelAffine, mean: Float64, var: Float64) -> BatchNorm:
        """Return the BN that is ``y = a·x + b`` on inputs of these statistics, with epsilon 0.

        ``scale = a·√var`` and ``B = b + a·mean``. Where var is 0 nothing of the input is left to
        scale: the scale is 0 there, and so the map is kept only for the input that is its mean.
        """
        return cls(affine.a * np.sqrt(var), affine.b + affine.a * mean, mean, var, 0.0)

    @property
    def channels(self) -> int:
        """Number of channels C."""
        return self.scale.size

    @property
    def sigma(self) -> Float64:
        """``√(var + epsilon)``; 1 where that is 0, as such a channel has nothing to divide."""
        sigma = np.sqrt(self.var + self.epsilon)
        return np.where(sigma > 0, sigma, 1.0)

    @property
    def affine(self) -> ChannelAffine:
        """The map that it is: ``a = scale/σ``, ``b = B − a·mean``."""
        a = self.scale / self.sigma
        return ChannelAffine(a, self.B - a * self.mean)

    def gauged(self, gauge: Gauge) -> tuple[Float64, Float64, Float64]:
        """Return u and v of a gauge, without signs, and ``scale/u``, also where both are 0."""
        one, zero = np.ones(self.channels), np.zeros(self.channels)
        if gauge == "balance":
            loud = np.abs(self.scale)
            u = np.maximum(loud, _FLOOR * (float(np.sqrt(np.mean(loud**2))) or 1.0))
            return u, zero, self.scale / u
        if gauge == "whiten":
            return one, zero, self.scale
        if gauge == "fold":
            return self.scale, self.B, one
        return self.sigma, self.mean, self.scale / self.sigma


@dataclass(frozen=True)
class Start:
    """A norm over groups of channels, and the affine map in front of it.

    ``y = scale·(z − mean_g)/√(var_g + epsilon) + B`` with ``z = before(x)``, mean_g and var_g the
    statistics of z over channels and positions of a group, per sample. scale, B: float64 of (C,).
    """

    before: ChannelAffine
    groups: int
    scale: Float64
    B: Float64
    epsilon: float

    def stretched(self, k: float) -> Start:
        """Return the same function with ``k·before`` in front, k > 0.

        The norm of ``k·z`` with ``k²·epsilon`` is that of ``z`` with ``epsilon``. As ONNX stores
        epsilon in float32, k is changed in its last places so that ``k²·epsilon`` is one.
        """
        epsilon = _float32(k * k * self.epsilon)
        if self.epsilon > 0:
            if not 0 < epsilon < float("inf"):  # no such float32: then nothing is stretched
                return self
            k = float(np.sqrt(epsilon / self.epsilon))
        before = ChannelAffine(k * self.before.a, k * self.before.b)
        return replace(self, before=before, epsilon=epsilon)


def start(
    bn: BatchNorm,
    groups: int,
    gauge: Gauge = DEFAULT,
    epsilon: float = EPSILON,
    sums: Float64 | None = None,
) -> Start:
    """Return the norm over ``groups`` groups that starts where ``bn`` stood.

    bn: C channels; groups divides C: group g is channels ``g·C/groups`` up to ``(g+1)·C/groups``.
    epsilon: of an input of unit variance: it is multiplied by the average of ``s_g²``, and rounded
    to float32, as ONNX stores it.
    sums: for *balance*, the weights of the layer in front, summed over the kernel, (C, I) for I
    input channels; None if that is no layer, and then all channels are taken to move together.

    Raises ``ValueError`` if groups does not divide C.
    """
    channels, sigma = bn.channels, bn.sigma
    if groups < 1 or channels % groups:
        raise ValueError(f"{channels} channels do not make {groups} groups")
    u, v, over = bn.gauged(gauge)
    if gauge == "balance" and groups < channels:
        loud = u[:, None]
        moved = loud if sums is None else loud / sigma[:, None] * balance.with_common_part(sums)
        signs = balance.signs(moved, groups)
        u, over = signs * u, signs * over
    m = _over_groups(v, groups)
    s2 = _over_groups(u**2 * bn.var / sigma**2 + (v - m) ** 2, groups)
    epsilon = _float32(epsilon * (float(s2.mean()) or 1.0))
    a = np.ones(channels) if gauge == "none" else u / sigma
    before = ChannelAffine(a, v - a * bn.mean)
    return Start(before, groups, over * np.sqrt(s2 + epsilon), bn.B - over * (v - m), epsilon)


def unsigned(begun: Start) -> Start:
    """Return a start of gauge *balance* with all signs positive: the same where v is 0."""
    signs = np.sign(begun.before.a)
    before = ChannelAffine(signs * begun.before.a, signs * begun.before.b)
    return replace(begun, before=before, scale=signs * begun.scale)


def gauge_of(name: str) -> Gauge:
    """Return the gauge called ``name``. Raises ``ValueError`` if there is none."""
    found = next((gauge for gauge in GAUGES if gauge == name), None)
    if found is None:
        raise ValueError(f"{name!r} is none of the gauges {', '.join(GAUGES)}")
    return found


def weight_factor(squares: Float64, a: Float64) -> float:
    """Return ``k = ‖W‖/‖a·W‖``, with which ``k·a·W`` has the norm of W.

    squares: Σ of the squares of the weights that make each output channel, (C,). a: (C,).
    A gradient step moves a weight in proportion to its gradient, so in front of a norm the ratio of
    step to ‖W‖ goes with 1/‖W‖²: a map folded into W without k changes how fast it learns.
    1 where either norm is 0 or not finite, so that nothing would be kept.
    """
    with np.errstate(all="ignore"):
        k = float(np.sqrt(squares.sum() / (a**2 * squares).sum()))
    return k if np.isfinite(k) and k > 0 else 1.0


def _float32(value: float) -> float:
    return float(np.float32(value))


def _over_groups(values: Float64, groups: int) -> Float64:
    """Return the average over its group for each channel, (C,)."""
    return np.repeat(values.reshape(groups, -1).mean(axis=1), values.size // groups)
