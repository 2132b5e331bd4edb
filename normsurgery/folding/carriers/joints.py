"""Operators that put tensors together or take them apart: Concat, Split, Slice."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from normsurgery import shapes
from normsurgery.affine import ChannelAffine
from normsurgery.constants import Constant, constant_of
from normsurgery.folding import obstacles
from normsurgery.folding.arguments import int_list
from normsurgery.folding.obstacles import Obstacle
from normsurgery.folding.operands import changed
from normsurgery.folding.table import Carried, Edit, Site, carrier
from normsurgery.nodes import int_attribute


@carrier("Concat")
def concat(site: Site) -> Carried | Obstacle:
    """Backwards each input gets its range of the channels, or the whole map if another axis joins.

    A constant c among them becomes ``a·c + b``. Forwards the map becomes one over all channels
    that leaves those of the other inputs alone; where another axis joins, all others must be
    constants, which become ``(c − b)/a``, with a ≠ 0. Source: ONNX operator Concat.
    """
    node, affine = site.node, site.affine
    rank = shapes.rank(site.scope, site.value)
    if rank is None:
        return obstacles.unknown_rank(site.value)
    axis = int_attribute(node, "axis", 1) % rank
    if not site.forwards and (axis != site.axis or affine.uniform):
        return _to_parts(site, [affine] * len(node.input))
    if axis != site.axis and not affine.uniform:
        return _beside_constants(site)
    ranges = _ranges(site, axis, list(node.input))
    if isinstance(ranges, Obstacle):
        return ranges
    if not site.forwards:
        if ranges[-1][1] != affine.channels:
            return obstacles.unknown_shape(node, site.value)
        return _to_parts(site, [affine.cut(*r) for r in ranges])
    first, last = ranges[site.slot]
    own = affine.of(last - first)
    if own is None:
        return obstacles.unknown_shape(node, site.value)
    return site.through(own.placed(first, ranges[-1][1]), axis)


def _to_parts(site: Site, parts: list[ChannelAffine]) -> Carried | Obstacle:
    """Give each input of a Concat its map: constants at once."""
    edits: list[Edit] = []
    onward = []
    for slot, (name, affine) in enumerate(zip(site.node.input, parts, strict=True)):
        constant = constant_of(site.scope, name, site.limits)
        if not isinstance(constant, Constant):
            onward.append((name, affine, site.axis))
            continue
        edit = changed(site, slot, constant, affine, alone=True)
        if isinstance(edit, Obstacle):
            return edit
        edits.append(edit)
    return Carried(tuple(edits), tuple(onward))


def _beside_constants(site: Site) -> Carried | Obstacle:
    """Take a map out of one input, where the others are constants that can make up for it."""
    if not np.all(site.affine.a):
        return obstacles.mixed_channels(site.node)
    inverse = ChannelAffine(1 / site.affine.a, -site.affine.b / site.affine.a)
    edits: list[Edit] = []
    for slot, name in enumerate(site.node.input):
        if slot == site.slot:
            continue
        constant = constant_of(site.scope, name, site.limits)
        if not isinstance(constant, Constant):
            return obstacles.mixed_channels(site.node)
        edit = changed(site, slot, constant, inverse, alone=True)
        if isinstance(edit, Obstacle):
            return edit
        edits.append(edit)
    return replace(site.through(), edits=tuple(edits))


@carrier("Split")
def split(site: Site) -> Carried | Obstacle:
    """Forwards each output gets its range of the channels, or the whole map on another axis.

    Backwards the map becomes one over all channels that leaves those of the other outputs alone.
    Source: ONNX operator Split.
    """
    node, affine = site.node, site.affine
    rank = shapes.rank(site.scope, node.input[0])
    if rank is None:
        return obstacles.unknown_rank(node.input[0])
    axis = int_attribute(node, "axis", 0) % rank
    used = [name for name in node.output if site.scope.is_read(name)]
    if site.forwards and (axis != site.axis or affine.uniform):
        return Carried((), tuple((name, affine, site.axis) for name in used))
    if axis != site.axis and not affine.uniform:
        return obstacles.mixed_channels(node)
    ranges = _ranges(site, axis, list(node.output))
    if isinstance(ranges, Obstacle):
        return ranges
    if site.forwards:
        named = [(o, r) for o, r in zip(node.output, ranges, strict=True) if o in used]
        return Carried((), tuple((name, affine.cut(*r), axis) for name, r in named))
    first, last = ranges[list(node.output).index(site.value)]
    own = affine.of(last - first)
    if own is None:
        return obstacles.unknown_shape(node, site.value)
    return site.through(own.placed(first, ranges[-1][1]), axis)


def _ranges(site: Site, axis: int, names: list[str]) -> list[tuple[int, int]] | Obstacle:
    """Return the range of channels of each part of a joint."""
    ranges, first = [], 0
    for name in names:
        dims = shapes.dims(site.scope, name)
        size = None if dims is None else dims[axis]
        if size is None:
            return obstacles.unknown_shape(site.node, name)
        ranges.append((first, first + size))
        first += size
    return ranges


@carrier("Slice")
def pick(site: Site) -> Carried | Obstacle:
    """Picking positions along another axis changes nothing; along the channels' it picks those.

    Backwards, channels that are not picked keep the identity.
    Source: ONNX operator Slice (starts, ends, axes, steps).
    """
    if site.forwards and site.slot != 0:
        return obstacles.not_linear(site.node)
    if site.affine.uniform:
        return site.through(axis=0)
    picked = _sliced(site)
    if isinstance(picked, Obstacle):
        return picked
    if picked is None:
        return site.through()
    index, size = picked
    if site.forwards:
        if site.affine.channels != size:
            return obstacles.unknown_shape(site.node, site.value)
        return site.through(site.affine.spread(index))
    if site.affine.channels != index.size:
        return obstacles.mixed_channels(site.node)
    a, b = np.ones(size), np.zeros(size)
    a[index], b[index] = site.affine.a, site.affine.b
    return site.through(ChannelAffine(a, b))


def _sliced(site: Site) -> tuple[np.ndarray[tuple[int], np.dtype[np.int64]], int] | Obstacle | None:
    """Return the channels that a Slice keeps, and of how many; None if it keeps all."""
    dims = shapes.dims(site.scope, site.node.input[0])
    if dims is None:
        return obstacles.unknown_rank(site.node.input[0])
    found = [
        int_list(site, n, i) for i, n in enumerate(("starts", "ends", "axes", "steps"), start=1)
    ]
    axes = found[2]
    if isinstance(axes, list) and site.axis not in [i % len(dims) for i in axes]:
        return None  # whatever starts and ends are
    refused = next((f for f in found if isinstance(f, Obstacle)), None)
    if refused is not None:
        return refused
    starts, ends, axes, steps = (f if isinstance(f, list) else None for f in found)
    if starts is None or ends is None:
        return obstacles.not_linear(site.node)
    where = [i % len(dims) for i in (axes or range(len(starts)))]
    if site.axis not in where:
        return None
    at, size = where.index(site.axis), dims[site.axis]
    if size is None:
        return obstacles.unknown_shape(site.node, site.node.input[0])
    step = steps[at] if steps else 1
    # ends below −size, going down, mean "the first one too", which Python writes as None
    end = None if step < 0 and ends[at] < -size else ends[at]
    return np.arange(size)[starts[at] : end : step], size
