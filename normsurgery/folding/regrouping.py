"""Where a channel goes when the axes of a tensor are cut, merged and permuted.

Elements keep their row-major order in a Reshape, so where the products of the dimensions so far
are equal on both sides, both sides are at the same element: a cut. Between two cuts is a group of
axes that share their elements with a group on the other side.
"""

from __future__ import annotations

import itertools
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from normsurgery import shapes
from normsurgery.folding.table import Carried
from normsurgery.nodes import attribute
from normsurgery.shapes import Size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnx import NodeProto

    from normsurgery.folding.table import Site
    from normsurgery.graph import Scope

Sizes = tuple[Size, ...]
Group = tuple[int, tuple[int, ...]]  # first axis, sizes
Factor = tuple[Size, int]  # of an axis: its size, and which factor it is
MOST_STEPS = 64
LAYOUT = frozenset({"Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity"})


def reshaped_sizes(scope: Scope, node: NodeProto) -> tuple[Sizes, Sizes] | None:
    """Return the sizes before and after a node that only regroups axes; None for unknown ranks.

    What the operands of a Reshape tell of its output goes before what the model declares, since
    it may say that a dimension is one of the input.
    """
    before = shapes.sizes(scope, node.input[0])
    after = shapes.sizes(scope, node.output[0])
    told = shapes.target(scope, node) if node.op_type == "Reshape" else None
    if before is None or (after is None and told is None):
        return None
    if after is None or told is None or len(after) != len(told):
        if after is None:
            after = tuple(Size(1, (f"{node.output[0]}[{i}]",)) for i in range(len(told or ())))
        if told is None or len(told) != len(after):
            return before, after
    pairs = zip(after, told, strict=True)
    return before, tuple(a if t is None or a.fixed is not None else t for a, t in pairs)


def group_around(near: Sizes, far: Sizes, axis: int) -> tuple[Group, Group] | None:
    """Return the smallest groups of axes around ``axis`` of ``near``; None if they are not fixed.

    An empty tensor has no cuts to rely on, and gives None; so do groups of unlike numbers of
    elements, which no model that runs has.
    """
    cuts = sorted(_cuts(near, far))
    starts = [cut for cut in cuts if cut[0] <= axis]
    if not starts:
        return None
    i, j = starts[-1]
    end = next(((p, q) for p, q in cuts if p > axis and q > j), None)
    if end is None:
        return None
    near_sizes = [s.fixed for s in near[i : end[0]]]
    far_sizes = [s.fixed for s in far[j : end[1]]]
    found = tuple(tuple(n for n in x if n) for x in (near_sizes, far_sizes))  # none unknown, none 0
    if len(found[0]) < len(near_sizes) or len(found[1]) < len(far_sizes):
        return None
    return ((i, found[0]), (j, found[1])) if prod(found[0]) == prod(found[1]) else None


def _cuts(near: Sizes, far: Sizes) -> Iterator[tuple[int, int]]:
    """Yield (i, j) where the axes before i, or those from i on, hold as many elements as far's."""
    yield len(near), len(far)
    for forwards in (True, False):
        products = [_products(x if forwards else x[::-1]) for x in (near, far)]
        for (i, p), (j, q) in itertools.product(*(list(enumerate(x)) for x in products)):
            if p == q and p.number:
                yield (i, j) if forwards else (len(near) - i, len(far) - j)


def _products(sizes: Sizes) -> list[Size]:
    return list(itertools.accumulate(sizes, lambda p, s: Size.of((p, s)), initial=Size(1)))


def shuffle(site: Site, near: Sizes) -> Carried | None:
    """Follow channels that are cut into several axes until one axis holds all of them again.

    Axes are products of factors; a Reshape regroups the factors in their order, cutting one where
    it has to, and a Transpose permutes the axes. ``(N, g·c, H, W) → (N, g, c, H, W) → (N, c, g, H,
    W) → (N, c·g, H, W)`` leaves channel ``i·c + j`` at ``j·g + i``. None where another node comes
    first, or somebody else reads a value on the way.
    """
    axes = [[(size, i)] for i, size in enumerate(near)]
    walk = _Walk(site, axes)
    for _ in range(MOST_STEPS):
        value = walk.step()
        if value is None:
            return None
        at = walk.channel_axis()
        if at is not None:
            index = walk.index(at)
            return Carried((), ((value, site.affine.spread(index), at),))
    return None


class _Walk:
    """The factors of every axis of a value, followed from node to node.

    ``channels`` are the factors that the channels' axis was cut into, in order.
    """

    def __init__(self, site: Site, axes: list[list[Factor]]) -> None:
        self.scope, self.forwards = site.scope, site.forwards
        self.axes, self.channels = axes, list(axes[site.axis])
        self.node: NodeProto | None = site.node
        self.made = len(axes)

    def step(self) -> str | None:
        """Cross one node; return the value on the other side of it, or None."""
        node = self.node
        if node is None or node.op_type not in LAYOUT or not self.scope.is_onnx(node):
            return None
        if any(a.ref_attr_name for a in node.attribute):
            return None
        if node.op_type == "Transpose":
            if not self._transpose(node):
                return None
        elif node.op_type != "Identity" and not self._regroup(node):
            return None
        value = node.output[0] if self.forwards else node.input[0]
        self.node = self._next(value)
        return value

    def _next(self, value: str) -> NodeProto | None:
        """Return the one node behind ``value`` that may be crossed next."""
        if not self.scope.only_reader(value):
            return None
        if not self.forwards:
            return self.scope.producer.get(value)
        reader = self.scope.value_readers(value)[0]
        return reader if list(reader.input)[:1] == [value] else None

    def _transpose(self, node: NodeProto) -> bool:
        perm = attribute(node, "perm")
        order = list(perm.ints) if perm is not None else list(range(len(self.axes)))[::-1]
        if sorted(order) != list(range(len(self.axes))):
            return False
        if self.forwards:
            self.axes = [self.axes[i] for i in order]
        else:
            self.axes = [self.axes[order.index(i)] for i in range(len(order))]
        return True

    def _regroup(self, node: NodeProto) -> bool:
        both = reshaped_sizes(self.scope, node)
        if both is None:
            return False
        waiting = [f for axis in self.axes for f in axis if f[0] != Size(1)]
        axes: list[list[Factor]] = []
        for size in both[1] if self.forwards else both[0]:
            axis: list[Factor] = []
            left = size
            while left != Size(1):
                if not waiting:
                    return False
                first = waiting.pop(0)
                rest = left.over(first[0])
                if rest is None:
                    parts = self._cut(first, left)
                    if parts is None:
                        return False
                    first, rest = parts[0], Size(1)
                    waiting.insert(0, parts[1])
                axis.append(first)
                left = rest
            axes.append(axis)
        self.axes = axes
        return not waiting

    def _cut(self, factor: Factor, size: Size) -> tuple[Factor, Factor] | None:
        """Cut a factor in two, the first of them of ``size``."""
        rest = factor[0].over(size)
        if rest is None:
            return None
        parts = (size, self.made), (rest, self.made + 1)
        self.made += 2
        if factor in self.channels:
            at = self.channels.index(factor)
            self.channels[at : at + 1] = parts
        return parts

    def channel_axis(self) -> int | None:
        """Return the axis that holds all channels, with nothing else in it that is not fixed."""
        for i, axis in enumerate(self.axes):
            whole = all(c in axis or c[0] == Size(1) for c in self.channels)
            if whole and axis and all(size.fixed for size, _ in axis):
                return i
        return None

    def index(self, at: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """Return the channel at each position of axis ``at``."""
        sizes = [size.fixed or 1 for size, _ in self.axes[at]]
        positions = np.indices(sizes).reshape(len(sizes), -1)
        index = np.zeros(positions.shape[1], np.int64)
        for factor in self.channels:
            size = factor[0].fixed or 1
            index = index * size
            if factor in self.axes[at]:
                index = index + positions[self.axes[at].index(factor)]
        return index
