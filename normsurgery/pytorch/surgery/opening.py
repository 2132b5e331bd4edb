"""The module laid open: exported, each node under the name of its module."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from normsurgery.errors import UsageError
from normsurgery.pytorch.copying import eval_copy, plain_copy
from normsurgery.pytorch.exporting import arguments, export
from normsurgery.pytorch.exporting.tracing import ExporterError
from normsurgery.pytorch.surgery import guessing
from normsurgery.pytorch.surgery.places import Places

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onnx import ModelProto

    Args = torch.Tensor | Sequence[torch.Tensor] | Mapping[str, torch.Tensor]


def opened(module: nn.Module, args: Args | None) -> tuple[Places, ModelProto, list[torch.Tensor]]:
    """Export the module; nodes of ``before`` are named after the modules."""
    if not isinstance(module, nn.Module):
        raise UsageError(f"a {type(module).__name__} is no torch.nn.Module")
    given = guessing.example(eval_copy(module)) if args is None else args
    _, example = arguments.positional(module, given, None)
    try:
        result = export(module, given, exporter="legacy", validate=False)
    except ExporterError:
        result = export(module, given, exporter="dynamo", validate=False)
    before = result.model
    return Places(plain_copy(module), before), before, example


def unreached(module: nn.Module, before: ModelProto) -> list[str]:
    """Return the BatchNorms that the export ``before`` does not have, by name."""
    used = {node.name for node in before.graph.node}
    return [
        name
        for name, inner in module.named_modules()
        if isinstance(inner, BatchNorm) and name not in used
    ]
