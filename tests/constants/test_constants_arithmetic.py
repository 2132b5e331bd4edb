"""Operators that compute: elementwise, reductions, MatMul."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from constants.nodes import check, computed, float_arrays, floats, refused, shapes, vector
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

pytestmark = pytest.mark.usefixtures("short_of_inputs")


@st.composite
def pairs(draw: Any, dtype: Any, elements: Any) -> list[Any]:
    both = draw(hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=3, max_side=4))
    return [draw(hnp.arrays(dtype, s, elements=elements)) for s in both.input_shapes]


@given(st.sampled_from(["Add", "Sub", "Mul", "Div", "Max", "Min"]), st.data())
def test_binary(op: str, data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from([np.float32, np.int64, np.int32]))
    elements = floats() if dtype is np.float32 else st.integers(-50, 50)
    x, y = data.draw(pairs(dtype, elements))
    if op == "Div":
        if dtype is np.float32:
            y = np.where(np.abs(y) < 1e-3, np.float32(1), y)
        else:  # truncated as in C; the reference rounds down
            assume(y.all() and (np.sign(x * y) >= 0).all())
    check(op, [x, y])


@pytest.mark.parametrize("dtype", [np.int64, np.int8])
def test_integers_are_divided_as_in_c(dtype: Any) -> None:
    x = np.array([7, -7, 7, -7, 6, -6, 0, np.iinfo(dtype).min], dtype)
    y = np.array([2, 2, -2, -2, 3, -3, -5, 2], dtype)
    expected = [3, -3, -3, 3, 2, 2, 0, np.iinfo(dtype).min // 2]
    assert np.asarray(computed("Div", [x, y]).tensor.base).tolist() == expected
    unsigned = computed("Div", [np.array([200], np.uint8), np.array([7], np.uint8)])
    assert np.asarray(unsigned.tensor.base).tolist() == [28]
    assert "division by 0" in refused("Div", [x, np.zeros_like(y)])


def test_remainder_of_integers() -> None:
    """The divisor's sign, as in Python; with ``fmod`` the dividend's, as in C."""
    x, y = vector([7, -7, 7, -7]), vector([3, 3, -3, -3])
    for fmod, expected in ((0, [1, 2, -2, -1]), (1, [1, -1, 1, -1])):
        found = computed("Mod", [x, y], fmod=fmod).tensor.base
        assert np.asarray(found).tolist() == expected
    check("Mod", [x, y])
    assert "division by 0" in refused("Mod", [x, np.zeros_like(y)])
    refused("Mod", [np.float32([7]), np.float32([2])], fmod=1)


@given(pairs(np.float32, floats(0.125, 8)))
def test_pow(both: list[Any]) -> None:
    check("Pow", both, rtol=1e-5)


def test_pow_of_integers() -> None:
    check("Pow", [vector([2, -3]), vector([5, 3])])
    check("Pow", [np.float32([2, 3]), vector([2, -1])])
    refused("Pow", [vector([2]), vector([-1])])
    refused("Pow", [vector([2]), np.float32([0.5])])


@given(
    st.sampled_from(["Neg", "Abs", "Sqrt", "Reciprocal", "Exp", "Log"]),
    hnp.arrays(np.float32, shapes, elements=floats(0.125, 64)),
)
def test_unary(op: str, x: Any) -> None:
    check(op, [x])


def test_unary_integers() -> None:
    check("Neg", [vector([3, -4])])
    check("Abs", [vector([3, -4])])
    for op in ("Sqrt", "Exp", "Log"):
        refused(op, [vector([4])])


@given(st.lists(float_arrays, min_size=1, max_size=4), st.sampled_from(["Max", "Min"]))
def test_any_number_of_operands(many: list[Any], op: str) -> None:
    check(op, [many[0] + i for i in range(len(many))])


def test_max_of_three() -> None:
    found = computed("Max", [vector([1, 5]), vector([2]), vector([3])])
    assert np.asarray(found.tensor.base).tolist() == [3, 5]


@given(float_arrays, st.one_of(st.none(), floats()), st.one_of(st.none(), floats()))
def test_clip(x: Any, low: Any, high: Any) -> None:
    bounds = [None if b is None else np.array(b, np.float32) for b in (low, high)]
    check("Clip", [x, *bounds])
    named = {k: float(v) for k, v in (("min", low), ("max", high)) if v is not None}
    if low is None or high is None or low <= high:
        found = computed("Clip", [x], opset=6, **named)
        assert np.array_equal(found.float64(), computed("Clip", [x, *bounds]).float64())


def test_clip_of_integers() -> None:
    check("Clip", [vector([1, 5, 9]), vector(2), vector(7)])
    refused("Clip", [vector([1, 5, 9]), vector([2, 3, 4])])


@given(
    st.sampled_from(["ReduceSum", "ReduceMax", "ReduceMean", "ReduceL2", "ReduceSumSquare"]),
    hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=1, max_side=4),
        # the reference squares in float32, in which squares of smaller numbers are lost
        elements=floats().filter(lambda x: x == 0 or abs(x) > 1e-12),
    ),
    st.booleans(),
    st.data(),
)
def test_reductions(op: str, x: Any, keep: bool, data: st.DataObject) -> None:
    axes = data.draw(st.lists(st.integers(0, x.ndim - 1), unique=True))
    axes = [a - data.draw(st.sampled_from([0, x.ndim])) for a in axes]
    check(op, [x, vector(axes)] if axes else [x], keepdims=int(keep))
    if axes:
        old = computed(op, [x], opset=11, axes=axes, keepdims=int(keep))
        new = computed(op, [x, vector(axes)], keepdims=int(keep))
        assert np.array_equal(old.float64(), new.float64())


def test_reductions_of_integers() -> None:
    x = np.array([[1, 2], [3, 4]], np.int32)
    for op in ("ReduceSum", "ReduceMax"):
        check(op, [x, vector([1])])
    squares = computed("ReduceSumSquare", [x, vector([1])])
    assert squares.tensor.base.tolist() == [[5], [25]]
    assert squares.tensor.base.dtype == np.int32, "the reference makes int64 of it"
    refused("ReduceMean", [x])
    refused("ReduceMean", [np.zeros((0, 2), np.float32)])
    refused("ReduceL2", [x])
    refused("ReduceSum", [x], noop_with_empty_axes=1)


@given(st.data())
def test_matmul(data: st.DataObject) -> None:
    sizes = hnp.mutually_broadcastable_shapes(signature="(m?,n),(n,p?)->(m?,p?)", max_side=4)
    shape = data.draw(sizes).input_shapes
    dtype = data.draw(st.sampled_from([np.float32, np.int64]))
    elements = floats(-4, 4) if dtype is np.float32 else st.integers(-9, 9)
    check("MatMul", [data.draw(hnp.arrays(dtype, s, elements=elements)) for s in shape], rtol=1e-5)


@pytest.mark.parametrize(
    ("shape", "axis", "expected"),
    [((3,), 1, (1, 3, 1)), ((3,), -2, (1, 3, 1)), ((3, 4), 1, (1, 3, 4)), ((4,), None, (1, 1, 4))],
)
def test_old_broadcasting(shape: Any, axis: int | None, expected: Any) -> None:
    x, y = np.ones((2, 3, 4), np.float32), np.arange(np.prod(shape), dtype=np.float32)
    named = {"broadcast": 1} | ({} if axis is None else {"axis": axis})
    found = computed("Mul", [x, y.reshape(shape)], opset=6, **named)
    assert np.array_equal(found.float64(), x * y.reshape(expected))


@pytest.mark.parametrize("op", ["Add", "Max", "Neg", "MatMul", "ReduceSum", "Clip"])
def test_arithmetic_in_other_types(op: str) -> None:
    import ml_dtypes

    x = np.ones((1, 1), ml_dtypes.float8_e4m3fn)
    assert "arithmetic in float8" in refused(op, [x, x] if op in {"Add", "MatMul"} else [x])
