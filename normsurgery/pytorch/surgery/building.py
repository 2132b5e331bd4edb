"""Modules for the norms that a converted graph has: read out of its nodes, ready to be trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from onnx import numpy_helper
from torch import nn

from normsurgery.errors import ModuleError
from normsurgery.nodes import float_attribute
from normsurgery.pytorch.norms import ChannelAffine, FrozenBatchNorm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnx import ModelProto, NodeProto

    from normsurgery.conversion.report import Converted
    from normsurgery.pytorch.surgery.places import Places

_INSTANCE = {3: nn.InstanceNorm1d, 4: nn.InstanceNorm2d, 5: nn.InstanceNorm3d}


def norm(
    places: Places, after: ModelProto, done: Converted, old: nn.Module, rest: Sequence[nn.Module]
) -> nn.Module:
    """Return the module for one converted norm, with the constants that the graph has.

    old: the module in whose place it goes: its device, type and mode are the new one's. rest: what
    ``old`` did besides. Raises ``ModuleError`` for a graph in which the norm is not found.
    """
    stored = {t.name: numpy_helper.to_array(t) for t in after.graph.initializer}
    chain = _chain(places, after, done)
    like = next(v for v in (*old.parameters(), *old.buffers()) if v.is_floating_point())

    def tensor(name: str) -> torch.Tensor:
        wide = torch.from_numpy(stored[name].astype(np.float64).ravel())
        return wide.to(like.device, like.dtype)

    parts: list[nn.Module] = []
    first = chain.get("BatchNormalization")
    if first is not None:
        eps = float_attribute(first, "epsilon", 1e-5)
        scale, bias, mean, var = (tensor(name) for name in first.input[1:5])
        parts.append(FrozenBatchNorm(scale, bias, mean, var, eps=eps))
    if done.to == "affine":
        made: nn.Module = ChannelAffine(
            tensor(chain["Mul"].input[1]), tensor(chain["Add"].input[1])
        )
    else:
        normal = chain.get("InstanceNormalization", chain.get("LayerNormalization"))
        if normal is None:
            raise ModuleError(f"`{done.node}`: its conversion has no norm; please report it")
        eps = float_attribute(normal, "epsilon", 1e-5)
        names = (
            (chain["Mul"].input[1], chain["Add"].input[1]) if "Mul" in chain else normal.input[1:3]
        )
        made = _norm(done, eps, places.rank(done.node)).to(like.device, like.dtype)
        for target, name in zip((made.weight, made.bias), names, strict=True):
            assert isinstance(target, torch.Tensor)  # noqa: S101  affine=True
            target.data.copy_(tensor(name))
    return in_a_row([*parts, made, *rest]).train(old.training)


def in_a_row(parts: Sequence[nn.Module]) -> nn.Module:
    """Return one module for several: itself, an Identity for none, or a Sequential."""
    if len(parts) == 1:
        return parts[0]
    return nn.Sequential(*parts) if parts else nn.Identity()


def _norm(done: Converted, eps: float, rank: int | None) -> nn.Module:
    kind = _INSTANCE.get(rank or 0)
    if done.to == "instance" and kind is not None:
        return kind(done.channels, eps=eps, affine=True)
    return nn.GroupNorm(done.groups, done.channels, eps=eps)


def _chain(places: Places, after: ModelProto, done: Converted) -> dict[str, NodeProto]:
    """Return the nodes that make ``done.output`` and were not there before, by operator.

    A BatchNormalization that was the norm's own node, and is now the map in front, counts.
    """
    makers = {name: node for node in after.graph.node for name in node.output}
    found: dict[str, NodeProto] = {}
    node = makers.get(done.output)
    while node is not None and (node.name not in places.nodes or node.name == done.node):
        found.setdefault(node.op_type, node)
        node = makers.get(node.input[0])
    return found
