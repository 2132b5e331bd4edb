"""``normsurgery.convert``: the verb as a library function."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from normsurgery import data as datasets
from normsurgery import inlining, models
from normsurgery.constants import Limits
from normsurgery.conversion import choosing, drift, nothing, options
from normsurgery.conversion.job import Job
from normsurgery.conversion.layers import Layer
from normsurgery.conversion.selection import Selection
from normsurgery.conversion.start import EPSILON
from normsurgery.errors import UsageError
from normsurgery.isolation import Step
from normsurgery.outcome import Outcome
from normsurgery.source import sha256

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray
    from onnx import ModelProto

    from normsurgery import io
    from normsurgery.conversion.report import ConvertReport
    from normsurgery.data import Data

    Progress = Callable[[Step], None]


@dataclass
class ConvertResult(Outcome):
    """A converted model, the plan that it follows, and the report of what was done."""

    report: ConvertReport
    plan: list[Layer]


def convert(
    model: str | os.PathLike[str] | ModelProto | Any,
    to: str | None = None,
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
    progress: Progress | None = None,
    freeze_inputs: bool = False,
    max_constant_bytes: int = Limits.nbytes,
    max_inlined_nodes: int = inlining.MOST_NODES,
) -> ConvertResult:
    """Put another norm in the place of every BatchNormalization, starting where the model stood.

    model: a path, an ``onnx.ModelProto`` or an ``onnx_ir.Model``; it is never changed.
    to: *group* (the default), *instance*, *layer* (one group) or *affine* (frozen BN: the function
    stays); or *batch*, the way back: BatchNormalization, with statistics of the data, in the place
    of every norm over samples (see ``conversion.back``).
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
    progress: called with each step of what takes long: what runs the model.
    freeze_inputs, max_constant_bytes, max_inlined_nodes: as for ``fold``.

    The function changes, as little as constants allow.

    Raises ``UsageError`` for options that make no sense, alone or together, what ``fold`` raises,
    and with data, what reading them and onnxruntime raise.
    """
    wanted = {
        "to": to, "groups": groups, "channels_per_group": channels_per_group, "least": least,
        "gauge": gauge, "affine": affine, "epsilon": epsilon, "encoding": encoding, "only": only,
        "skip": skip,
    }  # fmt: skip
    numbers = {"samples": samples, "threads": threads, "max_constant_bytes": max_constant_bytes}
    numbers["max_inlined_nodes"] = max_inlined_nodes
    options.check_types({**wanted, **numbers, "progress": progress})
    if to == "batch":
        options.refuse(to, groups=groups, channels_per_group=channels_per_group, plan=plan)
        return _to_batch(model, data, pixels, Selection(only, skip), threads, cost, progress)
    if plan is not None:
        options.refuse_beside_plan(wanted)
    to = to or "group"
    if to != "group":
        options.refuse(to, groups=groups, channels_per_group=channels_per_group, least=least)
    gauges = options.gauges(gauge)
    wished = Layer("", "", 1, to, 1, gauges[0], epsilon, affine, encoding).checked()
    groupings = options.groupings(groups, channels_per_group, least)
    job = Job(
        wished, groupings[0], Selection(only, skip), options.read_plan(plan),
        freeze_inputs, Limits(max_constant_bytes), max_inlined_nodes,
    )  # fmt: skip
    original, form = models.take(model)
    source_hash = sha256(original.source) if original.source is not None else str
    given = None
    choices: list[choosing.Choice] = []
    if data is not None:
        given = datasets.take(data, datasets.inputs_of(original.proto), pixels=pixels)
        if to == "affine" or plan is not None:
            gauges = gauges[:1]
        if len(gauges) > 1 or (len(groupings) > 1 and plan is None):
            best, grouping, choices = choosing.choose(
                original,
                lambda one, how: job.choosing(one, how).run(original)[0],
                gauges,
                groupings,
                given,
                samples=samples,
                threads=threads,
                progress=progress,
            )
            job = job.choosing(best, grouping)
    content, report, layers_ = job.run(original)
    report.choices = choices
    if not report.converted:
        report.note = nothing.why(original, content, report)
    _tell(original, content, report, given, threads, cost, progress)
    models.stamp(content, "convert", source_hash)
    return ConvertResult(content, form, report, layers_)


def _counted(progress: Progress | None, text: str) -> Callable[[int, int], None] | None:
    """Return what tells ``progress`` of each step of ``text``, by how many are done of all."""
    if progress is None:
        return None
    return lambda done, total: progress(Step(text, done=done, total=total))


def _tell(
    original: io.Model,
    content: io.Model,
    report: ConvertReport,
    given: Data | None,
    threads: int | None,
    cost: bool,
    progress: Progress | None,
) -> None:
    """Measure the drift where there are data, and the cost if asked for."""
    if given is not None:
        main = {value.name for value in original.proto.graph.output}
        main |= {name for node in original.proto.graph.node for name in node.output}
        moved = {c.output: c.node for c in report.converted if c.output in main}
        step = _counted(progress, "measuring the drift")
        report.drift = drift.measure(original, content, moved, given, threads=threads, step=step)
    if cost:
        from normsurgery.conversion import cost as costs  # what runs models loads slowly

        if progress is not None:
            progress(Step("measuring the cost"))
        report.cost = costs.compare(original, content, given, threads)


def _to_batch(
    model: Any,
    data: str | os.PathLike[str] | Data | Mapping[str, NDArray[Any]] | None,
    pixels: datasets.Pixels | None,
    selection: Selection,
    threads: int | None,
    cost: bool,
    progress: Progress | None,
) -> ConvertResult:
    """Convert to *batch*, which data must choose the statistics of."""
    from normsurgery.conversion import back  # what runs models loads slowly

    if data is None:
        raise UsageError("BatchNormalization needs statistics: give samples (--data)")
    original, form = models.take(model)
    source_hash = sha256(original.source) if original.source is not None else str
    given = datasets.take(data, datasets.inputs_of(original.proto), pixels=pixels)
    step = _counted(progress, "measuring statistics")
    content, report, layers_ = back.to_batch(original, given, selection, threads=threads, step=step)
    _tell(original, content, report, given, threads, cost, progress)
    models.stamp(content, "convert", source_hash)
    return ConvertResult(content, form, report, layers_)
