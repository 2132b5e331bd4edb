"""Operators that repeat what is there: Expand, Tile."""

from __future__ import annotations

import numpy as np

from normsurgery import shapes
from normsurgery.affine import ChannelAffine
from normsurgery.folding import obstacles
from normsurgery.folding.arguments import int_list
from normsurgery.folding.obstacles import Obstacle
from normsurgery.folding.table import Carried, Site, carrier


@carrier("Expand")
def expand(site: Site) -> Carried | Obstacle:
    """Axes of size 1 are repeated, and new ones put in front: the channels' axis moves with them.

    A single channel that is repeated becomes many with the same map; backwards these must all have
    the same one. Source: ONNX operator Expand (numpy broadcasting).
    """
    node = site.node
    if site.forwards and site.slot != 0:
        return obstacles.not_linear(node)
    if site.affine.uniform:
        return site.through(axis=0)
    before, after = (shapes.dims(site.scope, n) for n in (node.input[0], node.output[0]))
    if before is None or after is None:
        return obstacles.unknown_rank(node.input[0] if before is None else node.output[0])
    new = len(after) - len(before)
    inner = site.axis if site.forwards else site.axis - new
    if inner < 0:
        return _one_for_all(site)
    size, channels, repeated = before[inner], site.affine.channels, after[inner + new]
    if size is None:
        return obstacles.unknown_shape(node, node.input[0])
    if size == channels and (size > 1 or repeated == 1):
        return site.through(axis=inner + new if site.forwards else inner)
    return _one_for_all(site) if size == 1 else obstacles.unknown_shape(node, node.input[0])


def _one_for_all(site: Site) -> Carried | Obstacle:
    """Return the map on the other side of channels that are repetitions of one."""
    a, b = site.affine.a, site.affine.b
    if a.size == 0 or np.any(a != a[0]) or np.any(b != b[0]):
        return obstacles.mixed_channels(site.node)
    return site.through(ChannelAffine(a[:1], b[:1], uniform=True), 0)


@carrier("Tile")
def tile(site: Site) -> Carried | Obstacle:
    """Channels repeated r times are ``0 … C−1, 0 … C−1, …``, and so is their map.

    Backwards all repetitions must have the same map. Along other axes nothing changes.
    Source: ONNX operator Tile, versions 6 on.
    """
    node = site.node
    if site.scope.opset < 6 or (site.forwards and site.slot != 0):
        return obstacles.not_linear(node)
    if site.affine.uniform:
        return site.through(axis=0)
    repeats = int_list(site, "repeats", 1)
    if isinstance(repeats, Obstacle):
        return repeats
    if repeats is None or site.axis >= len(repeats):
        return obstacles.unknown_rank(site.value)
    times = repeats[site.axis]
    if times == 1:
        return site.through()
    dims = shapes.dims(site.scope, node.input[0])
    size, channels = None if dims is None else dims[site.axis], site.affine.channels
    if size is None or times < 1 or channels != size * (1 if site.forwards else times):
        return obstacles.unknown_shape(node, node.input[0])
    if site.forwards:
        return site.through(site.affine.spread(np.tile(np.arange(size), times)))
    a, b = (v.reshape(times, size) for v in (site.affine.a, site.affine.b))
    if np.any(a != a[0]) or np.any(b != b[0]):
        return obstacles.mixed_channels(node)
    return site.through(ChannelAffine(a[0], b[0]))
