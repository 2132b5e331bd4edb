"""``normsurgery.pytorch.fold``: the BatchNorms of a module folded into its linear layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from normsurgery import io
from normsurgery.constants import Limits
from normsurgery.edits import finish
from normsurgery.errors import ParityError
from normsurgery.folding import apply, plan, table
from normsurgery.folding.obstacles import Obstacle
from normsurgery.graph import Graph
from normsurgery.nodes import label
from normsurgery.pytorch.copying import eval_copy, undisturbed
from normsurgery.pytorch.preparing import replace_module
from normsurgery.pytorch.surgery import building, checking
from normsurgery.pytorch.surgery.opening import opened, unreached
from normsurgery.pytorch.surgery.places import Change, Places, changes
from normsurgery.pytorch.surgery.result import ModuleResult
from normsurgery.report import Folded, FoldReport, Kept

if TYPE_CHECKING:
    from onnx import NodeProto
    from torch import nn

    from normsurgery.graph import Scope
    from normsurgery.pytorch.surgery.opening import Args

_SOMETHING = np.zeros(0)  # for a change whose values do not matter yet


def fold(module: nn.Module, *, args: Args | None = None, validate: bool = True) -> ModuleResult:
    """Fold every BatchNorm of ``module`` that algebra allows into the linear layers around it.

    module, args: as for ``convert``. A BatchNorm that is gone is an ``nn.Identity`` (or what it did
    besides). Coefficients are formed in float64 and rounded once. Where the change cannot be made
    in a module, because a weight is shared or computed, the BatchNorm stays and the report says so.
    Branches that meet in an Add stay branches.
    """
    with undisturbed():
        places, before, example = opened(module, args)
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
        result = ModuleResult(whole, report, unreached=unreached(whole, before))
        if validate:
            result.difference = checking.against_graph(after, whole, before, module, example)
            names = [value.name for value in before.graph.input]
            result.parity = checking.compare(eval_copy(module), eval_copy(whole), example, names)
            if not result.parity.ok:
                raise ParityError(f"{result.parity.line()}; the folded module is another one")
    return result


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
