"""Expand and Tile."""

from __future__ import annotations

import numpy as np
import pytest
from crossings import assert_stays, backwards, forwards, ints, slug_of
from graphs import assert_folds, assert_kept, parse, weights

from normsurgery.affine import ChannelAffine

ALIKE = {"scale": np.full(4, 2.0), "B": np.full(4, -1.0), "mean": np.ones(4), "var": np.ones(4)}


@pytest.mark.parametrize("x", ["N, 3, 1, 6", "1, 3, 6, 6"])
def test_expand_along_other_axes(x: str) -> None:
    model = backwards(
        "d = Expand(c, s)", x=x, s=ints(1, 1, 6, 1) if "1, 6" in x else ints(2, 1, 1, 1)
    )
    assert_folds(model, ["Conv", "Expand"])
    model = forwards("d = Expand(b, s)", x="N, 4, 1, 6", s=ints(1, 4, 6, 1))
    assert_folds(model, ["Sigmoid", "Expand", "Conv"])


def test_expand_with_new_axes_in_front() -> None:
    model = parse(
        """g (double[3, 6] x) => (double[2, 4, 6] y) {
          c = MatMul(W, x)
          d = Expand(c, s)
          y = Mul(d, m)
        }""",
        W=weights(4, 3), s=ints(2, 1, 1), m=weights(4, 1),
    )  # fmt: skip
    assert_folds(model, ["MatMul", "Expand"])
    model = parse(
        """g (double[4, 6] x) => (double[2, 5, 6] y) {
          b = Mul(x, m)
          d = Expand(b, s)
          y = MatMul(W, d)
        }""",
        W=weights(5, 4), s=ints(2, 1, 1), m=weights(4, 1),
    )  # fmt: skip
    assert_folds(model, ["Expand", "MatMul"])


def test_channel_that_is_repeated() -> None:
    """One channel made four: backwards all four must have one map."""
    model = backwards("d = Expand(c, s)", W=(1, 3, 1, 1), s=ints(1, 4, 1, 1))
    assert_kept(model, "mixed-channels")
    for tensor in model.graph.initializer:
        if tensor.name in ALIKE:
            tensor.raw_data = ALIKE[tensor.name].tobytes()
    assert_folds(model, ["Conv", "Expand"])
    model = forwards("d = Expand(b, s)", x="N, 1, 6, 6", channels=1, s=ints(1, 4, 1, 1))
    assert_folds(model, ["Sigmoid", "Expand", "Conv"])


def test_expand_whose_rank_or_size_is_unknown() -> None:
    model = backwards("d = Expand(c, s)", inputs=", int64[R] s")
    assert slug_of(model, "Expand", forwards=False) == "unknown-rank"
    model = forwards("d = Expand(u, s)", x="N, C, 6, 6", s=ints(1, 1, 1, 1))
    affine = ChannelAffine(np.arange(4.0), np.ones(4))
    assert slug_of(model, "Expand", affine=affine) == "unknown-shape"


def test_map_of_a_shape_is_none_of_the_value() -> None:
    model = forwards("k = Cast<to=7>(b)\n d = Expand(x, k)")
    assert slug_of(model, "Expand", slot=1) == "not-linear"


def test_tile_along_other_axes() -> None:
    model = backwards("d = Tile(c, r)", r=ints(1, 1, 2, 1))
    assert_folds(model, ["Conv", "Tile"])
    model = forwards("d = Tile(b, r)", r=ints(2, 1, 1, 3))
    assert_folds(model, ["Sigmoid", "Tile", "Conv"])


def test_tile_of_channels() -> None:
    model = forwards("d = Tile(b, r)", r=ints(1, 2, 1, 1), V=(5, 8, 1, 1))
    assert_folds(model, ["Sigmoid", "Tile", "Conv"])
    model = backwards("d = Tile(c, r)", r=ints(1, 2, 1, 1), W=(2, 3, 1, 1))
    assert_kept(model, "mixed-channels")
    model = parse(
        """g (double[N, 3, 6] x) => (double[N, 4, 6] y) {
          c = Conv(x, W)
          d = Tile(c, r)
          y = Mul(d, m)
        }""",
        W=weights(2, 3, 1), r=ints(1, 2, 1), m=np.tile(weights(2), 2).reshape(4, 1),
    )  # fmt: skip
    assert_folds(model, ["Conv", "Tile"])


def test_tile_by_repeats_of_run_time() -> None:
    model = backwards("d = Tile(c, r)", inputs=", int64[4] r")
    assert_kept(model, "not-constant")


def test_tile_of_unknown_channels() -> None:
    model = parse(
        """g (double[N, C, 6] x) => (double[N, 4, 6] y) {
          d = Tile(x, r)
          y = BatchNormalization(d, scale, B, mean, var)
        }""",
        r=ints(1, 2, 1), **ALIKE,
    )  # fmt: skip
    assert_kept(model, "unknown-shape")
    assert_stays(forwards("k = Cast<to=7>(b)\n d = Tile(x, k)"))
