"""Scale and bias of the normalizations that compute their statistics from the data.

The node stays, with a scale of 1 and a bias of 0; its map goes on forwards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from normsurgery import dtypes, shapes
from normsurgery.affine import ChannelAffine
from normsurgery.constants import Constant, constant_of
from normsurgery.folding.sinks.parts import has_input
from normsurgery.folding.table import Edit, Source, source
from normsurgery.nodes import attribute, int_attribute
from normsurgery.payloads import Computed

if TYPE_CHECKING:
    from onnx import NodeProto

    from normsurgery.constants import Limits
    from normsurgery.graph import Scope


@source("LayerNormalization", "InstanceNormalization", "GroupNormalization", "RMSNormalization")
def normalization(scope: Scope, node: NodeProto, limits: Limits) -> Source | None:
    """``scale·x̂ + B`` of the normalized x̂ is a map per channel, on axis 1 or the last axis.

    InstanceNormalization, and GroupNormalization from opset 21 on: one scale a channel. Before,
    GroupNormalization has one a group, repeated here. LayerNormalization and RMSNormalization: if
    they normalize the last axis alone.
    Source: ONNX operators of these names.
    """
    scale = _vector(scope, node, 1, limits)
    B = _vector(scope, node, 2, limits) if has_input(node, 2) else None
    if scale is None or (has_input(node, 2) and B is None):
        return None
    a = scale.float64()
    b = np.zeros_like(a) if B is None else B.float64()
    if a.shape != b.shape:
        return None
    affine, axis = ChannelAffine(a, b), 1
    if not (affine.scales or affine.shifts):
        return None
    if node.op_type in {"LayerNormalization", "RMSNormalization"}:
        rank = shapes.rank(scope, node.input[0])
        first = attribute(node, "axis")
        if rank is None or (first is not None and first.i not in {-1, rank - 1}):
            return None
        axis = rank - 1
    if node.op_type == "GroupNormalization" and scope.opset < 21:
        dims = shapes.dims(scope, node.input[0])
        channels = None if dims is None else dims[1]
        groups = int_attribute(node, "num_groups", 0)
        if channels is None or a.size != groups or channels % groups:
            return None
        affine = affine.spread(np.repeat(np.arange(groups), channels // groups))
    reset = [_constant(node, 1, np.ones_like(a), scale)]
    if B is not None:
        reset.append(_constant(node, 2, np.zeros_like(b), B))
    return Source(node, 0, affine, axis, reset=tuple(reset))


def _vector(scope: Scope, node: NodeProto, slot: int, limits: Limits) -> Constant | None:
    if not has_input(node, slot):
        return None
    found = constant_of(scope, node.input[slot], limits)
    if not isinstance(found, Constant) or len(found.shape) != 1:
        return None
    return found if found.elem_type in dtypes.FLOATS else None


def _constant(node: NodeProto, slot: int, values: dtypes.Float64, old: Constant) -> Edit:
    return Edit(node, slot, Computed(values, (), old.elem_type), f"{old.name}_neutral")
