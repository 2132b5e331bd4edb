"""Operators that only move elements: Transpose, Reshape and its kin."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from normsurgery import shapes
from normsurgery.affine import ChannelAffine
from normsurgery.folding import obstacles
from normsurgery.folding.table import Carried, Site, carrier
from normsurgery.nodes import attribute

if TYPE_CHECKING:
    from normsurgery.folding.obstacles import Obstacle

Dims = tuple[int | None, ...]


@carrier("Transpose")
def transpose(site: Site) -> Carried | Obstacle:
    """Output axis i is input axis ``perm[i]``; the default reverses all axes."""
    perm = attribute(site.node, "perm")
    if perm is None:
        rank = shapes.rank(site.scope, site.value)
        if rank is None:
            return obstacles.unknown_rank(site.value)
        order = list(range(rank))[::-1]
    else:
        order = list(perm.ints)
    axis = order.index(site.axis) if site.forwards else order[site.axis]
    return site.through(axis=axis)


@carrier("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def reshape(site: Site) -> Carried | Obstacle:
    """Elements stay in row-major order, so a channel's axis is followed through equal products.

    Both shapes are cut into the smallest groups of axes with equal products. Within its group the
    map is written out per element, and then read back along the axis on the other side along
    which it varies: ``(N, C, H, W) → (N, C·H·W)`` repeats each channel H·W times, ``(N, C·H·W) →
    (N, C, H, W)`` needs blocks of H·W equal ones. Only the dimensions of that one group have to
    be fixed. Source: ONNX operators Reshape, Flatten, Squeeze, Unsqueeze.
    """
    node = site.node
    if site.forwards and site.slot != 0:
        return obstacles.not_linear(node)
    if site.affine.uniform:
        return site.through(axis=0)
    before, after = (shapes.dims(site.scope, n) for n in (node.input[0], node.output[0]))
    if before is None or after is None:
        return obstacles.unknown_rank(node.input[0] if before is None else node.output[0])
    near, far = (before, after) if site.forwards else (after, before)
    group = _group(near, far, site.axis)
    if group is None or near[site.axis] != site.affine.channels:
        return obstacles.unknown_shape(node, node.input[0])
    (near_at, near_sizes), (far_at, far_sizes) = group
    index = np.arange(site.affine.channels)
    shape = [1] * len(near_sizes)
    shape[site.axis - near_at] = -1
    written = np.broadcast_to(index.reshape(shape), near_sizes).reshape(far_sizes)
    for i in range(len(far_sizes)):
        lines = np.moveaxis(written, i, 0).reshape(far_sizes[i], -1)
        a, b = site.affine.a[lines], site.affine.b[lines]
        if np.all(a == a[:, :1]) and np.all(b == b[:, :1]):
            return site.through(ChannelAffine(a[:, 0], b[:, 0]), far_at + i)
    return obstacles.mixed_channels(node)


Group = tuple[int, tuple[int, ...]]  # first axis, sizes


def _group(near: Dims, far: Dims, axis: int) -> tuple[Group, Group] | None:
    """Return the smallest groups of axes of equal product around ``axis``; None if not fixed.

    Counted from the last axis and, where that meets an unknown dimension first, from axis 0 over
    dimensions that are the same number on both sides.
    """
    found = _from_the_end(near, far, axis)
    if found is not None:
        return found
    if 0 < axis < len(far) and near[:axis] == far[:axis] and near[axis] == far[axis]:
        unknown = sum(d is None for d in near[:axis])
        if unknown <= 1 and near[axis] is not None:
            return _single(axis, near[axis])
    return None


def _single(axis: int, size: int | None) -> tuple[Group, Group] | None:
    return None if size is None else ((axis, (size,)), (axis, (size,)))


def _from_the_end(near: Dims, far: Dims, axis: int) -> tuple[Group, Group] | None:
    i, j = len(near), len(far)
    while i > 0 and j > 0:
        end_i, end_j = i, j
        size_i, size_j = near[i - 1], far[j - 1]
        i, j = i - 1, j - 1
        while size_i is not None and size_j is not None and size_i != size_j:
            if size_i < size_j and i > 0:
                i -= 1
                more = near[i]
                size_i = None if more is None else size_i * more
            elif size_j < size_i and j > 0:
                j -= 1
                more = far[j]
                size_j = None if more is None else size_j * more
            else:
                return None
        # axes of size 1 next to the group belong to no channel: leave them to the next group
        if size_i is None or size_j is None:
            return None
        if i <= axis < end_i:
            sizes = [tuple(d for d in x if d is not None) for x in (near[i:end_i], far[j:end_j])]
            return (i, sizes[0]), (j, sizes[1])
    return None
