"""Adaptive instance normalization (AdaIN): an instance norm whose scale and bias are computed.

``y = σ(s)·(x − μ(x))/σ(x) + μ(s)`` gives the features x the mean and deviation of a style s, per
sample and channel (Huang and Belongie, https://arxiv.org/abs/1703.06868); in generators scale and
bias come out of a linear layer instead. Exporters write the statistics of x as arithmetic.
``sites`` finds such norms; ``restore`` writes the arithmetic as the InstanceNormalization that it
is, so that a scale and bias which have become constants can go into it.
"""

from __future__ import annotations

from normsurgery.adain.restoring import restore
from normsurgery.adain.sites import Site, sites

__all__ = ["Site", "restore", "sites"]
