"""What the sinks have in common: their constants, names and shapes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from normsurgery import dtypes
from normsurgery.constants import Constant, NotConstant, constant_of
from normsurgery.errors import GraphError
from normsurgery.folding import obstacles
from normsurgery.folding.obstacles import Obstacle
from normsurgery.folding.table import Edit, Site
from normsurgery.nodes import label
from normsurgery.payloads import Computed

if TYPE_CHECKING:
    from onnx import NodeProto


def weight(site: Site, slot: int, what: str, node: NodeProto | None = None) -> Constant | Obstacle:
    """Return the constant float tensor in input ``slot`` of the site's node, or the obstacle."""
    node = node or site.node
    constant = constant_of(site.scope, node.input[slot], site.limits)
    if isinstance(constant, NotConstant):
        return obstacles.not_constant(node, what, constant)
    if constant.elem_type not in dtypes.FLOATS:
        raise GraphError(
            f"{label(node)}: {what} `{constant.name}` is {dtypes.name_of(constant.elem_type)}"
        )
    return constant


def has_input(node: NodeProto, slot: int) -> bool:
    """Whether an optional input is there."""
    return len(node.input) > slot and bool(node.input[slot])


def check_channels(site: Site, channels: int) -> None:
    """Raise ``GraphError`` unless the map has as many channels as the layer makes."""
    if site.affine.channels != channels:
        raise GraphError(
            f"{label(site.source)} has {site.affine.channels} channels, its input from "
            f"{label(site.node)} has {channels}"
        )


def bias(site: Site, slot: int, owner: Constant, channels: int) -> Edit | Obstacle | None:
    """Return the edit ``B' = a·B + b`` of a bias of shape (C,) that may be missing.

    None where there is nothing to do: no bias, and no shift.
    """
    a, b = site.affine.a, site.affine.b
    if not has_input(site.node, slot):
        if not site.affine.shifts:
            return None
        return Edit(site.node, slot, Computed(b, (), owner.elem_type), bias_name(owner.name))
    old = weight(site, slot, "bias")
    if isinstance(old, Obstacle):
        return old
    if old.shape != (channels,):
        raise GraphError(
            f"{label(site.node)}: bias `{old.name}` has shape {list(old.shape)}, not [{channels}]"
        )
    value = a * old.float64() + b
    return Edit(site.node, slot, Computed(value, (), old.elem_type), derived(old.name))


def along(vector: dtypes.Float64, axis: int, rank: int) -> dtypes.Float64:
    """Return a (C,) vector shaped to broadcast along ``axis`` of a tensor of ``rank``."""
    return np.asarray(vector.reshape((1,) * axis + (-1,) + (1,) * (rank - axis - 1)))


def derived(name: str) -> str:
    """Return the name of a folded tensor: ``conv1.weight`` → ``conv1.weight_folded``."""
    return re.sub(r"_folded(_\d+)?$", "", name) + "_folded"


def bias_name(weight_name: str) -> str:
    """Return the name of a bias that the layer did not have."""
    stem = re.sub(r"_folded(_\d+)?$", "", weight_name)
    stem = stem[: -len("weight")] + "bias" if stem.endswith("weight") else stem + "_bias"
    return stem + "_folded"
