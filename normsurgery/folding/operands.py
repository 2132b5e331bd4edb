"""Constants among the operands of a node that an affine map crosses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from normsurgery import dtypes, shapes
from normsurgery.folding import obstacles
from normsurgery.folding.sinks.parts import along, derived
from normsurgery.folding.table import Edit, Site
from normsurgery.payloads import Computed

if TYPE_CHECKING:
    from normsurgery.affine import ChannelAffine
    from normsurgery.constants import Constant
    from normsurgery.folding.obstacles import Obstacle


def changed(
    site: Site, slot: int, constant: Constant, affine: ChannelAffine, *, alone: bool = False
) -> Edit | Obstacle:
    """Return the edit ``c' = a·c + b`` of the constant c in input ``slot``, along the site's axis.

    c may lack the axes in front, and have size 1 where the map has channels.
    alone: nothing is added to c, so that without b each of its elements has to survive.
    """
    node, rank = site.node, shapes.rank(site.scope, site.value)
    if constant.elem_type not in dtypes.FLOATS:
        return obstacles.not_linear(node)
    if rank is None:
        return obstacles.unknown_rank(site.value)
    missing = rank - len(constant.shape)
    shape = (1,) * missing + constant.shape
    if missing < 0 or (not affine.uniform and shape[site.axis] not in {1, affine.channels}):
        return obstacles.no_channel(node, f"its constant has shape {list(constant.shape)}")
    if affine.uniform:
        a, b = (v.reshape((1,) * rank) for v in (affine.a, affine.b))
    else:
        a, b = (along(v, site.axis, rank) for v in (affine.a, affine.b))
    value = np.asarray(a * constant.float64().reshape(shape) + b)
    tensor = Computed(value, (), constant.elem_type)
    product = alone and not affine.shifts
    return Edit(node, slot, tensor, derived(constant.name), product=product)
