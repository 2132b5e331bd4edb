"""What a conversion computes and what it writes, against the definition."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from conversion.definition import (
    EPSILON,
    GROUPED,
    before_norm,
    conv_bn,
    converted,
    parameters,
    standardized_then_grouped,
)
from graphs import bn, feeds, ops, parse, run, weights
from onnx import ModelProto

import normsurgery


@pytest.mark.parametrize(
    ("space", "groups", "encoding", "affine"),
    [
        *itertools.product((1, 2, 3), (1, 2), ("auto", "native", "instance", "layer"), ("fold",)),
        *itertools.product((2,), (2,), ("instance", "native"), ("keep",)),
    ],
)
def test_it_computes_what_the_definition_says(
    space: int, groups: int, encoding: str, affine: str
) -> None:
    model = conv_bn(space=space, bias=True)
    result = converted(model, "group", groups=groups, encoding=encoding, affine=affine)
    for size in (4, 5):  # sizes stay free
        x = feeds(model, n=3, l=size, d=size, h=size, w=size + 1)
        expected = standardized_then_grouped(before_norm(model, x), parameters(model), groups, 1.0)
        np.testing.assert_allclose(run(result.model, x)[0], expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("gauge", ["balance", "whiten", "fold", "none"])
@pytest.mark.parametrize("affine", ["fold", "keep"])
def test_a_sample_with_the_running_statistics_goes_through_as_before(
    gauge: str, affine: str
) -> None:
    model = conv_bn(bias=True)
    x = feeds(model, n=1, h=6, w=5)
    c = before_norm(model, x)
    for name, values in (("mean", c.mean(axis=(0, 2, 3))), ("var", c.var(axis=(0, 2, 3)))):
        tensor = next(t for t in model.graph.initializer if t.name == name)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, name))
    result = converted(model, groups=2, gauge=gauge, affine=affine)
    np.testing.assert_allclose(run(result.model, x)[0], run(model, x)[0], rtol=1e-10, atol=1e-10)


def test_the_map_goes_into_the_weights_whose_norm_stays() -> None:
    model = conv_bn(bias=True)
    result = converted(model, groups=2)
    assert ops(result.model) == ["Conv", *GROUPED]
    (one,) = result.report.converted
    assert (one.affine, one.into, one.groups) == ("fold", ("Conv (makes `y/handed_over`)",), 2)
    was, now = parameters(model), parameters(result.model)
    p = {k: v.astype(np.float64) for k, v in was.items()}
    sigma = np.sqrt(p["var"] + EPSILON)
    assert np.linalg.norm(now["W_folded"]) == pytest.approx(np.linalg.norm(was["W"]), rel=1e-6)
    k = one.k
    expected = k * p["W"] / sigma[:, None, None, None]
    np.testing.assert_allclose(now["W_folded"], expected, rtol=1e-13)
    np.testing.assert_allclose(now["b_folded"], k * (p["b"] - p["mean"]) / sigma, rtol=1e-12)
    share = (p["var"] / sigma**2).mean()
    assert one.epsilon == pytest.approx(k * k * share, rel=1e-6)


def test_keep_leaves_a_frozen_bn_that_standardizes() -> None:
    result = converted(conv_bn(), groups=2, affine="keep")
    assert ops(result.model) == ["Conv", "BatchNormalization", *GROUPED]
    now = parameters(result.model)
    norm = next(n for n in result.model.graph.node if n.op_type == "BatchNormalization")
    np.testing.assert_array_equal(now[norm.input[1]], np.ones(16))
    np.testing.assert_array_equal(now[norm.input[2]], np.zeros(16))


def test_where_no_layer_can_take_the_map_it_is_kept_or_left_out() -> None:
    text = """
    g (double[n, 16, h, w] x) => (double[n, 16, h, w] y) {
        r = Relu (x)
        y = BatchNormalization (r, scale, B, mean, var)
    }"""
    model = parse(text, **bn(16))
    kept = converted(model)
    assert ops(kept.model) == ["Relu", "BatchNormalization", *GROUPED]
    assert "Relu" in kept.report.converted[0].note
    left_out = converted(model, affine="fold")
    assert ops(left_out.model) == ["Relu", *GROUPED]
    assert left_out.report.converted[0].gauge == "none"
    x = feeds(model, h=5, w=4)
    c = np.maximum(x["x"], 0)
    p = {k: v.astype(np.float64) for k, v in parameters(model).items()}
    m = p["mean"].mean()
    s2 = (p["var"] + (p["mean"] - m) ** 2).mean()
    epsilon = float(np.float32(s2))
    sigma = np.sqrt(p["var"] + EPSILON)
    flat = c.reshape(len(c), -1)
    mean, var = (f(axis=1)[:, None, None, None] for f in (flat.mean, flat.var))
    column = (-1, 1, 1)
    scale = (p["scale"] * np.sqrt(s2 + epsilon) / sigma).reshape(column)
    B = (p["B"] + p["scale"] * (m - p["mean"]) / sigma).reshape(column)
    expected = scale * (c - mean) / np.sqrt(var + epsilon) + B
    np.testing.assert_allclose(run(left_out.model, x)[0], expected, rtol=1e-11, atol=1e-11)


def test_instance_normalization_takes_the_bias_away_and_group_normalization_does_not() -> None:
    model = conv_bn(bias=True)
    result = converted(model, "instance")
    assert ops(result.model) == ["Conv", "InstanceNormalization"]
    assert result.report.converted[0].unbiased == "b"
    assert len(result.model.graph.node[0].input) == 2
    x = feeds(model, h=5, w=4)
    expected = standardized_then_grouped(before_norm(model, x), parameters(model), 16, 1.0)
    np.testing.assert_allclose(run(result.model, x)[0], expected, rtol=1e-11, atol=1e-11)
    for groups in (1, 2):
        assert len(converted(model, groups=groups).model.graph.node[0].input) == 3


def test_instance_normalization_of_a_value_that_others_read_keeps_the_bias() -> None:
    model = conv_bn(bias=True)
    model.graph.output.append(onnx.helper.make_tensor_value_info("c", 11, ["n", 16, "h", "w"]))
    result = converted(model, "instance")
    assert not result.report.converted[0].unbiased
    x = feeds(model, h=5, w=4)
    np.testing.assert_array_equal(run(result.model, x)[1], run(model, x)[1])


def test_affine_is_the_same_function() -> None:
    model = conv_bn(bias=True)
    result = converted(model, "affine")
    assert ops(result.model) == ["Conv", "Mul", "Add"]
    x = feeds(model, h=5, w=4)
    np.testing.assert_allclose(run(result.model, x)[0], run(model, x)[0], rtol=1e-12, atol=1e-12)


SAMPLES = Path(__file__).parents[2] / "sample_models"


@pytest.mark.parametrize("gauge", ["whiten", "fold"])
@pytest.mark.parametrize("options", [{}, {"channels_per_group": 8}, {"to": "instance"}], ids=str)
@pytest.mark.parametrize("name", ["resnet", "densenet", "mobilenet", "repvgg", "unet", "conv1d"])
def test_folded_or_kept_the_map_is_the_same_function(
    name: str, options: dict[str, Any], gauge: str
) -> None:
    path = SAMPLES / f"digits_{name}.onnx"
    folded, kept = (
        normsurgery.convert(path, gauge=gauge, affine=affine, **options).model
        for affine in ("auto", "keep")
    )
    x = {k: v.astype(np.float32) / 4 for k, v in feeds(folded).items()}
    for one, other in zip(*(runtime_run(model, x) for model in (folded, kept)), strict=True):
        assert np.abs(one - other).max() <= 1e-5 * np.abs(other).max()


def runtime_run(model: ModelProto, inputs: dict[str, Any]) -> list[Any]:
    """Return the outputs by onnxruntime, graph optimizations off."""
    session_options = ort.SessionOptions()
    session_options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(
        model.SerializeToString(), session_options, providers=["CPUExecutionProvider"]
    )
    return list(session.run(None, inputs))


def test_nodes_of_a_second_conversion_have_names_of_their_own() -> None:
    model = conv_bn(op="float", W=weights(16, 3, 3, 3, dtype=np.float32))
    model.graph.node[1].name = "norm"
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.DOUBLE:
            values = onnx.numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    once = normsurgery.convert(model, affine="keep").model
    again = normsurgery.convert(once, "affine")
    assert len(again.report.converted) == 1
    names = [node.name for node in again.model.graph.node if node.name]
    assert len(set(names)) == len(names)
    ort.InferenceSession(again.model.SerializeToString(), providers=["CPUExecutionProvider"])
