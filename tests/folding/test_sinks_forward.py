"""Forwards, every reader of a value absorbs its map, or none does."""

from __future__ import annotations

import pytest
from crossings import assert_stays, forwards, slug_of
from graphs import assert_folds, bn, parse, weights


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose", "MatMul", "Gemm"])
def test_weight_that_is_an_input(op: str) -> None:
    rank = 4 if "Conv" in op else 2
    dims = "4, 4, 1, 1" if rank == 4 else "4, 4"
    x = "N, 4, 6, 6" if rank == 4 else "N, 4"
    model = forwards("", f"y = {op}(b, k)", x=x, rank=rank, inputs=f", double[{dims}] k")
    assert slug_of(model, op) == "not-constant"
    assert_stays(model)


TWO = """g (double[N, 4, 6, 6] x) => (double[N, 5, 6, 6] y, double[N, 3, 6, 6] z) {
  s = Sigmoid(x)
  b = BatchNormalization(s, scale, B, mean, var)
  y = Conv(b, V)
  z = CALL
}"""


def test_every_reader_absorbs() -> None:
    model = parse(TWO.replace("CALL", "Conv(b, U)"), V=weights(5, 4, 1, 1), U=weights(3, 4, 1, 1),
                  **bn(4))  # fmt: skip
    assert_folds(model, ["Sigmoid", "Conv", "Conv"])


def test_readers_that_share_a_weight() -> None:
    model = parse(TWO.replace("CALL", "Conv(b, V)"), V=weights(5, 4, 1, 1), **bn(4))
    assert_folds(model, ["Sigmoid", "Conv", "Conv"])


@pytest.mark.parametrize("call", ["Relu(b)", "Conv<pads=[1, 1, 1, 1]>(b, U)", "Add(b, x)"])
def test_all_readers_or_none(call: str) -> None:
    extra = {"U": weights(3, 4, 3, 3)} if "U" in call else {}
    model = parse(TWO.replace("CALL", call), V=weights(5, 4, 1, 1), **bn(4), **extra)
    assert_stays(model)


def test_output_that_is_a_graph_output() -> None:
    model = forwards("d = Identity(b)", outputs=", double[N, 4, 6, 6] b")
    assert_stays(model)
    model = forwards("d = Identity(b)", outputs=", double[N, 4, 6, 6] d")
    assert_stays(model)


def test_output_that_is_read_in_a_body() -> None:
    model = parse(
        """g (double[N, 4, 6, 6] x, bool flag) => (double[N, 5, 6, 6] y, double[N, 4, 6, 6] z) {
          s = Sigmoid(x)
          b = BatchNormalization(s, scale, B, mean, var)
          y = Conv(b, V)
          z = If (flag) <
            then_branch = t () => (double[N, 4, 6, 6] u) { u = Relu(b) },
            else_branch = e () => (double[N, 4, 6, 6] v) { v = Neg(s) }
          >
        }""",
        V=weights(5, 4, 1, 1), **bn(4),
    )  # fmt: skip
    assert_stays(model)


def test_readers_of_the_shape_do_not_count() -> None:
    model = forwards("k = Shape(b)\n d = Identity(b)", outputs=", int64[4] k")
    assert_folds(model, ["Sigmoid", "Shape", "Identity", "Conv"])


def test_two_ways_to_one_layer() -> None:
    text = """g (double[N, 4, 6, 6] x) => (double[N, 5, 6, 6] y) {
      s = Sigmoid(x)
      b = Add(s, k)
      p = Identity(b)
      q = Identity(b)
      d = Add(p, q)
      y = Conv(d, V)
    }"""
    assert_stays(parse(text, k=weights(4, 1, 1), V=weights(5, 4, 1, 1)))
