"""Transpose, Reshape, Flatten, Squeeze and Unsqueeze: channels tracked."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from crossings import assert_stays, backwards, forwards, ints, slug_of
from graphs import assert_folds, assert_kept, bn, parse, weights
from hypothesis import given, settings
from hypothesis import strategies as st

import normsurgery


def test_transpose() -> None:
    between = "t = Transpose<perm=[0, 3, 1, 2]>(c)\n d = Transpose<perm=[0, 2, 3, 1]>(t)"
    assert_folds(backwards(between), ["Conv", "Transpose", "Transpose"])
    model = forwards("t = Transpose(b)\n d = Transpose(t)")
    assert_folds(model, ["Sigmoid", "Transpose", "Transpose", "Conv"])


def test_transpose_moves_the_channels_to_where_no_layer_holds_them() -> None:
    assert_kept(backwards("d = Transpose<perm=[0, 2, 1, 3]>(c)", channels=6), "no-channel")
    model = forwards("d = Transpose<perm=[0, 2, 1, 3]>(b)", V=(5, 6, 1, 1))
    assert_stays(model)


def test_channels_last() -> None:
    model = parse(
        """g (double[N, 6, 6, 3] x) => (double[N, 6, 6, 4] y) {
          t = Transpose<perm=[0, 3, 1, 2]>(x)
          c = Conv(t, W)
          d = Transpose<perm=[0, 2, 3, 1]>(c)
          e = Mul(d, m)
          y = Add(e, a)
        }""",
        W=weights(4, 3, 1, 1), m=weights(4), a=weights(1, 1, 1, 4),
    )  # fmt: skip
    assert_folds(model, ["Transpose", "Conv", "Transpose"])


# -- Reshape and Flatten -------------------------------------------------------------------------

X = "N, 8, 2, 3"
RESHAPES: list[tuple[list[int], list[int]]] = [  # target, and back to X
    ([0, 48], [-1, 8, 2, 3]),
    ([-1, 8, 6], [0, 8, 2, 3]),
    ([-1, 8, 6], [0, 0, 2, -1]),
    ([0, 0, -1], [0, 0, 2, 3]),
    ([-1, 8, 1, 6], [-1, 8, 2, 3]),
    ([-1, 1, 8, 6], [-1, 8, 2, 3]),
    ([-1, 2, 4, 2, 3], [-1, 8, 2, 3]),
    ([-1, 2, 4, 6], [-1, 8, 2, 3]),
    ([1, -1, 8, 2, 3], [-1, 8, 2, 3]),
]


@pytest.mark.parametrize(("there", "back"), RESHAPES)
def test_reshape_and_back(there: list[int], back: list[int]) -> None:
    """The last three but one cut the channels in two axes on the way."""
    between = "r = Reshape(IN, there)\n d = Reshape(r, back)"
    extra: dict[str, Any] = {"there": ints(*there), "back": ints(*back)}
    model = backwards(between.replace("IN", "c"), channels=8, W=(8, 3, 1, 1), x="N,3,2,3", **extra)
    assert_folds(model, ["Conv", "Reshape", "Reshape"])
    model = forwards(between.replace("IN", "b"), channels=8, x=X, V=(5, 8, 1, 1), **extra)
    assert_folds(model, ["Sigmoid", "Reshape", "Reshape", "Conv"])


def test_channels_that_split_evenly() -> None:
    """(N, 8, …) → (N, 2, 4, …): one number for each of the 4, or for each of the 2."""
    for shape in ((4, 1, 1), (2, 1, 1, 1)):
        model = parse(
            """g (double[N, 3, 5, 5] x) => (double[N, 2, 4, 5, 5] y) {
              c = Conv(x, W)
              r = Reshape(c, s)
              y = Mul(r, m)
            }""",
            W=weights(8, 3, 1, 1), s=ints(0, 2, 4, 5, 5), m=weights(*shape),
        )  # fmt: skip
        assert_folds(model, ["Conv", "Reshape"])


def test_flatten_behind_a_map() -> None:
    model = forwards("d = Flatten(b)", "y = Gemm(d, V)", rank=2, V=(144, 5))
    assert_folds(model, ["Sigmoid", "Flatten", "Gemm"])
    between = "d = Flatten<axis=2>(b)"
    model = forwards(between, "y = MatMul(d, V)", rank=2, V=(36, 5), x="2, 4, 6, 6")
    assert_stays(model)


def test_flatten_of_a_flat_value() -> None:
    model = backwards("p = GlobalAveragePool(c)\n d = Flatten(p)", rank=2)
    assert_folds(model, ["Conv", "GlobalAveragePool", "Flatten"])


@pytest.mark.parametrize("target", [[-1, 5], [2, 6, 5], [-1, 6, 5]])
def test_rows_into_the_batch(target: list[int]) -> None:
    model = parse(
        f"""g (double[2, 6, 4] x) => (double[{", ".join("NMP"[: len(target)])}] y) {{
          c = MatMul(x, W)
          r = Reshape(c, s)
          t = Mul(r, m)
          y = Add(t, m)
        }}""",
        W=weights(4, 5), s=ints(*target), m=weights(5),
    )  # fmt: skip
    assert_folds(model, ["MatMul", "Reshape", "Add"])
    model = parse(
        """g (double[B, L, 4] x) => (double[N, 5] y) {
          c = MatMul(x, W)
          a = Add(c, q)
          r = Reshape(a, s)
          y = BatchNormalization(r, scale, B, mean, var)
        }""",
        W=weights(4, 5), q=weights(5), s=ints(-1, 5), **bn(5),
    )  # fmt: skip
    assert_folds(model, ["MatMul", "Add", "Reshape"])


def test_reshape_that_mixes_channels_with_positions() -> None:
    model = backwards("d = Reshape(c, s)", channels=6, s=ints(-1, 6, 4, 6), W=(4, 3, 1, 1))
    assert_kept(model, "mixed-channels")


@pytest.mark.parametrize("batch", ["N", "?"])
@pytest.mark.parametrize("length", [2, 6])
def test_reshape_of_an_unknown_batch(length: int, batch: str) -> None:
    """(N, 4, L) → (M, 4, 2): 4 channels on both sides, and not the same ones unless L = 2."""
    model = parse(
        f"""g (double[{batch}, 3, L] x) => (double[M, 4, 2] y) {{
          c = Conv(x, W)
          r = Reshape(c, s)
          y = BatchNormalization(r, scale, B, mean, var)
        }}""",
        W=weights(4, 3, 1), s=ints(-1, 4, 2), **bn(4),
    )  # fmt: skip
    assert_kept(model, "unknown-shape")
    for name, shape in (("c", [None, 4, None]), ("r", [None, 4, 2])):  # dimensions without a name
        info = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.DOUBLE, shape)
        model.graph.value_info.append(info)
    assert_kept(model, "unknown-shape")
    del model.graph.value_info[:], model.graph.input[0].type.tensor_type.shape.dim[2:]
    model.graph.input[0].type.tensor_type.shape.dim.add(dim_value=length)
    expected = {2: [], 6: ["unknown-shape"]}[length]
    assert [k.slug for k in normsurgery.fold(model).report.kept] == expected


@pytest.mark.parametrize(
    ("target", "rank"), [([0, 4, -1], 3), ([0, 0, -1], 3), ([0, 2, 2, -1], 4), ([0, 4, 1, -1], 4)]
)
def test_reshape_over_unknown_positions(target: list[int], rank: int) -> None:
    axis_shape = (2, 1, 1) if len(target) == 4 and target[1] == 2 else (4, *[1] * (rank - 2))
    if target[1] == 2:
        axis_shape = (2, 1)  # along the second of the two axes
    model = parse(
        f"""g (double[N, 3, H, W] x) => (double[{", ".join("NMPQ"[:rank])}] y) {{
          c = Conv(x, V)
          r = Reshape(c, s)
          y = Mul(r, m)
        }}""",
        V=weights(4, 3, 1, 1), s=ints(*target), m=weights(*axis_shape),
    )  # fmt: skip
    assert_folds(model, ["Conv", "Reshape"], H=3, W=2)


def test_reshape_to_the_shape_of_another_value() -> None:
    model = backwards("k = Shape(z)\n d = Reshape(c, k)", inputs=", double[A, 4, C, D] z")
    assert_kept(model, "unknown-shape")


def test_reshape_of_an_empty_value() -> None:
    model = backwards("d = Reshape(c, s)", x="0, 3, 6, 6", s=ints(0, 4, 36), rank=3)
    assert_folds(model, ["Conv", "Reshape"])
    model = forwards("d = Flatten(b)", "y = Relu(d)", x="2, 4, 0, 6", rank=2)
    assert slug_of(model, "Flatten") == "unknown-shape"
    assert_stays(model)


def test_reshape_that_allows_zero() -> None:
    model = backwards("d = Reshape<allowzero=1>(c, s)", x="2, 3, 6, 6", s=ints(2, 4, 36), rank=3)
    assert_folds(model, ["Conv", "Reshape"])


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_any_reshape_of_any_axis(data: st.DataObject) -> None:
    """Equal outputs, whatever regrouping of the factors of a shape it is."""
    factors = data.draw(st.lists(st.sampled_from([1, 2, 2, 3]), min_size=2, max_size=5))

    def grouped() -> list[int]:
        shape = [factors[0]]
        for f in factors[1:]:
            if data.draw(st.booleans()):
                shape.append(f)
            else:
                shape[-1] *= f
        return shape

    near, far = grouped(), grouped()
    axis = data.draw(st.integers(0, len(far) - 1))
    own = [far[axis] if i == axis else 1 for i in range(len(far))]
    model = parse(
        f"""g (double[{", ".join(map(str, near))}] x) => (double[{", ".join(map(str, far))}] y) {{
          c = Mul(x, k)
          s = Sin(c)
          d = Add(s, q)
          r = Reshape(d, t)
          y = Mul(r, m)
        }}""",
        k=weights(*near), q=weights(*near, seed=5), t=ints(*far), m=weights(*own, seed=6),
    )  # fmt: skip
    result = normsurgery.fold(model)
    names = [n.op_type for n in result.model.graph.node]
    assert_folds(model, names)


# -- Squeeze and Unsqueeze -----------------------------------------------------------------------

SQUEEZES: list[tuple[str, int, dict[str, Any]]] = [
    ("Squeeze({}, a)", 13, {"a": ints(2)}),
    ("Squeeze({}, a)", 21, {"a": ints(-2)}),
    ("Squeeze<axes=[2]>({})", 11, {}),
]


@pytest.mark.parametrize("length", ["7", "L"])
@pytest.mark.parametrize(("call", "opset", "extra"), SQUEEZES)
def test_squeeze(call: str, opset: int, extra: Any, length: str) -> None:
    model = backwards(
        f"d = {call.format('c')}", x=f"N, 3, 1, {length}", rank=3, opset=opset, **extra
    )
    assert_folds(model, ["Conv", "Squeeze"])
    between = f"d = {call.format('b')}"
    model = forwards(between, x=f"N, 4, 1, {length}", rank=3, opset=opset, V=(5, 4, 1), **extra)
    assert_folds(model, ["Sigmoid", "Squeeze", "Conv"])


@pytest.mark.parametrize("length", ["7", "L"])
@pytest.mark.parametrize(
    ("call", "opset", "extra"),
    [
        ("Unsqueeze({}, a)", 13, {"a": ints(2)}),
        ("Unsqueeze({}, a)", 21, {"a": ints(-2)}),
        ("Unsqueeze<axes=[2]>({})", 11, {}),
    ],
)
def test_unsqueeze(call: str, opset: int, extra: Any, length: str) -> None:
    model = backwards(
        f"d = {call.format('c')}", x=f"N, 3, {length}", W=(4, 3, 1), opset=opset, **extra
    )
    assert_folds(model, ["Conv", "Unsqueeze"])
    model = forwards(f"d = {call.format('b')}", x=f"N, 4, {length}", opset=opset, **extra)
    assert_folds(model, ["Sigmoid", "Unsqueeze", "Conv"])


def test_squeeze_and_unsqueeze_of_the_first_axis() -> None:
    between = "e = Squeeze(c, a)\n f = Unsqueeze(e, b)\n d = Transpose<perm=[1, 0, 2, 3]>(f)"
    model = backwards(between, x="1, 3, 6, 6", a=ints(0), b=ints(1))
    assert_folds(model, ["Conv", "Squeeze", "Unsqueeze", "Transpose"])


def test_squeeze_of_all_ones() -> None:
    model = backwards("p = GlobalAveragePool(c)\n d = Squeeze(p)", x="2, 3, 6, 6", rank=2)
    assert_folds(model, ["Conv", "GlobalAveragePool", "Squeeze"])
    model = backwards("p = GlobalAveragePool(c)\n d = Squeeze(p)", rank=2)
    assert slug_of(model, "Squeeze", forwards=False) == "unknown-shape"  # the batch may be 1


def test_squeeze_of_the_channels_own_axis() -> None:
    model = forwards(
        "d = Squeeze(b, a)", "y = MatMul(d, V)", x="N, 1, 6, 6", channels=1, rank=3, V=(6, 5),
        a=ints(1),
    )  # fmt: skip
    assert slug_of(model, "Squeeze") == "mixed-channels"
    assert_stays(model)


def test_squeeze_along_unknown_axes() -> None:
    model = backwards("d = Squeeze(c, a)", x="N, 3, 1, 6", rank=3, inputs=", int64[1] a")
    assert slug_of(model, "Squeeze", forwards=False) in {"not-constant", "unknown-rank"}


def test_uniform_map_crosses_any_reshape() -> None:
    model = parse(
        """g (double[N, 48] x) => (double[N, 5, 4, 4] y) {
          s = Sigmoid(x)
          b = Sub(two, s)
          d = Reshape(b, t)
          y = Conv(d, V)
        }""",
        V=weights(5, 3, 1, 1), t=ints(-1, 3, 4, 4), two=np.float64(2),
    )  # fmt: skip
    assert_folds(model, ["Sigmoid", "Reshape", "Conv"])


def test_uniform_map_of_a_scalar() -> None:
    model = parse(
        """g (double x) => (double[1, 3] y) {
          c = Mul(x, m)
          d = Transpose(c)
          e = Unsqueeze(d, zero)
          f = Unsqueeze(e, zero)
          y = MatMul(f, A)
        }""",
        A=weights(1, 3), m=np.float64(2), zero=ints(0),
    )  # fmt: skip
    assert_folds(model, ["Transpose", "Unsqueeze", "Unsqueeze", "MatMul"])


@pytest.mark.parametrize(
    "between",
    [
        "d = Reshape(c, eight)",
        "d = Transpose<perm = [0, 2, 9, 1]>(c)",
        "a = Reshape(c, cut)\n b = Transpose<perm = [0, 2, 9, 3, 4]>(a)\n d = Reshape(b, whole)",
    ],
)
def test_shapes_that_no_run_has_are_no_crash(between: str) -> None:
    """Such models do not run; they are left as they are."""
    shapes = {
        "eight": np.array([0, 8, 36]),
        "cut": np.array([0, 2, 2, 6, 6]),
        "whole": np.array([0, 4, 6, 6]),
    }
    channels = 8 if "eight" in between else 4
    text = f"""g (double[N, 4, 6, 6] x) => (double[N, {channels}, 6, 6] y) {{
        c = Conv(x, W)
        {between}
        y = BatchNormalization(d, scale, B, mean, var)
    }}"""
    model = parse(text, W=weights(4, 4, 1, 1), **bn(channels), **shapes)
    result = normsurgery.fold(model)
    assert len(result.report.kept) == 1
    text = text.replace("Conv(x, W)", "BatchNormalization(x, scale, B, mean, var)")
    text = text.replace("BatchNormalization(d, scale, B, mean, var)", "Conv(d, W)")
    model = parse(text, W=weights(4, channels, 1, 1), **bn(4), **shapes)
    assert len(normsurgery.fold(model).report.kept) == 1
