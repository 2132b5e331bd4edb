"""What the sinks have in common: their constants, names and shapes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from normsurgery import dtypes
from normsurgery.affine import ChannelAffine
from normsurgery.constants import Constant, NotConstant, constant_of
from normsurgery.errors import GraphError
from normsurgery.folding import obstacles
from normsurgery.folding.obstacles import Obstacle
from normsurgery.folding.table import Edit, Site
from normsurgery.nodes import label
from normsurgery.payloads import BLOCK, Computed

if TYPE_CHECKING:
    from collections.abc import Iterator

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


def acts_on(site: Site, axis: int) -> bool:
    """Whether the map acts on ``axis``; a uniform one acts on any."""
    return site.affine.uniform or site.axis == axis


def has_input(node: NodeProto, slot: int) -> bool:
    """Whether an optional input is there."""
    return len(node.input) > slot and bool(node.input[slot])


def affine_of(site: Site, channels: int) -> ChannelAffine | Obstacle:
    """Return the site's map over the layer's ``channels``.

    Raises ``GraphError`` if the layer feeds a BatchNormalization of another width, which is no
    valid model; on any other way, something between them broadcasts.
    """
    found = site.affine.of(channels)
    if found is not None:
        return found
    detail = f"it has {channels} channels, {label(site.source)} has {site.affine.channels}"
    if site.source.op_type == "BatchNormalization" and site.value == site.source.input[0]:
        raise GraphError(f"{label(site.node)}: {detail}")
    return obstacles.no_channel(site.node, detail)


def bias(site: Site, slot: int, owner: Constant, affine: ChannelAffine) -> Edit | Obstacle | None:
    """Return the edit ``B' = a·B + b`` of a bias of shape (C,) that may be missing.

    None where there is nothing to do: no bias, and no shift.
    """
    a, b = affine.a, affine.b
    if not has_input(site.node, slot):
        if not affine.shifts:
            return None
        return Edit(site.node, slot, Computed(b, (), owner.elem_type), bias_name(owner.name))
    old = weight(site, slot, "bias")
    if isinstance(old, Obstacle):
        return old
    if old.shape != (affine.channels,):
        raise GraphError(
            f"{label(site.node)}: bias `{old.name}` has shape {list(old.shape)}, "
            f"not [{affine.channels}]"
        )
    value = a * old.float64() + b
    return Edit(site.node, slot, Computed(value, (), old.elem_type), derived(old.name))


def bias_plus(site: Site, slot: int, owner: Constant, shift: dtypes.Float64) -> Edit | Obstacle:
    """Return the edit ``B' = B + shift`` of a bias of shape (C,) that may be missing."""
    added = ChannelAffine(np.ones_like(shift), shift)
    made = bias(site, slot, owner, added)
    if made is None:  # no bias and a shift of 0
        return Edit(site.node, slot, Computed(shift, (), owner.elem_type), bias_name(owner.name))
    return made


def slabs(tensor: Computed) -> Iterator[tuple[int, dtypes.Float64]]:
    """Yield (first row, unrounded rows) along axis 0, a few at a time: memory stays small."""
    base = tensor.base
    rows = max(1, BLOCK * base.shape[0] // max(1, base.size))
    for first in range(0, base.shape[0], rows):
        part = slice(first, first + rows)
        cut = tuple(f[part] if f.shape[0] > 1 else f for f in tensor.factors)
        yield first, Computed(base[part], cut, tensor.elem_type).float64()


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
