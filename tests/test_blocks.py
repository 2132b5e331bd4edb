"""Blocks cover the samples once, whoever computes them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from normsurgery import blocks
from normsurgery.errors import UsageError


@given(st.integers(1, 5000), st.integers(1, 200), st.integers(1, 9))
def test_every_sample_is_in_one_block_of_one_part_of_one_process(
    samples: int, size: int, processes: int
) -> None:
    cut = blocks.cut(samples, size)
    lengths = {last - first for first, last in cut}
    assert max(lengths) <= size
    assert max(lengths) - min(lengths) <= 1
    parts = blocks.parts(cut)
    assert len(parts) <= blocks.PARTS
    shares = [blocks.share(len(parts), i, processes) for i in range(processes)]
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    found = sorted(
        i for one in shares for part in one for block in parts[part] for i in range(*block)
    )
    assert found == list(range(samples))


def test_a_fixed_batch_is_met() -> None:
    assert blocks.cut(12, 100, fixed=4) == [(0, 4), (4, 8), (8, 12)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 4, None), "must be 1 or more"),
        ((4, 0, None), "must be 1 or more"),
        ((10, 1, 4), "use 8 of them"),
        ((3, 1, 4), "use more"),
    ],
)
def test_cuts_that_make_no_sense(arguments: tuple[int, int, int | None], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        blocks.cut(*arguments)


@pytest.mark.parametrize("index", [-1, 3])
def test_no_such_process(index: int) -> None:
    with pytest.raises(UsageError, match="the last 2"):
        blocks.share(5, index, 3)
