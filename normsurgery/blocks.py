"""Data in blocks that do not depend on who reads them, so that neither do the results.

A runtime's kernels may round differently for another size of batch, and batch statistics differ for
another batch altogether. So the samples are cut into blocks once, whatever the number of processes;
consecutive blocks make *parts*, and processes share out whole parts. A part is always computed in
one go, and parts merge in their order: any sharding gives the same bits.
"""

from __future__ import annotations

from itertools import pairwise

from normsurgery.errors import UsageError

PARTS = 120  # at most; divides by every number of processes up to 6

Block = tuple[int, int]  # first sample, and the one after the last


def cut(samples: int, size: int, fixed: int | None = None) -> list[Block]:
    """Return blocks of at most ``size`` samples, whose sizes differ by one at most.

    fixed: the size of batch that the model asks for, if it does; then ``size`` does not matter.

    Raises ``UsageError`` for no samples, a size under 1, or samples that do not fill fixed batches.
    """
    if samples < 1 or size < 1:
        raise UsageError(f"{samples} samples in batches of {size}: both must be 1 or more")
    if fixed is None:
        count = -(-samples // size)
    elif samples % fixed:
        raise UsageError(
            f"the model takes batches of {fixed} and {samples} samples do not fill them; use "
            + (f"{samples // fixed * fixed} of them (--limit)" if samples > fixed else "more")
        )
    else:
        count = samples // fixed
    edges = [samples * i // count for i in range(count + 1)]
    return list(pairwise(edges))


def parts(blocks: list[Block], most: int = PARTS) -> list[list[Block]]:
    """Return the blocks as at most ``most`` runs of consecutive ones, of about equal length."""
    count = min(most, len(blocks))
    edges = [len(blocks) * i // count for i in range(count + 1)]
    return [blocks[a:b] for a, b in pairwise(edges)]


def share(count: int, index: int, of: int) -> list[int]:
    """Return which of ``count`` parts process ``index`` of ``of`` computes.

    Raises ``UsageError`` where there is no such process.
    """
    if not 0 <= index < of:
        raise UsageError(f"shard {index} of {of} does not exist; the first is 0, the last {of - 1}")
    return list(range(index, count, of))
