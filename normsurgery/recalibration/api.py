"""``normsurgery.recalibrate``: the verb as a library function; partial statistics, and merging."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from normsurgery import blocks, edits, inlining, io, models
from normsurgery import data as datasets
from normsurgery.errors import UsageError
from normsurgery.graph import Graph
from normsurgery.outcome import Outcome
from normsurgery.recalibration import shards, sums
from normsurgery.recalibration.batch_mode import with_batch_statistics
from normsurgery.recalibration.report import RecalibrateReport
from normsurgery.recalibration.rounds import rounds
from normsurgery.recalibration.sites import Site, find, replace
from normsurgery.recalibration.sums import Alone, Peers

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Collection, Mapping, Sequence

    from numpy.typing import NDArray
    from onnx import ModelProto

    from normsurgery.data import Data
    from normsurgery.moments import Moments
    from normsurgery.recalibration.shards import Partial

    Given = str | os.PathLike[str] | Data | Mapping[str, NDArray[Any]]

Mode = Literal["sequential", "batch"]
MODES: tuple[Mode, ...] = get_args(Mode)
BATCH_SIZE = 64


@dataclass
class RecalibrateResult(Outcome):
    """A recalibrated model, and the report of what changed."""

    report: RecalibrateReport


@dataclass
class _Opened:
    """A model that is being recalibrated, and the norms to do."""

    content: io.Model
    form: models.Form
    graph: Graph
    sites: list[Site]
    report: RecalibrateReport
    digest: str

    @property
    def channels(self) -> dict[str, int]:
        """Number of channels by the value that is measured."""
        return {site.value: site.channels for site in self.sites}

    def finish(self) -> RecalibrateResult:
        """Return the result, stamped."""
        edits.finish(self.graph.main)
        models.stamp(self.content, "recalibrate", lambda: self.digest)
        return RecalibrateResult(self.content, self.form, self.report)


def recalibrate(
    model: str | os.PathLike[str] | ModelProto | Any,
    data: Given,
    *,
    mode: Mode = "sequential",
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    outputs: Collection[str] | None = None,
    batch_size: int = BATCH_SIZE,
    pixels: datasets.Pixels | None = None,
    peers: Peers | None = None,
    threads: int | None = None,
    freeze_inputs: bool = False,
    step: Callable[[int, int], None] | None = None,
) -> RecalibrateResult:
    """Estimate the statistics of every BatchNormalization anew, on ``data``.

    model: a path, an ``onnx.ModelProto`` or an ``onnx_ir.Model``; it is never changed.
    data: what ``normsurgery.data.read`` reads, or arrays by input name; labels are not used.
    mode: ``sequential`` measures norm after norm in order of depth, each behind those that have
    their new statistics already: in the end each has exactly the population mean and variance of
    what it gets in the model as it will run. One pass over the data for each depth.
    ``batch`` lets all norms use the statistics of the batch while their inputs are measured, as in
    training (PreciseBN; Wu and Johnson 2021, https://arxiv.org/abs/2105.07576): one pass.
    only, skip: shell patterns of node names. outputs: of the norms to do, where names repeat.
    batch_size: samples that run together; results depend on it in mode ``batch`` alone.
    peers: the processes to share the work with; see ``normsurgery.pytorch.distributed``. Each gets
    the same result, to the bit, for any number of them.
    freeze_inputs: do norms whose statistics are graph inputs with a default, which a caller could
    override, too; they become constants.
    step: called with the number of blocks that this process has done, and will do in all.

    Raises ``UsageError`` where the data do not fit, there is no norm to do, or statistics are not
    finite; and what ``normsurgery.fold`` and onnxruntime raise.
    """
    opened = _open_model(model, mode, only, skip, freeze_inputs)
    given, parts = _open_data(opened, data, mode, batch_size, pixels)
    if outputs is not None:
        opened.sites = [site for site in opened.sites if site.node.output[0] in outputs]
    peers = peers or Alone()
    _agree(opened, given, peers)
    todo = [opened.sites] if mode == "batch" else rounds(opened.graph.main, opened.sites)
    mine = sums.shares(parts, peers)
    opened.report.passes, opened.report.processes = len(todo), peers.count
    done = _Counter(step, len(todo) * sum(len(parts[one]) for one in mine))
    for sites in todo:
        channels = {site.value: site.channels for site in sites}
        content = _as_measured(opened, mode)
        found = sums.measure(content, channels, given, parts, mine, threads=threads, step=done.step)
        _apply(opened, sites, sums.over_all(found, channels, len(parts), peers))
    return opened.finish()


def partial(
    model: str | os.PathLike[str] | ModelProto | Any,
    data: Given,
    *,
    shard: tuple[int, int] = (0, 1),
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    batch_size: int = BATCH_SIZE,
    pixels: datasets.Pixels | None = None,
    threads: int | None = None,
    freeze_inputs: bool = False,
    step: Callable[[int, int], None] | None = None,
) -> Partial:
    """Return the statistics of a shard of ``data`` in mode ``batch``, to be saved and merged.

    shard: which one, from 0, of how many. Other arguments and errors as for ``recalibrate``. There
    is no such thing in mode ``sequential``: a depth can be measured only when all shards of the
    one before it were merged.
    """
    opened = _open_model(model, "batch", only, skip, freeze_inputs)
    given, parts = _open_data(opened, data, "batch", batch_size, pixels)
    mine = blocks.share(len(parts), *shard)
    done = _Counter(step, sum(len(parts[one]) for one in mine))
    content = _as_measured(opened, "batch")
    found = sums.measure(
        content, opened.channels, given, parts, mine, threads=threads, step=done.step
    )
    by_output = {
        number: {site.node.output[0]: moments[site.value] for site in opened.sites}
        for number, moments in found.items()
    }
    outputs = tuple(site.node.output[0] for site in opened.sites)
    origin = shards.Origin(opened.digest, "batch", outputs, len(given), batch_size, len(parts))
    return shards.Partial(origin, by_output)


def merge(
    model: str | os.PathLike[str] | ModelProto | Any,
    statistics: Sequence[Partial | str | os.PathLike[str]],
    *,
    freeze_inputs: bool = False,
) -> RecalibrateResult:
    """Give ``model`` the statistics of all shards together, each a ``Partial`` or its file.

    Raises ``UsageError`` where one is of another model, missing or there twice; see ``partial``.
    """
    every = [one if isinstance(one, shards.Partial) else shards.load(one) for one in statistics]
    moments, samples = shards.merged(every)
    opened = _open_model(model, "batch", (), (), freeze_inputs)
    for one in every:
        if one.origin.model != opened.digest:
            raise UsageError(f"{one.name} has statistics of another model; measure this one")
    opened.sites = [site for site in opened.sites if site.node.output[0] in moments]
    opened.report.samples, opened.report.passes = samples, 1
    opened.report.processes = len(every)
    by_value = {site.value: moments[site.node.output[0]] for site in opened.sites}
    _apply(opened, opened.sites, by_value)
    return opened.finish()


@dataclass
class _Counter:
    """Tells a caller how far things are."""

    told: Callable[[int, int], None] | None
    total: int
    done: int = 0

    def step(self) -> None:
        """One block more is done."""
        self.done += 1
        if self.told is not None:
            self.told(self.done, self.total)


def _open_model(
    model: Any, mode: str, only: Sequence[str], skip: Sequence[str], freeze_inputs: bool
) -> _Opened:
    if mode not in MODES:
        raise UsageError(f"mode {mode!r} is none of {', '.join(MODES)}")
    content, form = models.take(model)
    digest = hashlib.sha256()
    if content.source is not None:
        digest.update(content.source.view)
    inlined = inlining.inline(content)
    graph = Graph(content, freeze_inputs=freeze_inputs)
    sites, left = find(graph, only, skip)
    if not sites:
        why = f"; the first of {len(left)}, `{left[0].node}`: {left[0].reason}" if left else ""
        raise UsageError(f"there is no BatchNormalization to recalibrate{why}")
    report = RecalibrateReport(mode, 0, 0, left=left, inlined=inlined)
    return _Opened(content, form, graph, sites, report, digest.hexdigest())


def _open_data(
    opened: _Opened,
    data: Given,
    mode: str,
    batch_size: int,
    pixels: datasets.Pixels | None,
) -> tuple[Data, list[list[blocks.Block]]]:
    """Open the data for the model, and cut them into parts."""
    given = datasets.take(data, datasets.inputs_of(opened.content.proto), pixels=pixels)
    cut = blocks.cut(len(given), batch_size, given.inputs[0].batch)
    if mode == "batch" and min(last - first for first, last in cut) < 2:
        raise UsageError(
            "a batch of one sample has no statistics to normalize by; give more samples, a larger "
            "--batch-size, or --mode sequential"
        )
    opened.report.samples = len(given)
    return given, blocks.parts(cut)


def _agree(opened: _Opened, given: Data, peers: Peers) -> None:
    """Raise ``UsageError`` unless all processes have the same model and as many samples."""
    ours = [int(opened.digest[:12], 16), len(given), len(opened.sites)]
    table = np.zeros((peers.count, len(ours)))
    table[peers.index] = ours
    if np.any(peers.add(table) != ours):
        raise UsageError(
            f"process {peers.index} of {peers.count} has another model or other data than the "
            "rest; give all the same files"
        )


def _as_measured(opened: _Opened, mode: str) -> io.Model:
    if mode != "batch":
        return opened.content
    return with_batch_statistics(opened.content, {s.node.output[0] for s in opened.sites})


def _apply(opened: _Opened, sites: list[Site], moments: Mapping[str, Moments]) -> None:
    for site in sites:
        done = replace(opened.graph.main, site, moments[site.value])
        opened.report.recalibrated.append(done)
