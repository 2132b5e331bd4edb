"""Arguments that the ONNX spec moved from attributes to inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from normsurgery.constants import Constant, constant_of
from normsurgery.folding import obstacles
from normsurgery.folding.sinks.parts import has_input
from normsurgery.nodes import attribute

if TYPE_CHECKING:
    from normsurgery.folding.obstacles import Obstacle
    from normsurgery.folding.table import Site


def int_list(site: Site, name: str, slot: int) -> list[int] | Obstacle | None:
    """Return a list of integers that is an attribute in old opsets and an input in new ones.

    None if neither is there; an obstacle for an input that is not constant.
    """
    old = attribute(site.node, name)
    if old is not None:
        return list(old.ints)
    if not has_input(site.node, slot):
        return None
    constant = constant_of(site.scope, site.node.input[slot], site.limits)
    if not isinstance(constant, Constant):
        return obstacles.not_constant(site.node, name, constant)
    return [int(i) for i in constant.tensor.base.ravel()]
