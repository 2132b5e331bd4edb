"""Norms as an exporter writes them, and what is read of them put into their formula.

The formula is in NumPy float64, and has to give what the graph gives; so an axis, an epsilon or a
scale that was misread cannot hide.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from graphs import feeds, parse, run, weights

from normsurgery import models
from normsurgery.constants import Limits
from normsurgery.graph import Graph
from normsurgery.inspection import composed
from normsurgery.inspection.composed import Composed

EPSILON = 2.0**-10
LAYER = """
  m = ReduceMean(x, along)
  d = Sub(x, m)
  q = Pow(d, two)
  v = ReduceMean(q, along)
  e = Add(v, eps)
  w = Sqrt(e)
  n = Div(d, w)
  a = Mul(n, s)
  y = Add(a, b)"""
RMS = """
  q = Mul(x, x)
  v = ReduceMean(q, along)
  e = Add(v, eps)
  w = Sqrt(e)
  r = Reciprocal(w)
  n = Mul(x, r)
  y = Mul(n, s)"""
GROUP = """
  g = Reshape(x, apart)
  i = InstanceNormalization<epsilon = 0.0009765625>(g, one, zero)
  h = Shape(x)
  n = Reshape(i, h)
  a = Mul(n, s)
  y = Add(a, b)"""


# Constants that a text may read, besides ``along``, ``s`` and ``b``.
TENSORS: dict[str, Any] = {
    "two": np.array(2.0), "eps": np.array(EPSILON), "unit": np.array(1.0), "half": np.array(0.5),
    "minus": np.array(-0.5), "three": np.array(3.0), "below": np.array(-EPSILON),
    "many": np.full((4, 1, 1), EPSILON), "six": np.array(6.0), "more": np.array(6 / 5),
    "less": np.array(0.9), "apart": np.array([0, 2, -1]), "one": np.ones(2), "zero": np.zeros(2),
    "five": np.array(5.0), "batch": np.array([0]), "rows": np.array([2]), "last": np.array([-1]),
    "first": np.array([1, 4, 5, 6]), "thirds": np.array([0, 3, -1]), "flat": np.array([1, -1, 60]),
    "wide": np.array([0, 4, -1]), "other": np.array([0, 5, 4, 6]), "C": weights(4, 5, 6),
}  # fmt: skip


def made(text: str, *, along: Any = (-1,), s: Any = None, b: Any = None, **more: Any) -> Any:
    """Return a model of x (N, 4, 5, 6); s and b: 6 values, along the last axis, by default."""
    known = {
        **TENSORS,
        "along": np.array(along, np.int64),
        "s": weights(6, seed=1) if s is None else s,
        "b": weights(6, seed=2) if b is None else b,
        **more,
    }
    words = set(text.replace("(", " ").replace(")", " ").replace(",", " ").split())
    used = {name: values for name, values in known.items() if name in words}
    head = "g (double[N, 4, 5, 6] x) => (double[N, 4, 5, 6] y) {"
    return parse(head + text + "}", **used)


def found(model: Any) -> list[Composed]:
    return list(composed.find(Graph(models.take(model)[0]).main, Limits()))


def formula(norm: Composed, x: Any) -> Any:
    """Return ``scale·(x − mean)/√(var + epsilon) + bias`` of what was read of a norm."""
    shape, axes = x.shape, norm.axes
    values = x
    if norm.num_groups is not None:
        values, axes = x.reshape(shape[0], norm.num_groups, -1), (2,)
    raw = norm.kind == "RMSNormalization"
    centred = values if raw else values - values.mean(axes, keepdims=True)
    count = np.prod([values.shape[i] for i in axes])
    var = np.square(centred).sum(axes, keepdims=True) / (count - norm.unbiased)
    # its epsilon is that of the mean of squares
    extra = norm.epsilon * (count / (count - 1) if norm.unbiased else 1)
    result = (centred / np.sqrt(var + extra)).reshape(shape)
    for what, factor in (("scale", norm.scale), ("bias", norm.bias)):
        if factor is not None:
            c = np.asarray(factor.values)
            if norm.kind in {"GroupNormalization", "InstanceNormalization"}:
                (axis,) = {1, 2, 3} - set(norm.axes) if norm.num_groups is None else {1}
                c = c.reshape([-1 if i == axis else 1 for i in range(len(shape))])
            result = result * c if what == "scale" else result + c
    return result


def checked(model: Any) -> Composed:
    """Return the one norm of a model whose output is that norm of its input."""
    (norm,) = found(model)
    assert norm.last.output[0] == "y"
    inputs = feeds(model)
    np.testing.assert_allclose(run(model, inputs)[0], formula(norm, inputs["x"]), atol=1e-12)
    return norm


SPELLINGS = {
    "a square by Mul": LAYER.replace("Pow(d, two)", "Mul(d, d)"),
    "a root by Pow": LAYER.replace("Sqrt(e)", "Pow(e, half)"),
    "one over the root": LAYER.replace("n = Div(d, w)", "r = Reciprocal(w)\n n = Mul(d, r)"),
    "one over the root by Div": LAYER.replace("n = Div(d, w)", "r = Div(unit, w)\n n = Mul(r, d)"),
    "one over the root by Pow": LAYER.replace("w = Sqrt(e)", "r = Pow(e, minus)").replace(
        "Div(d, w)", "Mul(d, r)"
    ),
    "two differences": LAYER.replace("q = Pow(d, two)", "f = Sub(x, m)\n q = Pow(f, two)"),
    "scaled before": LAYER.replace(
        "n = Div(d, w)\n  a = Mul(n, s)", "n = Mul(s, d)\n a = Div(n, w)"
    ),
    "operands turned": LAYER.replace("Mul(n, s)", "Mul(s, n)").replace("Add(a, b)", "Add(b, a)"),
    "epsilon in front": LAYER.replace("Add(v, eps)", "Add(eps, v)"),
    "axes taken out and put back": LAYER.replace(
        "v = ReduceMean(q, along)",
        "v0 = ReduceMean<keepdims=0>(q, along)\n v = Unsqueeze(v0, last)",
    ),
    "statistics in double precision": LAYER.replace(
        "q = Pow(d, two)", "f = Cast<to=11>(d)\n q = Pow(f, two)"
    ),
    "a sum divided by its number": LAYER.replace(
        "v = ReduceMean(q, along)", "u = ReduceSum(q, along)\n v = Div(u, six)"
    ),
}  # fmt: skip
CHANNELS = {"s": weights(4, 1, 1, seed=1), "b": weights(4, 1, 1, seed=2)}
LAYERED = """
  g = Reshape(x, apart)
  i = LayerNormalization<epsilon = 0.0009765625>(g, ones)
  h = Shape(x)
  n = Reshape(i, h)
  a = Mul(n, s)
  y = Add(a, b)"""
