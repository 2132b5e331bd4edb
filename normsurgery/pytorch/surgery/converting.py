"""``normsurgery.pytorch.convert`` and ``fold``: the same surgery on an ``nn.Module``.

One algorithm, two front doors. The module is exported, the graph is converted or folded by the
code that does it for files, and what changed there is carried back: constants into parameters,
norms into modules. So converting first and exporting then gives what exporting first and
converting then gives. What the module cannot express (a weight that is read in two places) keeps
its affine map in front of the norm, or its norm, and the report says so.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from normsurgery import conversion, io
from normsurgery.constants import Limits
from normsurgery.conversion import choosing
from normsurgery.conversion.layers import KEEP
from normsurgery.conversion.start import EPSILON
from normsurgery.edits import finish
from normsurgery.errors import ModuleError, ParityError, UsageError
from normsurgery.folding import apply, plan, table
from normsurgery.folding.obstacles import Obstacle
from normsurgery.graph import Graph
from normsurgery.nodes import label
from normsurgery.pytorch import checking
from normsurgery.pytorch.copying import eval_copy, plain_copy, undisturbed
from normsurgery.pytorch.exporting import api as exporting
from normsurgery.pytorch.exporting.tracing import ExporterError
from normsurgery.pytorch.preparing import prepare, replace_module
from normsurgery.pytorch.surgery import building, guessing
from normsurgery.pytorch.surgery.places import Change, Places, changes
from normsurgery.report import Folded, FoldReport, Kept

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    import torch
    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto

    from normsurgery.conversion.layers import Layer
    from normsurgery.conversion.report import ConvertReport
    from normsurgery.data import Data, Pixels
    from normsurgery.graph import Scope
    from normsurgery.validation import Parity

    Args = torch.Tensor | Sequence[torch.Tensor] | Mapping[str, torch.Tensor]

_SOMETHING = np.zeros(0)  # for a change whose values do not matter yet


@dataclass
class ModuleResult:
    """A changed copy of a module, and how it was changed.

    report: of the conversion or the fold; its node names are names of modules. difference: how far
    module and changed graph are apart in float64, relative; None if it was not asked for, or one of
    them does not run in float64. parity: of a fold, with the module as it was. plan: the layers of
    a conversion, for ``plan=``. unreached: BatchNorms that ``forward`` does not use in evaluation
    mode; they stay as they were.
    """

    module: nn.Module
    report: ConvertReport | FoldReport
    difference: float | None = None
    parity: Parity | None = None
    plan: list[Layer] = field(default_factory=list)
    unreached: list[str] = field(default_factory=list)


def convert(
    module: nn.Module,
    to: str = "group",
    *,
    args: Args | None = None,
    groups: int | str | None = None,
    channels_per_group: int | None = None,
    least: int | None = None,
    gauge: str = "auto",
    affine: str = "auto",
    epsilon: float = EPSILON,
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    plan: Sequence[Layer] | str | os.PathLike[str] | None = None,
    data: str | os.PathLike[str] | Data | Mapping[str, NDArray[Any]] | None = None,
    pixels: Pixels | None = None,
    samples: int | None = choosing.SAMPLES,
    validate: bool = True,
) -> ModuleResult:
    """Put another norm in the place of every BatchNorm of ``module``, ready to be trained.

    module: is not changed; the result is a copy on its device and in its mode. args: an example
    input, as for ``export``; guessed from the first layer unless given. The other options are
    those of ``normsurgery.convert``; ``only`` and ``skip`` match names of modules, and the inputs
    of ``data`` have the names of ``forward``'s parameters.

    *group* and *layer* become ``nn.GroupNorm`` (layer: of one group, with a scale per channel),
    *instance* ``nn.InstanceNorm*d``, each with ``affine=True``; *affine* a ``ChannelAffine``. A map
    in front that no layer takes is a ``FrozenBatchNorm`` before the norm, in an ``nn.Sequential``.

    Raises ``ModuleError`` for a norm that is no module of its own (``F.batch_norm``, one called
    twice), and what ``export`` and ``normsurgery.convert`` raise.
    """
    if to == "batch":
        raise UsageError("a module has no statistics to make a BatchNorm from: convert its export")
    with undisturbed():
        places, before, example = _exported(module, args)
        content = conversion.convert(
            before, to, groups=groups, channels_per_group=channels_per_group, least=least,
            gauge=gauge, affine=affine, epsilon=epsilon, encoding="auto" if to == "affine" else
            "instance", only=only, skip=skip, plan=plan, data=data, pixels=pixels, samples=samples,
        )  # fmt: skip
        norms = _norms(places, content.plan)
        while refused := _refused(places, content):
            layers = _without(content.plan, refused)
            content = conversion.convert(
                before, plan=layers, data=data, pixels=pixels, samples=samples
            )
        after = content.model
        for change in changes(places, after, norms):
            places.carry_out(change)
        whole = places.module
        for done in content.report.converted:
            old, rest = norms[done.node]
            new = building.norm(places, after, done, old, rest)
            whole = replace_module(whole, old, new)
        result = ModuleResult(whole, content.report, plan=content.plan)
        result.unreached = _unreached(whole, before)
        if validate:
            result.difference = _same(after, whole, before, module, example)
    return result


def fold(module: nn.Module, *, args: Args | None = None, validate: bool = True) -> ModuleResult:
    """Fold every BatchNorm of ``module`` that algebra allows into the linear layers around it.

    module, args: as for ``convert``. A BatchNorm that is gone is an ``nn.Identity`` (or what it did
    besides). Coefficients are formed in float64 and rounded once. Where the change cannot be made
    in a module, because a weight is shared or computed, the BatchNorm stays and the report says so.
    Branches that meet in an Add stay branches.
    """
    with undisturbed():
        places, before, example = _exported(module, args)
        content = io.from_proto(before)
        scope = Graph(content).main
        report = FoldReport(before=sum(n.op_type == "BatchNormalization" for n in scope.nodes))
        limits = Limits()
        gone: list[str] = []
        kept: dict[str, Kept] = {}
        folded = True
        while folded:
            folded = False
            for node in [n for n in scope.live() if n.op_type == "BatchNormalization"]:
                if id(node) in scope.dead:
                    continue
                if _fold_node(places, scope, node, limits, report, kept):
                    gone.append(node.name)
                    folded = True
        report.kept = [one for name, one in kept.items() if name not in gone]
        report.after = report.before - len(gone)
        finish(scope)
        after = io.to_proto(content)
        norms = {name: places.norm(places.nodes[name]) for name in gone}
        for change in changes(places, after, norms):
            places.carry_out(change)
        whole = places.module
        for found in norms.values():
            assert not isinstance(found, str)  # noqa: S101  it would have been kept
            old, rest = found
            whole = replace_module(whole, old, building.in_a_row(rest))
        result = ModuleResult(whole, report, unreached=_unreached(whole, before))
        if validate:
            result.difference = _same(after, whole, before, module, example)
            names = [value.name for value in before.graph.input]
            result.parity = checking.compare(eval_copy(module), eval_copy(whole), example, names)
            if not result.parity.ok:
                raise ParityError(f"{result.parity.line()}; the folded module is another one")
    return result


def _exported(
    module: nn.Module, args: Args | None
) -> tuple[Places, ModelProto, list[torch.Tensor]]:
    """Export the module; nodes of ``before`` are named after the modules."""
    if not isinstance(module, nn.Module):
        raise UsageError(f"a {type(module).__name__} is no torch.nn.Module")
    given = guessing.example(eval_copy(module)) if args is None else args
    _, example = exporting.arguments(module, given, None)
    try:
        result = exporting.export(module, given, exporter="legacy", validate=False)
    except ExporterError:
        result = exporting.export(module, given, exporter="dynamo", validate=False)
    before = result.model
    return Places(plain_copy(module), before), before, example


def _norms(places: Places, layers: Sequence[Layer]) -> dict[str, tuple[nn.Module, list[nn.Module]]]:
    """Return the module of each norm that is to be converted, and what it does besides."""
    found = {}
    for layer in layers:
        if layer.to == KEEP:
            continue
        norm = places.norm(places.nodes[layer.node])
        if isinstance(norm, str):
            raise ModuleError(f"{norm}, or skip it")
        found[layer.node] = norm
    return found


def _refused(places: Places, content: conversion.ConvertResult) -> dict[str, str]:
    """Return the norms whose map went where the module cannot take it, and why."""
    found = {}
    norms = {done.node for done in content.report.converted}
    for change in changes(places, content.model, norms):
        reason = places.refusal(change)
        if reason:
            found[label(places.nodes[change.node])] = reason
    refused = {
        done.node: found[name]
        for done in content.report.converted
        for name in done.into
        if name in found
    }
    if found and not refused:
        name, reason = next(iter(found.items()))
        raise ModuleError(f"{name} would change, and {reason}")
    return refused


def _without(layers: Sequence[Layer], refused: Mapping[str, str]) -> list[Layer]:
    """Return the plan with the maps of the refused norms kept in front, or left out."""
    return [
        replace(one, affine="none" if one.affine == "fold" else "keep", note=refused[one.node])
        if one.node in refused
        else one
        for one in layers
    ]


def _fold_node(
    places: Places,
    scope: Scope,
    node: NodeProto,
    limits: Limits,
    report: FoldReport,
    kept: dict[str, Kept],
) -> bool:
    """Fold one BatchNormalization if the module can take it; else say why not."""
    name, made = node.name or node.output[0], node.output[0]
    norm = places.norm(node)
    outcome = norm if isinstance(norm, str) else _planned(places, scope, node, limits)
    if isinstance(outcome, Obstacle):
        kept[name] = Kept(name, node.op_type, outcome.reason, outcome.text, made)
    elif isinstance(outcome, str):
        kept[name] = Kept(name, node.op_type, "module", outcome, made)
    else:
        done = apply.apply(scope, outcome)
        if isinstance(done, Obstacle):
            kept[name] = Kept(name, node.op_type, done.reason, done.text, made)
            return False
        into = tuple(label(n) for n in done.into)
        report.folded.append(Folded(name, "BatchNormalization", into, done.tensors, False, made))
        return True
    return False


def _planned(
    places: Places, scope: Scope, node: NodeProto, limits: Limits
) -> plan.Plan | Obstacle | str:
    recognise = table.load().sources["BatchNormalization"]
    source = plan.refuse_foreign(scope, node) or recognise(scope, node, limits)
    if isinstance(source, Obstacle) or source is None:
        return source or "it is no map"
    found = plan.plan(scope, source, limits)
    if isinstance(found, Obstacle):
        return found
    if found.left is not None:
        return "its shift would stay behind"
    reasons = (places.refusal(Change(e.node.name, e.slot, _SOMETHING)) for e in found.edits)
    return next((reason for reason in reasons if reason), found)


def _unreached(module: nn.Module, before: ModelProto) -> list[str]:
    used = {node.name for node in before.graph.node}
    return [
        name
        for name, inner in module.named_modules()
        if isinstance(inner, BatchNorm) and name not in used
    ]


def _same(
    after: ModelProto,
    changed: nn.Module,
    before: ModelProto,
    module: nn.Module,
    example: Sequence[torch.Tensor],
) -> float | None:
    """Raise ``ParityError`` unless ``changed`` computes what ``after`` computes, in float64."""
    names = [value.name for value in before.graph.input]
    # parametrized weights as the graphs have them
    (now, _), (then, _) = prepare(eval_copy(changed)), prepare(eval_copy(module))
    pairs = (io.from_proto(after), now), (io.from_proto(before), then)
    return checking.same(*pairs, example, names)
