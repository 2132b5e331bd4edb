"""A model and data that are being recalibrated: opened, cut, and given back."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from normsurgery import blocks, edits, inlining, io, models
from normsurgery import data as datasets
from normsurgery.errors import UsageError
from normsurgery.graph import Graph
from normsurgery.outcome import Outcome
from normsurgery.recalibration.batch_mode import with_batch_statistics
from normsurgery.recalibration.report import RecalibrateReport
from normsurgery.recalibration.sites import Site, find, replace

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from normsurgery.data import Data
    from normsurgery.moments import Moments

    Given = str | os.PathLike[str] | Data | Mapping[str, NDArray[Any]]

Mode = Literal["sequential", "batch"]
MODES: tuple[Mode, ...] = get_args(Mode)
BATCH_SIZE = 64


@dataclass
class RecalibrateResult(Outcome):
    """A recalibrated model, and the report of what changed."""

    report: RecalibrateReport


@dataclass
class Opened:
    """A model that is being recalibrated, and the norms to do. digest: SHA-256 of its file."""

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

    def as_measured(self, mode: str) -> io.Model:
        """Return the model to measure in: with the statistics of the batch in mode ``batch``."""
        if mode != "batch":
            return self.content
        return with_batch_statistics(self.content, {s.node.output[0] for s in self.sites})

    def apply(self, sites: list[Site], moments: Mapping[str, Moments]) -> None:
        """Give ``sites`` their new statistics, by the value that was measured."""
        for site in sites:
            self.report.recalibrated.append(replace(self.graph.main, site, moments[site.value]))

    def finish(self) -> RecalibrateResult:
        """Return the result, stamped."""
        edits.finish(self.graph.main)
        models.stamp(self.content, "recalibrate", lambda: self.digest)
        return RecalibrateResult(self.content, self.form, self.report)


def open_model(
    model: Any, mode: str, only: Sequence[str], skip: Sequence[str], freeze_inputs: bool
) -> Opened:
    """Open the model and find its norms. Raises ``UsageError`` where there is none to do."""
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
    return Opened(content, form, graph, sites, report, digest.hexdigest())


def open_data(
    opened: Opened,
    data: Given,
    mode: str,
    batch_size: int,
    pixels: datasets.Pixels | None,
) -> tuple[Data, list[list[blocks.Block]]]:
    """Open the data for the model, and cut them into parts."""
    given = datasets.take(data, datasets.inputs_of(opened.content.proto), pixels=pixels)
    cut = blocks.cut(len(given), batch_size, given.batch)
    if mode == "batch" and min(last - first for first, last in cut) < 2:
        raise UsageError(
            "a batch of one sample has no statistics to normalize by; give more samples, a larger "
            "--batch-size, or --mode sequential"
        )
    opened.report.samples = len(given)
    return given, blocks.parts(cut)


@dataclass
class Counter:
    """Tells a caller how far things are."""

    told: Callable[[int, int], None] | None
    total: int
    done: int = 0

    def step(self) -> None:
        """One block more is done."""
        self.done += 1
        if self.told is not None:
            self.told(self.done, self.total)
