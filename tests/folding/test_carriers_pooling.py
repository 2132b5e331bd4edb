"""Average and max pooling, and reductions."""

from __future__ import annotations

from typing import Any

import pytest
from crossings import assert_stays, backwards, forwards, ints, slug_of
from graphs import assert_folds, assert_kept, bn, ops, parse, weights

import normsurgery

AVERAGES = [
    "AveragePool<kernel_shape=[2, 3]>",
    "AveragePool<kernel_shape=[3, 3], pads=[1, 1, 1, 1]>",
    "AveragePool<kernel_shape=[2, 2], pads=[0, 1, 1, 0], strides=[2, 1]>",
    'AveragePool<kernel_shape=[3, 3], auto_pad="SAME_UPPER", strides=[2, 2]>',
    "AveragePool<kernel_shape=[4, 4], ceil_mode=1, strides=[3, 3]>",
    "AveragePool<kernel_shape=[2, 2], count_include_pad=1>",
    "GlobalAveragePool",
]
COUNTED = [
    "AveragePool<kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1>",
    'AveragePool<kernel_shape=[3, 3], auto_pad="SAME_LOWER", count_include_pad=1>',
]


def name_of(call: str) -> str:
    return call.partition("<")[0]


@pytest.mark.parametrize("call", AVERAGES)
def test_average(call: str) -> None:
    assert_folds(backwards(f"d = {call}(c)"), ["Conv", name_of(call)])
    assert_folds(forwards(f"d = {call}(b)"), ["Sigmoid", name_of(call), "Conv"])


@pytest.mark.parametrize("call", COUNTED)
def test_padding_that_counts(call: str) -> None:
    assert_folds(backwards(f"d = {call}(c)", shift=False), ["Conv", "AveragePool"])
    assert_kept(backwards(f"d = {call}(c)"), "shift-across")
    assert_folds(forwards(f"d = {call}(b)", shift=False), ["Sigmoid", "AveragePool", "Conv"])
    model = forwards(f"d = {call}(b)")
    assert slug_of(model, "AveragePool") == "shift-across"
    assert_stays(model)


@pytest.mark.parametrize("op", ["GlobalAveragePool", "GlobalMaxPool"])
def test_map_along_positions(op: str) -> None:
    model = forwards(f"t = Transpose<perm=[0, 2, 3, 1]>(b)\n d = {op}(t)", V=(5, 6, 1, 1))
    assert slug_of(model, op, axis=3) == "mixed-channels"
    assert_stays(model)


MAXIMA = [
    "MaxPool<kernel_shape=[2, 3]>",
    "MaxPool<kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2]>",
    "MaxPool<kernel_shape=[2, 2], dilations=[2, 3]>",
    'MaxPool<kernel_shape=[3, 2], auto_pad="SAME_UPPER">',
    "MaxPool<kernel_shape=[4, 4], ceil_mode=1, strides=[3, 3]>",
    "GlobalMaxPool",
]


@pytest.mark.parametrize("call", MAXIMA)
def test_maximum(call: str) -> None:
    op = name_of(call)
    assert_folds(backwards(f"d = {call}(c)", sign=False), ["Conv", op])
    assert_kept(backwards(f"d = {call}(c)"), "negative-scale")
    assert_folds(forwards(f"d = {call}(b)", sign=False), ["Sigmoid", op, "Conv"])
    model = forwards(f"d = {call}(b)")
    assert slug_of(model, op) == "negative-scale"
    assert_stays(model)


def test_indices_of_the_maxima() -> None:
    between = "d, i = MaxPool<kernel_shape=[2, 2]>(c)"
    outputs = ", int64[N, 4, 5, 5] i"
    assert_kept(backwards(between, sign=False, outputs=outputs), "extra-output")
    model = forwards(between.replace("c)", "b)"), sign=False, outputs=outputs)
    assert slug_of(model, "MaxPool") == "extra-output"
    assert_stays(model)


@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize("opset", [11, 13, 18])
@pytest.mark.parametrize("op", ["ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"])
def test_reduction_over_positions(op: str, opset: int, keep: int) -> None:
    as_input = opset >= (13 if op == "ReduceSum" else 18)
    call = f"{op}<keepdims={keep}>(c, a)" if as_input else f"{op}<axes=[2, -1], keepdims={keep}>(c)"
    extra: dict[str, Any] = {"a": ints(2, -1)} if as_input else {}
    extra |= {"opset": opset, "rank": 4 if keep else 2}
    extra |= {"shift": op != "ReduceSum", "sign": op in {"ReduceMean", "ReduceSum"}}
    assert_folds(backwards(f"d = {call}", **extra), ["Conv", op])
    last = "y = Conv(d, V)" if keep else "y = MatMul(d, V)"
    V = (5, 4, 1, 1) if keep else (4, 5)
    if not keep:
        extra["shift"] = False  # MatMul has no bias
    model = forwards(f"d = {call.replace('(c', '(b')}", last, V=V, **extra)
    assert_folds(model, ["Sigmoid", op, "Conv" if keep else "MatMul"])


def test_reduction_over_the_batch() -> None:
    model = backwards("d = ReduceMean<keepdims=1>(c, a)", a=ints(0))
    assert_folds(model, ["Conv", "ReduceMean"])
    model = parse(
        """g (double[N, 3, 6, 6] x) => (double[4, 6, 6] y) {
          c = Conv(x, W)
          d = ReduceMean<keepdims=0>(c, a)
          y = Mul(d, m)
        }""",
        W=weights(4, 3, 1, 1), m=weights(4, 1, 1), a=ints(0),
    )  # fmt: skip
    assert_folds(model, ["Conv", "ReduceMean"])


def test_reduction_of_axes_before_the_channels() -> None:
    model = parse(
        """g (double[N, 3, 6, 6] x) => (double[N, 4] y) {
          c = Conv(x, W)
          t = Transpose<perm=[0, 2, 3, 1]>(c)
          d = ReduceMean<keepdims=0>(t, a)
          y = BatchNormalization(d, scale, B, mean, var)
        }""",
        W=weights(4, 3, 1, 1), a=ints(-2, 1), **bn(4),
    )  # fmt: skip
    assert_folds(model, ["Conv", "Transpose", "ReduceMean"])


@pytest.mark.parametrize("op", ["ReduceMax", "ReduceMin"])
def test_extremes_of_a_negative_scale(op: str) -> None:
    assert_kept(backwards(f"d = {op}(c, a)", a=ints(2)), "negative-scale")
    model = forwards(f"d = {op}(b, a)", a=ints(2))
    assert slug_of(model, op) == "negative-scale"
    assert_stays(model)


def test_sum_of_a_shift() -> None:
    assert_kept(backwards("d = ReduceSum(c, a)", a=ints(2)), "shift-across")
    model = forwards("d = ReduceSum(b, a)", a=ints(2))
    assert slug_of(model, "ReduceSum") == "shift-across"
    assert_stays(model)


@pytest.mark.parametrize("call", ["ReduceMean(b, a)", "ReduceMean(b)"])
def test_reduction_over_the_channels(call: str) -> None:
    extra = {"a": ints(1, 2)} if "a)" in call else {}
    model = forwards(f"d = {call}", V=(5, 1, 1, 1), **extra)
    assert slug_of(model, "ReduceMean") == "mixed-channels"
    assert_stays(model)


def test_reduction_over_no_axes() -> None:
    for between in (
        "d = ReduceMean<noop_with_empty_axes=1>(c)",
        "d = ReduceSum<noop_with_empty_axes=1>(c, a)",
    ):
        extra = {"a": ints()} if "a)" in between else {}
        shift = "Mean" in between
        model = backwards(between, shift=shift, **extra)
        assert ops(normsurgery.fold(model).model) == ["Conv", between[4:14].strip("<")]


def test_reduction_over_unknown_axes() -> None:
    model = backwards("d = ReduceMean<keepdims=1>(c, a)", inputs=", int64[2] a")
    assert slug_of(model, "ReduceMean", forwards=False) == "not-constant"
    assert_kept(model, "not-constant")


def test_reduction_of_unknown_rank() -> None:
    model = backwards("d = ReduceMean<keepdims=1>(z, a)", inputs=", double z", a=ints(2))
    model.graph.input[1].type.tensor_type.ClearField("shape")
    del model.graph.node[0]
    assert slug_of(model, "ReduceMean", forwards=False) == "unknown-rank"


@pytest.mark.parametrize("function", ["ReduceL2", "ReduceProd", "ReduceLogSumExp", "LpPool"])
def test_other_reductions(function: str) -> None:
    call = f"{function}(c, a)" if "Reduce" in function else "LpPool<kernel_shape=[2, 2]>(c)"
    extra = {"a": ints(2)} if "Reduce" in function else {}
    assert_kept(backwards(f"d = {call}", shift=False, sign=False, **extra), "not-linear")


def test_uniform_map_over_a_mean_of_everything() -> None:
    model = parse(
        """g (double[2, 3, 6, 6] x) => (double[1, 5] y) {
          s = Sigmoid(x)
          b = Sub(two, s)
          d = ReduceMean<keepdims=1>(b)
          e = Flatten(d)
          y = Gemm(e, V)
        }""",
        V=weights(1, 5), two=weights(1),
    )  # fmt: skip
    assert_folds(model, ["Sigmoid", "ReduceMean", "Flatten", "Gemm"])
