"""Add, Sub, Mul and Div by constants, decomposed BatchNormalization, and what only looks so."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from crossings import assert_stays
from graphs import assert_folds, bn, ops, parse, run, weights

import normsurgery

SPELLINGS = {
    "all four": """
      e = Add(var, eps)
      f = Sqrt(e)
      g = Sub(c, mean)
      h = Div(g, f)
      i = Mul(h, scale)
      d = Add(i, B)""",
    "operands the other way": """
      e = Add(eps, var)
      f = Sqrt(e)
      g = Sub(c, mean)
      h = Div(g, f)
      i = Mul(scale, h)
      d = Add(B, i)""",
    "reciprocal": """
      e = Add(var, eps)
      f = Sqrt(e)
      r = Reciprocal(f)
      g = Sub(c, mean)
      h = Mul(r, g)
      i = Mul(scale, h)
      d = Add(B, i)""",
    "tf's batchnorm": """
      e = Add(var, eps)
      f = Sqrt(e)
      r = Div(scale, f)
      g = Mul(c, r)
      h = Mul(mean, r)
      i = Sub(B, h)
      d = Add(g, i)""",
    "power": """
      e = Add(var, eps)
      f = Pow(e, half)
      g = Sub(c, mean)
      h = Div(g, f)
      i = Mul(h, scale)
      d = Add(i, B)""",
    "scale and shift": """
      i = Mul(c, scale)
      d = Add(i, B)""",
    "mirrored": """
      g = Sub(mean, c)
      i = Mul(g, scale)
      d = Sub(B, i)""",
}
SHAPES = [(4, 1, 1), (1, 4, 1, 1)]


def decomposed(spelling: str, shape: tuple[int, ...]) -> tuple[str, dict[str, Any]]:
    text = SPELLINGS[spelling]
    found: dict[str, Any] = {n: v.reshape(shape) for n, v in bn(4).items() if n in text}
    if "eps" in text:
        found["eps"] = np.float64(1e-5)
    if "half" in text:
        found["half"] = np.float64(0.5)
    return text, found


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_decomposed_behind_a_layer(spelling: str, shape: tuple[int, ...]) -> None:
    text, found = decomposed(spelling, shape)
    model = parse(
        f"""g (double[N, 3, 6, 6] x) => (double[N, 4, 6, 6] d) {{
          c = Conv(x, W)
          {text}
        }}""",
        W=weights(4, 3, 1, 1), **found,
    )  # fmt: skip
    assert_folds(model, ["Conv"])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_decomposed_before_a_layer(spelling: str, shape: tuple[int, ...]) -> None:
    text, found = decomposed(spelling, shape)
    model = parse(
        f"""g (double[N, 4, 6, 6] x) => (double[N, 5, 6, 6] y) {{
          c = Sigmoid(x)
          {text}
          y = Conv(d, V)
        }}""",
        V=weights(5, 4, 1, 1), **found,
    )  # fmt: skip
    assert_folds(model, ["Sigmoid", "Conv"])


@pytest.mark.parametrize("shape", [(4,), (1, 4), (1, 1, 1, 4)])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_channels_last(spelling: str, shape: tuple[int, ...]) -> None:
    text, found = decomposed(spelling, shape)
    model = parse(
        f"""g (double[N, 5, 5, 3] x) => (double[N, 5, 5, 4] d) {{
          t = Transpose<perm=[0, 3, 1, 2]>(x)
          a = Conv(t, W)
          c = Transpose<perm=[0, 2, 3, 1]>(a)
          {text}
        }}""",
        W=weights(4, 3, 1, 1), **found,
    )  # fmt: skip
    assert_folds(model, ["Transpose", "Conv", "Transpose"])
    model = parse(
        f"""g (double[N, 5, 5, 4] x) => (double[N, 5, 3, 3] y) {{
          c = Sigmoid(x)
          {text}
          t = Transpose<perm=[0, 3, 1, 2]>(d)
          y = Conv(t, V)
        }}""",
        V=weights(5, 4, 3, 3), **found,
    )  # fmt: skip
    assert_folds(model, ["Sigmoid", "Transpose", "Conv"])


CALLS = ["Mul(c, k)", "Mul(k, c)", "Add(c, k)", "Add(k, c)", "Sub(c, k)", "Sub(k, c)", "Div(c, k)"]
ONE_AXIS = [(), (1,), (1, 1, 1), (1, 1, 1, 1), (4, 1, 1), (1, 4, 1, 1)]


@pytest.mark.parametrize("shape", ONE_AXIS)
@pytest.mark.parametrize("call", CALLS)
def test_one_node(call: str, shape: tuple[int, ...]) -> None:
    text = f"g (double[N, 3, 6, 6] x) => (double[N, 4, 6, 6] y) {{ c = Conv(x, W)\n y = {call} }}"
    model = parse(text, W=weights(4, 3, 3, 3), k=weights(*shape))
    assert_folds(model, ["Conv"])
    text = f"""g (double[N, 4, 6, 6] x) => (double[N, 5, 4, 4] y) {{
      c = Sigmoid(x)
      b = {call}
      y = Conv(b, V)
    }}"""
    model = parse(text, V=weights(5, 4, 3, 3), k=weights(*shape))
    assert_folds(model, ["Sigmoid", "Conv"])


@pytest.mark.parametrize("call", CALLS)
def test_on_a_matrix(call: str) -> None:
    text = f"g (double[N, 3] x) => (double[N, 4] y) {{ c = Gemm(x, W)\n y = {call} }}"
    for shape in ((4,), (1, 4), (1,), ()):
        assert_folds(parse(text, W=weights(3, 4), k=weights(*shape)), ["Gemm"])


# -- look-alikes ---------------------------------------------------------------------------------

ALONG = {
    "width": (6,),
    "height": (6, 1),
    "height and width": (6, 6),
    "channels and width": (4, 1, 6),
    "batch": (4, 1, 1, 1),
    "everything": (4, 4, 6, 6),
}


@pytest.mark.parametrize("shape", ALONG.values(), ids=ALONG)
@pytest.mark.parametrize("call", CALLS)
def test_constant_along_another_axis(call: str, shape: tuple[int, ...]) -> None:
    """As many rows, columns and images as channels would hide a mistake."""
    x = "4, 3, 6, 6" if len(shape) == 4 else "N, 3, 6, 6"
    text = f"""g (double[{x}] x) => (double[N, 4, 6, 6] y) {{
      c = Conv(x, W)
      y = {call}
    }}"""
    model = parse(text, W=weights(4, 3, 1, 1), k=weights(*shape))
    assert_stays(model)
    square = tuple(4 if d == 6 else d for d in shape)
    text = text.replace("6, 6", "4, 4")
    assert_stays(parse(text, W=weights(4, 3, 1, 1), k=weights(*square)))
    text = f"""g (double[{x.replace("3, 6, 6", "4, 4, 4")}] x) => (double[N, 4, 4, 4] y) {{
      c = Sigmoid(x)
      b = {call}
      y = Conv(b, W)
    }}"""
    assert_stays(parse(text, W=weights(4, 4, 1, 1), k=weights(*square)))


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("c_out", "shape"), [(1, (4, 1, 1)), (4, (2, 1, 4, 1, 1)), (4, (1, 1, 4, 1, 1)), (1, (6, 1, 1))]
)
def test_constant_that_widens(call: str, c_out: int, shape: tuple[int, ...]) -> None:
    rank = max(4, len(shape))
    text = f"""g (double[N, 3, 6, 6] x) => (double[{", ".join("NMPQR"[:rank])}] y) {{
      c = Conv(x, W)
      y = {call}
    }}"""
    assert_stays(parse(text, W=weights(c_out, 3, 1, 1), k=weights(*shape)))


@pytest.mark.parametrize("size", ["1", "C"])
def test_constant_that_widens_before_a_layer(size: str) -> None:
    text = f"""g (double[N, {size}, 6, 6] x) => (double[N, 5, 6, 6] y) {{
      c = Sigmoid(x)
      b = Mul(c, k)
      y = Conv(b, V)
    }}"""
    model = parse(text, V=weights(5, 4, 1, 1), k=weights(4, 1, 1))
    assert_stays(model)


def test_constant_over_a_value() -> None:
    text = "g (double[N, 3, 6, 6] x) => (double[N, 4, 6, 6] y) { c = Conv(x, W)\n y = Div(k, c) }"
    for shape in ONE_AXIS:
        assert_stays(parse(text, W=weights(4, 3, 1, 1), k=weights(*shape)))


def test_decomposed_layer_norm() -> None:
    """Mean and deviation are of run time; only the scale and shift behind them move on."""
    text = """g (double[N, 6, 4] x) => (double[N, 6, 5] y) {
      c = MatMul(x, W)
      m = ReduceMean(c, last)
      s = Sub(c, m)
      q = Mul(s, s)
      v = ReduceMean(q, last)
      e = Add(v, eps)
      r = Sqrt(e)
      n = Div(s, r)
      g = Mul(n, gamma)
      b = Add(g, beta)
      p = MatMul(b, V)
      y = Add(p, k)
    }"""
    model = parse(
        text, W=weights(4, 8), V=weights(8, 5), gamma=weights(8), beta=weights(8), k=weights(5),
        eps=np.float64(1e-5), last=np.array([-1]),
    )  # fmt: skip
    expected = ["MatMul", "ReduceMean", "Sub", "Mul", "ReduceMean", "Add", "Sqrt", "Div"]
    assert_folds(model, [*expected, "MatMul", "Add"])


def test_decomposed_prelu() -> None:
    """Relu(c) − k·Relu(−c)."""
    model = parse(
        """g (double[N, 3, 6, 6] x) => (double[N, 4, 6, 6] y) {
          c = Conv(x, W)
          p = Relu(c)
          m = Neg(c)
          n = Relu(m)
          s = Mul(n, k)
          y = Sub(p, s)
        }""",
        W=weights(4, 3, 1, 1), k=weights(4, 1, 1),
    )  # fmt: skip
    result = normsurgery.fold(model)
    assert "Relu" in ops(result.model)
    assert_folds(model, ops(result.model))


def test_positional_encoding_stays_right() -> None:
    model = parse(
        """g (double[N, 6, 4] x) => (double[N, 6, 8] y) {
          c = MatMul(x, W)
          p = Add(c, pe)
          t = Mul(p, gamma)
          y = Add(t, beta)
        }""",
        W=weights(4, 8), pe=weights(1, 6, 8), gamma=weights(8), beta=weights(8),
    )  # fmt: skip
    assert_folds(model, ["MatMul", "Add"])


def test_gate_of_run_time() -> None:
    model = parse(
        """g (double[N, 3, 6, 6] x) => (double[N, 4, 6, 6] y) {
          c = Conv(x, W)
          p = GlobalAveragePool(c)
          s = Sigmoid(p)
          y = Mul(c, s)
        }""",
        W=weights(4, 3, 1, 1),
    )  # fmt: skip
    assert_stays(model)


def test_integers_are_no_maps() -> None:
    model = parse(
        """g (int64[N, 4] x) => (int64[N, 4] y) {
          a = Mul(x, k)
          y = Div(a, k)
        }""",
        k=np.array([1, 2, 3, 4]),
    )
    assert_stays(model)


def test_overridable_constant() -> None:
    text = """g (double[N, 3, 6, 6] x, double[4, 1, 1] k) => (double[N, 4, 6, 6] y) {
      c = Conv(x, W)
      y = Mul(c, k)
    }"""
    model = parse(text, W=weights(4, 3, 1, 1), k=weights(4, 1, 1))
    assert_stays(model)
    assert ops(normsurgery.fold(model, freeze_inputs=True).model) == ["Conv"]


def test_both_operands_constant() -> None:
    model = parse(
        """g (double[N, 3, 6, 6] x) => (double[N, 4, 6, 6] y) {
          m = Mul(k, k)
          c = Conv(x, W)
          y = Mul(c, m)
        }""",
        W=weights(4, 3, 1, 1), k=weights(4, 1, 1),
    )  # fmt: skip
    assert_folds(model, ["Conv"])


@pytest.mark.parametrize("call", ["Mul(c, c)", "Add(c, c)", "Sub(c, c)"])
def test_a_value_with_itself(call: str) -> None:
    text = f"""g (double[N, 3, 6, 6] x) => (double[N, 4, 6, 6] y) {{
      c = Conv(x, W)
      d = {call}
      y = Mul(d, k)
    }}"""
    model = parse(text, W=weights(4, 3, 1, 1), k=weights(4, 1, 1))
    result = normsurgery.fold(model)
    inputs = {"x": weights(2, 3, 6, 6, seed=5)}
    assert np.allclose(run(model, inputs)[0], run(result.model, inputs)[0], rtol=1e-12)


@pytest.mark.parametrize(
    ("attributes", "shape", "folds"),
    [
        ("broadcast=1, axis=1", (4,), True),
        ("broadcast=1, axis=1", (4, 1, 1), True),
        ("broadcast=1", (1,), True),
        ("broadcast=1, axis=2", (6,), False),
        ("broadcast=1, axis=3", (6,), False),
        ("broadcast=1", (6, 6), False),
    ],
)
def test_before_opset_7(attributes: str, shape: tuple[int, ...], folds: bool) -> None:
    model = parse(
        f"""g (double[N, 3, 6, 6] x) => (double[N, 4, 6, 6] y) {{
          c = Conv(x, W)
          y = Mul<{attributes}>(c, k)
        }}""",
        opset=6, W=weights(4, 3, 1, 1), k=weights(*shape),
    )  # fmt: skip
    assert bool(normsurgery.fold(model).report.folded) == folds
