"""Weights that are computed from constants at every run become constants."""

from __future__ import annotations

import numpy as np
from graphs import assert_folds, assert_kept, parse, weights

import normsurgery


def test_weight_norm_without_a_batch_norm() -> None:
    model = parse(
        """g (double[N, 3, 8, 8] x) => (double[N, 4, 6, 6] y) {
          n = ReduceL2<keepdims=1>(V, axes)
          q = Div(V, n)
          W = Mul(q, g0)
          y = Conv(x, W)
        }""",
        V=weights(4, 3, 3, 3),
        g0=weights(4, 1, 1, 1),
        axes=np.array([1, 2, 3]),
    )
    result = assert_folds(model, ["Conv"])
    assert result.report.baked == ["W_folded"]


def test_missing_bias_as_the_dynamo_exporter_computes_it() -> None:
    model = parse(
        """g (double[N, 3, 8, 8] x) => (double[N, 4, 6, 6] y) {
          zero = Constant<value = double {0.0}>()
          size = Shape<start = 0, end = 1>(W)
          like = CastLike(zero, x)
          b = Expand(like, size)
          y = Conv(x, W, b)
        }""",
        W=weights(4, 3, 3, 3),
    )
    assert_folds(model, ["Conv"])


def test_plain_constants_stay_where_they_are() -> None:
    model = parse(
        """g (double[N, 2, 8] x) => (double[N, 2, 8] y) {
          V = Constant<value = double[2, 2, 1] {1, 2, 3, 4}>()
          W = Identity(V)
          y = Conv(x, W)
        }"""
    )
    assert_kept(model)


def test_a_weight_computed_from_an_input_stays() -> None:
    model = parse(
        """g (double[N, 3, 8, 8] x, double[4, 3, 3, 3] V) => (double[N, 4, 6, 6] y) {
          W = Abs(V)
          y = Conv(x, W)
        }"""
    )
    assert not normsurgery.fold(model).report.baked


def test_integer_operands_stay() -> None:
    model = parse(
        """g (int64[N, 4] x) => (int64[N, 4] y) {
          W = Abs(V)
          y = MatMul(x, W)
        }""",
        V=np.arange(16).reshape(4, 4),
    )
    assert not normsurgery.fold(model).report.baked
