"""Recalibration in jobs of any scheduler: statistics of a shard, and a model that gets them all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from normsurgery import blocks
from normsurgery.errors import UsageError
from normsurgery.recalibration import shards, sums
from normsurgery.recalibration.opening import (
    BATCH_SIZE,
    Counter,
    RecalibrateResult,
    open_data,
    open_model,
)

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence

    from onnx import ModelProto

    from normsurgery import data as datasets
    from normsurgery.recalibration.opening import Given
    from normsurgery.recalibration.shards import Partial


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
    opened = open_model(model, "batch", only, skip, freeze_inputs)
    given, parts = open_data(opened, data, "batch", batch_size, pixels)
    mine = blocks.share(len(parts), *shard)
    done = Counter(step, sum(len(parts[one]) for one in mine))
    content = opened.as_measured("batch")
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
    opened = open_model(model, "batch", (), (), freeze_inputs)
    for one in every:
        if one.origin.model != opened.digest:
            raise UsageError(f"{one.name} has statistics of another model; measure this one")
    opened.sites = [site for site in opened.sites if site.node.output[0] in moments]
    opened.report.samples, opened.report.passes = samples, 1
    opened.report.processes = len(every)
    by_value = {site.value: moments[site.node.output[0]] for site in opened.sites}
    opened.apply(opened.sites, by_value)
    return opened.finish()
