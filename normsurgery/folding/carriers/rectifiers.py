"""Positively homogeneous functions: ``f(a·x) = a·f(x)`` for a ≥ 0."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from normsurgery.folding import obstacles
from normsurgery.folding.table import Carried, Site, carrier

if TYPE_CHECKING:
    from normsurgery.folding.obstacles import Obstacle


@carrier("Relu", "LeakyRelu", "PRelu", "Abs")
def rectifier(site: Site) -> Carried | Obstacle:
    """``f(a·x) = a·f(x)`` for a ≥ 0: the scale passes, a shift does not.

    PRelu's slope and LeakyRelu's alpha multiply x, so they do not matter.
    Source: ONNX operators Relu, LeakyRelu, PRelu, Abs.
    """
    if site.forwards and site.slot != 0:
        return obstacles.not_linear(site.node)
    if not site.affine.scales:
        return obstacles.not_linear(site.node)
    if np.any(site.affine.a < 0):
        return obstacles.negative_scale(site.node)
    if site.affine.shifts:
        return obstacles.shift_across(site.node)
    return site.through()
