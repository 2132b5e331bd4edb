"""What is a fixed affine map among BatchNormalizations, and what is not."""

from __future__ import annotations

import re

import numpy as np
import onnx
import pytest
from graphs import assert_folds, assert_kept, bn, parse, weights

import normsurgery
from normsurgery.affine import ChannelAffine
from normsurgery.errors import GraphError

TEXT = """
g (double[N, 3, 8, 8] x) => (double[N, 4, 6, 6] y) {
  c = Conv(x, W)
  y = BatchNormalization<epsilon=0.001>(c, scale, B, mean, var)
}"""


def model(opset: int = 21, text: str = TEXT, **changes: object) -> onnx.ModelProto:
    ir = 3 if opset < 7 else 10
    made = parse(text, opset=opset, ir=ir, **{"W": weights(4, 3, 3, 3), **bn(4), **changes})
    if ir == 3:
        for t in made.graph.initializer:
            made.graph.input.append(onnx.helper.make_tensor_value_info(t.name, t.data_type, t.dims))
    return made


@pytest.mark.parametrize("opset", [7, 8, 9, 13, 14, 15, 21, 23])
def test_every_opset(opset: int) -> None:
    assert_folds(model(opset), ["Conv"])


@pytest.mark.parametrize("opset", [1, 6])
def test_before_opset_7_is_test_decides(opset: int) -> None:
    made = model(opset, TEXT.replace("<epsilon", "<is_test=1, epsilon"))
    if opset == 1:
        made.graph.node[1].attribute.append(onnx.helper.make_attribute("consumed_inputs", [0] * 5))
    result = normsurgery.fold(made)
    assert [n.op_type for n in result.model.graph.node] == ["Conv"]
    expected = normsurgery.fold(model(7)).model
    stored = [onnx.numpy_helper.to_array(t) for t in result.model.graph.initializer]
    for ours, theirs in zip(stored, expected.graph.initializer, strict=True):
        np.testing.assert_array_equal(ours, onnx.numpy_helper.to_array(theirs))


@pytest.mark.parametrize("opset", [1, 6])
def test_before_opset_7_training_is_the_default(opset: int) -> None:
    assert_kept(model(opset), "training-mode")


def test_training_mode() -> None:
    assert_kept(model(15, TEXT.replace("<epsilon", "<training_mode=1, epsilon")), "training-mode")


def test_batch_statistics_as_outputs() -> None:
    assert_kept(model(9, TEXT.replace("y = Batch", "y, m, v = Batch")), "training-mode")


def test_statistics_per_element() -> None:
    assert_kept(model(8, TEXT.replace("<epsilon", "<spatial=0, epsilon")), "per-activation")


@pytest.mark.parametrize("name", ["scale", "B", "mean", "var"])
def test_parameter_is_an_input(name: str) -> None:
    text = TEXT.replace("8] x)", "8] x, double[4] given)")
    text = re.sub(rf"\b{name}\b(?=[,)])", "given", text)
    made = model(text=text)
    assert_kept(made, "not-constant")


@pytest.mark.parametrize("name", ["scale", "B", "mean", "var"])
def test_parameter_may_be_overridden(name: str) -> None:
    made = model(text=TEXT.replace("8] x)", f"8] x, double[4] {name})"))
    assert_kept(made, "overridable")


@pytest.mark.parametrize("name", ["scale", "B", "mean", "var"])
def test_parameters_of_unequal_length(name: str) -> None:
    with pytest.raises(GraphError, match="unequal"):
        normsurgery.fold(model(**{name: np.ones(5)}))


def test_parameter_of_wrong_rank() -> None:
    with pytest.raises(GraphError, match="no vector"):
        normsurgery.fold(model(mean=np.ones((4, 1))))


@pytest.mark.parametrize("var", [-0.002, -1.0, np.nan, np.inf])
def test_variance_without_a_root(var: float) -> None:
    parameters = bn(4)
    parameters["var"][2] = var
    if np.isinf(var):  # the map is finite there: a constant channel
        assert_folds(model(**parameters), ["Conv"])
    else:
        result = assert_kept(model(**parameters), "not-finite")
        assert "channel 2" in result.report.kept[0].reason


def test_epsilon_is_the_float32_that_it_is() -> None:
    parameters = bn(4)
    parameters["var"][:] = 0
    folded = normsurgery.fold(model(**parameters)).model
    W = onnx.numpy_helper.to_array(folded.graph.initializer[0])
    a = parameters["scale"] / np.sqrt(float(np.float32(0.001)))
    np.testing.assert_array_equal(W, a[:, None, None, None] * weights(4, 3, 3, 3))


def test_constants_in_nodes_and_behind_identity() -> None:
    text = """
    g (double[N, 3, 8, 8] x) => (double[N, 4, 6, 6] y) {
      s = Constant<value = double[4] {1.0, 2.0, -3.0, 0.5}>()
      m = Identity(mean)
      i = Identity(x)
      c = Conv(i, W)
      d = Identity(c)
      y = BatchNormalization(d, s, B, m, var)
    }"""
    result = assert_folds(model(text=text), ["Identity", "Conv", "Identity"])
    assert result.report.before == 1
    assert result.report.after == 0


def test_scale_of_zero_makes_a_constant_channel() -> None:
    parameters = bn(4)
    parameters["scale"][1] = 0
    assert_folds(model(**parameters), ["Conv"])


def test_of_batch_norm_is_the_formula_of_the_spec() -> None:
    p = {k: v.astype(np.float64) for k, v in bn(6).items()}
    affine = ChannelAffine.of_batch_norm(**p, epsilon=0.25)
    x = np.linspace(-3, 3, 6)
    y = p["scale"] * (x - p["mean"]) / np.sqrt(p["var"] + 0.25) + p["B"]
    np.testing.assert_allclose(affine.a * x + affine.b, y, rtol=1e-14)
