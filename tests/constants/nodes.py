"""Models of one node on initializers, held against the reference implementation of onnx."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from normsurgery import io
from normsurgery.constants import Constant, Limits, NotConstant, constant_of
from normsurgery.graph import Graph

FLOAT, INT32, INT64 = TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT64


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


def vector(values: Any) -> Any:
    return np.array(values, np.int64)
