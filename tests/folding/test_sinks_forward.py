"""Linear layers absorb a map on their input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from crossings import assert_stays, forwards, slug_of
from graphs import assert_folds, bn, parse, weights

import normsurgery

# -- Conv and ConvTranspose ----------------------------------------------------------------------

GEOMETRIES: list[tuple[str, tuple[int, ...], str]] = [
    ("", (5, 4, 3, 3), "N, 4, 6, 6"),
    ("<group=2>", (6, 2, 3, 3), "N, 4, 6, 6"),
    ("<group=4>", (4, 1, 3, 3), "N, 4, 6, 6"),
    ("<group=4>", (8, 1, 3, 3), "N, 4, 6, 6"),
    ("<strides=[2, 1], dilations=[1, 2]>", (5, 4, 3, 2), "N, 4, 6, 6"),
    ('<auto_pad="VALID">', (5, 4, 3, 3), "N, 4, 6, 6"),
    ("<pads=[0, 0, 0, 0]>", (5, 4, 2, 2), "N, 4, 6, 6"),
    ('<auto_pad="SAME_UPPER">', (5, 4, 1, 1), "N, 4, 6, 6"),
    ("<dilations=[2]>", (5, 4, 3), "N, 4, 9"),
    ("<group=2>", (2, 2, 2, 1, 2), "N, 4, 3, 3, 3"),
]
PADDED = ["<pads=[1, 0, 0, 0]>", "<pads=[0, 0, 0, 2]>", '<auto_pad="SAME_LOWER", strides=[2, 2]>']


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("attributes", "shape", "x"), GEOMETRIES)
def test_conv(attributes: str, shape: tuple[int, ...], x: str, bias: bool) -> None:
    extra = {"k": weights(shape[0], seed=2)} if bias else {}
    last = f"y = Conv{attributes}(b, V{', k' if bias else ''})"
    assert_folds(forwards("", last, V=shape, x=x, rank=len(shape), **extra), ["Sigmoid", "Conv"])


@pytest.mark.parametrize("attributes", PADDED)
@pytest.mark.parametrize("group", [1, 2])
def test_padded_conv(attributes: str, group: int) -> None:
    last = f"y = Conv{attributes[:-1]}, group={group}>(b, V)"
    model = forwards("", last, V=(6, 4 // group, 3, 3), shift=False)
    assert_folds(model, ["Sigmoid", "Conv"])
    model = forwards("", last, V=(6, 4 // group, 3, 3))
    assert slug_of(model, "Conv") == "padded-shift"
    assert_stays(model)


@pytest.mark.parametrize(
    ("group", "shape"), [(1, (4, 5, 3, 3)), (2, (4, 3, 2, 2)), (4, (4, 1, 3, 3))]
)
def test_conv_transpose(group: int, shape: tuple[int, ...]) -> None:
    last = f"y = ConvTranspose<group={group}, strides=[2, 1], pads=[1, 0, 0, 0]>(b, V)"
    assert_folds(forwards("", last, V=shape, shift=False), ["Sigmoid", "ConvTranspose"])
    model = forwards("", last, V=shape)
    assert slug_of(model, "ConvTranspose") == "padded-shift"
    assert_stays(model)


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_map_along_positions(op: str) -> None:
    model = forwards("", f"y = {op}(b, V)", V=(4, 4, 1, 1))
    assert slug_of(model, op, axis=2) == "no-channel"


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose", "MatMul", "Gemm"])
def test_weight_that_is_an_input(op: str) -> None:
    rank = 4 if "Conv" in op else 2
    dims = "4, 4, 1, 1" if rank == 4 else "4, 4"
    x = "N, 4, 6, 6" if rank == 4 else "N, 4"
    model = forwards("", f"y = {op}(b, k)", x=x, rank=rank, inputs=f", double[{dims}] k")
    assert slug_of(model, op) == "not-constant"
    assert_stays(model)


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_map_of_the_weight(op: str) -> None:
    model = forwards("", f"y = {op}(z, b)", x="4, 4, 1, 1", inputs=", double[N, 4, 6, 6] z")
    assert slug_of(model, op, slot=1) == "not-constant"
    assert_stays(model)


def test_map_of_the_bias() -> None:
    model = parse(
        """g (double[4] x, double[N, 4, 6, 6] z) => (double[N, 4, 6, 6] y) {
          s = Sigmoid(x)
          b = Mul(s, m)
          y = Conv(z, W, b)
        }""",
        W=weights(4, 4, 1, 1), m=weights(4),
    )  # fmt: skip
    assert_stays(model)


def test_bias_of_run_time() -> None:
    last = "y = Conv(b, V, k)"
    model = forwards("", last, inputs=", double[5] k")
    assert slug_of(model, "Conv") == "not-constant"
    assert_folds(forwards("", last, inputs=", double[5] k", shift=False), ["Sigmoid", "Conv"])


# -- Gemm ----------------------------------------------------------------------------------------


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


# -- MatMul --------------------------------------------------------------------------------------

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


# -- BatchNormalization --------------------------------------------------------------------------


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


# -- readers -------------------------------------------------------------------------------------

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


# -- extreme maps --------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.inf, np.nan, -np.inf])
@pytest.mark.parametrize("op", ["Mul", "Add", "Div"])
def test_maps_that_are_not_finite(op: str, value: float) -> None:
    k = weights(4, 1, 1)
    k[2] = value
    model = parse(
        f"""g (double[N, 4, 6, 6] x) => (double[N, 5, 6, 6] y) {{
          s = Sigmoid(x)
          b = {op}(s, k)
          y = Conv(b, V)
        }}""",
        k=k, V=weights(5, 4, 1, 1),
    )  # fmt: skip
    if op != "Div" or np.isnan(value):  # 1/∞ is 0
        assert_stays(model)


def test_division_by_0() -> None:
    text = """g (double[N, 4, 6, 6] x) => (double[N, 5, 6, 6] y) {
      c = Conv(x, V)
      y = Div(c, k)
    }"""
    k = weights(5, 1, 1)
    k[1] = 0
    assert_stays(parse(text, k=k, V=weights(5, 4, 1, 1)))


def test_scale_of_0_is_absorbed() -> None:
    m = weights(4, 1, 1)
    m[1] = 0
    model = parse(
        """g (double[N, 4, 6, 6] x) => (double[N, 5, 6, 6] y) {
          s = Sigmoid(x)
          b = Mul(s, m)
          y = Conv(b, V)
        }""",
        m=m, V=weights(5, 4, 1, 1),
    )  # fmt: skip
    assert_folds(model, ["Sigmoid", "Conv"])
