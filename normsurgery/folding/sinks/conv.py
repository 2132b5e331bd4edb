"""Conv and ConvTranspose absorb a map on their output channels, or on their input channels."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from normsurgery.errors import GraphError
from normsurgery.folding import obstacles, quantized
from normsurgery.folding.obstacles import Obstacle
from normsurgery.folding.sinks.parts import (
    acts_on,
    affine_of,
    along,
    bias,
    bias_plus,
    derived,
    slabs,
    weight,
)
from normsurgery.folding.table import Edit, Site, forward_sink, sink
from normsurgery.nodes import attribute, int_attribute, label

if TYPE_CHECKING:
    from onnx import NodeProto

    from normsurgery.constants import Constant
    from normsurgery.dtypes import Float64


@sink("Conv")
def conv(site: Site) -> tuple[Edit, ...] | Obstacle:
    """``a·(W ∗ x + B) + b = (a·W) ∗ x + (a·B + b)``, a along axis 0 of W (C_out, C_in/group, …).

    Any group, stride, dilation and padding: the map acts on the output. 1-D to n-D.
    Source: ONNX operator Conv, versions 1 on.
    """
    W = _kernel(site)
    if isinstance(W, Obstacle):
        return quantized.absorb(site, W, 0) if acts_on(site, 1) else W
    affine = affine_of(site, W.shape[0])
    if isinstance(affine, Obstacle):
        return affine
    B = bias(site, 2, W, affine)
    if isinstance(B, Obstacle):
        return B
    factor = along(affine.a, 0, len(W.shape))
    beside = None if B is None else along(B.tensor.float64(), 0, len(W.shape))
    return _with_bias(site, W, factor, B, beside, math.prod(W.shape[1:]))


@forward_sink("Conv")
def conv_of_affine(site: Site) -> tuple[Edit, ...] | Obstacle:
    """``W ∗ (a·x + b) + B = (W·a) ∗ x + (B + Σ W·b)``, a and b along the input channels.

    The sum runs over input channels and kernel positions, which is the same at every output
    position only if nothing is padded: padding is 0 after the map. So with padding only a map
    without shift is absorbed. Source: ONNX operator Conv, versions 1 on.
    """
    W = _kernel(site)
    if isinstance(W, Obstacle):
        return W
    if site.slot != 0:
        return obstacles.no_channel(site.node, "the map acts on its weight")
    group = _groups(site.node, W, 0)
    affine = affine_of(site, W.shape[1] * group)
    if isinstance(affine, Obstacle):
        return affine
    if affine.shifts and is_padded(site.node, W.shape[2:]):
        return obstacles.padded_shift(site.node)
    factor = _per_group(affine.a, group, W.shape[0], len(W.shape))
    scaled = Edit(site.node, 1, W.tensor.scaled(factor), derived(W.name))
    if not affine.shifts:
        return (scaled,)
    shift = np.zeros(W.shape[0])
    b = np.repeat(affine.b.reshape(group, -1), W.shape[0] // group, axis=0)
    for first, rows in slabs(W.tensor):
        taps = rows.reshape(*rows.shape[:2], -1).sum(axis=2)
        shift[first : first + len(rows)] = (taps * b[first : first + len(rows)]).sum(axis=1)
    B = bias_plus(site, 2, W, shift)
    return B if isinstance(B, Obstacle) else (scaled, B)


@sink("ConvTranspose")
def conv_transpose(site: Site) -> tuple[Edit, ...] | Obstacle:
    """``a·(W ⊛ x + B) + b = (a·W) ⊛ x + (a·B + b)`` with W (C_in, C_out/group, …).

    Group g holds the input channels of block g of axis 0 and makes the output channels of block g:
    ``W'[i, j] = a[g(i)·C_out/group + j]·W[i, j]`` with ``g(i) = i // (C_in/group)``.
    Source: ONNX operator ConvTranspose, versions 1 on.
    """
    W = _kernel(site)
    if isinstance(W, Obstacle):
        one = acts_on(site, 1) and int_attribute(site.node, "group", 1) == 1
        return quantized.absorb(site, W, 1) if one else W
    group = _groups(site.node, W, 0)
    affine = affine_of(site, W.shape[1] * group)
    if isinstance(affine, Obstacle):
        return affine
    B = bias(site, 2, W, affine)
    if isinstance(B, Obstacle):
        return B
    rows, rank = W.shape[0], len(W.shape)
    factor = _per_group(affine.a, group, rows, rank)
    beside = None if B is None else _per_group(B.tensor.float64(), group, rows, rank)
    terms = rows // group * math.prod(W.shape[2:])
    return _with_bias(site, W, factor, B, beside, terms)


@forward_sink("ConvTranspose")
def conv_transpose_of_affine(site: Site) -> tuple[Edit, ...] | Obstacle:
    """``W ⊛ (a·x) + B = (a·W) ⊛ x + B``, a along axis 0 of W (C_in, C_out/group, …).

    A shift reaches inner and border positions through different numbers of kernel positions, so
    it is not absorbed. Source: ONNX operator ConvTranspose, versions 1 on.
    """
    W = _kernel(site)
    if isinstance(W, Obstacle):
        return W
    if site.slot != 0:
        return obstacles.no_channel(site.node, "the map acts on its weight")
    affine = affine_of(site, W.shape[0])
    if isinstance(affine, Obstacle):
        return affine
    if affine.shifts:
        return obstacles.padded_shift(site.node)
    factor = along(affine.a, 0, len(W.shape))
    return (Edit(site.node, 1, W.tensor.scaled(factor), derived(W.name)),)


def _with_bias(
    site: Site, W: Constant, factor: Float64, B: Edit | None, beside: Float64 | None, terms: int
) -> tuple[Edit, ...]:
    tensor = W.tensor.scaled(factor)
    scaled = Edit(site.node, 1, tensor, derived(W.name), beside=beside, terms=terms)
    return (scaled,) if B is None else (scaled, B)


def _kernel(site: Site) -> Constant | Obstacle:
    """Return the weight, if it is constant and the map acts on channels."""
    W = weight(site, 1, "weight")
    if isinstance(W, Obstacle):
        return W
    if not acts_on(site, 1):
        return obstacles.no_channel(site.node, f"the map acts on axis {site.axis}, not on channels")
    if len(W.shape) < 3:
        raise GraphError(f"{label(site.node)}: weight `{W.name}` has shape {list(W.shape)}")
    return W


def _groups(node: NodeProto, W: Constant, axis: int) -> int:
    group = int_attribute(node, "group", 1)
    if group < 1 or W.shape[axis] % group:
        raise GraphError(
            f"{label(node)}: weight `{W.name}` of shape {list(W.shape)} has no {group} groups"
        )
    return group


def _per_group(a: Float64, group: int, rows: int, rank: int) -> Float64:
    """Return the factor of a weight whose axis 0 is cut into groups, and axis 1 is within one."""
    blocks = a.reshape(group, -1)
    factor = blocks if group == 1 else np.repeat(blocks, rows // group, axis=0)
    return np.asarray(factor.reshape(factor.shape + (1,) * (rank - 2)))


def is_padded(node: NodeProto, kernel: tuple[int, ...]) -> bool:
    """Whether any output position may see padding."""
    auto_pad, pads = attribute(node, "auto_pad"), attribute(node, "pads")
    if auto_pad is not None and auto_pad.s not in {b"NOTSET", b"", b"VALID"}:
        return any(size != 1 for size in kernel)  # SAME pads by kernel size − 1 at most
    if auto_pad is not None and auto_pad.s == b"VALID":
        return False
    return pads is not None and any(pads.ints)
