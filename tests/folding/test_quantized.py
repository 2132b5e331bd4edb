"""Layers with quantized weights take a map into scales, signs and the int32 bias."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from graphs import assert_kept, bn, ops, parse, weights
from onnx import numpy_helper

import normsurgery

CONV = """g (float[N, 3, 8, 8] x) => (float[N, 4, 6, 6] y) {
  W = DequantizeLinear<axis = 0>(Q, s, z)
  c = Conv(x, W)
  y = BatchNormalization(c, scale, B, mean, var)
}"""


def integers(*shape: int, low: int = -127, high: int = 128, dtype: Any = np.int8) -> Any:
    return np.random.default_rng(5).integers(low, high, shape).astype(dtype)


def tensors(**change: Any) -> dict[str, Any]:
    return {
        "Q": integers(4, 3, 3, 3),
        "s": np.array([0.01, 0.02, 0.5, 1.0], np.float32),
        "z": np.zeros(4, np.int8),
        **bn(4, dtype=np.float32),
        **change,
    }


def stored(model: onnx.ModelProto) -> dict[str, Any]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def dequantized(model: onnx.ModelProto, conv: int, slot: int, axis: int) -> Any:
    """Return what input ``slot`` of node ``conv`` is, in float64, by the operator's formula."""
    name = model.graph.node[conv].input[slot]
    node = next(n for n in model.graph.node if name in n.output)
    values = stored(model)
    q = values[node.input[0]].astype(np.int64)
    shape = [1] * q.ndim
    shape[axis] = -1
    scale = values[node.input[1]].astype(np.float64).reshape(shape)
    zero = values[node.input[2]].astype(np.int64).reshape(shape) if len(node.input) > 2 else 0
    return scale * (q - zero)


def map_of(t: dict[str, Any]) -> tuple[Any, Any]:
    p = {k: t[k].astype(np.float64) for k in ("scale", "B", "mean", "var")}
    a = p["scale"] / np.sqrt(p["var"] + np.float64(np.float32(1e-5)))
    return a, p["B"] - a * p["mean"]


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
@pytest.mark.parametrize("per_channel", [True, False])
def test_conv(per_channel: bool, dtype: Any) -> None:
    t = tensors()
    if dtype is np.uint8:
        t["Q"], t["z"] = integers(4, 3, 3, 3, low=1, high=256, dtype=dtype), np.full(4, 128, dtype)
    text = CONV
    if not per_channel:
        t["s"], t["z"] = np.array(0.02, np.float32), t["z"][0]
        text = text.replace("<axis = 0>", "")
    model = parse(text, **t)
    assert (map_of(t)[0] < 0).any(), "the test is of signs too"
    result = normsurgery.fold(model)
    after = result.model
    onnx.checker.check_model(after, full_check=True)
    assert ops(after) == ["DequantizeLinear", "Conv"]
    a, b = map_of(t)
    W = np.broadcast_to(t["s"], 4).astype(np.float64).reshape(-1, 1, 1, 1) * (
        t["Q"].astype(np.int64) - np.broadcast_to(t["z"], 4).astype(np.int64).reshape(-1, 1, 1, 1)
    )
    np.testing.assert_allclose(dequantized(after, 1, 1, 0), a[:, None, None, None] * W, rtol=2**-23)
    np.testing.assert_allclose(stored(after)[after.graph.node[1].input[2]], b, rtol=2**-23)
    assert stored(after)[after.graph.node[0].input[0]].dtype == dtype


def quantized_input(**change: Any) -> tuple[onnx.ModelProto, dict[str, Any]]:
    text = """g (float[N, 3, 8, 8] x) => (float[N, 4, 6, 6] y) {
      xq = QuantizeLinear(x, sx, zx)
      xd = DequantizeLinear(xq, sx, zx)
      W = DequantizeLinear<axis = 0>(Q, s, z)
      bias = DequantizeLinear<axis = 0>(Qb, sb)
      c = Conv(xd, W, bias)
      y = BatchNormalization(c, scale, B, mean, var)
    }"""
    sx = np.array(0.05, np.float32)
    t = tensors(sx=sx, zx=np.array(3, np.uint8), Qb=np.array([10, -2000, 30000, 7], np.int32))
    t["sb"] = (t["s"] * sx).astype(np.float32)
    t.update(change)
    return parse(text, **t), t


def test_int32_bias_has_the_scale_of_the_accumulator() -> None:
    model, t = quantized_input()
    after = normsurgery.fold(model).model
    onnx.checker.check_model(after, full_check=True)
    assert sorted(ops(after)) == ["Conv", *["DequantizeLinear"] * 3, "QuantizeLinear"]
    a, b = map_of(t)
    conv = ops(after).index("Conv")
    old = t["sb"].astype(np.float64) * t["Qb"]
    made = dequantized(after, conv, 2, 0)
    values = stored(after)
    node = next(n for n in after.graph.node if after.graph.node[conv].input[2] in n.output)
    scale = values[node.input[1]].astype(np.float64)
    assert values[node.input[0]].dtype == np.int32
    np.testing.assert_allclose(scale, np.abs(a) * t["s"] * 0.05, rtol=1e-6)
    assert np.all(np.abs(made - (a * old + b)) <= scale / 2 * (1 + 1e-9))


def test_missing_bias_of_a_quantized_layer_is_int32_too() -> None:
    model, t = quantized_input()
    del model.graph.node[3]
    del model.graph.node[3].input[2]
    for name in ("Qb", "sb"):
        entry = next(i for i in model.graph.initializer if i.name == name)
        model.graph.initializer.remove(entry)
    after = normsurgery.fold(model).model
    conv = ops(after).index("Conv")
    made = dequantized(after, conv, 2, 0)
    a, b = map_of(t)
    np.testing.assert_allclose(made, b, atol=float((np.abs(a) * t["s"] * 0.05).max()) / 2)


def test_qat_weights_are_quantized_as_the_run_would() -> None:
    ort = pytest.importorskip("onnxruntime")
    text = """g (float[N, 3, 8, 8] x) => (float[N, 4, 6, 6] y) {
      Q = QuantizeLinear<axis = 0>(F, s, z)
      W = DequantizeLinear<axis = 0>(Q, s, z)
      c = Conv(x, W)
      y = BatchNormalization(c, scale, B, mean, var)
    }"""
    t = tensors(F=weights(4, 3, 3, 3, dtype=np.float32))
    del t["Q"]
    model = parse(text, **t)
    after = normsurgery.fold(model).model
    assert ops(after) == ["DequantizeLinear", "Conv"]
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    x = weights(2, 3, 8, 8, dtype=np.float32)
    before, now = (
        ort.InferenceSession(m.SerializeToString(), options).run(None, {"x": x})[0]
        for m in (model, after)
    )
    np.testing.assert_allclose(before, now, rtol=1e-4, atol=1e-4)


def test_gemm() -> None:
    text = """g (float[N, 6] x) => (float[N, 4] y) {
      W = DequantizeLinear<axis = 0>(Q, s, z)
      c = Gemm<transB = 1>(x, W)
      y = BatchNormalization(c, scale, B, mean, var)
    }"""
    t = tensors(Q=integers(4, 6))
    after = normsurgery.fold(parse(text, **t)).model
    assert ops(after) == ["DequantizeLinear", "Gemm"]
    W = t["s"].astype(np.float64)[:, None] * t["Q"]
    np.testing.assert_allclose(dequantized(after, 1, 1, 0), map_of(t)[0][:, None] * W, rtol=2**-23)


def test_channel_of_scale_0() -> None:
    t = tensors()
    t["scale"][2] = 0
    after = normsurgery.fold(parse(CONV, **t)).model
    assert not dequantized(after, 1, 1, 0)[2].any()


# -- one negative test per precondition --------------------------------------------------------


def test_an_integer_without_a_negative() -> None:
    t = tensors()
    t["Q"][int(np.argmin(map_of(t)[0])), 0, 0, 0] = -128
    result = assert_kept(parse(CONV, **t), "quantized")
    assert "negative" in result.report.kept[0].reason


def test_scales_along_another_axis() -> None:
    t = tensors(Q=integers(4, 4, 3, 3))
    text = CONV.replace("<axis = 0>", "<axis = 1>").replace("3, 8", "4, 8")
    assert_kept(parse(text, **t), "quantized")


def test_before_scales_per_channel() -> None:
    t = tensors(s=np.array(0.02, np.float32), z=np.array(0, np.int8))
    text = CONV.replace("<axis = 0>", "")
    assert_kept(parse(text, opset=12, ir=7, **t), "quantized")


def test_scale_that_is_an_input() -> None:
    t = tensors()
    del t["s"]
    text = CONV.replace("8, 8] x)", "8, 8] x, float[4] s)")
    assert_kept(parse(text, **t), "not-constant")


def test_bias_that_leaves_int32() -> None:
    model, _ = quantized_input(B=np.full(4, 1e9, np.float32))
    assert_kept(model, "quantized")


@pytest.mark.parametrize("per_channel", [True, False])
def test_matmul(per_channel: bool) -> None:
    """The scales of columns take a scale; the shift stays as an Add, of the type of the scales."""
    text = """g (float[N, 3] x) => (float[N, 4] y) {
      W = DequantizeLinear<axis = 1>(Q, s, z)
      c = MatMul(x, W)
      y = BatchNormalization(c, scale, B, mean, var)
    }"""
    s = np.array([0.01, 0.02, 0.5, 1.0], np.float32) if per_channel else np.float32(0.25)
    z = np.zeros(4 if per_channel else (), np.int8)
    t = tensors(Q=integers(3, 4), s=s, z=z)
    model = parse(text, **t)
    result = normsurgery.fold(model)
    assert ops(result.model) == ["DequantizeLinear", "MatMul", "Add"]
    a, b = map_of(t)
    W = t["Q"].astype(np.float64) * np.broadcast_to(s, 4).astype(np.float64)
    scale = stored(result.model)[result.model.graph.node[0].input[1]].astype(np.float64)
    assert np.all(np.abs(scale - np.abs(a) * s) <= np.spacing(scale.astype(np.float32)) / 2)
    np.testing.assert_allclose(dequantized(result.model, 1, 1, 1), W * a, rtol=1e-6)
    add = stored(result.model)[result.model.graph.node[2].input[1]]
    assert add.dtype == np.float32
    np.testing.assert_array_equal(add.ravel(), b.astype(np.float32))


@pytest.mark.parametrize(
    "change",
    [
        {"z": np.zeros(3, np.int8)},
        {"s": np.ones(3, np.float32), "z": np.zeros(3, np.int8)},
        {"F": weights(3, 4, dtype=np.float32), "z": np.zeros(3, np.int8)},
        {"F": weights(3, 4, dtype=np.float32), "s": np.zeros(4, np.float32)},
        {"F": weights(3, dtype=np.float32)},
    ],
)
def test_parameters_that_do_not_fit(change: dict[str, Any]) -> None:
    """Such a model does not run; the fold leaves it alone."""
    text = """g (float[N, 3] x) => (float[N, 4] y) {
      Q = QuantizeLinear<axis = 1>(F, s, z)
      W = DequantizeLinear<axis = 1>(Q, s, z)
      c = MatMul(x, W)
      y = BatchNormalization(c, scale, B, mean, var)
    }"""
    if "F" not in change:
        text = text.replace("Q = QuantizeLinear<axis = 1>(F, s, z)", "")
        change = {"Q": integers(3, 4), **change}
    t = {k: v for k, v in tensors().items() if k != "Q"} | change
    (kept,) = normsurgery.fold(parse(text, **t)).report.kept
    assert kept.slug in {"no-bias", "quantized", "not-constant"}


def test_matmul_whose_scales_lie_along_its_rows() -> None:
    text = """g (float[N, 3] x) => (float[N, 4] y) {
      W = DequantizeLinear<axis = 0>(Q, s)
      c = MatMul(x, W)
      y = BatchNormalization(c, scale, B, mean, var)
    }"""
    t = tensors(Q=integers(3, 4), s=np.array([0.01, 0.02, 0.5], np.float32))
    del t["z"]
    result = normsurgery.fold(parse(text, **t))
    assert [k.slug for k in result.report.kept] == ["no-bias"]
    assert ops(result.model) == ["DequantizeLinear", "MatMul", "BatchNormalization"]


@pytest.mark.parametrize(
    ("node", "inputs"),
    [
        ("QLinearConv(q, s1, z1, Q, s1, z1, s1, z1)", "uint8[N, 3, 8, 8] q"),
        ("DequantizeLinear(q, s1, z1)", "uint8[N, 4, 8, 8] q"),
    ],
)
def test_operators_on_integers_are_named(node: str, inputs: str) -> None:
    text = f"""g ({inputs}) => (float[N, 4, H, W] y) {{
      r = {node}
      c = Cast<to=1>(r)
      y = BatchNormalization(c, scale, B, mean, var)
    }}"""
    text = text.replace("c = Cast<to=1>(r)", "c = Identity(r)" if "Deq" in node else CASTS)
    model = parse(
        text, Q=integers(4, 3, 3, 3, low=0, dtype=np.uint8), s1=np.float32(0.5),
        z1=np.uint8(3), **bn(4, dtype=np.float32),
    )  # fmt: skip
    result = normsurgery.fold(model)
    assert [k.slug for k in result.report.kept] == ["quantized"]
    name = node.partition("(")[0] if "Deq" in node else "DequantizeLinear"
    assert name in result.report.kept[0].reason


CASTS = "c = DequantizeLinear(r, s1, z1)"


def test_matmul_integer_is_named() -> None:
    """As onnxruntime's dynamic quantization writes it, its scale of run time aside."""
    model = parse(
        """g (uint8[N, 3] q) => (float[N, 4] y) {
          r = MatMulInteger(q, Q)
          c = Cast<to=1>(r)
          d = Mul(c, s)
          y = BatchNormalization(d, scale, B, mean, var)
        }""",
        Q=integers(3, 4), s=np.float32(0.01), **bn(4, dtype=np.float32),
    )  # fmt: skip
    result = normsurgery.fold(model)
    assert result.report.after in {0, 1}
    assert all(k.reason for k in result.report.kept)
