"""Where a channel goes when the axes of a tensor are cut and merged.

Elements keep their row-major order in a Reshape, so where the products of the dimensions so far
are equal on both sides, both sides are at the same element: a cut. Between two cuts is a group of
axes that share their elements with a group on the other side.
"""

from __future__ import annotations

import itertools
from math import prod
from typing import TYPE_CHECKING

from normsurgery import shapes
from normsurgery.shapes import Size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnx import NodeProto

    from normsurgery.graph import Scope

Sizes = tuple[Size, ...]
Group = tuple[int, tuple[int, ...]]  # first axis, sizes


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
