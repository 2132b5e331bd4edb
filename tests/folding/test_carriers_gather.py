"""Gather: channels and positions picked, by indices of any rank."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from crossings import backwards, dims, forwards, ints, slug_of
from graphs import assert_folds, assert_kept, ops, parse, run, weights

import normsurgery


@pytest.mark.parametrize("index", [[2, 0], [-1, -4], [0, 1, 2, 3], [1]])
def test_gather_of_channels(index: list[int]) -> None:
    model = backwards("d = Gather<axis=1>(c, i)", channels=len(index), i=ints(*index))
    assert_folds(model, ["Conv", "Gather"])
    model = forwards("d = Gather<axis=-3>(b, i)", V=(5, len(index), 1, 1), i=ints(*index))
    assert_folds(model, ["Sigmoid", "Gather", "Conv"])


@pytest.mark.parametrize("index", [[1, 1], [1, -3]])
def test_gather_of_one_channel_twice(index: list[int]) -> None:
    assert_kept(backwards("d = Gather<axis=1>(c, i)", channels=2, i=ints(*index)), "mixed-channels")
    model = forwards("d = Gather<axis=1>(b, i)", V=(5, 2, 1, 1), i=ints(*index))
    assert_folds(model, ["Sigmoid", "Gather", "Conv"])


def test_gather_of_positions() -> None:
    model = backwards("d = Gather<axis=2>(c, i)", i=ints(1, 1, -1))
    assert_folds(model, ["Conv", "Gather"])
    model = forwards("d = Gather<axis=2>(b, i)", i=ints(1, 1, -1))
    assert_folds(model, ["Sigmoid", "Gather", "Conv"])


@pytest.mark.parametrize("index", [1, -2])
def test_gather_of_one_channel_leaves_one_map_for_all(index: int) -> None:
    model = forwards(
        "d = Gather<axis=1>(b, i)", "y = MatMul(d, V)", V=(6, 5), rank=3, i=np.int64(index),
        shift=False,
    )  # fmt: skip
    assert_folds(model, ["Sigmoid", "Gather", "MatMul"])


@pytest.mark.parametrize("shape", [(), (2, 3), (1, 2, 1)])
@pytest.mark.parametrize("axis", [0, 2, 3])
def test_indices_of_any_rank_along_another_axis(axis: int, shape: tuple[int, ...]) -> None:
    """Also unknown indices: only their rank matters. Channels move if the axes are before them."""
    i, rank = np.arange(int(np.prod(shape))).reshape(shape) % 2, 3 + len(shape)
    at = 1 if axis > 1 else len(shape)
    own = weights(4, *[1] * (rank - at - 1))
    told = f"[{', '.join(map(str, shape))}]" if shape else ""  # nothing is a scalar
    for given in ("", f", int64{told} i"):
        model = parse(
            f"""g (double[2, 3, 6, 6] x{given}) => (double[{dims(rank)}] y) {{
              c = Conv(x, W)
              d = Gather<axis={axis}>(c, i)
              y = Mul(d, k)
            }}""",
            W=weights(4, 3, 1, 1), k=own, **({} if given else {"i": i}),
        )  # fmt: skip
        result = normsurgery.fold(model)
        assert ops(result.model) == ["Conv", "Gather"]
        before, after = (
            run(m, {"x": weights(2, 3, 6, 6), **({"i": i} if given else {})})
            for m in (model, result.model)
        )
        np.testing.assert_allclose(before[0], after[0], rtol=1e-12)


def test_indices_of_rank_2_cut_the_channels_in_two_axes() -> None:
    between = "d = Gather<axis=1>(IN, i)"
    extra: dict[str, Any] = {"i": ints(0, 1, 2, 3).reshape(2, 2)}
    model = forwards(between.replace("IN", "b"), "y = Relu(d)", rank=5, **extra)
    assert slug_of(model, "Gather") == "mixed-channels"
    model = backwards(between.replace("IN", "c"), rank=5, channels=2, **extra)
    assert_kept(model, "mixed-channels")


def test_indices_of_unknown_rank() -> None:
    model = forwards("d = Gather<axis=0>(b, z)", inputs=", int64 z")
    del model.graph.input[1].type.tensor_type.shape.dim[:]
    model.graph.input[1].type.tensor_type.ClearField("shape")
    assert slug_of(model, "Gather") == "unknown-rank"


def test_gather_by_indices_of_run_time() -> None:
    model = backwards("d = Gather<axis=1>(c, i)", inputs=", int64[4] i")
    assert slug_of(model, "Gather", forwards=False) == "not-constant"


def test_map_of_a_table_that_is_gathered_from_is_no_map_of_the_indices() -> None:
    model = backwards("j = Cast<to=7>(c)\n d = Gather<axis=1>(x, j)")
    assert slug_of(model, "Gather", slot=1) == "not-linear"
