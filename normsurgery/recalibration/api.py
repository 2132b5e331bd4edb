"""``normsurgery.recalibrate``: the verb as a library function."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from normsurgery import arguments
from normsurgery.errors import UsageError
from normsurgery.recalibration import sums
from normsurgery.recalibration.opening import (
    BATCH_SIZE,
    Counter,
    Mode,
    Opened,
    RecalibrateResult,
    open_data,
    open_model,
)
from normsurgery.recalibration.rounds import rounds
from normsurgery.recalibration.sums import Alone, Peers

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Collection, Sequence

    from onnx import ModelProto

    from normsurgery import data as datasets
    from normsurgery.data import Data
    from normsurgery.recalibration.opening import Given


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
    arguments.text({"mode": mode})
    arguments.patterns({"only": only, "skip": skip})
    arguments.patterns(arguments.given(outputs=outputs), "names")
    arguments.whole({"batch_size": batch_size, **arguments.given(threads=threads)})
    arguments.functions(arguments.given(step=step))
    opened = open_model(model, mode, only, skip, freeze_inputs)
    given, parts = open_data(opened, data, mode, batch_size, pixels)
    if outputs is not None:
        opened.sites = [site for site in opened.sites if site.node.output[0] in outputs]
    peers = peers or Alone()
    _agree(opened, given, peers)
    todo = [opened.sites] if mode == "batch" else rounds(opened.graph.main, opened.sites)
    mine = sums.shares(parts, peers)
    opened.report.passes, opened.report.processes = len(todo), peers.count
    done = Counter(step, len(todo) * sum(len(parts[one]) for one in mine))
    for sites in todo:
        channels = {site.value: site.channels for site in sites}
        content = opened.as_measured(mode)
        found = sums.measure(content, channels, given, parts, mine, threads=threads, step=done.step)
        opened.apply(sites, sums.over_all(found, channels, len(parts), peers))
    return opened.finish()


def _agree(opened: Opened, given: Data, peers: Peers) -> None:
    """Raise ``UsageError`` unless all processes have the same model and as many samples."""
    ours = [int(opened.digest[:12], 16), len(given), len(opened.sites)]
    table = np.zeros((peers.count, len(ours)))
    table[peers.index] = ours
    if np.any(peers.add(table) != ours):
        raise UsageError(
            f"process {peers.index} of {peers.count} has another model or other data than the "
            "rest; give all the same files"
        )
