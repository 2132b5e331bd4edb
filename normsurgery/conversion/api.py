"""``normsurgery.convert``: the verb as a library function."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from normsurgery import edits, inlining, io, models, norms
from normsurgery.constants import Limits
from normsurgery.conversion import layers, opset, sites
from normsurgery.conversion.grouping import Grouping
from normsurgery.conversion.layers import KEEP, Layer
from normsurgery.conversion.report import ConvertReport, Left
from normsurgery.conversion.rewriting import rewrite
from normsurgery.conversion.selection import Candidate, Selection
from normsurgery.conversion.sites import NoSite, Site
from normsurgery.conversion.start import DEFAULT, EPSILON
from normsurgery.errors import UsageError
from normsurgery.graph import Graph
from normsurgery.source import sha256

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from onnx import ModelProto


@dataclass
class ConvertResult:
    """A converted model, the plan that it follows, and the report of what was done."""

    report: ConvertReport
    plan: list[Layer]
    content: io.Model
    form: models.Form

    @property
    def model(self) -> Any:
        """The converted model in the form that the source came in; a ModelProto for a path."""
        return models.give_back(self.content, self.form)

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        force: bool = False,
        external: bool | None = None,
        check: Callable[[Path], None] | None = None,
    ) -> Path | None:
        """Save the converted model; return the external data file beside it, if there is one.

        Arguments and errors are those of ``normsurgery.io.save``.
        """
        return io.save(self.content, path, force=force, external=external, check=check)


def convert(
    model: str | os.PathLike[str] | ModelProto | Any,
    to: str = "group",
    *,
    groups: int | None = None,
    channels_per_group: int | None = None,
    least: int | None = None,
    gauge: str = DEFAULT,
    affine: str = "auto",
    epsilon: float = EPSILON,
    encoding: str = "auto",
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    plan: Sequence[Layer] | str | os.PathLike[str] | None = None,
    freeze_inputs: bool = False,
    max_constant_bytes: int = Limits.nbytes,
    max_inlined_nodes: int = inlining.MOST_NODES,
) -> ConvertResult:
    """Put another norm in the place of every BatchNormalization, starting where the model stood.

    model: a path, an ``onnx.ModelProto`` or an ``onnx_ir.Model``; it is never changed.
    to: *group*, *instance*, *layer* (one group) or *affine* (frozen BN: the function stays).
    groups, channels_per_group: one group by default; least: channels that a group has at least
    (8, where C allows, unless ``channels_per_group`` asks for less). What does not divide C falls
    to the largest divisor below.
    gauge, epsilon: where the new norm starts, see ``conversion.start``. affine: *fold* the map in
    front of the norm into the layers behind it, where they can take it; *keep* it as a frozen
    BatchNormalization of its own; have *none*; *auto* folds it or else keeps it.
    encoding: how the norm is written: *auto*, *native*, *instance*, *layer*; see ``norms``.
    only, skip: which norms, by name pattern, ``first``, ``last:2`` or ``channels<16``.
    plan: the layers of an earlier result, edited, or the file they are in, in place of all these.
    freeze_inputs, max_constant_bytes, max_inlined_nodes: as for ``fold``.

    The function changes, as little as constants allow: no data are needed.

    Raises ``UsageError`` for options that make no sense, and what ``fold`` raises.
    """
    wished = Layer("", "", 1, to, 1, gauge, epsilon, affine, encoding).checked()
    grouping = Grouping(groups, channels_per_group, *([] if least is None else [least]))
    wanted = _read_plan(plan)
    content, form = models.take(model)
    source_hash = sha256(content.source) if content.source is not None else str
    limits = Limits(max_constant_bytes)
    report = ConvertReport()
    content, report.opset = opset.raised(content, _least_opset(wanted or [wished]))
    report.inlined = inlining.inline(content, max_inlined_nodes)
    graph = Graph(content, freeze_inputs=freeze_inputs)
    found = list(sites.find(graph, limits))
    there = [one for one in found if isinstance(one, Site)]
    chosen = (
        _chosen(there, wished, grouping, Selection(only, skip))
        if wanted is None
        else _planned(there, wanted)
    )
    for one in found:
        if isinstance(one, NoSite):
            name, output = one.node.name or one.node.output[0], one.node.output[0]
            slug, text = one.obstacle.reason, one.obstacle.text
            report.left.append(Left(name, output, one.node.op_type, slug, text))
    for site, layer in zip(there, chosen, strict=True):
        if layer.to == KEEP:
            why = layer.note or "the plan keeps it"
            report.left.append(Left(site.name, site.output, site.node.op_type, "selection", why))
        else:
            report.converted.append(rewrite(site, layer, limits))
    for scope in graph.scopes:
        edits.finish(scope)
    models.stamp(content, "convert", source_hash)
    return ConvertResult(report, chosen, content, form)


def _read_plan(plan: Sequence[Layer] | str | os.PathLike[str] | None) -> list[Layer] | None:
    if plan is None:
        return None
    if isinstance(plan, (list, tuple)):
        return [layer.checked() for layer in plan]
    return layers.read(plan)  # type: ignore[arg-type]


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
