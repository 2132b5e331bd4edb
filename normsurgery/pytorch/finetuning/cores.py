"""How many threads a step on the CPU takes.

torch cuts every operator over all cores and lets OpenMP's threads wait for each other by spinning.
For the small steps of small images that gains nothing, and where another process has one of the
cores every wait lasts until that one is given back: 674 steps of the digits ResNet at batch 2 took
24 s with one thread and 503 s with two, on two busy cores.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import torch

from normsurgery.data import Data

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SMALL = 1 << 16  # input numbers of a batch: two images of 3×104×104


@contextlib.contextmanager
def limited(threads: int | None, data: Data | Iterable[Any], batch_size: int) -> Iterator[int]:
    """Give torch so many threads, and back what it had before; yield their number.

    None: one if a batch of ``Data`` has fewer than ``SMALL`` input numbers, else torch's own. The
    same data and batch always give the same number, since sums depend on it in their last bits.
    """
    before = torch.get_num_threads()
    if threads is None and isinstance(data, Data):
        sample = sum(array.size for array in data.feeds(slice(0, 1)).values())
        threads = 1 if sample * batch_size < SMALL else None
    torch.set_num_threads(threads or before)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
