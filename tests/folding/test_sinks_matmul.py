"""Gemm and MatMul absorb BatchNormalization backwards; Add of a constant is their bias."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from graphs import assert_folds, assert_kept, bn, parse, weights

import normsurgery
from normsurgery.errors import GraphError


def gemm(attributes: str = "", inputs: str = "x, W", opset: int = 21, **extra: object) -> object:
    text = f"""g (double[3, 6] x) => (double[3, 5] y) {{
      c = Gemm{attributes}({inputs})
      y = BatchNormalization(c, scale, B, mean, var)
    }}"""
    return parse(text, opset=opset, **{"W": weights(6, 5), **bn(5), **extra})


@pytest.mark.parametrize("shape", [None, (), (1,), (5,), (1, 5), (3, 1), (1, 1), (3, 5)])
@pytest.mark.parametrize("attributes", ["", "<alpha=0.5, beta=2.5>", "<beta=0.0>"])
def test_gemm_bias_of_every_form(shape: tuple[int, ...] | None, attributes: str) -> None:
    if shape is None:
        model = gemm(attributes)
    else:
        model = gemm(attributes, "x, W, C", C=weights(*shape, seed=4))
    result = assert_folds(model, ["Gemm"])
    assert "beta" not in {a.name for a in result.model.graph.node[0].attribute}


def test_gemm_with_beta_0_never_reads_its_bias() -> None:
    model = gemm("<beta=0.0>", "x, W, C", C=np.full(5, np.inf))
    folded = normsurgery.fold(model).model
    values = [np.isfinite(np.frombuffer(t.raw_data)).all() for t in folded.graph.initializer]
    assert values == [True, True]


@pytest.mark.parametrize("attributes", ["<transB=1>", "<transA=1, transB=1>", "<transA=1>"])
def test_gemm_transposed(attributes: str) -> None:
    W = weights(5, 6) if "transB" in attributes else weights(6, 5)
    model = gemm(attributes, W=W)
    if "transA" in attributes:
        for dim, size in zip(model.graph.input[0].type.tensor_type.shape.dim, (6, 3), strict=True):
            dim.dim_value = size
    assert_folds(model, ["Gemm"])


@pytest.mark.parametrize("shape", [(), (5,), (3, 5)])
def test_gemm_before_opset_7(shape: tuple[int, ...]) -> None:
    attributes = "<broadcast=1>" if shape != (3, 5) else ""
    model = gemm(attributes, "x, W, C", opset=6, C=weights(*shape))
    model.graph.node[1].attribute.add(name="is_test", type=2, i=1)
    folded = normsurgery.fold(model).model
    assert [n.op_type for n in folded.graph.node] == ["Gemm"]
    assert {a.name: a.i for a in folded.graph.node[0].attribute} == {"broadcast": 1}


def test_gemm_weight_is_an_input() -> None:
    text = """g (double[3, 6] x, double[6, 5] W) => (double[3, 5] y) {
      c = Gemm(x, W)
      y = BatchNormalization(c, scale, B, mean, var)
    }"""
    assert_kept(parse(text, **bn(5)), "not-constant")


def test_gemm_constant_on_the_left_does_not_hold_the_columns() -> None:
    text = """g (double[6, 5] x) => (double[3, 5] y) {
      c = Gemm(W, x)
      y = BatchNormalization(c, scale, B, mean, var)
    }"""
    assert_kept(parse(text, W=weights(3, 6), **bn(5)), "not-constant")


def test_gemm_bias_is_an_input() -> None:
    text = """g (double[3, 6] x, double[5] C) => (double[3, 5] y) {
      c = Gemm(x, W, C)
      y = BatchNormalization(c, scale, B, mean, var)
    }"""
    assert_kept(parse(text, W=weights(6, 5), **bn(5)), "not-constant")


def test_gemm_of_other_width() -> None:
    with pytest.raises(GraphError, match="channels"):
        normsurgery.fold(gemm(**bn(4)))


MATMUL = """g (double[N, {rest}] x) => (double[{out}] y) {{
  c = MatMul({inputs})
  y = BatchNormalization(c, scale, B, mean, var)
}}"""


def matmul(rest: str, out: str, inputs: str = "x, W", **extra: object) -> object:
    return parse(MATMUL.format(rest=rest, out=out, inputs=inputs), **extra)


def test_matmul_columns() -> None:
    result = assert_folds(matmul("6", "N, 5", W=weights(6, 5), **bn(5)), ["MatMul", "Add"])
    assert result.report.folded[0].shift_left
    assert result.report.after == 0


def test_matmul_without_shift_leaves_nothing() -> None:
    assert_folds(matmul("6", "N, 5", W=weights(6, 5), **bn(5, shift=False)), ["MatMul"])


def test_matmul_rows() -> None:
    model = matmul("6, 4", "N, 5, 4", "W, x", W=weights(5, 6), **bn(5, shift=False))
    assert_folds(model, ["MatMul"])


def test_a_shift_over_positions_stays_in_the_batch_norm() -> None:
    """An Add would be no cheaper than the BN that it replaces."""
    assert_kept(matmul("6, 4", "N, 5, 4", "W, x", W=weights(5, 6), **bn(5)), "no-bias")


def test_matmul_batch_axis() -> None:
    model = matmul("5, 2, 4", "N, 5, 2, 3", W=weights(5, 4, 3), **bn(5, shift=False))
    assert_folds(model, ["MatMul"])


def test_matmul_batch_axis_that_the_constant_lacks() -> None:
    model = matmul("5, 2, 4", "N, 5, 2, 3", W=weights(4, 3), **bn(5, shift=False))
    assert_kept(model, "no-channel")


def test_matmul_channels_on_rows_of_the_other_operand() -> None:
    model = matmul("5, 4", "N, 5, 3", W=weights(4, 3), **bn(5, shift=False))
    assert_kept(model, "not-constant")


def test_matmul_without_a_rank() -> None:
    model = matmul("6", "N, 5", W=weights(6, 5), **bn(5, shift=False))
    model.graph.input[0].type.tensor_type.ClearField("shape")
    model.graph.output[0].type.tensor_type.ClearField("shape")
    assert [k.slug for k in normsurgery.fold(model).report.kept] == ["unknown-rank"]


@pytest.mark.parametrize(
    ("call", "shape", "m"),
    [("A, x", (3, 3, 5), (3, 1)), ("x, A", (3, 3, 5, 2), (3, 1, 1)), ("x, A", (3, 5, 2), (3, 1))],
)
def test_matmul_of_a_vector_backwards(call: str, shape: tuple[int, ...], m: Any) -> None:
    """A vector leaves no axis of its own: the output's axes are counted otherwise then."""
    rank = len(shape) - 1
    model = parse(
        f"""g (double[5] x) => (double[{", ".join("NMP"[:rank])}] y) {{
          c = MatMul({call})
          y = Mul(c, m)
        }}""",
        A=weights(*shape), m=weights(*m),
    )  # fmt: skip
    assert_folds(model, ["MatMul", "Mul"])
    model = parse(
        f"""g (double[5] x) => (double[{", ".join("NMP"[:rank])}] y) {{
          c = MatMul({call})
          y = Mul(c, m)
        }}""",
        A=weights(*shape), m=weights(1),
    )  # fmt: skip
    assert_folds(model, ["MatMul"])


MATMUL_ADD = """g (double[N, 6] x) => (double[N, 5] y) {{
  c = MatMul(x, W)
  d = Add({inputs})
  y = BatchNormalization(d, scale, B, mean, var)
}}"""


@pytest.mark.parametrize("inputs", ["c, b", "b, c"])
@pytest.mark.parametrize("shape", [(5,), (1, 5), (1,), (), (1, 1)])
def test_matmul_add(inputs: str, shape: tuple[int, ...]) -> None:
    model = parse(MATMUL_ADD.format(inputs=inputs), W=weights(6, 5), b=weights(*shape), **bn(5))
    if shape in {(1,), (), (1, 1)}:
        model.graph.value_info.append(model.graph.output[0])
        model.graph.value_info[0].name = "c"
        model.graph.value_info[0].type.tensor_type.shape.dim[1].dim_value = 5
    assert_folds(model, ["MatMul", "Add"])


def test_matmul_add_that_widens() -> None:
    text = """g (double[N, 6] x) => (double[4, N, 5] y) {
      c = MatMul(x, W)
      d = Add(c, b)
      y = BatchNormalization(d, scale, B, mean, var)
    }"""
    assert_kept(parse(text, W=weights(6, 5), b=weights(4, 1, 5), **bn(5)), "no-channel")


def test_add_of_two_activations() -> None:
    text = """g (double[N, 6] x) => (double[N, 5] y) {
      c = MatMul(x, W)
      e = Sigmoid(c)
      f = MatMul(x, W)
      d = Add(e, f)
      y = BatchNormalization(d, scale, B, mean, var)
    }"""
    assert_kept(parse(text, W=weights(6, 5), **bn(5)), "not-linear")


@pytest.mark.parametrize("shape", [(5, 1, 1), (1, 5, 1, 1), (5, 6, 6), (1, 1, 6, 1)])
def test_conv_add(shape: tuple[int, ...]) -> None:
    """A constant per channel becomes the Conv's bias; another one takes the shift."""
    text = """g (double[N, 3, 8, 8] x) => (double[N, 5, 6, 6] y) {
      c = Conv(x, W)
      d = Add(c, b)
      y = BatchNormalization(d, scale, B, mean, var)
    }"""
    model = parse(text, W=weights(5, 3, 3, 3), b=weights(*shape), **bn(5))
    assert_folds(model, ["Conv"] if np.prod(shape) == 5 else ["Conv", "Add"])


def test_bn_over_bn_keeps_the_statistics() -> None:
    text = """g (double[N, 5, 4] x) => (double[N, 5, 4] y) {
      r = Sigmoid(x)
      c = BatchNormalization<epsilon=0.1>(r, s1, b1, m1, v1)
      y = BatchNormalization(c, scale, B, mean, var)
    }"""
    first = dict(zip(("s1", "b1", "m1", "v1"), bn(5, seed=9).values(), strict=True))
    result = assert_folds(parse(text, **first, **bn(5)), ["Sigmoid", "BatchNormalization"])
    assert [k.slug for k in result.report.kept] == ["not-linear"]
    names = list(result.model.graph.node[1].input)
    assert names[3:] == ["m1", "v1"]


def test_a_chain_is_rounded_once() -> None:
    """Conv, then three BNs, in float32: the weight is the float64 product, rounded once."""
    text = """g (float[N, 3, 8, 8] x) => (float[N, 5, 6, 6] y) {
      c = Conv(x, W)
      d = BatchNormalization(c, scale, B, mean, var)
      e = BatchNormalization(d, scale, B, mean, var)
      y = BatchNormalization(e, scale, B, mean, var)
    }"""
    p = bn(5, dtype=np.float32)
    W = weights(5, 3, 3, 3, dtype=np.float32)
    folded = normsurgery.fold(parse(text, W=W, **p)).model
    a = p["scale"].astype(float) / np.sqrt(p["var"].astype(float) + float(np.float32(1e-5)))
    exact = W.astype(float) * (a**3)[:, None, None, None]
    stored = np.frombuffer(folded.graph.initializer[0].raw_data, np.float32).reshape(W.shape)
    assert [t.name for t in folded.graph.initializer] == ["W_folded", "W_bias_folded"]
    error = np.abs(stored - exact) / np.spacing(np.abs(stored))
    assert error.max() <= 0.5 + 1e-6


def test_the_add_behind_a_matmul_is_the_bias_of_the_norm() -> None:
    """Not the other way round: without the Add, nothing could take the norm's shift."""
    model = parse(
        """g (double[N, 5, 4] x) => (double[N, 5, 3] y) {
          c = MatMul(x, W)
          d = Add(c, b)
          t = Transpose<perm=[0, 2, 1]>(d)
          n = BatchNormalization(t, scale, B, mean, var)
          y = Transpose<perm=[0, 2, 1]>(n)
        }""",
        W=weights(4, 3),
        b=weights(3),
        **bn(3),
    )
    assert_folds(model, ["MatMul", "Add", "Transpose", "Transpose"])


@pytest.mark.parametrize("scale", [1e-25, 1e-10])
def test_scale_of_a_batch_norm_that_underflows(scale: float) -> None:
    """Two scales of 1e-25 are 1e-50 in one: below what float32 holds at all."""
    text = """g (float[N, 5, 4] x) => (float[N, 5, 4] y) {
      r = Sigmoid(x)
      c = BatchNormalization(r, scale, B, mean, var)
      y = BatchNormalization(c, scale, B, mean, var)
    }"""
    parameters = bn(5, dtype=np.float32)
    parameters["scale"][2] = scale
    result = normsurgery.fold(parse(text, **parameters))
    assert result.report.after == (2 if scale == 1e-25 else 1)
    slugs = [k.slug for k in result.report.kept]
    assert slugs == (["not-linear", "underflow"] if scale == 1e-25 else ["not-linear"])


def test_gemm_whose_bias_fits_no_output_is_left_alone() -> None:
    text = """g (double[N, 3] x) => (double[N, 2] y) {
        a = BatchNormalization(x, scale, B, mean, var)
        y = Gemm(a, W, C)
    }"""
    model = parse(text, W=weights(3, 2), C=weights(7, 7), **bn(3))
    (kept,) = normsurgery.fold(model).report.kept
    assert "no-channel" in kept.slug or "[7, 7]" in kept.reason
