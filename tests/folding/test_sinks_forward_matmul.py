"""Gemm and MatMul absorb a map on their input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from crossings import assert_stays, forwards, slug_of
from graphs import assert_folds, bn, parse, weights


@pytest.mark.parametrize("C", [None, (), (1,), (5,), (1, 5), (3, 1), (3, 5)])
@pytest.mark.parametrize("attributes", ["", "<transB=1>", "<alpha=0.5, beta=2.5>", "<beta=0.0>"])
def test_gemm(attributes: str, C: tuple[int, ...] | None) -> None:
    extra = {} if C is None else {"k": weights(*C, seed=3)}
    last = f"y = Gemm{attributes}(b, V{'' if C is None else ', k'})"
    V = (5, 4) if "transB" in attributes else (4, 5)
    assert_folds(forwards("", last, V=V, x="3, 4", rank=2, **extra), ["Sigmoid", "Gemm"])


def test_gemm_sums_over_rows() -> None:
    model = forwards("", "y = Gemm<transA=1>(b, V)", x="3, 4", rank=2, V=(3, 5))
    assert slug_of(model, "Gemm") == "no-channel"
    assert_stays(model)
    model = parse(
        """g (double[3, 4] x) => (double[4, 5] y) {
          s = Sigmoid(x)
          b = Sub(m, s)
          y = Gemm<transA=1, alpha=0.5>(b, V)
        }""",
        V=weights(3, 5), m=np.float64(3),
    )  # fmt: skip
    assert_folds(model, ["Sigmoid", "Gemm"])


def test_gemm_with_a_constant_on_the_left() -> None:
    model = forwards("", "y = Gemm(V, b)", x="3, 4", rank=2, V=(5, 3))
    assert slug_of(model, "Gemm", slot=1) == "not-constant"
    assert_stays(model)


def test_map_of_a_gemms_bias() -> None:
    model = forwards("", "y = Gemm(V, k, b)", x="3, 4", rank=2, V=(3, 6), k=weights(6, 4))
    assert_stays(model)


def test_gemm_bias_of_run_time() -> None:
    kinds: dict[str, Any] = {"x": "3, 4", "rank": 2, "V": (4, 5), "inputs": ", double[5] k"}
    model = forwards("", "y = Gemm(b, V, k)", **kinds)
    assert slug_of(model, "Gemm") == "not-constant"
    assert_stays(model)
    assert_folds(forwards("", "y = Gemm(b, V, k)", shift=False, **kinds), ["Sigmoid", "Gemm"])


LAST = """g (double[{}] x) => (double[{}] y) {{
  s = Sigmoid(x)
  t = Mul(s, m)
  b = Add(t, a)
  c = MatMul({})
  y = Add(c, k)
}}"""


@pytest.mark.parametrize("x", ["N, 4", "N, 3, 4", "N, 2, 3, 4"])
def test_matmul_from_the_right(x: str) -> None:
    y = x[:-1] + "5"
    model = parse(
        LAST.format(x, y, "b, V"), m=weights(4), a=weights(4), k=weights(5), V=weights(4, 5)
    )
    assert_folds(model, ["Sigmoid", "MatMul", "Add"])


def test_matmul_from_the_left() -> None:
    model = parse(
        LAST.format("N, 4, 6", "N, 5, 6", "V, b"),
        m=weights(4, 1), a=weights(4, 1), k=weights(5, 1), V=weights(5, 4),
    )  # fmt: skip
    assert_folds(model, ["Sigmoid", "MatMul", "Add"])


def test_shift_behind_a_matmul_needs_a_place() -> None:
    model = forwards("", "y = MatMul(b, V)", x="N, 4", rank=2, V=(4, 5))
    assert slug_of(model, "MatMul") is None  # the shift goes on, and ends at the output
    assert_stays(model)
    model = forwards("", "y = MatMul(b, V)", x="N, 4", rank=2, V=(4, 5), shift=False)
    assert_folds(model, ["Sigmoid", "MatMul"])


def test_shift_goes_on_into_the_next_matmul() -> None:
    model = parse(
        """g (double[N, 4] x) => (double[N, 3] y) {
          s = Sigmoid(x)
          b = BatchNormalization(s, scale, B, mean, var)
          c = MatMul(b, V)
          d = MatMul(c, U)
          y = Add(d, k)
        }""",
        V=weights(4, 5), U=weights(5, 3), k=weights(3), **bn(4),
    )  # fmt: skip
    assert_folds(model, ["Sigmoid", "MatMul", "MatMul", "Add"])


@pytest.mark.parametrize("shift", [True, False])
def test_matmul_with_a_batch_of_matrices(shift: bool) -> None:
    model = parse(
        """g (double[2, 3, 4] x) => (double[2, 3, 5] y) {
          s = Sigmoid(x)
          b = CALL(s, m)
          c = MatMul(b, V)
          y = Add(c, k)
        }""".replace("CALL", "Add" if shift else "Mul"),
        V=weights(2, 4, 5), m=weights(4), k=weights(5),
    )  # fmt: skip
    if shift:
        assert_stays(model)
    else:
        assert_folds(model, ["Sigmoid", "MatMul", "Add"])


@pytest.mark.parametrize("shape", [(3, 1), (2, 1, 1)])
def test_matmul_that_does_not_sum_over_the_map(shape: tuple[int, ...]) -> None:
    model = parse(
        """g (double[2, 3, 4] x) => (double[2, 3, 5] y) {
          s = Sigmoid(x)
          b = Mul(s, m)
          y = MatMul(b, V)
        }""",
        V=weights(4, 5), m=weights(*shape),
    )  # fmt: skip
    assert_stays(model)


def test_matmul_of_vectors() -> None:
    text = """g (double[4] x) => (double[5] y) {
      s = Sigmoid(x)
      b = Mul(s, m)
      y = MatMul(b, V)
    }"""
    assert_stays(parse(text, V=weights(4, 5), m=weights(4)))
    text = text.replace("[4] x", "[5, 4] x").replace("Sigmoid(x)", "Sigmoid(x)")
    assert_stays(parse(text, V=weights(4), m=weights(4)))
