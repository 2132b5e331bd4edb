"""Elementwise operators: with a constant, or of two branches."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from normsurgery import dtypes, shapes
from normsurgery.affine import ChannelAffine
from normsurgery.constants import Constant, NotConstant, constant_of
from normsurgery.folding import obstacles
from normsurgery.folding.elementwise import WithConstant, with_constant
from normsurgery.folding.obstacles import Obstacle
from normsurgery.folding.operands import changed
from normsurgery.folding.sinks.parts import along, derived
from normsurgery.folding.table import Carried, Edit, Site, carrier
from normsurgery.payloads import Computed

if TYPE_CHECKING:
    from collections.abc import Iterator


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
        return _shift_of_sum(site) if site.forwards else _branches(site)
    if site.node.op_type == "Sum":
        return _sum(site, constants)
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
        return _scale_of_product(site)
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


def _scale_of_product(site: Site) -> Carried | Obstacle:
    """Let a scale pass through a product of two branches, or to one of them."""
    node, operands = site.node, list(site.node.input)
    if site.affine.shifts or len(set(operands)) != 2:
        return obstacles.not_linear(node)
    if node.op_type == "Div":
        operands = operands[:1]
    if site.forwards:
        return (
            _to_result(site, site.affine) if site.value in operands else obstacles.not_linear(node)
        )
    ways = [
        Carried((), ((name, site.affine, site.axis),))
        for name in operands
        if site.affine.uniform or _holds_channels(site, name)
    ]
    if not ways:
        return obstacles.unknown_shape(node, operands[0])
    return replace(ways[0], instead=tuple(ways[1:]))


def _holds_channels(site: Site, name: str) -> bool:
    """Whether an operand has the rank of the result, and the channels on their axis."""
    dims, rank = shapes.dims(site.scope, name), shapes.rank(site.scope, site.value)
    return dims is not None and len(dims) == rank and dims[site.axis] == site.affine.channels


def _sum(site: Site, constants: list[Constant | NotConstant]) -> Carried | Obstacle:
    """Share a map among constants and branches of one Sum."""
    affine, names = site.affine, list(site.node.input)
    values = [n for n, c in zip(names, constants, strict=True) if not isinstance(c, Constant)]
    if site.forwards:
        if len(values) > 1:
            return _shift_of_sum(site)
        if not np.all(affine.a):
            return obstacles.not_finite(site.node, int(np.argmin(np.abs(affine.a))))
        inverse = ChannelAffine(1 / affine.a, affine.b / affine.a, affine.uniform)
    for name in values:
        if not affine.uniform and not site.forwards and not _holds_channels(site, name):
            return obstacles.unknown_shape(site.node, name)
    taker = affine if not site.forwards else inverse
    edits: list[Edit] = []
    for slot, constant in enumerate(constants):
        if isinstance(constant, Constant):
            edit = changed(site, slot, constant, taker if not edits else taker.scale_only())
            if isinstance(edit, Obstacle):
                return edit
            edits.append(edit)
    scale = affine.scale_only()
    if site.forwards:
        onward = site.through(scale).onward if scale.scales else ()
    else:
        onward = tuple((name, scale, site.axis) for name in values) if scale.scales else ()
    return Carried(tuple(edits), onward)


def _branches(site: Site) -> Carried | Obstacle:
    """Give the scale to every branch and the shift to one of them."""
    operands = list(site.node.input)
    rank = shapes.rank(site.scope, site.value)
    for name in operands:
        if site.affine.uniform:  # it passes whatever a branch broadcasts
            continue
        dims = shapes.dims(site.scope, name)
        if dims is None or rank is None:
            return obstacles.unknown_rank(name)
        if len(dims) != rank or dims[site.axis] != site.affine.channels:
            return obstacles.unknown_shape(site.node, name)
    ways = list(_ways(site, operands))
    return Carried((), ways[0], tuple(Carried((), way) for way in ways[1:]))


def _ways(site: Site, operands: list[str]) -> Iterator[tuple[tuple[str, ChannelAffine, int], ...]]:
    affine = site.affine
    for taker in range(len(operands) if affine.shifts else 1):
        way = []
        for i, name in enumerate(operands):
            one = affine if i == taker else affine.scale_only()
            if site.node.op_type == "Sub" and i == 1:
                one = ChannelAffine(one.a, -one.b, one.uniform)
            way.append((name, one, site.axis))
        yield tuple(way)


def _shift_of_sum(site: Site) -> Carried | Obstacle:
    """Let a pure shift pass to the sum."""
    if site.affine.scales:
        return obstacles.not_linear(site.node)
    negative = site.node.op_type == "Sub" and site.slot == 1
    shift = ChannelAffine(site.affine.a, -site.affine.b, site.affine.uniform)
    return _to_result(site, shift if negative else site.affine)


def _to_result(site: Site, affine: ChannelAffine) -> Carried | Obstacle:
    """Return the map on the result of two branches, whose channels are those of the value."""
    if affine.uniform:
        return site.through(affine, axis=0)
    ranks = [shapes.rank(site.scope, name) for name in (site.value, site.node.output[0])]
    if None in ranks or ranks[0] != ranks[1]:
        return obstacles.unknown_rank(site.node.output[0])
    dims = shapes.dims(site.scope, site.node.output[0]) or ()
    own = shapes.dims(site.scope, site.value) or ()
    if own[site.axis] is None or own[site.axis] != dims[site.axis]:
        return obstacles.unknown_shape(site.node, site.value)
    return site.through(affine)
