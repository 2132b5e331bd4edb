"""BatchNormalization in inference mode, every opset."""

from __future__ import annotations

from typing import TYPE_CHECKING

from normsurgery import dtypes
from normsurgery.affine import ChannelAffine
from normsurgery.constants import Limits, NotConstant, constant_of
from normsurgery.errors import GraphError
from normsurgery.folding import obstacles
from normsurgery.folding.obstacles import Obstacle
from normsurgery.folding.table import Source, source
from normsurgery.nodes import float_attribute, int_attribute, label

if TYPE_CHECKING:
    from onnx import NodeProto

    from normsurgery.graph import Scope

PARAMETERS = ("scale", "B", "mean", "var")


@source("BatchNormalization")
def batch_normalization(scope: Scope, node: NodeProto, limits: Limits) -> Source | Obstacle:
    """``y = scale·(x − mean)/√(var + epsilon) + B`` is ``a·x + b`` with
    ``a = scale/√(var + epsilon)`` and ``b = B − a·mean``.

    Only in inference mode: no ``training_mode`` (opset ≥ 14), ``is_test`` set (opset < 7), no
    output but the first in use (opset < 14 returns batch statistics there); and per channel:
    not ``spatial=0`` (opset < 9). Source: ONNX operator BatchNormalization, versions 1 to 15.
    """
    found = parameters(scope, node, limits)
    if isinstance(found, Obstacle):
        return found
    affine = ChannelAffine.of_batch_norm(*found, epsilon(node))
    bad = affine.bad_channel()
    return obstacles.not_finite(node, bad) if bad is not None else Source(node, 0, affine)


def parameters(
    scope: Scope, node: NodeProto, limits: Limits
) -> tuple[dtypes.Float64, dtypes.Float64, dtypes.Float64, dtypes.Float64] | Obstacle:
    """Return scale, B, mean and var of a node in inference mode, (C,) each.

    Raises ``GraphError`` where they are no vectors of one length.
    """
    refused = inference_mode(scope, node)
    if refused is not None:
        return refused
    values = []
    if len(node.input) != 5:
        raise GraphError(f"{label(node)} has {len(node.input)} inputs in place of 5")
    for slot, name in enumerate(PARAMETERS, start=1):
        constant = constant_of(scope, node.input[slot], limits)
        if isinstance(constant, NotConstant):
            return obstacles.not_constant(node, name, constant)
        if len(constant.shape) != 1 or constant.elem_type not in dtypes.FLOATS:
            raise GraphError(
                f"{label(node)}: {name} `{constant.name}` of shape {list(constant.shape)} and type "
                f"{dtypes.name_of(constant.elem_type)} is no vector of floats"
            )
        values.append(constant.float64())
    if len({v.size for v in values}) != 1:
        sizes = ", ".join(f"{n} {v.size}" for n, v in zip(PARAMETERS, values, strict=True))
        raise GraphError(f"{label(node)}: parameters of unequal length: {sizes}")
    scale, B, mean, var = values
    return scale, B, mean, var


def epsilon(node: NodeProto) -> float:
    """Return ``epsilon``: the float32 that the attribute is, exactly."""
    return float_attribute(node, "epsilon", 1e-5)


def inference_mode(scope: Scope, node: NodeProto) -> Obstacle | None:
    """Return what keeps the node from being a fixed map per channel, if anything does."""
    if scope.opset >= 14:
        if int_attribute(node, "training_mode", 0):
            return obstacles.training_mode(node, "training_mode=1")
    elif scope.opset < 7 and not int_attribute(node, "is_test", 0):
        return obstacles.training_mode(node, "is_test=0")
    if any(name for name in node.output[1:]):
        return obstacles.training_mode(node, f"it returns {len(node.output)} outputs")
    if scope.opset < 9 and not int_attribute(node, "spatial", 1):
        return obstacles.per_activation(node)
    return None
