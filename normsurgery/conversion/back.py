"""Back to BatchNormalization, which ``fold`` can absorb: an approximation that data must choose.

A norm over samples divides each by a deviation of its own, so no constants make it equal. The
BatchNormalization in its place has, per channel, the mean and the deviation of what the old norm
made, over the data, as its B and scale (negative where output and input vary against each other),
so that all that follows gets inputs of the size that it knows. Its mean and variance are those of
what it gets in the model as it becomes, measured norm after norm (``recalibration``, sequential).

How well that can go is known at once: with ρ the correlation of a channel's input and output, the
best map per channel leaves 1 − ρ² of the output's variance unexplained.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from onnx import ModelProto, TensorProto, helper

from normsurgery import blocks, edits, inlining, models, statistics
from normsurgery.conversion import sample_norms
from normsurgery.conversion.layers import KEEP, Layer
from normsurgery.conversion.report import Converted, ConvertReport, Left
from normsurgery.conversion.sample_norms import SampleNorm
from normsurgery.conversion.selection import Candidate, Selection
from normsurgery.conversion.sites import Site, as_one_node
from normsurgery.conversion.start import BatchNorm
from normsurgery.errors import UsageError
from normsurgery.graph import Graph
from normsurgery.nodes import label
from normsurgery.recalibration import recalibrate

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from normsurgery import io
    from normsurgery.data import Data
    from normsurgery.dtypes import Float64
    from normsurgery.moments import Moments

BATCH_SIZE = 32
LARGEST_EPSILON = 1e-5
_SHARE = 1e-3  # of the median channel's variance, which epsilon is at most


def to_batch(
    original: io.Model,
    data: Data,
    selection: Selection,
    *,
    threads: int | None = None,
    step: Callable[[int, int], None] | None = None,
) -> tuple[io.Model, ConvertReport, list[Layer]]:
    """Convert a copy of ``original``; return it, the report and the plan.

    step: called with how many batches have run, of how many.

    Raises ``UsageError`` where there is no such norm, or its statistics are not finite.
    """
    content, _ = models.take(original)
    report = ConvertReport()
    report.inlined = inlining.inline(content, because=sample_norms.NORMS)
    graph = Graph(content)
    found = list(sample_norms.find(graph))
    report.left = [one for one in found if isinstance(one, Left)]
    there = [one for one in found if isinstance(one, SampleNorm)]
    if not there:
        why = f"; `{report.left[0].node}`: {report.left[0].reason}" if report.left else ""
        raise UsageError(f"there is no norm over samples to make BatchNormalization of{why}")
    seen = _measured(content, there, data, threads)
    candidates = [Candidate(one.name, one.output, seen[one.output].channels) for one in there]
    plan = []
    for one, skipped in zip(there, selection.skipped(candidates), strict=True):
        channels = seen[one.output].channels
        layer = Layer(one.output, one.name, channels, KEEP if skipped else "batch", note=skipped)
        plan.append(layer)
        if skipped:
            left = Left(one.name, one.output, one.node.op_type, "selection", skipped)
            report.left.append(left)
        else:
            report.converted.append(_replace(graph, one, seen))
    edits.finish(graph.main)
    if report.converted:
        made = {one.output for one in report.converted}
        settled = recalibrate(
            content, data, outputs=made, batch_size=BATCH_SIZE, threads=threads, step=step
        )
        content = settled.content
    return content, report, plan


def _measured(
    content: io.Model, there: Sequence[SampleNorm], data: Data, threads: int | None
) -> dict[str, Moments]:
    """Return moments of each norm's input and output by name, and of their product.

    The product's name is the output's with a space before it, which no value has by chance.
    """
    proto = ModelProto()
    proto.CopyFrom(content.proto)
    copy = replace(content, proto=proto)
    for one in there:
        wide = [f" {one.output} {i}" for i in range(2)]
        for value, name in zip((one.value, one.output), wide, strict=True):
            proto.graph.node.append(
                helper.make_node("Cast", [value], [name], to=TensorProto.DOUBLE)
            )
        proto.graph.node.append(helper.make_node("Mul", wide, [f" {one.output}"]))
    values = {name for one in there for name in (one.value, one.output, f" {one.output}")}
    cut = blocks.cut(len(data), BATCH_SIZE, data.batch)
    batches = (data.feeds(slice(*block)) for block in cut)
    seen = statistics.moments(copy, sorted(values), batches, threads=threads)
    for one in there:
        x, y, xy = (seen[name] for name in (one.value, one.output, f" {one.output}"))
        if len({(m.count, m.channels) for m in (x, y, xy)}) > 1:
            raise UsageError(
                f"{label(one.node)}: `{one.value}` and `{one.output}` differ in shape on the data; "
                "leave it out (--skip)"
            )
        if not all(np.isfinite(m.M2).all() for m in (x, y)):
            raise UsageError(
                f"{label(one.node)}: its input or output is not finite on the data; leave it out "
                "(--skip) or look at the data"
            )
    return seen


def correlation(x: Moments, y: Moments, xy: Moments) -> Float64:
    """Return ρ of each channel of two values out of their moments and those of their product.

    1 where either does not vary: there is nothing to get wrong.
    """
    size = np.sqrt(x.var * y.var)
    with np.errstate(all="ignore"):
        rho = (xy.mean - x.mean * y.mean) / size
    return np.where(size > 0, np.clip(rho, -1, 1), 1.0)


def _replace(graph: Graph, one: SampleNorm, seen: dict[str, Moments]) -> Converted:
    """Put a BatchNormalization with the output's moments in the norm's place."""
    x, y = seen[one.value], seen[one.output]
    rho = correlation(x, y, seen[f" {one.output}"])
    alive = x.var[x.var > 0]
    epsilon = min(LARGEST_EPSILON, _SHARE * float(np.median(alive))) if alive.size else 1e-5
    epsilon = float(np.float32(epsilon))
    scale = np.where(rho < 0, -1, 1) * np.sqrt(y.var)
    scale[x.var > 0] *= np.sqrt(1 + epsilon / x.var[x.var > 0])  # what epsilon takes
    bn = BatchNorm(scale, y.mean, x.mean, x.var, epsilon)
    was, name = one.node.op_type, one.name
    del one.last.output[1:]
    as_one_node(Site(graph.main, one.last, one.value, bn, one.dims, one.elem_type, one.elem_type))
    explained = np.square(rho)
    note = f"explains {np.median(explained):.1%} of a channel's variance, {explained.min():.1%} "
    note += "at the least"
    return Converted(
        name, one.output, was, "batch", x.channels, 1, "data", epsilon, "none", "native", note=note
    )
