"""Gemm and MatMul absorb a map on a column, row or batch axis that a constant operand holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from normsurgery import shapes
from normsurgery.folding import obstacles
from normsurgery.folding.obstacles import Obstacle
from normsurgery.folding.sinks.parts import (
    along,
    bias_name,
    check_channels,
    derived,
    has_input,
    weight,
)
from normsurgery.folding.table import Edit, Site, sink
from normsurgery.nodes import float_attribute, int_attribute
from normsurgery.payloads import Computed

if TYPE_CHECKING:
    from normsurgery.constants import Constant


@sink("Gemm")
def gemm(site: Site) -> tuple[Edit, ...] | Obstacle:
    """``a·(alpha·A'B' + beta·C) + b = alpha·A'(a·B') + (a·beta·C + b)``.

    The map acts on the columns (axis 1): a along axis 1 of B, along axis 0 if ``transB``. The
    new C has ``beta`` multiplied in, so ``beta`` goes (its default is 1), also where it was 0.
    C broadcasts to (M, N): missing, scalar, (1,), (N,), (1, N), (M, 1) or (M, N).
    Source: ONNX operator Gemm, versions 1 on (before 7, C broadcasts only if ``broadcast=1``).
    """
    node = site.node
    B = weight(site, 1, "weight")
    if isinstance(B, Obstacle):
        return B
    if site.axis != 1 or len(B.shape) != 2:
        return obstacles.no_channel(node, f"the map acts on axis {site.axis} of its output")
    axis = 0 if int_attribute(node, "transB", 0) else 1
    check_channels(site, B.shape[axis])
    scaled = Edit(node, 1, B.tensor.scaled(along(site.affine.a, axis, 2)), derived(B.name))
    beta = float_attribute(node, "beta", 1.0)
    if not has_input(node, 2):
        if not site.affine.shifts:
            return (scaled,)
        name, value, elem_type = bias_name(B.name), site.affine.b, B.elem_type
    else:
        C = weight(site, 2, "bias")
        if isinstance(C, Obstacle):
            return C
        name, elem_type = derived(C.name), C.elem_type
        # beta = 0 means that C is not read: 0·inf must not become NaN
        old = C.float64() * beta if beta != 0 else np.zeros(())
        value = np.asarray(site.affine.a * old + site.affine.b)
    ints = {"broadcast": 1} if site.scope.opset < 7 else {}
    bias = Edit(node, 2, Computed(value, (), elem_type), name, ("beta",), ints)
    return (scaled, bias)


@sink("MatMul")
def matmul(site: Site) -> tuple[Edit, ...] | Obstacle:
    """``a·(A B)`` is ``A (a·B)`` for columns, ``(a·A) B`` for rows, either for a batch axis.

    Counted from the end, the output's axes are columns (last axis of B), rows (second last of A),
    then batch axes (of whichever constant operand has the full size there). MatMul has no bias:
    the shift stays outside. Source: ONNX operator MatMul, versions 1 on (numpy.matmul).
    """
    node = site.node
    if site.affine.shifts:
        return obstacles.no_bias(node)
    rank = shapes.rank(site.scope, site.value)
    if rank is None:
        return obstacles.unknown_rank(site.value)
    from_end = rank - site.axis
    slots = {1: (1,), 2: (0,)}.get(from_end, (1, 0))
    found: Constant | Obstacle | None = None
    for slot in slots:
        found = weight(site, slot, "operand")
        if isinstance(found, Obstacle):
            continue
        axis = len(found.shape) - from_end
        if len(found.shape) < 2 or axis < 0 or found.shape[axis] != site.affine.channels:
            found = obstacles.no_channel(node, f"`{found.name}` has not the axis of the channels")
            continue
        factor = along(site.affine.a, axis, len(found.shape))
        return (Edit(node, slot, found.tensor.scaled(factor), derived(found.name)),)
    assert isinstance(found, Obstacle)  # noqa: S101
    return found
