"""``normsurgery.inspect``: every normalization of a model, what fold and convert do with it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from normsurgery import adain, arguments, inlining, models
from normsurgery.constants import Limits
from normsurgery.conversion.outlook import Outlook, outlook
from normsurgery.folding.api import fold
from normsurgery.graph import Graph
from normsurgery.inspection import becoming, composed, entries
from normsurgery.inspection.report import Inspection, Norm

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from onnx import ModelProto

    from normsurgery.report import Folded, Kept, Merged


def inspect(
    model: str | os.PathLike[str] | ModelProto | Any,
    *,
    freeze_inputs: bool = False,
    max_constant_bytes: int = Limits.nbytes,
) -> Inspection:
    """List every normalization of ``model``: kind, statistics, what becomes of it and why.

    That is what ``fold`` and, to group normalization and without data, ``convert`` do with it.
    Norms that an exporter took apart are listed at their last node, see ``inspection.composed``.
    Arguments and errors are those of ``normsurgery.fold``; nothing is written.
    """
    arguments.whole({"max_constant_bytes": max_constant_bytes})
    content, _ = models.take(model)
    nodes = sum(len(scope.nodes) for scope in Graph(content, freeze_inputs=freeze_inputs).scopes)
    inlined = inlining.inline(content)
    result = fold(content, freeze_inputs=freeze_inputs, max_constant_bytes=max_constant_bytes)
    outcomes: dict[str, Folded | Kept | Merged] = {f.output: f for f in result.report.folded}
    outcomes.update({k.output: k for k in result.report.kept})
    outcomes.update({m.norm: m for m in result.report.merged})
    graph = Graph(content, freeze_inputs=freeze_inputs)
    producer = f"{content.proto.producer_name} {content.proto.producer_version}".strip()
    inspection = Inspection(
        content.proto.ir_version, graph.main.opset, producer, nodes, inlined=inlined
    )
    limits = Limits(max_constant_bytes)
    converts = outlook(graph, limits)
    for scope in graph.scopes:
        folding = becoming.Folding(scope, outcomes, limits)
        inspection.norms += _norms(folding, converts)
    return inspection


def _norms(folding: becoming.Folding, converts: dict[int, Outlook]) -> Iterator[Norm]:
    """Yield an entry for each norm of a scope, at its last node."""
    scope, limits = folding.scope, folding.limits
    styled = {id(site.node): site for site in adain.sites(scope, limits)}
    found = list(composed.find(scope, limits))
    of_style = {id(one.core): one for one in found if id(one.core) in styled}
    found = [one for one in found if id(one.core) not in styled]
    last = {id(one.last): one for one in found}
    part = {id(node) for one in found for node in one.nodes}
    for node in scope.nodes:
        told = converts.get(id(node))
        if id(node) in last:
            one = last[id(node)]
            norm = entries.of_composed(folding, one)
            told = converts.get(id(one.core))
            yield norm if told is None else _with(norm, told)
        elif id(node) in part:
            continue
        elif id(node) in styled:
            yield entries.of_adain(scope, styled[id(node)], of_style.get(id(node)))
        elif node.op_type in entries.KINDS and scope.is_onnx(node):
            norm = entries.of_operator(folding, node)
            yield norm if told is None else _with(norm, told)
        elif told is not None:
            yield entries.of_batch_norm(folding, told)


def _with(norm: Norm, told: Outlook) -> Norm:
    return replace(norm, convert=told.outcome, convert_detail=told.detail)
