"""Means and maxima over positions: pooling, and reductions over other axes than the channels'."""

from __future__ import annotations

import numpy as np

from normsurgery import shapes
from normsurgery.folding import obstacles
from normsurgery.folding.arguments import int_list
from normsurgery.folding.obstacles import Obstacle
from normsurgery.folding.sinks.conv import is_padded
from normsurgery.folding.table import Carried, Site, carrier
from normsurgery.nodes import attribute, int_attribute


@carrier("AveragePool", "GlobalAveragePool")
def average_pool(site: Site) -> Carried | Obstacle:
    """``mean(a·x + b) = a·mean(x) + b``: weights that sum to 1.

    They do not where padding is counted (``count_include_pad``): then only the scale passes.
    Source: ONNX operators AveragePool, GlobalAveragePool.
    """
    node = site.node
    if site.axis > 1 and not site.affine.uniform:
        return obstacles.mixed_channels(node)
    counted = int_attribute(node, "count_include_pad", 0)
    kernel = attribute(node, "kernel_shape")
    ceil = int_attribute(node, "ceil_mode", 0)
    padded = kernel is not None and (ceil or is_padded(node, tuple(kernel.ints)))
    if counted and padded and site.affine.shifts:
        return obstacles.shift_across(node)
    return site.through()


@carrier("MaxPool", "GlobalMaxPool")
def max_pool(site: Site) -> Carried | Obstacle:
    """``max(a·x + b) = a·max(x) + b`` for a ≥ 0; padding is never the maximum.

    The second output, the indices, must not be in use: for a = 0 it would change.
    Source: ONNX operators MaxPool, GlobalMaxPool.
    """
    if site.axis > 1 and not site.affine.uniform:
        return obstacles.mixed_channels(site.node)
    if any(site.scope.is_read(name) for name in site.node.output[1:]):
        return obstacles.extra_output(site.node)
    if np.any(site.affine.a < 0):
        return obstacles.negative_scale(site.node)
    return site.through()


@carrier("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin")
def reduction(site: Site) -> Carried | Obstacle:
    """A reduction over axes other than the channels' commutes with a map per channel.

    ReduceMean with any, ReduceMax and ReduceMin with one of a ≥ 0, ReduceSum with one without
    shift. With ``keepdims=0`` the channels' axis has another number on the other side.
    Source: ONNX operators ReduceMean, ReduceSum, ReduceMax, ReduceMin.
    """
    node = site.node
    axes = _axes(site)
    if isinstance(axes, Obstacle):
        return axes
    keep = int_attribute(node, "keepdims", 1)
    axis = _other_axis(site, axes) if not keep else site.axis
    before = axis if not site.forwards else site.axis
    if not site.affine.uniform and (before in axes or axis < 0):
        return obstacles.mixed_channels(node)
    if node.op_type in {"ReduceMax", "ReduceMin"} and np.any(site.affine.a < 0):
        return obstacles.negative_scale(node)
    if node.op_type == "ReduceSum" and site.affine.shifts:
        return obstacles.shift_across(node)
    return site.through(axis=max(axis, 0))


def _axes(site: Site) -> list[int] | Obstacle:
    """Return the reduced axes, none of them negative."""
    node = site.node
    rank = shapes.rank(site.scope, node.input[0])
    if rank is None:
        return obstacles.unknown_rank(node.input[0])
    axes = int_list(site, "axes", 1)
    if isinstance(axes, Obstacle):
        return axes
    if not axes:
        nothing = int_attribute(node, "noop_with_empty_axes", 0)
        return [] if nothing else list(range(rank))
    return [i % rank for i in axes]


def _other_axis(site: Site, axes: list[int]) -> int:
    """Return the number of the channels' axis on the other side of a reduction that drops axes."""
    if site.forwards:
        return site.axis - sum(i < site.axis for i in axes) if site.axis not in axes else -1
    kept = [i for i in range(site.axis + len(axes) + 1) if i not in axes]
    return kept[site.axis] if site.axis < len(kept) else -1
