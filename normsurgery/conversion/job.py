"""One conversion of a model: what becomes of each norm, and the doing of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from normsurgery import edits, inlining, models, norms
from normsurgery.conversion import deciding, opset, sites
from normsurgery.conversion.layers import KEEP, Layer
from normsurgery.conversion.merged import NO_STATISTICS
from normsurgery.conversion.report import ConvertReport, Left
from normsurgery.conversion.rewriting import rewrite
from normsurgery.conversion.sites import NoSite, Site
from normsurgery.graph import Graph

if TYPE_CHECKING:
    from collections.abc import Sequence

    from normsurgery import io
    from normsurgery.constants import Limits
    from normsurgery.conversion.grouping import Grouping
    from normsurgery.conversion.selection import Selection


@dataclass(frozen=True)
class Job:
    """One way to convert a model: what to wish for each norm, or the plan that says it."""

    wished: Layer
    grouping: Grouping
    selection: Selection
    plan: list[Layer] | None
    freeze_inputs: bool
    limits: Limits
    max_inlined_nodes: int

    def choosing(self, gauge: str, grouping: Grouping) -> Job:
        """Return the job with another starting point."""
        return replace(self, wished=replace(self.wished, gauge=gauge), grouping=grouping)

    def run(self, original: io.Model) -> tuple[io.Model, ConvertReport, list[Layer]]:
        """Convert a copy of ``original``."""
        content, _ = models.take(original)
        report = ConvertReport()
        content, report.opset = opset.raised(content, _least_opset(self.plan or [self.wished]))
        report.inlined = inlining.inline(content, self.max_inlined_nodes)
        graph = Graph(content, freeze_inputs=self.freeze_inputs)
        found = list(sites.find(graph, self.limits))
        there = [one for one in found if isinstance(one, Site)]
        if self.plan is None:
            chosen = deciding.chosen(there, self.wished, self.grouping, self.selection)
        else:
            chosen = deciding.planned(there, self.plan)
        frozen = self.plan is None and self.wished.to == "affine"
        for one in found:
            if isinstance(one, NoSite) and not (frozen and one.obstacle.reason == NO_STATISTICS):
                name, made = one.node.name or one.node.output[0], one.node.output[0]
                slug, text = one.obstacle.reason, one.obstacle.text
                report.left.append(Left(name, made, one.kind, slug, text))
        for site, layer in zip(there, chosen, strict=True):
            if layer.to == KEEP:
                why = layer.note or "the plan keeps it"
                left = Left(site.name, site.output, site.node.op_type, deciding.slug(layer), why)
                report.left.append(left)
            else:
                report.converted.append(rewrite(site, layer, self.limits))
        for scope in graph.scopes:
            edits.finish(scope)
        return content, report, chosen


def _least_opset(wanted: Sequence[Layer]) -> int:
    """Return the least operator set that every encoding in use is in."""
    least = 1
    for layer in wanted:
        if layer.to != KEEP:
            encodings = norms.load()[layer.to].encodings
            first = min(encodings.values())
            least = max(least, first if layer.encoding == "auto" else encodings[layer.encoding])
    return least
