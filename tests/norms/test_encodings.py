"""Every encoding of every target against its definition in float64, for all float types."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from graphs import run
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper

from normsurgery import io, norms
from normsurgery.graph import Graph
from normsurgery.norms import Encoding, Norm, Writer

TYPES = {
    TensorProto.FLOAT: np.dtype(np.float32),
    TensorProto.DOUBLE: np.dtype(np.float64),
    TensorProto.FLOAT16: np.dtype(np.float16),
    TensorProto.BFLOAT16: np.dtype(ml_dtypes.bfloat16),
}
GROUPED: tuple[Encoding, ...] = ("auto", "native", "instance", "layer")
# Unit roundoff; half an ulp of 1.
UNIT = {1: 2.0**-24, 11: 2.0**-53, 10: 2.0**-11, 16: 2.0**-8}


def written(
    target: str, encoding: Encoding, norm: Norm, elem_type: int, dims: tuple[Any, ...], opset: int
) -> ModelProto:
    """A model that is the norm alone."""
    shape = list(dims)
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"], "norm")],
        "g",
        [helper.make_tensor_value_info("x", elem_type, shape)],
        [helper.make_tensor_value_info("y", elem_type, shape)],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    content = io.from_proto(proto)
    scope = Graph(content).main
    node = scope.nodes[0]
    node.output[0] = "before"
    scope.producer["before"] = scope.producer.pop("y")
    known = tuple(size if isinstance(size, int) else None for size in dims)
    writer = Writer(scope, "norm", "y", elem_type, known)
    writer.close(norms.load()[target].write(writer, "before", norm, encoding), node)
    made = io.to_proto(content)
    onnx.checker.check_model(made, full_check=True)
    return made


def defined(x: Any, norm: Norm) -> Any:
    """Group normalization, from its definition, in float64."""
    grouped = x.astype(np.float64).reshape(len(x), norm.groups, -1)
    centred = grouped - grouped.mean(axis=2, keepdims=True)
    normalized = centred / np.sqrt(grouped.var(axis=2, keepdims=True) + norm.epsilon)
    column = (-1,) + (1,) * (x.ndim - 2)
    return normalized.reshape(x.shape) * norm.scale.reshape(column) + norm.B.reshape(column)


def in_onnxruntime(model: ModelProto, x: Any) -> Any:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"x": x})[0]


def some_norm(channels: int, groups: int, seed: int, elem_type: int) -> Norm:
    """A norm whose constants are numbers of the type, so that only the arithmetic rounds."""
    rng = np.random.default_rng(seed)
    scale, B = (rng.normal(0, 1, channels).astype(TYPES[elem_type]) for _ in range(2))
    epsilon = float(np.float32(rng.choice([1e-5, 1.0])))
    return Norm(groups, scale.astype(np.float64), B.astype(np.float64), epsilon)


@pytest.mark.parametrize("encoding", GROUPED)
@pytest.mark.parametrize("static", [True, False])
@given(
    space=st.sampled_from([(7,), (3, 4), (2, 3, 2)]),
    groups=st.sampled_from([1, 2, 3, 12]),
    target=st.sampled_from(["group", "instance", "layer"]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=15)
def test_algebra_in_float64(
    static: bool, encoding: Encoding, space: tuple[int, ...], groups: int, target: str, seed: int
) -> None:
    groups = {"instance": 12, "layer": 1}.get(target, groups)
    norm = some_norm(12, groups, seed, TensorProto.DOUBLE)
    dims = (2, 12, *space) if static else ("n", 12, *(f"s{i}" for i in range(len(space))))
    model = written(target, encoding, norm, TensorProto.DOUBLE, dims, 21)
    x = np.random.default_rng(seed).normal(1, 2, (2, 12, *space))
    np.testing.assert_allclose(run(model, {"x": x})[0], defined(x, norm), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("elem_type", TYPES)
@pytest.mark.parametrize("encoding", GROUPED)
@given(groups=st.sampled_from([1, 2, 4, 8]), seed=st.integers(0, 1000))
@settings(max_examples=10)
def test_rounding_in_every_type(elem_type: int, encoding: Encoding, groups: int, seed: int) -> None:
    """The error of each encoding is that of a few roundings, so that none differs by more."""
    norm = some_norm(8, groups, seed, elem_type)
    model = written("group", encoding, norm, elem_type, ("n", 8, "h", "w"), 21)
    x = np.random.default_rng(seed).normal(0, 1, (2, 8, 6, 6)).astype(TYPES[elem_type])
    if elem_type == TensorProto.BFLOAT16:  # onnxruntime's CPU provider has no kernels of it
        assert {t.data_type for t in model.graph.initializer} <= {1, 7, 16}
        return
    if elem_type == TensorProto.DOUBLE and encoding == "instance":  # nor this one
        with pytest.raises(ort.capi.onnxruntime_pybind11_state.NotImplemented):
            in_onnxruntime(model, x)
        return
    made, expected = in_onnxruntime(model, x).astype(np.float64), defined(x, norm)
    error = np.sqrt(np.mean((made - expected) ** 2) / np.mean(expected**2))
    assert error <= 4 * UNIT[elem_type]


def test_as_many_groups_as_channels_are_instance_normalization() -> None:
    norm = some_norm(8, 8, 1, TensorProto.FLOAT)
    dims = ("n", 8, "h", "w")
    grouped, instance = (
        written(target, "instance", norm, TensorProto.FLOAT, dims, 17)
        for target in ("group", "instance")
    )
    assert [n.op_type for n in grouped.graph.node] == ["Identity", "InstanceNormalization"]
    assert grouped.graph.node == instance.graph.node


def test_one_group_is_layer_normalization_over_channels_and_positions() -> None:
    """onnx's LayerNormalization from axis 1 on, whose scale has an element each."""
    norm = some_norm(4, 1, 2, TensorProto.DOUBLE)
    x = np.random.default_rng(0).normal(2, 3, (3, 4, 5, 6))
    full = [np.broadcast_to(v[:, None, None], (4, 5, 6)).copy() for v in (norm.scale, norm.B)]
    graph = helper.make_graph(
        [
            helper.make_node(
                "LayerNormalization", ["x", "s", "b"], ["y"], axis=1, epsilon=norm.epsilon
            )
        ],
        "g",
        [helper.make_tensor_value_info("x", 11, x.shape)],
        [helper.make_tensor_value_info("y", 11, x.shape)],
        [onnx.numpy_helper.from_array(v, n) for v, n in zip(full, "sb", strict=True)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    expected = run(model, {"x": x})[0]
    for target, encoding in (("layer", "native"), ("layer", "instance"), ("group", "layer")):
        made = written(target, encoding, norm, 11, ("n", 4, "h", "w"), 17)  # type: ignore[arg-type]
        np.testing.assert_allclose(run(made, {"x": x})[0], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rank", [2, 3, 5])
def test_an_empty_batch_and_single_positions(rank: int) -> None:
    norm = some_norm(6, 2, 3, TensorProto.FLOAT)
    model = written("group", "instance", norm, 1, ("n", 6, *["s"] * (rank - 2)), 17)
    x = np.random.default_rng(1).normal(0, 1, (2, 6, *[1] * (rank - 2))).astype(np.float32)
    np.testing.assert_allclose(in_onnxruntime(model, x), defined(x, norm), rtol=1e-4, atol=1e-5)


def test_bfloat16_goes_through_float32_where_the_operator_does_not_take_it() -> None:
    norm = some_norm(8, 8, 1, TensorProto.BFLOAT16)
    old, new = (
        written("instance", "instance", norm, 16, ("n", 8, "l"), opset) for opset in (17, 22)
    )
    kinds = [node.op_type for node in old.graph.node]
    assert kinds == ["Identity", "Cast", "InstanceNormalization", "Cast"]
    assert [node.op_type for node in new.graph.node] == ["Identity", "InstanceNormalization"]


def test_the_frozen_map_and_batch_normalization() -> None:
    rng = np.random.default_rng(4)
    scale, B, mean = (rng.normal(0, 1, 5) for _ in range(3))
    var, x = rng.uniform(0.5, 2, 5), rng.normal(0, 1, (2, 5, 3, 3))
    column = (-1, 1, 1)
    frozen = written("affine", "native", Norm(1, scale, B, 0.0), 11, ("n", 5, "h", "w"), 21)
    expected = x * scale.reshape(column) + B.reshape(column)
    np.testing.assert_allclose(run(frozen, {"x": x})[0], expected, rtol=1e-14, atol=1e-14)
    norm = Norm(1, scale, B, float(np.float32(1e-3)), mean, var)
    batch = written("batch", "native", norm, 11, ("n", 5, "h", "w"), 21)
    s = scale / np.sqrt(var + norm.epsilon)
    expected = s.reshape(column) * (x - mean.reshape(column)) + B.reshape(column)
    np.testing.assert_allclose(run(batch, {"x": x})[0], expected, rtol=1e-12, atol=1e-12)


def test_every_module_is_a_target_and_every_encoding_has_its_operator_set() -> None:
    assert set(norms.load()) == {"affine", "batch", "group", "instance", "layer"}
    for target in norms.load().values():
        for encoding, opset in target.encodings.items():
            norm = some_norm(4, 4 if target.name == "instance" else 1, 0, TensorProto.FLOAT)
            written(target.name, encoding, norm, 1, ("n", 4, "l"), opset)  # type: ignore[arg-type]
