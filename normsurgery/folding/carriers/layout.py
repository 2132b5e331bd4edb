"""Operators that only move elements: Transpose, Reshape and its kin."""

from __future__ import annotations

import numpy as np

from normsurgery import shapes
from normsurgery.affine import ChannelAffine
from normsurgery.folding import obstacles
from normsurgery.folding.arguments import int_list
from normsurgery.folding.obstacles import Obstacle
from normsurgery.folding.regrouping import group_around, reshaped_sizes
from normsurgery.folding.shuffles import shuffle
from normsurgery.folding.table import Carried, Site, carrier
from normsurgery.nodes import attribute


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
    if site.axis >= len(order) or sorted(order) != list(range(len(order))):
        return obstacles.unknown_rank(site.value)
    axis = order.index(site.axis) if site.forwards else order[site.axis]
    return site.through(axis=axis)


@carrier("Reshape", "Flatten")
def reshape(site: Site) -> Carried | Obstacle:
    """Elements stay in row-major order, so a channel's axis is followed through equal products.

    Both shapes are cut into the smallest groups of axes with equal products. Within its group the
    map is written out per element, and then read back along the axis on the other side along
    which it varies: ``(N, C, H, W) → (N, C·H·W)`` repeats each channel H·W times, ``(N, C·H·W) →
    (N, C, H, W)`` needs blocks of H·W equal ones. Only the dimensions of that one group have to
    be fixed; the products before or behind it are compared by name, ``N``, ``4·N``, also where
    the shape is computed when the model runs. Where channels are cut into two axes they are
    followed over the Reshapes and Transposes next to it: a channel shuffle.
    Source: ONNX operators Reshape, Flatten.
    """
    node = site.node
    if site.forwards and site.slot != 0:
        return obstacles.not_linear(node)
    if site.affine.uniform:
        return site.through(axis=0)
    both = reshaped_sizes(site.scope, node)
    if both is None:
        told = shapes.rank(site.scope, node.input[0]) is not None
        return obstacles.unknown_rank(node.output[0] if told else node.input[0])
    near, far = both if site.forwards else both[::-1]
    if near[site.axis].fixed != site.affine.channels:
        return obstacles.unknown_shape(node, node.input[0])
    group = group_around(near, far, site.axis)
    if group is None:
        return shuffle(site, near) or obstacles.unknown_shape(node, node.input[0])
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
    return shuffle(site, near) or obstacles.mixed_channels(node)


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
