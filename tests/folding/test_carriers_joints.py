"""Concat, Split and Slice."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from crossings import assert_stays, backwards, forwards, ints, slug_of
from graphs import assert_folds, assert_kept, bn, parse, weights

from normsurgery.affine import ChannelAffine

# -- Concat --------------------------------------------------------------------------------------


def test_concat_of_channels_backwards() -> None:
    model = backwards(
        "e = Conv(x, U)\n f = Conv(x, W)\n d = Concat<axis=1>(c, e, f)",
        U=weights(3, 3, 1, 1),
        channels=11,
    )
    assert_folds(model, ["Conv", "Conv", "Conv", "Concat"])


@pytest.mark.parametrize("axis", [0, 2, 3, -1])
def test_concat_of_positions(axis: int) -> None:
    model = backwards(f"e = Conv(x, W)\n d = Concat<axis={axis}>(c, e)")
    assert_folds(model, ["Conv", "Conv", "Concat"])
    model = forwards(f"d = Concat<axis={axis}>(b, x)")
    assert slug_of(model, "Concat") == "mixed-channels"
    assert_stays(model)


@pytest.mark.parametrize("call", ["Concat<axis=1>(b, x)", "Concat<axis=-3>(x, b)"])
def test_concat_of_channels_forwards(call: str) -> None:
    model = forwards(f"d = {call}", V=(5, 8, 1, 1))
    assert_folds(model, ["Sigmoid", "Concat", "Conv"])


def test_concat_with_a_branch_that_absorbs_nothing() -> None:
    model = backwards("e = Sigmoid(x)\n d = Concat<axis=1>(c, e)", channels=7)
    assert_kept(model, "not-linear")


def test_concat_of_the_same_value_twice() -> None:
    assert_kept(backwards("d = Concat<axis=1>(c, c)", channels=8), "fan-out")
    assert_kept(backwards("d = Concat<axis=2>(c, c)"), "fan-out")
    assert_stays(forwards("d = Concat<axis=1>(b, b)", V=(5, 8, 1, 1)))


def test_concat_of_two_ways_of_one_value() -> None:
    between = "e = Identity(b)\n f = Identity(b)\n d = Concat<axis=1>(e, f)"
    assert_stays(forwards(between, V=(5, 8, 1, 1)))


def test_concat_of_unknown_width() -> None:
    text = """g (double[N, C, 6, 6] x, double[N, K, 6, 6] z) => (double[N, 7, 6, 6] y) {
      s = Sigmoid(x)
      t = Sigmoid(z)
      d = Concat<axis=1>(s, t)
      y = BatchNormalization(d, scale, B, mean, var)
    }"""
    model = parse(text, **bn(7))
    assert slug_of(model, "Concat", forwards=False) == "unknown-shape"
    assert_kept(model, "unknown-shape")


def test_concat_of_unknown_rank() -> None:
    model = backwards("e = Relu(z)\n d = Concat<axis=1>(e, e)", inputs=", double z", channels=8)
    model.graph.input[1].type.tensor_type.ClearField("shape")
    del model.graph.node[0]
    assert slug_of(model, "Concat", forwards=False) == "unknown-rank"


@pytest.mark.parametrize("shift", [True, False])
def test_uniform_map_over_a_concat(shift: bool) -> None:
    call = "Sub(two, d)" if shift else "Mul(d, two)"
    text = f"""g (double[N, 3, 6, 6] x) => (double[N, 4, 12, 6] y) {{
      c = Conv(x, W)
      e = Conv(x, U)
      d = Concat<axis=2>(c, e)
      y = {call}
    }}"""
    model = parse(text, W=weights(4, 3, 1, 1), U=weights(4, 3, 1, 1, seed=3), two=np.float64(2))
    assert_folds(model, ["Conv", "Conv", "Concat"])
    text = f"""g (double[N, 3, 6, 6] x) => (double[N, 2, 6, 6] y) {{
      s = Sigmoid(x)
      d = Identity(s)
      b = {call}
      e = Concat<axis=1>(b, x)
      y = Conv(e, W)
    }}"""
    model = parse(text, W=weights(2, 6, 1, 1), two=np.float64(2))
    assert_folds(model, ["Sigmoid", "Identity", "Concat", "Conv"])


# -- Split ---------------------------------------------------------------------------------------

SPLITS: list[tuple[str, int, dict[str, Any]]] = [
    ("Split<axis=1>({}, sizes)", 13, {"sizes": ints(1, 3)}),
    ("Split<axis=-3>({}, sizes)", 21, {"sizes": ints(1, 3)}),
    ("Split<axis=1, split=[1, 3]>({})", 11, {}),
]


@pytest.mark.parametrize(("call", "opset", "extra"), SPLITS)
@pytest.mark.parametrize("used", [("p", 1), ("d", 3)])
def test_split_backwards(call: str, opset: int, extra: Any, used: tuple[str, int]) -> None:
    first, second = ("d", "z") if used[0] == "p" else ("z", "d")
    between = f"{first}, {second} = {call.format('c')}"
    other = f", double[N, {4 - used[1]}, 6, 6] z"
    model = backwards(between, opset=opset, channels=used[1], outputs=other, **extra)
    assert_folds(model, ["Conv", "Split"])
    model = backwards(between, opset=opset, channels=used[1], **extra)  # the other is not used
    assert_folds(model, ["Conv", "Split"])


@pytest.mark.parametrize(("call", "opset", "extra"), SPLITS)
def test_split_forwards(call: str, opset: int, extra: Any) -> None:
    between = f"p, q = {call.format('b')}\n y = Conv(p, U)\n"
    other = ", double[N, 5, 6, 6] z"
    model = forwards(
        between, "z = Conv(q, V)", V=(5, 3, 1, 1), opset=opset, U=weights(2, 1, 1, 1),
        outputs=other, **extra,
    )  # fmt: skip
    assert_folds(model, ["Sigmoid", "Split", "Conv", "Conv"])
    model = forwards(
        between.replace("y = Conv(p, U)", "y = Sigmoid(p)"), "z = Conv(q, V)", V=(5, 3, 1, 1),
        opset=opset, outputs=other, **extra,
    )  # fmt: skip
    assert_stays(model)


def test_split_into_equal_parts() -> None:
    model = backwards("z, d = Split<axis=1, num_outputs=2>(c)", channels=2)
    assert_folds(model, ["Conv", "Split"])
    between = "d, z = Split<axis=1, num_outputs=2>(b)"
    assert_folds(forwards(between, V=(5, 2, 1, 1)), ["Sigmoid", "Split", "Conv"])


def test_split_of_positions() -> None:
    assert_kept(backwards("d, z = Split<axis=2, num_outputs=2>(c)"), "mixed-channels")
    model = forwards(
        "p, q = Split<axis=2, num_outputs=2>(b)\n y = Conv(p, V)",
        "z = Conv(q, V)",
        outputs=", double[N, 5, 3, 6] z",
    )
    assert_folds(model, ["Sigmoid", "Split", "Conv", "Conv"])


def test_both_halves_have_their_own_map() -> None:
    model = backwards(
        "p, d = Split<axis=1, num_outputs=2>(c)\n z = BatchNormalization(p, B, scale, mean, var)",
        channels=2,
        outputs=", double[N, 2, 6, 6] z",
    )
    assert_folds(model, ["Conv", "Split"])


def test_split_and_concat_in_another_order() -> None:
    between = "p, q = Split<axis=1, num_outputs=2>(b)\n d = Concat<axis=1>(q, p)"
    assert_stays(forwards(between))


# -- Concat with constants -----------------------------------------------------------------------


def test_constants_in_a_concat_backwards() -> None:
    extra = {"k": weights(1, 2, 6, 6)}
    model = backwards("d = Concat<axis=1>(k, c)", x="1, 3, 6, 6", channels=6, **extra)
    result = assert_folds(model, ["Conv", "Concat"])
    assert len(result.report.folded[0].tensors) == 3
    model = backwards("d = Concat<axis=2>(c, k)", x="1, 3, 6, 6", k=weights(1, 4, 2, 6))
    assert_folds(model, ["Conv", "Concat"])


def test_constants_in_a_concat_forwards() -> None:
    model = forwards(
        "d = Concat<axis=1>(k, b)", x="1, 4, 6, 6", V=(5, 6, 1, 1), k=weights(1, 2, 6, 6)
    )
    assert_folds(model, ["Sigmoid", "Concat", "Conv"])
    model = forwards("d = Concat<axis=3>(b, k)", x="1, 4, 6, 6", k=weights(1, 4, 6, 2))
    assert_folds(model, ["Sigmoid", "Concat", "Conv"])


def test_class_token() -> None:
    """A vision transformer's: a constant before the patches, whose channels are the last axis."""
    model = parse(
        """g (double[1, 4, 5] x) => (double[1, 5, 6] y) {
          s = Sigmoid(x)
          m = Mul(s, k)
          n = Add(m, j)
          d = Concat<axis=1>(token, n)
          p = MatMul(d, W)
          y = Add(p, c)
        }""",
        k=weights(5), j=weights(5, seed=8), token=weights(1, 1, 5), W=weights(5, 6), c=weights(6),
    )  # fmt: skip
    assert_folds(model, ["Sigmoid", "Concat", "MatMul", "Add"])


def test_constants_in_a_concat_cannot_undo_a_scale_of_0() -> None:
    model = forwards("d = Concat<axis=3>(b, k)", x="1, 4, 6, 6", k=weights(1, 4, 6, 2))
    zero = ChannelAffine(np.array([1.0, 0, 1, 1]), np.ones(4))
    assert slug_of(model, "Concat", affine=zero) == "mixed-channels"


def test_only_constants_make_up_for_a_map_beside_them() -> None:
    model = forwards("d = Concat<axis=3>(b, z)", inputs=", double[N, 4, 6, 2] z")
    assert slug_of(model, "Concat") == "mixed-channels"


def test_integers_in_a_concat() -> None:
    model = parse(
        "g (int64[2, 3] x) => (int64[2, 4] y) { d = Concat<axis=1>(x, k)\n y = Mul(d, two) }",
        k=ints(1, 2).reshape(2, 1), two=np.int64(2),
    )  # fmt: skip
    assert_stays(model)


# -- Slice ---------------------------------------------------------------------------------------

BIG = np.iinfo(np.int64).max


@pytest.mark.parametrize(
    ("start", "end", "step", "picked"),
    [
        (1, 3, 1, [1, 2]),
        (-3, -1, 1, [1, 2]),
        (0, BIG, 2, [0, 2]),
        (3, 0, -1, [3, 2, 1]),
        (-1, -BIG, -1, [3, 2, 1, 0]),
        (9, -9, -2, [3, 1]),
        (2, -4, -1, [2, 1]),
    ],
)
def test_slice_of_channels(start: int, end: int, step: int, picked: list[int]) -> None:
    extra = {"f": ints(start), "e": ints(end), "a": ints(-3), "t": ints(step)}
    model = backwards("d = Slice(c, f, e, a, t)", channels=len(picked), **extra)
    assert_folds(model, ["Conv", "Slice"])
    model = forwards("d = Slice(b, f, e, a, t)", V=(5, len(picked), 1, 1), **extra)
    assert_folds(model, ["Sigmoid", "Slice", "Conv"])


def test_slice_of_old_operator_sets() -> None:
    model = backwards("d = Slice<axes=[1, 2], starts=[1, 0], ends=[3, 4]>(c)", channels=2, opset=9)
    assert_folds(model, ["Conv", "Slice"])
    model = backwards("d = Slice<starts=[0, 1], ends=[9, 3]>(c)", channels=2, opset=9)
    assert_folds(model, ["Conv", "Slice"])


def test_slice_of_positions_that_nobody_knows() -> None:
    inputs = ", int64[1] s"
    extra = {"e": ints(6), "a": ints(2)}
    model = backwards("d = Slice(c, s, e, a)", inputs=inputs, **extra)
    assert slug_of(model, "Slice", forwards=False) is None
    extra = {"e": ints(6), "a": ints(1)}
    assert_kept(backwards("d = Slice(c, s, e, a)", inputs=inputs, **extra), "not-constant")


def test_slice_along_unknown_axes() -> None:
    extra = {"s": ints(0), "e": ints(6)}
    model = backwards("d = Slice(c, s, e, a)", inputs=", int64[1] a", **extra)
    assert_kept(model, "not-constant")


def test_slice_of_an_unknown_number_of_channels() -> None:
    model = parse(
        """g (double[N, C, 6, 6] x) => (double[N, 2, 6, 6] y) {
          d = Slice(x, s, e, a)
          y = BatchNormalization(d, scale, B, mean, var)
        }""",
        s=ints(-2), e=ints(BIG), a=ints(1), **bn(2),
    )  # fmt: skip
    assert_kept(model, "unknown-shape")


def test_split_output_that_only_its_shape_is_read_of() -> None:
    model = parse(
        """g (double[N, 4, 8] x) => (double[N, 3, 8] y, int64[3] s) {
          r = Sigmoid(x)
          n = BatchNormalization(r, scale, B, mean, var)
          p, q = Split<axis = 1, num_outputs = 2>(n)
          y = Conv(p, W)
          s = Shape(q)
        }""",
        W=weights(3, 2, 1),
        **bn(4),
    )
    assert_folds(model, ["Sigmoid", "Split", "Conv", "Shape"])
