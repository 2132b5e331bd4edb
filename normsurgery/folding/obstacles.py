"""Why an affine map stays where it is: one function a reason, its docstring the explanation.

The name of the function is the slug that reports and scripts see; ``text`` names the node or
tensor. "Not reached" reasons say where the walk stopped; the others what was wrong there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from normsurgery import dtypes
from normsurgery.nodes import label

if TYPE_CHECKING:
    from onnx import NodeProto

    from normsurgery.constants import NotConstant


@dataclass(frozen=True)
class Obstacle:
    """reason: the slug of one of this module's functions; text: which node or tensor, and what."""

    reason: str
    text: str


def training_mode(node: NodeProto, detail: str) -> Obstacle:
    """The node computes its statistics from the batch, so it is no fixed affine map.

    Export the model in inference mode (``model.eval()``) to make it one.
    """
    return Obstacle("training-mode", f"{label(node)} runs in training mode ({detail})")


def per_activation(node: NodeProto) -> Obstacle:
    """``spatial=0`` (opset < 9): statistics per element, not per channel."""
    return Obstacle("per-activation", f"{label(node)} has spatial=0: statistics per element")


def not_constant(node: NodeProto, slot: str, why: NotConstant) -> Obstacle:
    """A parameter is not known before the model runs.

    It is an input, is computed from one, or is too large to compute ahead of time.
    """
    if why.kind == "overridable":
        return overridable(node, slot, why)
    return Obstacle("not-constant", f"{slot} `{why.name}` of {label(node)} is {why.detail}")


def overridable(node: NodeProto, slot: str, why: NotConstant) -> Obstacle:
    """From IR version 4 on, an initializer that is also a graph input is only a default value.

    A caller may pass another one at run time, and a folded weight would ignore it. Pass
    ``--freeze-inputs`` (``freeze_inputs=True``) if nobody does.
    """
    return Obstacle(
        "overridable",
        f"{slot} `{why.name}` of {label(node)} is a graph input: it may be overridden at run time "
        "(--freeze-inputs folds it)",
    )


def not_finite(node: NodeProto, channel: int) -> Obstacle:
    """The map itself has an infinite or undefined coefficient.

    Usually ``var + epsilon`` is 0 or negative. Folding would turn single bad values into bad
    channels, or the other way round.
    """
    return Obstacle(
        "not-finite", f"{label(node)} has a non-finite coefficient at channel {channel}"
    )


def not_linear(node: NodeProto) -> Obstacle:
    """The map meets an operator that no affine map can cross, such as Relu, on its way."""
    return Obstacle("not-linear", f"stopped at {label(node)}: not linear")


def graph_input(name: str) -> Obstacle:
    """The map reaches an input of the graph: nothing upstream can absorb it."""
    return Obstacle("graph-input", f"stopped at `{name}`: it comes from outside the graph")


def fan_out(name: str, readers: int) -> Obstacle:
    """The value is read elsewhere too, so the linear layer cannot change for one reader alone."""
    return Obstacle("fan-out", f"stopped at `{name}`: {readers} nodes read it")


def graph_output(name: str) -> Obstacle:
    """The value before the map is an output of the graph, so it has to stay as it is."""
    return Obstacle("graph-output", f"stopped at `{name}`: it is an output of the graph")


def custom_operator(node: NodeProto) -> Obstacle:
    """The value comes from a custom operator or a function, whose algebra is unknown."""
    return Obstacle("custom-operator", f"stopped at {label(node)} of domain {node.domain!r}")


def attribute_reference(node: NodeProto) -> Obstacle:
    """The node takes an attribute from the function around it, different at each call."""
    return Obstacle("attribute-reference", f"{label(node)} takes an attribute of its function")


def unknown_rank(name: str) -> Obstacle:
    """Where the channels of a value are depends on its rank, and nothing tells the rank."""
    return Obstacle("unknown-rank", f"the rank of `{name}` is unknown; add value_info")


def no_channel(node: NodeProto, detail: str) -> Obstacle:
    """The layer's constant operand does not hold the axis that the map acts on."""
    return Obstacle("no-channel", f"{label(node)}: {detail}")


def overflow(node: NodeProto, name: str, channel: int, elem_type: int) -> Obstacle:
    """A folded coefficient is too large for the tensor's type."""
    kind = dtypes.name_of(elem_type)
    return Obstacle(
        "overflow", f"`{name}` of {label(node)} overflows {kind} at channel {channel} when folded"
    )


def underflow(node: NodeProto, name: str, channel: int, elem_type: int) -> Obstacle:
    """A channel's largest folded coefficient is below the type's normal numbers.

    Its relative error would be unbounded.
    """
    kind = dtypes.name_of(elem_type)
    return Obstacle(
        "underflow", f"`{name}` of {label(node)} underflows {kind} at channel {channel} when folded"
    )


def weight_not_finite(node: NodeProto, name: str) -> Obstacle:
    """A stored coefficient is already infinite or NaN; folding could change what it reaches."""
    return Obstacle("weight-not-finite", f"`{name}` of {label(node)} has a non-finite value")


def no_bias(node: NodeProto) -> Obstacle:
    """The operator has no bias input, so that it can take the scale of a map, not its shift."""
    return Obstacle("no-bias", f"{label(node)} has no bias")
