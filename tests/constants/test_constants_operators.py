from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from normsurgery import io
from normsurgery.constants import Constant, Limits, NotConstant, constant_of
from normsurgery.constants.operators import TABLE
from normsurgery.graph import Graph

if TYPE_CHECKING:
    from collections.abc import Iterator

FLOAT, INT32, INT64 = TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT64


@pytest.fixture(scope="module", autouse=True)
def _short_of_inputs() -> Iterator[None]:
    """Let nodes without their inputs through to the operators, which may rely on no check."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("normsurgery.graph.lacks", lambda *_: None)
        yield


def model_of(
    op: str, arrays: list[Any], opset: int = 21, outputs: int = 1, **attributes: Any
) -> ModelProto:
    """One node on initializers; None leaves an input out."""
    stored = [numpy_helper.from_array(a, f"x{i}") for i, a in enumerate(arrays) if a is not None]
    inputs = ["" if a is None else f"x{i}" for i, a in enumerate(arrays)]
    node = helper.make_node(op, inputs, [f"y{i}" for i in range(outputs)], **attributes)
    graph = helper.make_graph([node], "g", [], [helper.make_empty_tensor_value_info("y0")], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def constant(model: ModelProto, limits: Limits | None = None) -> Constant | NotConstant:
    return constant_of(Graph(io.from_proto(model)).main, "y0", limits)


def computed(op: str, arrays: list[Any], opset: int = 21, **attributes: Any) -> Constant:
    found = constant(model_of(op, arrays, opset, **attributes))
    assert isinstance(found, Constant), found
    return found


def refused(op: str, arrays: list[Any], opset: int = 21, **attributes: Any) -> str:
    found = constant(model_of(op, arrays, opset, **attributes))
    assert isinstance(found, NotConstant)
    assert found.kind == "unsupported"
    return found.detail


def check(
    op: str, arrays: list[Any], opset: int = 21, rtol: float = 2e-6, **attributes: Any
) -> None:
    """Compare with the reference implementation of onnx."""
    model = model_of(op, arrays, opset, **attributes)
    with np.errstate(all="ignore"):
        (expected,) = ReferenceEvaluator(model).run(None, {})
    found = constant(model)
    assert isinstance(found, Constant), found
    expected = np.asarray(expected)
    assert found.shape == expected.shape
    assert found.elem_type == helper.np_dtype_to_tensor_dtype(expected.dtype)
    if expected.dtype.kind == "f":
        with np.errstate(all="ignore"):
            ours = found.float64().astype(expected.dtype)
        scale = np.abs(expected[np.isfinite(expected)]).max(initial=0)
        np.testing.assert_allclose(ours, expected, rtol=rtol, atol=float(scale) * 1e-6)
    else:
        np.testing.assert_array_equal(np.asarray(found.tensor.base), expected)
        assert found.tensor.base.dtype == expected.dtype


def floats(low: float = -100, high: float = 100) -> st.SearchStrategy[Any]:
    return st.floats(low, high, width=32)


shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
ints = hnp.arrays(np.int64, shapes, elements=st.integers(-50, 50))
float_arrays = hnp.arrays(np.float32, shapes, elements=floats())
arrays = st.one_of(ints, float_arrays)


@st.composite
def pairs(draw: Any, dtype: Any, elements: Any) -> list[Any]:
    both = draw(hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=3, max_side=4))
    return [draw(hnp.arrays(dtype, s, elements=elements)) for s in both.input_shapes]


def vector(values: Any) -> Any:
    return np.array(values, np.int64)


# -- arithmetic ----------------------------------------------------------------------------------


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


# -- moving --------------------------------------------------------------------------------------


@given(arrays, st.data())
def test_reshape(x: Any, data: st.DataObject) -> None:
    shape = list(data.draw(st.permutations(x.shape)))
    if shape and x.size:
        shape[data.draw(st.integers(0, len(shape) - 1))] = -1
    check("Reshape", [x, vector(shape)], allowzero=int(not x.size))
    check("Identity", [x])


def test_reshape_details() -> None:
    x = np.zeros((2, 3, 4), np.float32)
    check("Reshape", [x, vector([0, -1])])
    assert computed("Reshape", [x], opset=4, shape=[4, 6]).shape == (4, 6)
    for shape in ([5, 5], [-1, -1], [0, 0, 0, 0], [7, -1], [2**62, 8]):
        refused("Reshape", [x, vector(shape)])
    refused("Reshape", [x, np.float32([24])])
    refused("Reshape", [x])


@given(arrays, st.data())
def test_flatten(x: Any, data: st.DataObject) -> None:
    assume(x.size)  # the reference fails
    check("Flatten", [x], axis=data.draw(st.integers(-x.ndim, x.ndim)))


def test_flatten_by_a_negative_axis() -> None:
    assert computed("Flatten", [np.zeros((2, 3, 4), np.float32)], axis=-1).shape == (6, 4)
    assert computed("Flatten", [np.zeros((0, 3, 4), np.float32)]).shape == (0, 12)
    refused("Flatten", [np.zeros((2, 3), np.float32)], axis=3)


@given(arrays, st.data())
def test_transpose(x: Any, data: st.DataObject) -> None:
    if x.ndim:
        check("Transpose", [x], perm=data.draw(st.permutations(range(x.ndim))))
    check("Transpose", [x])


@given(arrays, st.data())
def test_squeeze_and_unsqueeze(x: Any, data: st.DataObject) -> None:
    rank = x.ndim + data.draw(st.integers(0, 2))
    axes = data.draw(st.permutations(range(rank)))[: rank - x.ndim]
    axes = [a - data.draw(st.sampled_from([0, rank])) for a in axes]
    check("Unsqueeze", [x, vector(axes)])
    y = np.expand_dims(x, tuple(axes))
    if axes:
        check("Squeeze", [y, vector(axes)])
        assert computed("Squeeze", [y], opset=11, axes=axes).shape == x.shape
        assert computed("Unsqueeze", [x], opset=11, axes=axes).shape == y.shape
    check("Squeeze", [y])


@given(st.data())
def test_expand(data: st.DataObject) -> None:
    both = data.draw(hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=4, max_side=4))
    x = data.draw(hnp.arrays(np.float32, both.input_shapes[0], elements=floats()))
    check("Expand", [x, vector(both.input_shapes[1])])


@given(arrays, st.data())
def test_tile(x: Any, data: st.DataObject) -> None:
    repeats = data.draw(st.lists(st.integers(0, 3), min_size=x.ndim, max_size=x.ndim))
    check("Tile", [x, vector(repeats)])


@given(st.data())
def test_concat(data: st.DataObject) -> None:
    shape = data.draw(hnp.array_shapes(max_dims=3, max_side=3, min_side=0))
    axis = data.draw(st.integers(0, len(shape) - 1))
    parts = []
    for size in data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=4)):
        part = (*shape[:axis], size, *shape[axis + 1 :])
        parts.append(data.draw(hnp.arrays(np.float32, part, elements=floats())))
    check("Concat", parts, axis=axis - data.draw(st.sampled_from([0, len(shape)])))


@given(st.data())
def test_gather(data: st.DataObject) -> None:
    x = data.draw(
        hnp.arrays(np.float32, hnp.array_shapes(min_dims=1, max_side=4), elements=floats())
    )
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    size = x.shape[axis]
    wanted = hnp.array_shapes(min_dims=0, max_dims=2)
    picked = data.draw(hnp.arrays(np.int64, wanted, elements=st.integers(-size, size - 1)))
    check("Gather", [x, picked], axis=axis)


def test_gather_out_of_bounds() -> None:
    refused("Gather", [np.zeros(3, np.float32), vector([3])])
    refused("Gather", [np.zeros(3, np.float32), vector([0])], axis=1)
    refused("Gather", [np.zeros(3, np.float32), np.float32([1])])


@given(hnp.arrays(np.int64, hnp.array_shapes(max_side=5)), st.data())
def test_slice(x: Any, data: st.DataObject) -> None:
    axes = data.draw(st.lists(st.integers(0, x.ndim - 1), unique=True, min_size=1))
    starts, ends, steps = [], [], []
    for axis in axes:
        size = x.shape[axis]
        steps.append(data.draw(st.sampled_from([1, 2, 3, -1, -2])))
        # a start below the first element: Python takes nothing, the spec the first element
        starts.append(data.draw(st.integers(-size, size + 2)))
        ends.append(data.draw(st.sampled_from([0, 1, -1, size, -size - 1, 2**63 - 1, -(2**63)])))
    check("Slice", [x, *map(vector, (starts, ends, axes, steps))])


def test_slice_details() -> None:
    x = np.arange(24).reshape(4, 6)
    check("Slice", [x, vector([1, 2]), vector([3, 5])])
    found = computed("Slice", [x], opset=9, starts=[1], ends=[2**63 - 1], axes=[1])
    assert np.array_equal(found.tensor.base, x[:, 1:])
    assert computed("Slice", [x, *map(vector, ([-9], [-10], [0], [-1]))]).shape == (1, 6)
    assert computed("Slice", [x[:0], *map(vector, ([3], [0], [0], [-1]))]).shape == (0, 6)
    for bad in (([0], [1], [0], [0]), ([0], [1], [2], [1]), ([0, 0], [1], [0], [1])):
        refused("Slice", [x, *map(vector, bad)])
    refused("Slice", [x])


def test_what_only_moves_is_a_view() -> None:
    x = np.zeros((200, 300), np.float32)
    model = io.from_proto(model_of("Transpose", [x]))
    found = constant_of(Graph(model).main, "y0")
    assert isinstance(found, Constant)
    assert np.shares_memory(found.tensor.base, model.store.array(model.proto.graph.initializer[0]))


# -- making --------------------------------------------------------------------------------------

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


# -- all -----------------------------------------------------------------------------------------


def test_every_operator_of_the_table_is_tested() -> None:
    with open(__file__, encoding="utf-8") as file:  # noqa: PTH123
        text = file.read()
    assert [op for op in TABLE if f'"{op}"' not in text] == []


@pytest.mark.parametrize("op", TABLE)
@pytest.mark.parametrize("count", [0, 1])
def test_missing_inputs_are_no_crash(op: str, count: int) -> None:
    constant(model_of(op, [np.ones((2, 2), np.float32)] * count))
    constant(model_of(op, [None] * 2))


@given(
    st.sampled_from(sorted(TABLE)),
    st.lists(st.one_of(arrays, hnp.arrays(np.int64, st.integers(0, 4))), max_size=4),
    st.sampled_from([1, 6, 9, 13, 21]),
    st.dictionaries(
        st.sampled_from(["axis", "axes", "perm", "to", "shape", "keepdims", "broadcast", "end"]),
        st.one_of(st.integers(-9, 9), st.lists(st.integers(-4, 4), max_size=3)),
    ),
)
@settings(max_examples=400)
def test_nonsense_is_no_crash(op: str, inputs: list[Any], opset: int, attributes: Any) -> None:
    attributes = {k: v for k, v in attributes.items() if v != []}
    constant(model_of(op, inputs, opset, **attributes), Limits(1 << 20))


ONES = np.ones(1, np.float32)
WIDE = np.broadcast_to(np.float32(0), (1 << 12, 1))


@pytest.mark.parametrize(
    ("op", "inputs", "attributes"),
    [
        ("ConstantOfShape", [vector([1 << 40])], {}),
        ("ConstantOfShape", [vector([1 << 62, 1 << 62])], {}),
        ("Expand", [ONES, vector([1 << 40])], {}),
        ("Tile", [ONES, vector([1 << 40])], {}),
        ("Range", [vector(0), vector(1 << 40), vector(1)], {}),
        ("Range", [np.float32(0), np.float32(1e12), np.float32(1)], {}),
        ("Concat", [np.zeros(70_000, np.float32)] * 2, {"axis": 0}),
        ("MatMul", [WIDE, WIDE.T], {}),
        ("MatMul", [ONES[None], np.zeros((1 << 12, 1, 64), np.float32)], {}),
        ("Add", [WIDE, WIDE.T], {}),
        ("Max", [WIDE, WIDE.T], {}),
        ("Gather", [WIDE.T, np.zeros(1 << 12, np.int64)], {}),
        # the result is small, an operand in float64 is not
        ("ReduceSum", [np.zeros(1 << 18, np.float32)], {}),
        ("Cast", [np.zeros(1 << 18, np.float32)], {"to": TensorProto.DOUBLE}),
        ("Clip", [np.zeros(1 << 18, np.float32)], {}),
        ("Neg", [np.zeros(1 << 18, np.float32)], {}),
    ],
)
def test_bombs_are_refused_before_they_are_made(op: str, inputs: Any, attributes: Any) -> None:
    import tracemalloc

    model = io.from_proto(model_of(op, inputs, **attributes))
    graph = Graph(model)
    tracemalloc.start()
    found = constant_of(graph.main, "y0", Limits(1 << 20))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(found, NotConstant)
    assert found.kind in {"too-large", "unsupported"}
    assert peak < 1 << 20
