"""A BatchNormalization absorbs a map on its input."""

from __future__ import annotations

import numpy as np
import pytest
from crossings import assert_stays, forwards
from graphs import assert_folds, bn, parse, weights

import normsurgery


@pytest.mark.parametrize(
    "call", ["Mul(u, k)", "Add(k, u)", "Sub(u, k)", "Sub(k, u)", "Div(u, k)", "Mul(u, two)"]
)
def test_batch_normalization_takes_what_is_before_it(call: str) -> None:
    extra = {"two": np.float64(2)} if "two" in call else {"k": weights(4, 1, 1)}
    model = forwards("", "y = Neg(b)", **extra)
    model.graph.node[1].input[0] = "v"
    made = parse(f"g (double[1] u) => (double[1] v) {{ v = {call} }}", **extra).graph.node[0]
    model.graph.node.insert(1, made)
    assert_folds(model, ["Sigmoid", "BatchNormalization", "Neg"])


def test_batch_normalization_in_training_mode_takes_nothing() -> None:
    model = parse(
        """g (double[N, 4, 6, 6] x) => (double[N, 4, 6, 6] y) {
          s = Sigmoid(x)
          b = Mul(s, k)
          y = BatchNormalization<training_mode=1>(b, scale, B, mean, var)
        }""",
        k=weights(4, 1, 1), **bn(4),
    )  # fmt: skip
    result = normsurgery.fold(model)
    assert [n.op_type for n in result.model.graph.node][1] == "Mul"


def test_map_along_positions_before_a_batch_normalization() -> None:
    model = parse(
        """g (double[N, 4, 6, 6] x) => (double[N, 4, 6, 6] y) {
          s = Sigmoid(x)
          b = Mul(s, k)
          y = BatchNormalization(b, scale, B, mean, var)
        }""",
        k=weights(6), **bn(4),
    )  # fmt: skip
    assert_stays(model)
