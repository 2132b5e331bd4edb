"""One conversion of a model: what becomes of each norm, and the doing of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from normsurgery import edits, inlining, models, norms
from normsurgery.conversion import opset, sites
from normsurgery.conversion.layers import KEEP, Layer
from normsurgery.conversion.report import ConvertReport, Left
from normsurgery.conversion.rewriting import rewrite
from normsurgery.conversion.selection import Candidate, Selection
from normsurgery.conversion.sites import NoSite, Site
from normsurgery.errors import UsageError
from normsurgery.graph import Graph

if TYPE_CHECKING:
    from collections.abc import Sequence

    from normsurgery import io
    from normsurgery.constants import Limits
    from normsurgery.conversion.grouping import Grouping


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
            chosen = _chosen(there, self.wished, self.grouping, self.selection)
        else:
            chosen = _planned(there, self.plan)
        for one in found:
            if isinstance(one, NoSite):
                name, made = one.node.name or one.node.output[0], one.node.output[0]
                slug, text = one.obstacle.reason, one.obstacle.text
                report.left.append(Left(name, made, one.node.op_type, slug, text))
        for site, layer in zip(there, chosen, strict=True):
            if layer.to == KEEP:
                why = layer.note or "the plan keeps it"
                left = Left(site.name, site.output, site.node.op_type, "selection", why)
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


def _chosen(
    there: list[Site], wished: Layer, grouping: Grouping, selection: Selection
) -> list[Layer]:
    """Return a layer for each site, from the options."""
    candidates = [Candidate(site.name, site.output, site.channels) for site in there]
    target = norms.load()[wished.to]
    made = []
    for site, skipped in zip(there, selection.skipped(candidates), strict=True):
        groups, note = grouping.of(site.channels)
        if target.grouped is not None:
            groups, note = target.grouped(site.channels), ""
        layer = replace(
            wished,
            output=site.output, node=site.name, channels=site.channels, groups=groups, note=note,
        )  # fmt: skip
        refused = skipped or _refused(site, layer)
        made.append(replace(layer, to=KEEP, note=refused) if refused else layer)
    return made


def _refused(site: Site, layer: Layer) -> str:
    """Return why a norm would be none: a group of one element is its own mean."""
    if layer.to == "affine" or site.positions is None:
        return ""
    if site.channels // layer.groups * site.positions > 1:
        return ""
    return f"{layer.groups} groups of one element each: the norm would erase the data"


def _planned(there: list[Site], wanted: list[Layer]) -> list[Layer]:
    """Return a layer for each site, from a plan; what the plan leaves out is kept.

    Raises ``UsageError`` for an entry that is of no norm here, or whose norm would be none.
    """
    by_output = {layer.output: layer for layer in wanted}
    unknown = by_output.keys() - {site.output for site in there}
    if unknown:
        raise UsageError(f"the plan has an entry for `{min(unknown)}`, which no norm here makes")
    made = []
    for site in there:
        layer = by_output.get(site.output)
        if layer is None:
            made.append(Layer(site.output, site.name, site.channels, KEEP, note="not in the plan"))
            continue
        if layer.channels != site.channels:
            raise UsageError(
                f"the plan's entry for `{site.output}` has {layer.channels} channels, "
                f"the norm {site.channels}; write the plan anew"
            )
        refused = _refused(site, layer) if layer.to != KEEP else ""
        if refused:
            raise UsageError(f"the plan's entry for `{site.output}`: {refused}")
        made.append(layer)
    return made
