"""Gemm and MatMul absorb a map on a column, row or batch axis that a constant operand holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from normsurgery import dtypes, shapes
from normsurgery.affine import ChannelAffine
from normsurgery.folding import obstacles, quantized
from normsurgery.folding.obstacles import Obstacle
from normsurgery.folding.sinks.parts import (
    acts_on,
    affine_of,
    along,
    bias_name,
    derived,
    has_input,
    slabs,
    weight,
)
from normsurgery.folding.table import Carried, Edit, Site, forward_sink, sink
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
        plain = float_attribute(node, "alpha", 1.0) == float_attribute(node, "beta", 1.0) == 1
        axis = 0 if int_attribute(node, "transB", 0) else 1
        return quantized.absorb(site, B, axis) if plain and acts_on(site, 1) else B
    if not acts_on(site, 1) or len(B.shape) != 2:
        return obstacles.no_channel(node, f"the map acts on axis {site.axis} of its output")
    axis = 0 if int_attribute(node, "transB", 0) else 1
    affine = affine_of(site, B.shape[axis])
    if isinstance(affine, Obstacle):
        return affine
    scaled = Edit(node, 1, B.tensor.scaled(along(affine.a, axis, 2)), derived(B.name))
    if not has_input(node, 2) and not affine.shifts:
        return (scaled,)
    new = _gemm_bias(site, B, affine)
    return new if isinstance(new, Obstacle) else (scaled, new)


@forward_sink("Gemm")
def gemm_of_affine(site: Site) -> tuple[Edit, ...] | Obstacle:
    """``alpha·(A·a + b)B' + beta·C = alpha·A(a·B') + (beta·C + alpha·b B')``.

    The map acts on the columns of A, which are the rows of B' (columns of B if ``transB``).
    Source: ONNX operator Gemm, versions 1 on.
    """
    node = site.node
    B = weight(site, 1, "weight")
    if isinstance(B, Obstacle):
        return B
    transposed = int_attribute(node, "transA", 0) and not site.affine.uniform
    if site.slot != 0 or not acts_on(site, 1) or len(B.shape) != 2 or transposed:
        return obstacles.no_channel(node, f"the map acts on axis {site.axis} of input {site.slot}")
    axis = 1 if int_attribute(node, "transB", 0) else 0
    affine = affine_of(site, B.shape[axis])
    if isinstance(affine, Obstacle):
        return affine
    scaled = Edit(node, 1, B.tensor.scaled(along(affine.a, axis, 2)), derived(B.name))
    if not affine.shifts:
        return (scaled,)
    shift = float_attribute(node, "alpha", 1.0) * _product(B.tensor, affine.b, axis)
    new = _gemm_bias(site, B, ChannelAffine(np.ones_like(shift), shift))
    return new if isinstance(new, Obstacle) else (scaled, new)


def _product(W: Computed, b: dtypes.Float64, axis: int) -> dtypes.Float64:
    """Return ``b W`` for axis 0, ``W b`` for axis 1, of a matrix read in slabs."""
    if axis == 1:
        return np.concatenate([rows @ b for _, rows in slabs(W)])
    total = np.zeros(W.base.shape[1])
    for first, rows in slabs(W):
        total += b[first : first + len(rows)] @ rows
    return total


def _gemm_bias(site: Site, B: Constant, affine: ChannelAffine) -> Edit | Obstacle:
    """Return the edit ``C' = a·beta·C + b``, in which ``beta`` goes."""
    node = site.node
    beta = float_attribute(node, "beta", 1.0)
    if not has_input(node, 2):
        name, value, elem_type = bias_name(B.name), affine.b, B.elem_type
    else:
        C = weight(site, 2, "bias")
        if isinstance(C, Obstacle):
            return C
        if len(C.shape) > 2 or (C.shape and C.shape[-1] not in {1, affine.channels}):
            return obstacles.no_channel(node, f"its bias has shape {list(C.shape)}")
        name, elem_type = derived(C.name), C.elem_type
        # beta = 0 means that C is not read: 0·inf must not become NaN
        old = C.float64() * beta if beta != 0 else np.zeros(())
        value = np.asarray(affine.a * old + affine.b)
    ints = {"broadcast": 1} if site.scope.opset < 7 else {}
    return Edit(node, 2, Computed(value, (), elem_type), name, ("beta",), ints)


@sink("MatMul")
def matmul(site: Site) -> tuple[Edit, ...] | Obstacle:
    """``a·(A B)`` is ``A (a·B)`` for columns, ``(a·A) B`` for rows, either for a batch axis.

    Counted from the end, the output's axes are columns (last axis of B), rows (second last of A),
    then batch axes (of whichever constant operand has the full size there). An operand of rank 1
    has one of these axes less, so only columns are counted next to one. MatMul has no bias: the
    shift stays outside. Source: ONNX operator MatMul, versions 1 on (numpy.matmul).
    """
    node = site.node
    if site.affine.shifts:
        return obstacles.no_bias(node)
    rank = shapes.rank(site.scope, site.value)
    if rank is None:
        return obstacles.unknown_rank(site.value)
    from_end = 1 if site.affine.uniform else rank - site.axis
    ranks = [shapes.rank(site.scope, name) for name in node.input]
    if from_end > 1 and (None in ranks or 1 in ranks):
        return obstacles.no_channel(node, f"its operands are of rank {ranks}")
    slots = {1: (1,), 2: (0,)}.get(from_end, (1, 0))
    slots = (1, 0) if site.affine.uniform else slots
    refused: list[Obstacle] = []
    for slot in slots:
        found = weight(site, slot, "operand")
        if isinstance(found, Obstacle):
            if slot == 1 and from_end == 1 and ranks[1] is not None and ranks[1] > 1:
                absorbed = quantized.absorb(site, found, ranks[1] - 1)
                if not isinstance(absorbed, Obstacle):
                    return absorbed
                found = absorbed
            refused.append(found)
            continue
        axis = len(found.shape) - from_end
        affine = site.affine.of(found.shape[axis]) if axis >= 0 else None
        if len(found.shape) < 2 or affine is None:
            reason = f"`{found.name}` of shape {list(found.shape)} does not hold the channels"
            refused.insert(0, obstacles.no_channel(node, reason))
            continue
        factor = along(affine.a, axis, len(found.shape))
        return (Edit(node, slot, found.tensor.scaled(factor), derived(found.name)),)
    return refused[0]


@forward_sink("MatMul")
def matmul_of_affine(site: Site) -> Carried | Obstacle:
    """``(A·a + b) W = A (a·W) + b W``: the shift goes on behind the MatMul, per column.

    The map acts on the axis that is summed over: the last one of the left operand or the second
    last of the right one, ``W (a·X + b) = (W·a) X + W b``. The shift needs a matrix W.
    Source: ONNX operator MatMul, versions 1 on (numpy.matmul).
    """
    node = site.node
    slot = site.slot
    W = weight(site, 1 - slot, "operand")
    if isinstance(W, Obstacle):
        return W
    rank = shapes.rank(site.scope, site.value)
    if rank is None:
        return obstacles.unknown_rank(site.value)
    summed = rank - 1 if slot == 0 else rank - 2
    if rank < 2 or not acts_on(site, summed) or len(W.shape) < 2:
        return obstacles.no_channel(node, f"it does not sum over axis {site.axis}")
    axis = len(W.shape) - (2 if slot == 0 else 1)
    affine = affine_of(site, W.shape[axis])
    if isinstance(affine, Obstacle):
        return affine
    factor = along(affine.a, axis, len(W.shape))
    scaled = Edit(node, 1 - slot, W.tensor.scaled(factor), derived(W.name))
    if not affine.shifts:
        return Carried((scaled,), ())
    if len(W.shape) != 2:
        return obstacles.no_bias(node)
    shift = _product(W.tensor, affine.b, axis)
    onward = ChannelAffine(np.ones_like(shift), shift)
    return Carried((scaled,), ((node.output[0], onward, summed),))
