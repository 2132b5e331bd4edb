"""Operators that only move elements: Transpose, Reshape and its kin."""

from __future__ import annotations

from math import prod

import numpy as np

from normsurgery import shapes
from normsurgery.affine import ChannelAffine
from normsurgery.constants import Constant, constant_of
from normsurgery.folding import obstacles
from normsurgery.folding.arguments import int_list
from normsurgery.folding.obstacles import Obstacle
from normsurgery.folding.table import Carried, Site, carrier
from normsurgery.nodes import attribute, int_attribute


@carrier("Transpose")
def transpose(site: Site) -> Carried | Obstacle:
    """Output axis i is input axis ``perm[i]``; the default reverses all axes.

    Source: ONNX operator Transpose.
    """
    if site.affine.uniform:
        return site.through(axis=0)
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


@carrier("Reshape", "Flatten")
def reshape(site: Site) -> Carried | Obstacle:
    """Elements stay in row-major order, so a channel's axis is followed through equal products.

    Both shapes are cut into the smallest groups of axes with equal products. Within its group the
    map is written out per element, and then read back along the axis on the other side along
    which it varies: ``(N, C, H, W) → (N, C·H·W)`` repeats each channel H·W times, ``(N, C·H·W) →
    (N, C, H, W)`` needs blocks of H·W equal ones. Only the dimensions of that one group have to
    be fixed, and those on one side of it known to be the same before and after.
    Source: ONNX operators Reshape, Flatten.
    """
    node = site.node
    if site.forwards and site.slot != 0:
        return obstacles.not_linear(node)
    if site.affine.uniform:
        return site.through(axis=0)
    before, after = (_dims(site, n) for n in (node.input[0], node.output[0]))
    if before is None or after is None:
        return obstacles.unknown_rank(node.input[0] if before is None else node.output[0])
    for i in _copied(site, min(len(before), len(after))):
        if before[i] is None or after[i] is None:
            before[i] = after[i] = f"the same dimension {i}"
    near, far = (before, after) if site.forwards else (after, before)
    group = _group(near, far, site.axis)
    empty = group is not None and 0 in group[0][1]
    if group is None or empty or near[site.axis] != site.affine.channels:
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


@carrier("Squeeze", "Unsqueeze")
def squeeze(site: Site) -> Carried | Obstacle:
    """Axes of size 1 go or come, which moves the number of the channels' axis.

    Channels that go altogether, a single one, are refused.
    Source: ONNX operators Squeeze, Unsqueeze (axes as an attribute, from opset 13 on an input).
    """
    node = site.node
    if site.affine.uniform:
        return site.through(axis=0)
    taken = node.op_type == "Squeeze"
    longer = node.input[0] if taken else node.output[0]
    dims = shapes.dims(site.scope, longer)
    if dims is None:
        return obstacles.unknown_rank(longer)
    axes = int_list(site, "axes", 1)
    if isinstance(axes, Obstacle):
        return axes
    if axes is None:
        if None in dims:
            return obstacles.unknown_shape(node, longer)
        axes = [i for i, d in enumerate(dims) if d == 1]
    ones = {i % len(dims) for i in axes}
    kept = [i for i in range(len(dims)) if i not in ones]
    if site.forwards != taken:  # from the shorter side to the longer one
        return site.through(axis=kept[site.axis])
    if site.axis in ones:
        return obstacles.mixed_channels(node)
    return site.through(axis=kept.index(site.axis))


Dims = list[int | str | None]  # a number, a name that stands for one and the same, or unknown
Group = tuple[int, tuple[int, ...]]  # first axis, sizes


def _dims(site: Site, name: str) -> Dims | None:
    """Return the dimensions of a value; by name those that are not fixed but have one."""
    dims = shapes.dims(site.scope, name)
    if dims is None:
        return None
    found = shapes.type_of(site.scope, name)
    named = [d.dim_param for d in found.tensor_type.shape.dim] if found is not None else []
    names = named if len(named) == len(dims) else [""] * len(dims)
    return [d if d is not None else n or None for d, n in zip(dims, names, strict=True)]


def _copied(site: Site, rank: int) -> list[int]:
    """Return the dimensions that a Reshape is told to copy, those written as 0."""
    if site.node.op_type != "Reshape" or int_attribute(site.node, "allowzero", 0):
        return []
    old = attribute(site.node, "shape")
    if old is not None:
        target = list(old.ints)
    else:
        constant = constant_of(site.scope, site.node.input[1], site.limits)
        if not isinstance(constant, Constant):
            return []
        target = [int(i) for i in constant.tensor.base.ravel()]
    return [i for i, size in enumerate(target[:rank]) if size == 0]


def _group(near: Dims, far: Dims, axis: int) -> tuple[Group, Group] | None:
    """Return the smallest groups of axes of equal product around ``axis``; None if not fixed.

    Counted from the last axis and, where that meets an unknown dimension first, from axis 0.
    """
    found = _counted(near[::-1], far[::-1], len(near) - 1 - axis)
    if found is None:
        return _counted(near, far, axis)
    (i, near_sizes), (j, far_sizes) = found
    return (
        (len(near) - i - len(near_sizes), near_sizes[::-1]),
        (len(far) - j - len(far_sizes), far_sizes[::-1]),
    )


def _counted(near: Dims, far: Dims, axis: int) -> tuple[Group, Group] | None:
    """Return the groups around ``axis`` counted from the first axis.

    A dimension that is not fixed is passed only if it is the same one on both sides.
    """
    i = j = 0
    while i < len(near) and j < len(far):
        if isinstance(near[i], str) and near[i] == far[j] and i != axis:
            i, j = i + 1, j + 1
            continue
        first_i, first_j = i, j
        near_sizes, far_sizes = [near[i]], [far[j]]
        i, j = i + 1, j + 1
        while True:
            sizes = [[d for d in x if isinstance(d, int)] for x in (near_sizes, far_sizes)]
            if len(sizes[0]) < len(near_sizes) or len(sizes[1]) < len(far_sizes):
                return None
            size_i, size_j = prod(sizes[0]), prod(sizes[1])
            if size_i < size_j and i < len(near):
                near_sizes.append(near[i])
                i += 1
            elif size_j < size_i and j < len(far):
                far_sizes.append(far[j])
                j += 1
            else:
                break
        if size_i != size_j:
            return None
        if first_i <= axis < i:
            return (first_i, tuple(sizes[0])), (first_j, tuple(sizes[1]))
    return None
