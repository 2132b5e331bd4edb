"""A map at an operator of several values: shared among them, or passed on to the result."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from normsurgery import shapes
from normsurgery.affine import ChannelAffine
from normsurgery.constants import Constant, NotConstant
from normsurgery.folding import obstacles
from normsurgery.folding.obstacles import Obstacle
from normsurgery.folding.operands import changed
from normsurgery.folding.table import Carried, Edit, Site

if TYPE_CHECKING:
    from collections.abc import Iterator


def scale_of_product(site: Site) -> Carried | Obstacle:
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


def sum_of_both(site: Site, constants: list[Constant | NotConstant]) -> Carried | Obstacle:
    """Share a map among constants and branches of one Sum."""
    affine, names = site.affine, list(site.node.input)
    values = [n for n, c in zip(names, constants, strict=True) if not isinstance(c, Constant)]
    if site.forwards:
        if len(values) > 1:
            return shift_of_sum(site)
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


def sum_of_branches(site: Site) -> Carried | Obstacle:
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


def shift_of_sum(site: Site) -> Carried | Obstacle:
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
