"""``normsurgery.pytorch.convert``: another norm in the place of every BatchNorm of a module."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from normsurgery import conversion
from normsurgery.conversion import choosing
from normsurgery.conversion.layers import KEEP
from normsurgery.conversion.start import EPSILON
from normsurgery.errors import ModuleError, UsageError
from normsurgery.nodes import label
from normsurgery.pytorch.copying import undisturbed
from normsurgery.pytorch.preparing import replace_module
from normsurgery.pytorch.surgery import building, checking
from normsurgery.pytorch.surgery.opening import opened, unreached
from normsurgery.pytorch.surgery.places import Places, changes
from normsurgery.pytorch.surgery.result import ModuleResult

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from torch import nn

    from normsurgery.conversion.layers import Layer
    from normsurgery.data import Data, Pixels
    from normsurgery.pytorch.surgery.opening import Args


def convert(
    module: nn.Module,
    to: str | None = None,
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
    those of ``normsurgery.convert``, ``to`` *group* by default; ``only`` and ``skip`` match names
    of modules, and the inputs of ``data`` have the names of ``forward``'s parameters.

    *group* and *layer* become ``nn.GroupNorm`` (layer: of one group, with a scale per channel),
    *instance* ``nn.InstanceNorm*d``, each with ``affine=True``; *affine* a ``ChannelAffine``. A map
    in front that no layer takes is a ``FrozenBatchNorm`` before the norm, in an ``nn.Sequential``.

    Raises ``ModuleError`` for a norm that is no module of its own (``F.batch_norm``, one called
    twice), and what ``export`` and ``normsurgery.convert`` raise.
    """
    if to == "batch":
        raise UsageError("a module has no statistics to make a BatchNorm from: convert its export")
    encoding = "auto" if to == "affine" or plan is not None else "instance"
    with undisturbed():
        places, before, example = opened(module, args)
        content = conversion.convert(
            before, to, groups=groups, channels_per_group=channels_per_group, least=least,
            gauge=gauge, affine=affine, epsilon=epsilon, encoding=encoding, only=only, skip=skip,
            plan=plan, data=data, pixels=pixels, samples=samples,
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
        result.unreached = unreached(whole, before)
        if validate:
            result.difference = checking.against_graph(after, whole, before, module, example)
    return result


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
