"""Norms that an exporter took apart: scale and bias go forwards, and no norm is taken for a BN."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from graphs import assert_folds, assert_same, ops, parse, weights

import normsurgery

STATISTICS = """
  mean = ReduceMean(x, axes)
  d = Sub(x, mean)
  square = SQUARE
  var = ReduceMean(square, axes)
  sum = Add(var, eps)
  deviation = Sqrt(sum)
  n = DIVISION"""
SQUARES = ["Mul(d, d)", "Pow(d, two)"]
DIVISIONS = ["Div(d, deviation)", "Mul(d, inverse)"]


def norm(square: str = SQUARES[0], division: str = DIVISIONS[0]) -> str:
    text = STATISTICS.replace("SQUARE", square).replace("DIVISION", division)
    return text.replace("n = Mul", "inverse = Reciprocal(deviation)\n n = Mul")


def model_of(text: str, x: str, y: str, *, axes: list[int], opset: int = 21, **tensors: Any) -> Any:
    extra = {"two": np.array(2.0)} if "two" in text else {}
    return parse(
        f"g (double[{x}] x) => (double[{y}] y) {{ {text} }}", opset=opset,
        axes=np.array(axes), eps=np.array(1e-3), **extra, **tensors,
    )  # fmt: skip


def left(model: Any) -> list[str]:
    """Return what should be left: all but the Mul of the scale and the Add of the bias."""
    nodes = [n.op_type for n in model.graph.node if n.output[0] not in {"scaled", "shifted"}]
    assert len(nodes) < len(model.graph.node)
    return nodes


@pytest.mark.parametrize("square", SQUARES)
@pytest.mark.parametrize("division", DIVISIONS)
def test_layer_norm(square: str, division: str) -> None:
    text = (
        norm(square, division)
        + """
      scaled = Mul(n, s)
      shifted = Add(scaled, b)
      p = MatMul(shifted, W)
      y = Add(p, k)"""
    )
    model = model_of(
        text, "N, T, 6", "N, T, 5", axes=[-1], s=weights(6), b=weights(6, seed=1),
        W=weights(6, 5), k=weights(5),
    )  # fmt: skip
    assert_folds(model, left(model))


def test_layer_norm_with_several_readers() -> None:
    """Queries, keys and values: each gets its share, or the norm keeps all."""
    text = (
        norm()
        + """
      scaled = Mul(s, n)
      shifted = Add(b, scaled)
      p = MatMul(shifted, W)
      q = Add(p, k)
      r = MatMul(shifted, V)
      t = Add(r, k)
      y = Add(q, t)"""
    )
    tensors = {"s": weights(6), "b": weights(6, seed=1), "W": weights(6, 5), "k": weights(5)}
    model = model_of(text, "N, T, 6", "N, T, 5", axes=[-1], V=weights(6, 5, seed=2), **tensors)
    assert_folds(model, left(model))
    other = text.replace("t = Add(r, k)", "u = Add(r, k)\n w = Relu(shifted)\n t = MatMul(w, V)")
    other = other.replace("y = Add(q, t)", "y = Sum(q, t, u)")
    model = model_of(other, "N, T, 6", "N, T, 5", axes=[-1], V=weights(6, 5, seed=2), **tensors)
    result = normsurgery.fold(model)
    assert ops(result.model) == ops(model)


def test_a_scale_of_0() -> None:
    """The bias cannot cross it, but goes first on its own way; then the scale follows."""
    text = (
        norm()
        + """
      scaled = Mul(n, s)
      shifted = Add(scaled, b)
      p = MatMul(shifted, W)
      y = Add(p, k)"""
    )
    s = weights(6)
    s[2] = 0
    model = model_of(
        text, "N, T, 6", "N, T, 5", axes=[-1], s=s, b=weights(6, seed=1), W=weights(6, 5),
        k=weights(5),
    )  # fmt: skip
    assert_folds(model, left(model))


@pytest.mark.parametrize("layout", ["(C, 1, 1)", "(1, C, 1, 1)"])
def test_instance_norm(layout: str) -> None:
    text = (
        norm()
        + """
      scaled = Mul(n, s)
      shifted = Add(scaled, b)
      y = Conv(shifted, W)"""
    )
    shape = (3, 1, 1) if layout == "(C, 1, 1)" else (1, 3, 1, 1)
    tensors = {"s": weights(*shape), "b": weights(*shape, seed=1), "W": weights(4, 3, 3, 3)}
    model = model_of(text, "N, 3, 6, 6", "N, 4, 4, 4", axes=[2, 3], **tensors)
    assert_folds(model, left(model))
    padded = text.replace("Conv(", "Conv<pads=[1, 1, 1, 1]>(")
    model = model_of(padded, "N, 3, 6, 6", "N, 4, 6, 6", axes=[2, 3], **tensors)
    # the bias would be wrong at the borders and stays, divided by the scale
    assert_folds(model, [n.op_type for n in model.graph.node if n.output[0] != "scaled"])
    tensors["b"] = np.zeros(shape)
    model = model_of(padded, "N, 3, 6, 6", "N, 4, 6, 6", axes=[2, 3], **tensors)
    assert_same(model, normsurgery.fold(model).model)


GROUP = """
  s = Shape(x)
  r = Reshape(x, groups)
  i = InstanceNormalization(r, ones, zeros)
  n = Reshape(i, s)
  scaled = Mul(n, g)
  shifted = Add(scaled, b)
"""


def group_norm(tail: str, y: str, *, x: str = "N, 6, 5, 5", **tensors: Any) -> Any:
    return parse(
        f"g (double[{x}] x) => (double[{y}] y) {{ {GROUP} {tail} }}",
        groups=np.array([0, 2, -1]), ones=np.ones(2), zeros=np.zeros(2), **tensors,
    )  # fmt: skip


@pytest.mark.parametrize("x", ["N, 6, 5, 5", "N, 6, H, W", "?, 6, ?, ?"])
def test_group_norm(x: str) -> None:
    """As exporters write it over an InstanceNormalization of (N, groups, …), at any size."""
    model = group_norm(
        "y = Conv(shifted, W)", "N, 4, H, W", x=x, g=weights(6, 1, 1), b=weights(6, 1, 1, seed=1),
        W=weights(4, 6, 1, 1),
    )  # fmt: skip
    assert_folds(model, left(model), H=3, W=4)


def test_group_norm_takes_what_is_one_number_for_each_group() -> None:
    """Without a layer behind it: what differs within a group stays, what does not goes in."""
    g, b = weights(6, 1, 1), weights(6, 1, 1, seed=1)
    model = group_norm("y = Sigmoid(shifted)", "N, 6, 5, 5", g=g, b=b)
    assert ops(normsurgery.fold(model).model) == ops(model)
    g, b = (np.repeat(v[::3], 3, axis=0) for v in (g, b))
    model = group_norm("y = Sigmoid(shifted)", "N, 6, 5, 5", g=g, b=b)
    assert_folds(model, left(model))


def test_scale_over_groups_and_their_channels_is_no_source() -> None:
    """(1, 2, 3, 1, 1): a constant along two axes."""
    model = parse(
        """g (double[N, 6, 5, 5] x) => (double[N, 4, 5, 5] y) {
          r = Reshape(x, apart)
          t = Sigmoid(r)
          m = Mul(t, g)
          d = Reshape(m, together)
          y = Conv(d, W)
        }""",
        apart=np.array([0, 2, 3, 5, 5]), together=np.array([0, 6, 5, 5]),
        g=weights(1, 2, 3, 1, 1), W=weights(4, 6, 1, 1),
    )  # fmt: skip
    assert ops(normsurgery.fold(model).model) == ops(model)


@pytest.mark.parametrize("axes", [[-1], [2, 3], [1, 2, 3]])
def test_the_statistics_stay(axes: list[int]) -> None:
    """A norm without scale or bias is no map: nothing of it goes into the Conv before it."""
    text = "c = Conv(z, W)\n" + norm().replace("(x,", "(c,") + "\n y = Relu(n)"
    model = parse(
        f"g (double[N, 3, 6, 6] z) => (double[N, 4, 6, 6] y) {{ {text} }}",
        axes=np.array(axes), eps=np.array(1e-3), W=weights(4, 3, 1, 1),
    )  # fmt: skip
    assert ops(normsurgery.fold(model).model) == ops(model)
