"""Conv and ConvTranspose absorb a map on their output channels."""

from __future__ import annotations

import numpy as np

from normsurgery.errors import GraphError
from normsurgery.folding import obstacles
from normsurgery.folding.obstacles import Obstacle
from normsurgery.folding.sinks.parts import along, bias, check_channels, derived, weight
from normsurgery.folding.table import Edit, Site, sink
from normsurgery.nodes import int_attribute, label


@sink("Conv")
def conv(site: Site) -> tuple[Edit, ...] | Obstacle:
    """``a·(W ∗ x + B) + b = (a·W) ∗ x + (a·B + b)``, a along axis 0 of W (C_out, C_in/group, …).

    Any group, stride, dilation and padding: the map acts on the output. 1-D to n-D.
    Source: ONNX operator Conv, versions 1 on.
    """
    W = weight(site, 1, "weight")
    if isinstance(W, Obstacle):
        return W
    if site.axis != 1:
        return obstacles.no_channel(site.node, f"the map acts on axis {site.axis}, not on channels")
    if len(W.shape) < 3:
        raise GraphError(f"{label(site.node)}: weight `{W.name}` has shape {list(W.shape)}")
    check_channels(site, W.shape[0])
    B = bias(site, 2, W, W.shape[0])
    if isinstance(B, Obstacle):
        return B
    factor = along(site.affine.a, 0, len(W.shape))
    scaled = Edit(site.node, 1, W.tensor.scaled(factor), derived(W.name))
    return (scaled,) if B is None else (scaled, B)


@sink("ConvTranspose")
def conv_transpose(site: Site) -> tuple[Edit, ...] | Obstacle:
    """``a·(W ⊛ x + B) + b = (a·W) ⊛ x + (a·B + b)`` with W (C_in, C_out/group, …).

    Group g holds the input channels of block g of axis 0 and makes the output channels of block g:
    ``W'[i, j] = a[g(i)·C_out/group + j]·W[i, j]`` with ``g(i) = i // (C_in/group)``.
    Source: ONNX operator ConvTranspose, versions 1 on.
    """
    W = weight(site, 1, "weight")
    if isinstance(W, Obstacle):
        return W
    if site.axis != 1:
        return obstacles.no_channel(site.node, f"the map acts on axis {site.axis}, not on channels")
    group = int_attribute(site.node, "group", 1)
    if len(W.shape) < 3 or group < 1 or W.shape[0] % group:
        raise GraphError(
            f"{label(site.node)}: weight `{W.name}` of shape {list(W.shape)} has no {group} groups"
        )
    c_in, per_group = W.shape[:2]
    check_channels(site, per_group * group)
    B = bias(site, 2, W, per_group * group)
    if isinstance(B, Obstacle):
        return B
    blocks = site.affine.a.reshape(group, per_group)
    rows = blocks if group == 1 else np.repeat(blocks, c_in // group, axis=0)
    factor = rows.reshape(rows.shape + (1,) * (len(W.shape) - 2))
    scaled = Edit(site.node, 1, W.tensor.scaled(factor), derived(W.name))
    return (scaled,) if B is None else (scaled, B)
