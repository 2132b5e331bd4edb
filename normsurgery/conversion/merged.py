"""BatchNormalization that an exporter merged into one Mul and one Add: its statistics are gone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from normsurgery.folding.elementwise import with_constant
from normsurgery.folding.obstacles import Obstacle
from normsurgery.folding.plan import refuse_foreign
from normsurgery.nodes import label

if TYPE_CHECKING:
    from onnx import NodeProto

    from normsurgery.constants import Limits
    from normsurgery.graph import Scope

NO_STATISTICS = "no-statistics"
# What hands a value on as it is, but for its layout.
_LAYOUT = frozenset({"Identity", "Cast", "Reshape", "Transpose", "Squeeze", "Unsqueeze"})
# What divides by a deviation, where it is no operator of its own: x/σ, or x·(1/σ).
_RECIPROCALS = frozenset({"Div", "Reciprocal", "Pow"})


def merged(scope: Scope, node: NodeProto, limits: Limits) -> Obstacle | None:
    """Return why a map ``y = a·x + b`` is no norm, if it looks like a merged one.

    That is: Mul or Div, then Add or Sub, which is ``node``, each by a constant per channel on axis
    1, of at least two channels, with no other reader between. ``a = scale/σ`` and ``b = B −
    a·mean`` do not tell mean and σ apart, from which a new norm would start. None for the scale and
    bias of a norm (behind it, or behind the Reshape or the division that is its end), and for a map
    of the model's input, which scales pixels.
    """
    if node.op_type not in {"Add", "Sub"} or not _per_channel(scope, node, limits):
        return None
    read = with_constant(scope, node, limits)
    if isinstance(read, Obstacle) or (node.op_type == "Sub" and read.slot == 1):
        return None
    between = node.input[read.slot]
    scaling = scope.producer.get(between)
    if scaling is None or scaling.op_type not in {"Mul", "Div"} or not scope.only_reader(between):
        return None
    if not _per_channel(scope, scaling, limits):
        return None
    scaled = with_constant(scope, scaling, limits)
    if isinstance(scaled, Obstacle) or (scaling.op_type == "Div" and scaled.slot == 1):
        return None
    if not _is_no_norms(scope, scaling.input[scaled.slot]):
        return None
    return Obstacle(
        NO_STATISTICS,
        f"no statistics: {label(scaling)} and {label(node)} do not tell mean and deviation apart; "
        "where `fold` can put them into a layer, `unfold --data` makes a norm behind it",
    )


def _per_channel(scope: Scope, node: NodeProto, limits: Limits) -> bool:
    """Whether a node's constant is a vector along axis 1, of two channels or more."""
    if not scope.is_onnx(node) or refuse_foreign(scope, node) is not None:
        return False
    found = with_constant(scope, node, limits)
    if isinstance(found, Obstacle):
        return False
    vector = found.along_one_axis()
    return vector is not None and vector[0] == 1


def _is_no_norms(scope: Scope, value: str) -> bool:
    """Whether ``value`` is made in the graph, and not by something that normalizes."""
    maker = scope.producer.get(value)
    while maker is not None and scope.is_onnx(maker) and maker.op_type in _LAYOUT:
        maker = scope.producer.get(maker.input[0])
    if maker is None or "Normalization" in maker.op_type or maker.op_type == "Div":
        return False
    makers = (scope.producer.get(name) for name in maker.input)
    divides = any(one is not None and one.op_type in _RECIPROCALS for one in makers)
    return not (maker.op_type == "Mul" and divides)
