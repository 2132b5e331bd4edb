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
    """The value is read elsewhere too, so the linear layer cannot change for one reader alone.

    A value that nobody reads (0 readers) takes a map nowhere either.

    The trunk of a pre-activation ResNet could take one of the norms that read it into its layers,
    if all others took the inverse. It is not done: ResNetV2-50 would keep 13 norms in place of 17
    and run in 0.997 to 1.008 times the time, and where a few channels have a scale of a
    thousandth of their bias, the sums of the trunk lose so much that the error doubles.
    """
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
    """The operator's constant does not lie along the axis that the map acts on.

    It holds another axis, or may widen the value, or broadcasts by attribute (before opset 7); or
    the map acts on the operator's weight, where it would need the product with the other operand.
    """
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


def padded_shift(node: NodeProto) -> Obstacle:
    """The layer pads with zeros, after the map: a shift would reach the border differently.

    A map without shift would be absorbed. With one, the normalization stays whole: an Add of the
    shift in its place would be no cheaper.
    """
    return Obstacle("padded-shift", f"{label(node)} pads with zeros, so it cannot take a shift")


def negative_scale(node: NodeProto) -> Obstacle:
    """Only a map without a negative scale in any channel crosses a maximum or a rectifier."""
    return Obstacle("negative-scale", f"stopped at {label(node)}: a channel's scale is negative")


def shift_across(node: NodeProto) -> Obstacle:
    """The operator lets the scale of a map pass, not its shift."""
    return Obstacle("shift-across", f"stopped at {label(node)}: a shift cannot cross it")


def unknown_shape(node: NodeProto, name: str) -> Obstacle:
    """Where the channels go depends on dimensions that nothing tells before the model runs."""
    return Obstacle("unknown-shape", f"stopped at {label(node)}: `{name}` has no fixed shape")


def mixed_channels(node: NodeProto) -> Obstacle:
    """The operator mixes channels of different scale or shift, or cuts through one."""
    return Obstacle("mixed-channels", f"stopped at {label(node)}: it mixes channels")


def reached_twice(node: NodeProto) -> Obstacle:
    """Two parts of one map reach the same layer on different ways; it would absorb one of them."""
    return Obstacle("reached-twice", f"two parts of the map reach {label(node)}")


def read_in_body(node: NodeProto) -> Obstacle:
    """The value is read inside a body of If, Loop or Scan, where the map cannot follow it."""
    return Obstacle("read-in-body", f"stopped at {label(node)}: a body of it reads the value")


def extra_output(node: NodeProto) -> Obstacle:
    """A second output of the operator (a mask, indices) is in use and would change."""
    return Obstacle("extra-output", f"stopped at {label(node)}: its second output is in use")


def quantized(node: NodeProto, detail: str) -> Obstacle:
    """The operator works on integers, and the map does not fit their scales or their rounding."""
    return Obstacle("quantized", f"stopped at {label(node)}, which is quantized: {detail}")


def too_long(node: NodeProto) -> Obstacle:
    """The map would have to cross more nodes than the search allows."""
    return Obstacle("too-long", f"the way of {label(node)} is over 10,000 steps long")
