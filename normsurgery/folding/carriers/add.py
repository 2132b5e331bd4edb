"""Add of a constant: the bias of a layer that has none of its own, such as MatMul."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from normsurgery import shapes
from normsurgery.constants import NotConstant, constant_of
from normsurgery.folding import obstacles
from normsurgery.folding.sinks.parts import along, derived
from normsurgery.folding.table import Carried, Edit, Site, carrier
from normsurgery.payloads import Computed

if TYPE_CHECKING:
    from normsurgery.folding.obstacles import Obstacle


@carrier("Add")
def add(site: Site) -> Carried | Obstacle:
    """``y = x + c``: ``a·y + b = a·x + (a·c + b)``, so the constant takes all of the shift.

    c may have any shape that broadcasts against x without widening it; where it has size 1 along
    the channel axis, it is widened to C. Source: ONNX operator Add, versions 7 on.
    """
    node, scope = site.node, site.scope
    if scope.opset < 7:
        return obstacles.no_channel(node, "Add before opset 7 broadcasts by attribute")
    constants = [constant_of(scope, name, site.limits) for name in node.input]
    known = [i for i, c in enumerate(constants) if not isinstance(c, NotConstant)]
    if len(known) != 1:
        return obstacles.not_linear(node)
    slot = known[0]
    constant, other = constants[slot], node.input[1 - slot]
    assert not isinstance(constant, NotConstant)  # noqa: S101
    rank = shapes.rank(scope, other)
    if rank is None:
        return obstacles.unknown_rank(other)
    dims = shapes.dims(scope, other) or ()
    shape = (1,) * (rank - len(constant.shape)) + constant.shape
    widens = len(shape) > rank or any(
        c != 1 and axis != site.axis and x != c
        for axis, (c, x) in enumerate(zip(shape, dims, strict=False))
    )
    if widens or shape[site.axis] not in {1, site.affine.channels}:
        return obstacles.no_channel(
            node, f"its constant of shape {list(shape)} may widen the value"
        )
    if shape[site.axis] == 1 and dims[site.axis] != site.affine.channels:
        return obstacles.no_channel(node, f"the channels of `{other}` are unknown")
    value = along(site.affine.a, site.axis, rank) * constant.float64() + along(
        site.affine.b, site.axis, rank
    )
    tensor = Computed(np.asarray(value), (), constant.elem_type)
    edit = Edit(node, slot, tensor, derived(constant.name))
    if not site.affine.scales:
        return Carried((edit,), ())
    return Carried((edit,), ((other, site.affine.scale_only(), site.axis),))
