"""Norms that compute their statistics absorb a map into their scale and bias."""

from __future__ import annotations

import numpy as np

from normsurgery import dtypes, shapes
from normsurgery.constants import Constant
from normsurgery.folding import obstacles
from normsurgery.folding.obstacles import Obstacle
from normsurgery.folding.sinks.parts import (
    acts_on,
    affine_of,
    along,
    bias_name,
    derived,
    has_input,
    weight,
)
from normsurgery.folding.table import Edit, Site, sink
from normsurgery.nodes import attribute
from normsurgery.payloads import Computed


@sink("InstanceNormalization", "GroupNormalization", "LayerNormalization", "RMSNormalization")
def normalization(site: Site) -> tuple[Edit, ...] | Obstacle:
    """``a·(scale·x̂ + B) + b = (a·scale)·x̂ + (a·B + b)``, x̂ the standardised input.

    InstanceNormalization, and GroupNormalization from opset 21 on, have one scale a channel.
    Before, GroupNormalization has one a group, whose channels must then have the same map.
    LayerNormalization and RMSNormalization have one for each element of the axes that they
    normalize, of which the map's must be one; a missing B is made, but RMSNormalization has none.
    Source: ONNX operators of these names.
    """
    node = site.node
    if site.value != node.output[0]:  # mean and deviation, which have no scale
        return obstacles.not_linear(node)
    scale = weight(site, 1, "scale")
    B = weight(site, 2, "B") if has_input(node, 2) else None
    for found in (scale, B):
        if isinstance(found, Obstacle):
            return found
    assert isinstance(scale, Constant)  # noqa: S101
    if node.op_type in {"LayerNormalization", "RMSNormalization"}:
        vectors = _of_elements(site, scale)
    else:
        vectors = _of_channels(site, scale)
    if isinstance(vectors, Obstacle):
        return vectors
    a, b = vectors
    edits = [
        Edit(
            node,
            1,
            Computed(np.asarray(a * scale.float64()), (), scale.elem_type),
            derived(scale.name),
            product=True,
        )
    ]
    if isinstance(B, Constant):
        value = np.asarray(a * B.float64() + b)
        edits.append(Edit(node, 2, Computed(value, (), B.elem_type), derived(B.name)))
    elif site.affine.shifts:
        if node.op_type == "RMSNormalization":
            return obstacles.no_bias(node)
        value = np.array(np.broadcast_to(b, scale.shape))
        edits.append(Edit(node, 2, Computed(value, (), scale.elem_type), bias_name(scale.name)))
    return tuple(edits)


Vectors = tuple[dtypes.Float64, dtypes.Float64]


def _of_channels(site: Site, scale: Constant) -> Vectors | Obstacle:
    """Return a and b in the shape of a scale of one number a channel, or a group."""
    node = site.node
    if not acts_on(site, 1) or len(scale.shape) != 1:
        return obstacles.no_channel(node, f"the map acts on axis {site.axis}, not on channels")
    if node.op_type == "InstanceNormalization" or site.scope.opset >= 21 or site.affine.uniform:
        affine = affine_of(site, scale.shape[0])
        return affine if isinstance(affine, Obstacle) else (affine.a, affine.b)
    if site.affine.channels % scale.shape[0]:
        return obstacles.no_channel(node, f"it has {scale.shape[0]} groups")
    a, b = (v.reshape(scale.shape[0], -1) for v in (site.affine.a, site.affine.b))
    if np.any(a != a[:, :1]) or np.any(b != b[:, :1]):
        return obstacles.mixed_channels(node)
    return a[:, 0], b[:, 0]


def _of_elements(site: Site, scale: Constant) -> Vectors | Obstacle:
    """Return a and b aligned with a scale of one number for each normalized element."""
    node, rank = site.node, shapes.rank(site.scope, site.value)
    if rank is None:
        return obstacles.unknown_rank(site.value)
    first = attribute(node, "axis")
    start = (-1 if first is None else first.i) % rank
    own = 0 if site.affine.uniform else site.axis - start
    fits = own >= 0 and len(scale.shape) == rank - start  # broadcasting is not mended
    affine = site.affine.of(scale.shape[own]) if fits else None
    if affine is None:
        detail = f"its scale of shape {list(scale.shape)} does not lie along axis {site.axis}"
        return obstacles.no_channel(node, detail)
    return along(affine.a, own, len(scale.shape)), along(affine.b, own, len(scale.shape))
