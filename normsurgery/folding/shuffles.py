"""Channels that are cut into several axes, permuted and merged: where each of them ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from normsurgery.folding.regrouping import Sizes, reshaped_sizes
from normsurgery.folding.table import Carried
from normsurgery.nodes import attribute
from normsurgery.shapes import Size

if TYPE_CHECKING:
    from onnx import NodeProto

    from normsurgery.folding.table import Site

Factor = tuple[Size, int]  # of an axis: its size, and which factor it is
MOST_STEPS = 64
LAYOUT = frozenset({"Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity"})


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
