"""``normsurgery.fold``: the verb as a library function."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from normsurgery import edits, inlining, io, models
from normsurgery.constants import Limits
from normsurgery.folding import apply, baking, branches, plan, table
from normsurgery.folding.obstacles import Obstacle
from normsurgery.graph import Graph
from normsurgery.inlining import NORMALIZATIONS
from normsurgery.nodes import label
from normsurgery.outcome import Outcome
from normsurgery.payloads import Computed
from normsurgery.report import CertificateEntry, Folded, FoldReport, Kept, Merged
from normsurgery.source import sha256
from normsurgery.tensors import tensors_in

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from onnx import ModelProto, NodeProto

    from normsurgery.folding.apply import Applied
    from normsurgery.folding.table import Source
    from normsurgery.graph import Scope


@dataclass
class FoldResult(Outcome):
    """A folded model, and the report of how it was folded."""

    report: FoldReport

    def certificates(self) -> list[CertificateEntry]:
        """Return for each folded tensor how far its coefficients are from float64, in ULP.

        Computes them if the model was not saved yet. A correct rounding is within 0.5.
        """
        return list(_certificates(self.content))


def fold(
    model: str | os.PathLike[str] | ModelProto | Any,
    *,
    freeze_inputs: bool = False,
    max_constant_bytes: int = Limits.nbytes,
    max_inlined_nodes: int = inlining.MOST_NODES,
) -> FoldResult:
    """Fold every affine map per channel that algebra allows into the linear layers around it.

    model: a path, an ``onnx.ModelProto`` or an ``onnx_ir.Model``; it is never changed.
    freeze_inputs: fold initializers that are graph inputs too, which a caller could override.
    max_constant_bytes: what evaluating one constant may take; models can ask for any size.
    max_inlined_nodes: local functions with norms or linear layers are put where they are called,
    unless the main graph would have more nodes than this.

    The function computed stays the same: coefficients are formed in float64 and rounded once to
    their tensor's type. What stays is in ``result.report.kept``, each with its first obstacle.

    Raises ``InvalidModelError``, ``GraphError``, ``UnsafeModelError`` or ``ModelIOError``.
    """
    content, form = models.take(model)
    source_hash = sha256(content.source) if content.source is not None else str
    limits = Limits(max_constant_bytes)
    inlined = inlining.inline(content, max_inlined_nodes)
    graph = Graph(content, freeze_inputs=freeze_inputs)
    report = FoldReport(before=_count(graph), inlined=inlined)
    kept: dict[int, Kept] = {}
    while _pass(graph, limits, report, kept):
        pass  # what stayed may go now: a path opened, or branches became one
    for scope in graph.scopes:
        for node in list(scope.live()):
            report.baked += baking.bake(scope, node, limits)
    report.kept = [kept[id(n)] for s in graph.scopes for n in s.live() if id(n) in kept]
    for scope in graph.scopes:
        edits.finish(scope)
    report.after = _count(graph)
    models.stamp(content, "fold", source_hash)
    return FoldResult(content, form, report)


def _pass(graph: Graph, limits: Limits, report: FoldReport, kept: dict[int, Kept]) -> bool:
    """Try every node once; return whether anything changed.

    Norms come first: an Add before one may be the only bias that its shift can go to.
    """
    before = len(report.folded) + len(report.merged)
    for scope in graph.scopes:
        nodes = sorted(scope.live(), key=lambda node: node.op_type not in NORMALIZATIONS)
        for node in nodes:
            if id(node) in scope.dead:  # gone with an earlier one
                continue
            merged = branches.merge(scope, node, limits)
            if merged is not None:
                report.merged.append(
                    Merged(_name(node), label(merged.conv), merged.tensors, merged.norm)
                )
            else:
                _fold_node(scope, node, limits, report, kept)
    return len(report.folded) + len(report.merged) > before


def _fold_node(
    scope: Scope, node: NodeProto, limits: Limits, report: FoldReport, kept: dict[int, Kept]
) -> None:
    recognise = table.load().sources.get(node.op_type)
    if recognise is None or not scope.is_onnx(node):
        return
    op_type, name, made = node.op_type, _name(node), node.output[0]
    found = plan.refuse_foreign(scope, node) or recognise(scope, node, limits)
    if found is None:
        return
    outcome = found if isinstance(found, Obstacle) else _fold_source(scope, found, limits)
    if not isinstance(outcome, Obstacle):
        into = tuple(label(n) for n in outcome.into)
        folded = Folded(name, op_type, into, outcome.tensors, outcome.shift_left, made)
        report.folded.append(folded)
    elif op_type in NORMALIZATIONS:  # a lone Mul or Add that stays is nothing to report
        kept[id(node)] = Kept(name, op_type, outcome.reason, outcome.text, made)


def _fold_source(scope: Scope, source: Source, limits: Limits) -> Applied | Obstacle:
    found = plan.plan(scope, source, limits)
    return found if isinstance(found, Obstacle) else apply.apply(scope, found)


def _name(node: NodeProto) -> str:
    return node.name or next((o for o in node.output if o), label(node))


def _count(graph: Graph) -> int:
    return sum(
        n.op_type == "BatchNormalization" and s.is_onnx(n) for s in graph.scopes for n in s.live()
    )


def _certificates(model: io.Model) -> Iterator[CertificateEntry]:
    for tensor in tensors_in(model.proto):
        payload = model.store.payload(tensor)
        if isinstance(payload, Computed):
            c = payload.certify()
            yield CertificateEntry(tensor.name, c.count, c.max_ulp, c.mean_ulp)
