"""Raising the operator set, by onnx's converter and by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from graphs import bn, feeds, parse, weights
from onnx import ModelProto, helper

import normsurgery
from normsurgery.conversion import opset
from normsurgery.errors import UsageError
from normsurgery.io import from_proto

TEXT = """
g (float[n, 3, h, w] x) => (float[n, 8, h, w] z) {{
    c = Conv <pads = [1, 1, 1, 1]> (x, W)
    y = BatchNormalization {attributes} (c, scale, B, mean, var)
    {tail}
}}"""


def model(
    version: int, tail: str = "z = Relu (y)", attributes: str = "", **more: Any
) -> ModelProto:
    tensors = {"W": weights(8, 3, 3, 3, dtype=np.float32), **bn(8, dtype=np.float32), **more}
    text = TEXT.format(tail=tail, attributes=attributes)
    return parse(text, opset=version, ir=7 if version < 17 else 8, **tensors)


def run(model: ModelProto, inputs: dict[str, Any]) -> list[Any]:
    """Return the outputs by onnxruntime, graph optimizations off."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return list(session.run(None, inputs))


def version(proto: ModelProto) -> int:
    return opset.version_of(proto)


def assert_equal_functions(one: ModelProto, other: ModelProto, source: ModelProto) -> None:
    x = feeds(source, h=6, w=5)
    for a, b in zip(run(one, x), run(other, x), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("have", [9, 13, 17, 18, 20])
def test_native_raises_it_and_computes_the_same(have: int) -> None:
    source = model(have)
    native = normsurgery.convert(source, groups=1, encoding="native")
    assert native.report.opset == f"opset {have} → 21, by onnx"
    onnx.checker.check_model(native.model, full_check=True)
    assert version(native.model) == 21
    assert "GroupNormalization" in [n.op_type for n in native.model.graph.node]
    plain = normsurgery.convert(source, groups=1)
    assert plain.report.opset == ""
    assert version(plain.model) == have
    assert_equal_functions(native.model, plain.model, source)


def test_an_operator_set_before_broadcasting_is_raised() -> None:
    source = model(6, attributes="<is_test = 1>")
    result = normsurgery.convert(source)
    assert version(result.model) == 7
    assert "by onnx" in result.report.opset
    newer = normsurgery.convert(model(9))
    assert_equal_functions(result.model, newer.model, newer.model)


def test_new_enough_is_left_alone() -> None:
    content = from_proto(model(17))
    assert opset.raised(content, 17) == (content, "")


CUSTOM = "q = custom.Gate (y)\n z = Relu (q)"


def test_a_custom_operator_is_no_hindrance() -> None:
    """onnx's converter may refuse one; then every other operator must have kept its meaning."""
    result = normsurgery.convert(model(17, CUSTOM), encoding="native")
    assert version(result.model) == 21
    assert [n.op_type for n in result.model.graph.node if n.domain == "custom"] == ["Gate"]


def test_by_hand_only_where_the_operators_kept_their_meaning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: Any) -> Any:
        raise RuntimeError("no adapter")

    monkeypatch.setattr(opset.version_converter, "convert_version", refuse)
    source = model(17)
    native = normsurgery.convert(source, encoding="native")
    assert native.report.opset == "opset 17 → 21, by hand"
    onnx.checker.check_model(native.model, full_check=True)
    assert_equal_functions(native.model, normsurgery.convert(source).model, source)
    # Softmax has another default axis since 13
    changed = model(11, "z = Softmax (y)")
    with pytest.raises(UsageError, match=r"Softmax .* another operator since 13 .*no adapter"):
        normsurgery.convert(changed, encoding="native")


def test_what_the_converter_would_lose_is_raised_by_hand_or_put_back() -> None:
    source = model(17)
    values = onnx.numpy_helper.from_array(np.ones(1, np.float32), "sparse")
    indices = onnx.numpy_helper.from_array(np.zeros(1, np.int64), "where")
    source.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4]))
    made, how = opset.raised(from_proto(source), 21)
    assert how == "opset 17 → 21, by hand"
    assert made.proto.graph.sparse_initializer == source.graph.sparse_initializer
    source = model(17)
    source.doc_string = "ours"
    source.metadata_props.add(key="who", value="we")
    source.graph.quantization_annotation.add(tensor_name="c")
    made, how = opset.raised(from_proto(source), 21)
    assert how == "opset 17 → 21, by onnx"
    assert made.proto.doc_string == "ours"
    assert made.proto.metadata_props == source.metadata_props
    assert made.proto.graph.quantization_annotation == source.graph.quantization_annotation


def grouped(channels: int | None = 8) -> ModelProto:
    """GroupNormalization of opset 18, which has a scale per group, behind the BN."""
    tail = "z = GroupNormalization <num_groups = 2> (y, gs, gb)"
    gs, gb = (np.asarray(v, np.float32) for v in ([1.5, 0.5], [-1.0, 2.0]))
    source = model(18, tail, gs=gs, gb=gb)
    if channels is not None:
        dims = ["n", channels, "h", "w"]
        source.graph.value_info.append(helper.make_tensor_value_info("y", 1, dims))
    return source


def test_group_normalization_of_opset_18_gets_its_scale_per_channel() -> None:
    source = grouped()
    result = normsurgery.convert(source, "affine")
    assert version(result.model) == 18
    native = normsurgery.convert(source, "group", encoding="native", only=["y"])
    assert version(native.model) == 21
    x = feeds(source, h=4, w=3)
    old = normsurgery.convert(source, "group", only=["y"]).model
    # the norm of opset 18, from its definition
    middle = ModelProto()
    middle.CopyFrom(old)
    middle.graph.output.append(helper.make_tensor_value_info("y", 1, None))
    del middle.graph.node[-1]
    del middle.graph.output[0]
    (y,) = run(middle, x)
    parts = y.reshape(len(y), 2, -1)
    scaled = (parts - parts.mean(2, keepdims=True)) / np.sqrt(parts.var(2, keepdims=True) + 1e-5)
    expected = scaled * np.array([1.5, 0.5])[:, None] + np.array([-1.0, 2.0])[:, None]
    np.testing.assert_allclose(
        run(native.model, x)[0], expected.reshape(y.shape), rtol=1e-4, atol=1e-4
    )


def test_group_normalization_of_unknown_width_is_a_refusal() -> None:
    with pytest.raises(UsageError, match="scale per group"):
        normsurgery.convert(grouped(None), encoding="native")


@pytest.mark.parametrize("encoding", ["native", "layer"])
def test_weights_of_ir_3_are_no_inputs_of_a_newer_one(encoding: str) -> None:
    """Listed as inputs, they would count as overridable, and no norm would be converted."""
    old = model(8)
    old.ir_version = 3
    for tensor in old.graph.initializer:
        old.graph.input.append(
            helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        )
    result = normsurgery.convert(old, encoding=encoding)
    assert len(result.report.converted) == 1
    assert [value.name for value in result.model.graph.input] == ["x"]
    onnx.checker.check_model(result.model, full_check=True)
    x = feeds(old, h=5, w=4)
    expected = run(normsurgery.convert(old).model, x)[0]
    np.testing.assert_allclose(run(result.model, x)[0], expected, rtol=1e-4, atol=1e-5)


def test_weights_of_ir_3_stay_inputs_where_the_model_stays_ir_3() -> None:
    """The checker asks for that; operator set 7, which the default encoding needs, is of IR 3."""
    old = parse(
        """g (float[N,4,H,W] x,
           float[4] scale, float[4] B, float[4] mean, float[4] var) => (float[N,4,H,W] y)
        { y = BatchNormalization<epsilon = 1e-5>(x, scale, B, mean, var) }""",
        opset=6,
        ir=3,
        scale=np.ones(4, np.float32),
        B=np.zeros(4, np.float32),
        mean=np.zeros(4, np.float32),
        var=np.ones(4, np.float32),
    )
    del old.opset_import[1]
    result = normsurgery.convert(old)
    assert len(result.report.converted) == 1
    assert result.model.ir_version == 3
    listed = {value.name for value in result.model.graph.input}
    assert listed == {"x"} | {tensor.name for tensor in result.model.graph.initializer}
    onnx.checker.check_model(result.model, full_check=True)
