"""Moments of parts of the data, measured by one process or many, and merged in one order.

Each process measures whole parts (``normsurgery.blocks``). Count, mean and M2 of every part then
meet in one sum over all processes, in which each has zeros for the parts of the others: adding
zeros is exact, so everybody has the same bits, and merges them in the order of the parts. These
are SyncBN's sums, but merged by Chan's update and not as Σx and Σx², which cancel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from normsurgery import statistics
from normsurgery.blocks import share
from normsurgery.errors import GraphError
from normsurgery.moments import Moments, merge_all

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from normsurgery import io
    from normsurgery.blocks import Block
    from normsurgery.data import Data
    from normsurgery.dtypes import Float64

Parts = dict[int, dict[str, Moments]]  # by part: moments by value


class Peers(Protocol):
    """The processes that share the work."""

    @property
    def index(self) -> int:
        """Which one this is, from 0."""

    @property
    def count(self) -> int:
        """How many there are."""

    def add(self, values: Float64) -> Float64:
        """Return the sum of ``values``, of one shape, over all processes."""


@dataclass(frozen=True)
class Alone:
    """A process that shares with nobody."""

    index: int = 0
    count: int = 1

    def add(self, values: Float64) -> Float64:
        """Return the values."""
        return values


def measure(
    content: io.Model,
    channels: Mapping[str, int],
    data: Data,
    parts: list[list[Block]],
    mine: list[int],
    *,
    threads: int | None = None,
    step: Callable[[], None] = lambda: None,
) -> Parts:
    """Return the moments of the values in ``channels`` over each part of ``mine``.

    channels: number of channels by value. step: called after each block.
    """
    todo = [(part, block) for part in mine for block in parts[part]]
    batches = (data.feeds(slice(*block)) for _, block in todo)
    found: Parts = {}
    if not todo:
        return found
    measured = statistics.per_batch(content, list(channels), batches, threads=threads)
    for (part, _), one in zip(todo, measured, strict=True):
        odd = next((name for name, m in one.items() if m.channels != channels[name]), None)
        if odd is not None:
            raise GraphError(
                f"`{odd}` has {one[odd].channels} channels, its BatchNormalization {channels[odd]}"
            )
        before = found.get(part)
        found[part] = one if before is None else {k: before[k].merge(m) for k, m in one.items()}
        step()
    return found


def over_all(
    found: Parts, channels: Mapping[str, int], count: int, peers: Peers
) -> dict[str, Moments]:
    """Return by value the moments over all ``count`` parts, whoever measured them."""
    table = np.zeros((count, sum(1 + 2 * size for size in channels.values())))
    for part, moments in found.items():
        rows = [
            np.concatenate([[moments[name].count], moments[name].mean, moments[name].M2])
            for name in channels
        ]
        table[part] = np.concatenate(rows)
    table = peers.add(table)
    merged, at = {}, 0
    for name, size in channels.items():
        columns = table[:, at : at + 1 + 2 * size]
        at += 1 + 2 * size
        merged[name] = merge_all(
            Moments(int(row[0]), row[1 : 1 + size], row[1 + size :]) for row in columns
        )
    return merged


def shares(parts: list[list[Block]], peers: Peers) -> list[int]:
    """Return the parts that this process measures."""
    return share(len(parts), peers.index, peers.count)
