"""AdaIN as exporters write it, in ONNX text and double precision. Epsilon is 2⁻¹⁰, a float32."""

from __future__ import annotations

from typing import Any

import numpy as np
from graphs import parse, weights

EPSILON = 2.0**-10
# content c and style t are features; each text makes y of them
NATIVE = """
  n = InstanceNormalization<epsilon = 0.0009765625>(c, ones, zeros)
  a = Mul(n, s)
  y = Add(a, b)"""
ARITHMETIC = """
  m = ReduceMean(c, spatial)
  d = Sub(c, m)
  q = Mul(d, d)
  v = ReduceMean(q, spatial)
  e = Add(v, eps)
  w = Sqrt(e)
  n = Div(d, w)
  a = Mul(s, n)
  y = Add(a, b)"""
SCALED_FIRST = ARITHMETIC.replace(
    "n = Div(d, w)\n  a = Mul(s, n)", "n = Mul(s, d)\n  a = Div(n, w)"
)
STYLE = """
  t = Conv(style, K)
  b = ReduceMean(t, spatial)
  dt = Sub(t, b)
  qt = Pow(dt, two)
  vt = ReduceMean(qt, spatial)
  et = Add(vt, eps)
  s = Sqrt(et)"""
FLAT = """
  cs = Shape(c)
  flat = Reshape(c, to3)
  m3 = ReduceMean(flat, last)
  d3 = Sub(flat, m3)
  q3 = Mul(d3, d3)
  v2 = ReduceMean<keepdims=0>(q3, last)
  COUNT
  e = Add(u, eps)
  w2 = Sqrt(e)
  w4 = Reshape(w2, to4)
  m2 = ReduceMean<keepdims=0>(flat, last)
  m4 = Reshape(m2, to4)
  mx = Expand(m4, cs)
  wx = Expand(w4, cs)
  d = Sub(c, mx)
  n = Div(d, wx)
  sx = Expand(s, cs)
  bx = Expand(b, cs)
  a = Mul(n, sx)
  y = Add(a, bx)"""
UNBIASED = """fs = Shape(flat)
  k = Gather(fs, last)
  p = ReduceProd<keepdims=0>(k)
  f = Cast<to=11>(p)
  x = Mul(v2, f)
  f1 = Sub(f, one)
  u = Div(x, f1)"""


def adain(
    how: str, *, content: str = "N, 4, H, W", style: str = "1, 2, 5, 5", encoder: str = STYLE
) -> Any:
    """Return the model: a Conv makes c, the style's encoder s and b, and a Relu reads y."""
    text = encoder + how
    used = {
        "ones": np.ones(4), "zeros": np.zeros(4), "spatial": np.array([2, 3]), "eps": EPSILON,
        "two": np.array(2.0), "last": np.array([2]), "to3": np.array([0, 4, -1]),
        "to4": np.array([0, 4, 1, 1]), "one": np.array(1.0), "K": weights(4, 2, 3, 3),
    }  # fmt: skip
    return parse(
        f"""g (double[{content}] content, double[{style}] style) => (double[N, 4, H, W] z) {{
          c = Conv(content, W)
          {text}
          z = Relu(y)
        }}""",
        W=weights(4, int(content.split(",")[1]), 1, 1),
        **{n: np.asarray(v) for n, v in used.items() if n in text},
    )  # fmt: skip
