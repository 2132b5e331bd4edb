"""Operators that make values of other types, of shapes and of nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from constants.nodes import (
    FLOAT,
    INT32,
    INT64,
    arrays,
    check,
    computed,
    constant,
    floats,
    model_of,
    refused,
    shapes,
    vector,
)
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from normsurgery import io
from normsurgery.constants import Constant, constant_of
from normsurgery.graph import Graph

pytestmark = pytest.mark.usefixtures("short_of_inputs")


NUMBERS = [FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16, INT32, INT64]
CASTS = [*NUMBERS, TensorProto.UINT8, TensorProto.INT8, TensorProto.UINT64, TensorProto.BOOL]


@given(st.lists(floats(0, 100), max_size=6), st.sampled_from(NUMBERS), st.sampled_from(CASTS))
def test_cast(values: list[float], before: int, after: int) -> None:
    x = np.array(values).astype(helper.tensor_dtype_to_np_dtype(before))
    expected = x.astype(helper.tensor_dtype_to_np_dtype(after))
    like = np.zeros(1, expected.dtype)
    for found in (computed("Cast", [x], to=after), computed("CastLike", [x, like])):
        assert found.elem_type == after
        assert np.array_equal(np.asarray(found.tensor.base), expected)


def test_cast_to_integers_sees_the_rounded_number() -> None:
    """0.7f·10 is 7 in float32, and a little less in float64."""
    stored = [
        numpy_helper.from_array(np.array(v, np.float32), n) for n, v in (("a", 0.7), ("b", 10))
    ]
    nodes = [
        helper.make_node("Mul", ["a", "b"], ["m"]),
        helper.make_node("Cast", ["m"], ["y0"], to=INT64),
    ]
    graph = helper.make_graph(nodes, "g", [], [helper.make_empty_tensor_value_info("y0")], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    found = constant(model)
    assert isinstance(found, Constant)
    assert found.tensor.base == ReferenceEvaluator(model).run(None, {})[0] == 7


@pytest.mark.parametrize("value", [np.nan, np.inf, 128.0, -129.0, 1e30])
def test_cast_of_numbers_that_do_not_fit(value: float) -> None:
    assert "does not have" in refused("Cast", [np.float32([value])], to=TensorProto.INT8)


def test_cast_at_the_limits() -> None:
    x = np.array([127.9, -128.9])
    found = computed("Cast", [x], to=TensorProto.INT8)
    assert np.asarray(found.tensor.base).tolist() == [127, -128]
    refused("Cast", [np.array([2.0**63])], to=INT64)
    refused("Cast", [np.array([2.0**64])], to=TensorProto.UINT64)
    assert computed("Cast", [np.array([2.0**64 * (1 - 2**-53)])], to=TensorProto.UINT64)


@pytest.mark.parametrize("to", [TensorProto.STRING, TensorProto.INT4, 17, TensorProto.COMPLEX64, 0])
def test_casts_that_are_not_evaluated(to: int) -> None:
    assert "a cast to" in refused("Cast", [np.float32([1])], to=to)


def test_cast_of_strings() -> None:
    refused("Cast", [np.array(["1"], object)], to=FLOAT)


@given(arrays, st.data())
def test_shape_and_size(x: Any, data: st.DataObject) -> None:
    check("Size", [x])
    bound = st.integers(-x.ndim, x.ndim)
    check("Shape", [x], start=data.draw(bound), end=data.draw(bound))
    check("Shape", [x])


@pytest.mark.parametrize(
    ("start", "end", "expected"), [(0, -9, []), (-9, 2, [2, 3]), (1, 9, [3, 4]), (9, 9, [])]
)
def test_bounds_of_shape_are_clamped(start: int, end: int, expected: list[int]) -> None:
    found = computed("Shape", [np.zeros((2, 3, 4), np.float32)], start=start, end=end)
    assert np.asarray(found.tensor.base).tolist() == expected


@given(shapes, st.sampled_from([np.float32, np.float16, np.int64, np.bool_]))
def test_constant_of_shape(shape: tuple[int, ...], dtype: Any) -> None:
    fill = numpy_helper.from_array(np.ones(1, dtype), "fill")
    check("ConstantOfShape", [vector(shape)], value=fill)
    check("ConstantOfShape", [vector(shape)])


def test_constant_of_shape_details() -> None:
    refused("ConstantOfShape", [vector([-1])])
    refused("ConstantOfShape", [vector([1])], value=numpy_helper.from_array(np.zeros(2)))
    refused("ConstantOfShape", [vector([1])], value=1.0)
    refused("ConstantOfShape", [np.float32([1])])
    refused("ConstantOfShape", [vector([1] * 70)])


def test_fills_outside_are_read_like_all_external_data(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not from the current folder, where onnx would look."""
    from normsurgery.errors import MissingDataError

    fill = TensorProto(name="fill", data_type=FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    fill.external_data.add(key="location", value="data")
    proto = model_of("ConstantOfShape", [vector([2])], value=fill)
    (tmp_path / "data").write_bytes(np.float32([5]).tobytes())
    found = constant_of(Graph(io.from_proto(proto, tmp_path / "m.onnx")).main, "y0")
    assert isinstance(found, Constant)
    assert found.float64().tolist() == [5, 5]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingDataError):
        io.from_proto(proto)


@given(st.integers(-20, 20), st.integers(-20, 20), st.integers(-5, 5).filter(bool))
def test_range(start: int, limit: int, delta: int) -> None:
    check("Range", [vector(start), vector(limit), vector(delta)])
    check("Range", [np.array(v, np.float32) for v in (start, limit, delta)])


def test_range_details() -> None:
    large = 2**62 + 1
    found = computed("Range", [vector(large), vector(large + 3), vector(1)])
    assert np.asarray(found.tensor.base).tolist() == [large, large + 1, large + 2]
    refused("Range", [vector(0), vector(1), vector(0)])
    refused("Range", [np.float32(0), np.float32("nan"), np.float32(1)])
    refused("Range", [vector([0, 0]), vector(1), vector(1)])


@pytest.mark.parametrize(
    ("attributes", "expected", "elem_type"),
    [
        ({"value_float": 0.1}, np.float32(0.1), FLOAT),
        ({"value_floats": [0.5, 1.5]}, [0.5, 1.5], FLOAT),
        ({"value_int": 2**40}, 2**40, INT64),
        ({"value_ints": [3, -4]}, [3, -4], INT64),
        ({"value": numpy_helper.from_array(np.float16([1, 2]))}, [1, 2], TensorProto.FLOAT16),
    ],
)
def test_constant_node(attributes: Any, expected: Any, elem_type: int) -> None:
    found = computed("Constant", [], **attributes)
    assert found.elem_type == elem_type
    assert np.array_equal(np.asarray(found.tensor.base), expected)


def test_constants_that_are_not_evaluated() -> None:
    refused("Constant", [], value_string="a")
    refused("Constant", [])
    sparse = onnx.SparseTensorProto(values=numpy_helper.from_array(np.zeros(1)), dims=[3])
    refused("Constant", [], sparse_value=sparse)
