"""Operators that hand their input on: Identity, Dropout at inference time, a Cast that is none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from normsurgery import shapes
from normsurgery.constants import Constant, constant_of
from normsurgery.folding import obstacles
from normsurgery.folding.table import Carried, Site, carrier
from normsurgery.nodes import int_attribute

if TYPE_CHECKING:
    from normsurgery.folding.obstacles import Obstacle


@carrier("Identity")
def identity(site: Site) -> Carried:
    """``y = x``: the map moves on as it is. Source: ONNX operator Identity."""
    return site.through()


@carrier("Dropout")
def dropout(site: Site) -> Carried | Obstacle:
    """At inference ``y = x``; the mask, if anybody reads it, is all true either way.

    Inference: no ``training_mode`` input or a false one (opset ≥ 12), any from 7 to 11,
    ``is_test`` set before. Source: ONNX operator Dropout, versions 1 to 13.
    """
    node, scope = site.node, site.scope
    if site.forwards and site.slot != 0:
        return obstacles.not_linear(node)
    if scope.opset >= 12 and len(node.input) > 2 and node.input[2]:
        training = constant_of(scope, node.input[2], site.limits)
        if not isinstance(training, Constant) or training.tensor.base.any():
            return obstacles.training_mode(node, "training_mode may be set")
    if scope.opset < 7 and not int_attribute(node, "is_test", 0):
        return obstacles.training_mode(node, "is_test=0")
    return site.through()


@carrier("Cast", "CastLike")
def cast(site: Site) -> Carried | Obstacle:
    """A cast between equal types is the identity; any other one rounds, or changes the range.

    Source: ONNX operators Cast, CastLike.
    """
    before = shapes.elem_type(site.scope, site.node.input[0])
    after = shapes.elem_type(site.scope, site.node.output[0])
    if site.node.op_type == "Cast":
        after = int_attribute(site.node, "to", 0)
    if before is None or before != after or (site.forwards and site.slot != 0):
        return obstacles.not_linear(site.node)
    return site.through()
