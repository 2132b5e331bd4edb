"""Elementwise operators: with a constant, or of two branches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from normsurgery.affine import ChannelAffine
from normsurgery.constants import Constant, constant_of
from normsurgery.folding import obstacles
from normsurgery.folding.carriers.shared import (
    scale_of_product,
    shift_of_sum,
    sum_of_both,
    sum_of_branches,
)
from normsurgery.folding.elementwise import WithConstant, with_constant
from normsurgery.folding.obstacles import Obstacle
from normsurgery.folding.sinks.parts import along, derived
from normsurgery.folding.table import Carried, Edit, Site, carrier
from normsurgery.payloads import Computed

if TYPE_CHECKING:
    from normsurgery import dtypes


@carrier("Add", "Sub", "Sum")
def add(site: Site) -> Carried | Obstacle:
    """With a constant c, whatever its shape, the constant takes the shift and the scale goes on.

    Backwards ``a·(x + c) + b = a·x + (a·c + b)``; forwards
    ``(a·x + b) + c = a·(x + (b + c)/a)``, which needs a ≠ 0. ``x − c`` and ``c − x`` likewise.

    Of branches, backwards ``a·(x + y) + b = (a·x + b) + a·y``: the scale to all, the shift to one
    of them, whichever can take it. Forwards only a shift passes: ``(x + b) + y = (x + y) + b``.
    In a Sum of both kinds the first constant takes the shift.
    Source: ONNX operators Add, Sub (versions 7 on), Sum.
    """
    constants = [constant_of(site.scope, name, site.limits) for name in site.node.input]
    if not any(isinstance(c, Constant) for c in constants):
        return shift_of_sum(site) if site.forwards else sum_of_branches(site)
    if site.node.op_type == "Sum":
        return sum_of_both(site, constants)
    if site.scope.opset < 7:
        return obstacles.no_channel(site.node, "an Add before opset 7 broadcasts by attribute")
    found = with_constant(site.scope, site.node, site.limits)
    if isinstance(found, Obstacle):
        return found
    spread = _spread(site, found)
    if isinstance(spread, Obstacle):
        return spread
    a, b, c = *spread, found.values
    from_constant = site.node.op_type == "Sub" and found.slot == 0  # x − c
    sign = -1.0 if from_constant else 1.0
    if not site.forwards:
        value = a * c + sign * b
    else:
        if not np.all(site.affine.a):
            return obstacles.not_finite(site.node, int(np.argmin(np.abs(site.affine.a))))
        inner = -b if site.node.op_type == "Sub" else b
        value = (c + inner) / a
    return _absorbed(site, found, value, site.affine.scale_only(), site.affine.scales)


@carrier("Mul", "Div")
def mul(site: Site) -> Carried | Obstacle:
    """With a constant m, whatever its shape, the constant takes the scale.

    Backwards ``a·(x·m) = x·(a·m)``; there is no place for a shift. Forwards
    ``(a·x + b)·m = x·(a·m) + b·m``, with m per channel if there is a shift. Division by a
    constant likewise, with a ≠ 0. Of branches, a scale alone passes, ``(a·x)·y = a·(x·y)``, and
    backwards goes to either of them; through a division, to and from what is divided.
    Source: ONNX operators Mul, Div, versions 7 on.
    """
    node = site.node
    if site.scope.opset < 7:
        return obstacles.no_channel(node, "a Mul before opset 7 broadcasts by attribute")
    if not any(isinstance(constant_of(site.scope, n, site.limits), Constant) for n in node.input):
        return scale_of_product(site)
    found = with_constant(site.scope, node, site.limits)
    if isinstance(found, Obstacle):
        return found
    if node.op_type == "Div" and (found.slot == 1 or not np.all(site.affine.a)):
        return obstacles.not_linear(node)
    spread = _spread(site, found)
    if isinstance(spread, Obstacle):
        return spread
    a, _ = spread
    m = found.values
    value = m / a if node.op_type == "Div" else m * a
    if not site.affine.shifts:
        return _absorbed(site, found, value, site.affine, False)
    vector = found.along_one_axis()
    if not site.forwards:
        return obstacles.no_bias(node)
    if vector is None or not (vector[0] in {-1, site.axis} or site.affine.uniform):
        return obstacles.shift_across(node)
    with np.errstate(all="ignore"):
        shift = site.affine.b / vector[1] if node.op_type == "Div" else site.affine.b * vector[1]
    onward = ChannelAffine(np.ones_like(shift), shift, site.affine.uniform and vector[0] == -1)
    axis = site.axis if vector[0] == -1 else vector[0]
    return _absorbed(site, found, value, onward, True, axis)


def _spread(site: Site, found: WithConstant) -> tuple[dtypes.Float64, dtypes.Float64] | Obstacle:
    """Return a and b shaped to broadcast against the constant, along the site's axis."""
    affine = site.affine
    if affine.uniform:
        return affine.a.reshape((1,) * found.rank), affine.b.reshape((1,) * found.rank)
    if site.axis >= found.rank or found.shape[site.axis] not in {1, affine.channels}:
        return obstacles.no_channel(site.node, f"its constant has shape {list(found.shape)}")
    if found.shape[site.axis] == 1 and found.dims[site.axis] != affine.channels:
        return obstacles.unknown_shape(site.node, site.node.input[found.slot])
    return along(affine.a, site.axis, found.rank), along(affine.b, site.axis, found.rank)


def _absorbed(
    site: Site,
    found: WithConstant,
    value: dtypes.Float64,
    onward: ChannelAffine,
    more: bool,
    axis: int | None = None,
) -> Carried:
    tensor = Computed(np.asarray(value), (), found.constant.elem_type)
    product = site.node.op_type in {"Mul", "Div"}
    edit = Edit(site.node, 1 - found.slot, tensor, derived(found.constant.name), product=product)
    rest = site.through(onward, axis, found.slot).onward if more else ()
    return Carried((edit,), rest)
