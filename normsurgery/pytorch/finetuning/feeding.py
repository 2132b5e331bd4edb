"""From a user's data to a source of batches."""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING, Any

from normsurgery import data as datasets
from normsurgery.pytorch.finetuning import batches

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from normsurgery.data import Data, Input
    from normsurgery.pytorch.finetuning.batches import Source

    Samples = str | PathLike[str] | Data | Iterable[Any]

EVALUATED = 250  # samples at a time, without gradients


def training(
    data: Data | Iterable[Any], epochs: int, batch_size: int, seed: int
) -> tuple[Source, int | None]:
    """Return where batches come from, and how many there are in an epoch, if that is known.

    Raises ``UsageError`` without labels or samples.
    """
    if not isinstance(data, datasets.Data):
        return batches.repeated(data, epochs), batches.count(data)
    samples = data
    samples.targets(slice(0, 1))  # it has labels, or says so now
    source = batches.shuffled(
        len(samples), batch_size, seed, lambda i: (samples.feeds(i), samples.targets(i))
    )
    return source, -(-len(samples) // batch_size)


def validation(val: Samples, inputs: Sequence[Input], epochs: int) -> Source:
    """Return where the batches to validate with come from: in order, however often asked.

    Raises ``UsageError`` without labels, and what ``normsurgery.data.read`` raises.
    """
    if isinstance(val, (str, PathLike)):
        val = datasets.read(val, inputs)
    if not isinstance(val, datasets.Data):
        return batches.repeated(val, epochs + 1)
    samples = val
    samples.targets(slice(0, 1))

    def source(_epoch: int, skip: int) -> Iterator[Any]:
        for i in range(skip * EVALUATED, len(samples), EVALUATED):
            part = slice(i, min(i + EVALUATED, len(samples)))
            yield samples.feeds(part), samples.targets(part)

    return source
