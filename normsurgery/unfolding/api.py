"""``normsurgery.unfold``: the verb as a library function."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import helper

from normsurgery import arguments, blocks, edits, inlining, models, statistics
from normsurgery import data as datasets
from normsurgery.errors import UsageError
from normsurgery.graph import Graph
from normsurgery.outcome import Outcome
from normsurgery.payloads import Computed
from normsurgery.source import sha256
from normsurgery.unfolding import scaling
from normsurgery.unfolding.identity import identity
from normsurgery.unfolding.report import Left, Unfolded, UnfoldReport
from normsurgery.unfolding.sites import CONVOLUTIONS, DENSE, SITES, Sites, find

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray
    from onnx import ModelProto

    from normsurgery.data import Data
    from normsurgery.graph import Scope
    from normsurgery.moments import Moments
    from normsurgery.unfolding.identity import Norm
    from normsurgery.unfolding.sites import Site

SAMPLES = 64  # 8 are enough; more cost little


@dataclass
class UnfoldResult(Outcome):
    """An unfolded model, and the report of what was put where."""

    report: UnfoldReport


def unfold(
    model: str | os.PathLike[str] | ModelProto | Any,
    data: str | os.PathLike[str] | Data | Mapping[str, NDArray[Any]],
    *,
    sites: Sites = "hidden",
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    keep_weights: bool = False,
    samples: int | None = SAMPLES,
    batch_size: int = 32,
    pixels: datasets.Pixels | None = None,
    threads: int | None = None,
) -> UnfoldResult:
    """Put a BatchNormalization behind each linear layer that may have lost one to its exporter.

    model: a path, an ``onnx.ModelProto`` or an ``onnx_ir.Model``; it is never changed.
    data: calibration samples: what ``normsurgery.data.read`` reads, or arrays by input name.
    sites: ``hidden``, convolutions with a nonlinearity and another layer behind them;
    ``convolutions``, all of them; ``all``, Gemm and MatMul too.
    only, skip: shell patterns of node names, within ``sites``.
    keep_weights: leave weights as they are; else each layer's are multiplied by the power of two
    that brings their norm to that of freshly drawn ones, and its new norm takes that back.
    samples: use so many, spread evenly over the data; None for all.
    pixels: mean and std of images, as for ``normsurgery.data.read``.

    Each new norm has the mean and the deviation of the layer's output over the data as its mean
    and variance, and as its B and scale, so that the function stays the same (``identity``).

    Raises ``UsageError`` where the data do not fit, nothing is selected or the operator set is
    older than 7, and what ``normsurgery.fold`` and onnxruntime raise.
    """
    arguments.text({"sites": sites})
    arguments.patterns({"only": only, "skip": skip})
    numbers = arguments.given(samples=samples, threads=threads)
    arguments.whole({"batch_size": batch_size, **numbers})
    if sites not in SITES:
        raise UsageError(f"sites {sites!r} is none of {', '.join(SITES)}")
    content, form = models.take(model)
    source_hash = sha256(content.source) if content.source is not None else str
    inlined = inlining.inline(content, because=CONVOLUTIONS | DENSE)
    graph = Graph(content)
    found, left = find(graph, sites, only, skip)
    if not found:
        why = f"; the first of {len(left)}, `{left[0].node}`: {left[0].reason}" if left else ""
        raise UsageError(f"there is no layer to put a norm behind{why}")
    given = datasets.take(data, datasets.inputs_of(content.proto), pixels=pixels)
    taken = _spread(given, samples)
    feeds = _batches(given, taken, batch_size)
    seen = statistics.moments(content, [one.value for one in found], feeds, threads=threads)
    report = UnfoldReport(taken.size, left=left, inlined=inlined)
    for site in found:
        outcome = _put(graph.main, site, seen[site.value], taken.size, sites, keep_weights)
        if isinstance(outcome, Left):
            report.left.append(outcome)
        else:
            report.unfolded.append(outcome)
    edits.finish(graph.main)
    models.stamp(content, "unfold", source_hash)
    return UnfoldResult(content, form, report)


def _spread(given: Data, samples: int | None) -> NDArray[np.int64]:
    """Return the positions of the samples to use."""
    if samples is not None and samples < 1:
        raise UsageError(f"{samples} samples are none to take statistics of; give 1 or more")
    return given.spread(samples)


def _batches(
    given: Data, taken: NDArray[np.int64], batch_size: int
) -> Iterator[dict[str, NDArray[Any]]]:
    for first, last in blocks.cut(taken.size, batch_size, given.batch):
        yield given.feeds(taken[first:last])


def _put(
    scope: Scope, site: Site, moments: Moments, samples: int, sites: Sites, keep_weights: bool
) -> Unfolded | Left:
    """Put the norm in, or say why not."""
    node, op_type = site.node, site.node.op_type
    if not (np.isfinite(moments.mean).all() and np.isfinite(moments.M2).all()):
        return Left(site.name, op_type, "not-finite", "its output is not finite on the data")
    if sites == "hidden" and moments.count <= samples:
        reason = "one element a sample and channel: a gate or a head, which rarely had a norm"
        return Left(site.name, op_type, "no-extent", reason)
    scaled = scaling.UNSCALED
    if not keep_weights:
        scaled = scaling.to_drawn_norm(scope, node, site.elem_type)
    norm = identity(moments, site.elem_type, scaled.k)
    if norm is None:
        return Left(site.name, op_type, "out-of-range", "its type cannot hold the variances")
    scaling.apply(scope, node, scaled)
    _insert(scope, site, norm)
    deviation = np.sqrt(moments.var)
    return Unfolded(
        site.name,
        op_type,
        site.value,
        moments.channels,
        moments.count,
        (float(moments.mean.min()), float(moments.mean.max())),
        (float(deviation.min()), float(deviation.max())),
        norm.dead,
        scaled.k,
    )


def _insert(scope: Scope, site: Site, norm: Norm) -> None:
    """Put a BatchNormalization behind the layer that makes the layer's value in its place.

    So readers, bodies and graph outputs keep the name that they know.
    """
    stem = f"{site.name}_norm"
    constants = [
        edits.add_constant(scope, f"{stem}.{part}", Computed(values, (), site.elem_type))
        for part, values in (
            ("scale", norm.scale), ("B", norm.B), ("mean", norm.mean), ("var", norm.var)
        )
    ]  # fmt: skip
    raw = scope.graph.unique_name(f"{site.value}_before_norm")
    name = scope.graph.unique_name(stem)
    made = helper.make_node(
        "BatchNormalization", [raw, *constants], [site.value], name=name, epsilon=norm.epsilon
    )
    site.node.output[0] = raw
    scope.producer[raw] = site.node
    edits.insert_after(scope, site.node, [made])
