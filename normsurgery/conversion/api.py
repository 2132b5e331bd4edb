"""``normsurgery.convert``: the verb as a library function."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from normsurgery import data as datasets
from normsurgery import edits, inlining, models, norms
from normsurgery.constants import Limits
from normsurgery.conversion import back, choosing, drift, layers, opset, sites
from normsurgery.conversion import cost as costs
from normsurgery.conversion.grouping import PER_GROUP, Grouping
from normsurgery.conversion.layers import KEEP, Layer
from normsurgery.conversion.report import ConvertReport, Left
from normsurgery.conversion.rewriting import rewrite
from normsurgery.conversion.selection import Candidate, Selection
from normsurgery.conversion.sites import NoSite, Site
from normsurgery.conversion.start import DEFAULT, EPSILON, GAUGES
from normsurgery.errors import UsageError
from normsurgery.graph import Graph
from normsurgery.outcome import Outcome
from normsurgery.source import sha256

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from onnx import ModelProto

    from normsurgery import io
    from normsurgery.data import Data


@dataclass
class ConvertResult(Outcome):
    """A converted model, the plan that it follows, and the report of what was done."""

    report: ConvertReport
    plan: list[Layer]


def convert(
    model: str | os.PathLike[str] | ModelProto | Any,
    to: str = "group",
    *,
    groups: int | str | None = None,
    channels_per_group: int | None = None,
    least: int | None = None,
    gauge: str = "auto",
    affine: str = "auto",
    epsilon: float = EPSILON,
    encoding: str = "auto",
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    plan: Sequence[Layer] | str | os.PathLike[str] | None = None,
    data: str | os.PathLike[str] | Data | Mapping[str, NDArray[Any]] | None = None,
    pixels: datasets.Pixels | None = None,
    samples: int | None = choosing.SAMPLES,
    threads: int | None = None,
    cost: bool = False,
    freeze_inputs: bool = False,
    max_constant_bytes: int = Limits.nbytes,
    max_inlined_nodes: int = inlining.MOST_NODES,
) -> ConvertResult:
    """Put another norm in the place of every BatchNormalization, starting where the model stood.

    model: a path, an ``onnx.ModelProto`` or an ``onnx_ir.Model``; it is never changed.
    to: *group*, *instance*, *layer* (one group) or *affine* (frozen BN: the function stays); or
    *batch*, the way back: BatchNormalization, with statistics of the data, in the place of every
    norm over samples (see ``conversion.back``).
    groups, channels_per_group: one group by default; *auto* is one group, or 16 channels per group
    where data allow; least: channels that a group has at least (8, where C allows, unless
    ``channels_per_group`` asks for less). What does not divide C falls to the largest divisor
    below.
    gauge, epsilon: where the new norm starts, see ``conversion.start``. *auto* is *balance*, or
    what agrees best on the data.
    affine: *fold* the map in front of the norm into the layers behind it, where they can take it;
    *keep* it as a frozen BatchNormalization of its own; have *none*; *auto* folds or else keeps it.
    encoding: how the norm is written: *auto*, *native*, *instance*, *layer*; see ``norms``.
    only, skip: which norms, by name pattern, ``first``, ``last:2`` or ``channels<16``.
    plan: the layers of an earlier result, edited, or the file they are in, in place of all these.
    data: what ``normsurgery.data.read`` reads, or arrays by input name: chooses what is *auto* on
    ``samples`` of them, and tells the drift over all. Not needed otherwise.
    pixels: mean and std of images, as for ``normsurgery.data.read``. threads: of onnxruntime.
    cost: measure time and memory of both models, on a sample of the data or a seeded one.
    freeze_inputs, max_constant_bytes, max_inlined_nodes: as for ``fold``.

    The function changes, as little as constants allow.

    Raises ``UsageError`` for options that make no sense, what ``fold`` raises, and with data, what
    reading them and onnxruntime raise.
    """
    if to == "batch":
        _refuse(groups=groups, channels_per_group=channels_per_group, plan=plan)
        return _to_batch(model, data, pixels, Selection(only, skip), threads, cost)
    wished = Layer("", "", 1, to, 1, _gauges(gauge)[0], epsilon, affine, encoding).checked()
    groupings = _groupings(groups, channels_per_group, least)
    job = Job(
        wished, groupings[0], Selection(only, skip), _read_plan(plan),
        freeze_inputs, Limits(max_constant_bytes), max_inlined_nodes,
    )  # fmt: skip
    original, form = models.take(model)
    source_hash = sha256(original.source) if original.source is not None else str
    given = None
    choices: list[choosing.Choice] = []
    if data is not None:
        given = datasets.take(data, datasets.inputs_of(original.proto), pixels=pixels)
        gauges = _gauges(gauge) if to != "affine" and plan is None else _gauges(gauge)[:1]
        if len(gauges) > 1 or (len(groupings) > 1 and plan is None):
            best, grouping, choices = choosing.choose(
                original,
                lambda one, how: job.choosing(one, how).run(original)[0],
                gauges,
                groupings,
                given,
                samples=samples,
                threads=threads,
            )
            job = job.choosing(best, grouping)
    content, report, layers_ = job.run(original)
    report.choices = choices
    _tell(original, content, report, given, threads, cost)
    models.stamp(content, "convert", source_hash)
    return ConvertResult(content, form, report, layers_)


def _tell(
    original: io.Model,
    content: io.Model,
    report: ConvertReport,
    given: Data | None,
    threads: int | None,
    cost: bool,
) -> None:
    """Measure the drift where there are data, and the cost if asked for."""
    if given is not None:
        main = {value.name for value in original.proto.graph.output}
        main |= {name for node in original.proto.graph.node for name in node.output}
        moved = {c.output: c.node for c in report.converted if c.output in main}
        report.drift = drift.measure(original, content, moved, given, threads=threads)
    if cost:
        report.cost = costs.compare(original, content, given, threads)


def _to_batch(
    model: Any,
    data: str | os.PathLike[str] | Data | Mapping[str, NDArray[Any]] | None,
    pixels: datasets.Pixels | None,
    selection: Selection,
    threads: int | None,
    cost: bool,
) -> ConvertResult:
    """Convert to *batch*, which data must choose the statistics of."""
    if data is None:
        raise UsageError("BatchNormalization needs statistics: give samples (--data)")
    original, form = models.take(model)
    source_hash = sha256(original.source) if original.source is not None else str
    given = datasets.take(data, datasets.inputs_of(original.proto), pixels=pixels)
    content, report, layers_ = back.to_batch(original, given, selection, threads=threads)
    _tell(original, content, report, given, threads, cost)
    models.stamp(content, "convert", source_hash)
    return ConvertResult(content, form, report, layers_)


def _refuse(**options: Any) -> None:
    """Raise ``UsageError`` for an option that means nothing to *batch*."""
    for name, value in options.items():
        if value is not None:
            raise UsageError(f"--to batch has no use for {name.replace('_', ' ')}")


def _gauges(gauge: str) -> tuple[str, ...]:
    """Return the gauges to choose from, the default first."""
    return (DEFAULT, *(one for one in GAUGES if one != DEFAULT)) if gauge == "auto" else (gauge,)


def _groupings(
    groups: int | str | None, channels_per_group: int | None, least: int | None
) -> tuple[Grouping, ...]:
    """Return the groupings to choose from, the default first."""
    given = {} if least is None else {"least": least}
    if groups == "auto":
        if channels_per_group is not None:
            raise UsageError("give a number of groups or of channels per group, not both")
        return Grouping(**given), Grouping(channels_per_group=PER_GROUP, **given)
    if isinstance(groups, str):
        raise UsageError(f"groups {groups!r} is no number, nor auto")
    return (Grouping(groups, channels_per_group, **given),)


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


def _read_plan(plan: Sequence[Layer] | str | os.PathLike[str] | None) -> list[Layer] | None:
    if plan is None:
        return None
    if isinstance(plan, (list, tuple)):
        found = [layer.checked() for layer in plan]
    else:
        found = layers.read(plan)  # type: ignore[arg-type]
    back_again = next((layer.output for layer in found if layer.to == "batch"), None)
    if back_again is not None:
        raise UsageError(
            f"the plan's entry for `{back_again}` is a BatchNormalization: --to batch takes no plan"
        )
    return found


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
