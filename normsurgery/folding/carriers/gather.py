"""Gather: positions picked along one axis, whose place the axes of the indices take."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from normsurgery import shapes
from normsurgery.affine import ChannelAffine
from normsurgery.constants import Constant, constant_of
from normsurgery.folding import obstacles
from normsurgery.folding.table import Carried, Site, carrier
from normsurgery.nodes import int_attribute

if TYPE_CHECKING:
    from normsurgery.folding.obstacles import Obstacle


@carrier("Gather")
def gather(site: Site) -> Carried | Obstacle:
    """Picking along another axis, by any indices, changes nothing but the number of axes before.

    Indices of rank q put q axes in the place of one, so the channels' axis behind it moves by
    q − 1. Along the channels' axis, constant indices of rank 1 pick channels: forwards each
    position gets the map of its channel; backwards channels that are not picked keep the identity,
    and one picked twice is refused. One index alone leaves one channel, whose map then acts on
    every element alike. Source: ONNX operator Gather.
    """
    node = site.node
    if site.forwards and site.slot != 0:
        return obstacles.not_linear(node)
    if site.affine.uniform:
        return site.through(axis=0)
    dims, indices = (shapes.dims(site.scope, name) for name in node.input[:2])
    if dims is None or indices is None:
        return obstacles.unknown_rank(node.input[0] if dims is None else node.input[1])
    along, q = int_attribute(node, "axis", 0) % len(dims), len(indices)
    if site.axis < along:
        return site.through()
    if site.forwards and site.axis > along:
        return site.through(axis=site.axis + q - 1)
    if not site.forwards and site.axis >= along + q:
        return site.through(axis=site.axis - q + 1)
    size = dims[along]
    if size is None:
        return obstacles.unknown_shape(node, node.input[0])
    constant = constant_of(site.scope, node.input[1], site.limits)
    if not isinstance(constant, Constant):
        return obstacles.not_constant(node, "indices", constant)
    if q > 1:  # channels over several axes
        return obstacles.mixed_channels(node)
    index = constant.tensor.base.astype(np.int64) % size
    if site.forwards:
        return _picked(site, index, size)
    if site.affine.channels != index.size or len(set(index.tolist())) != index.size:
        return obstacles.mixed_channels(node)
    a, b = np.ones(size), np.zeros(size)
    a[index], b[index] = site.affine.a, site.affine.b
    return site.through(ChannelAffine(a, b), along)


def _picked(
    site: Site, index: np.ndarray[tuple[int, ...], np.dtype[np.int64]], size: int
) -> Carried | Obstacle:
    if site.affine.channels != size:
        return obstacles.unknown_shape(site.node, site.value)
    if index.ndim == 0:
        one = site.affine.spread(index.reshape(1))
        return site.through(ChannelAffine(one.a, one.b, uniform=True), 0)
    return site.through(site.affine.spread(index))
