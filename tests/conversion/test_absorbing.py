"""What is read from, and folded into, the layer in front of a norm."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from graphs import assert_same, bn, feeds, ops, parse, run, weights
from onnx import ModelProto
from onnx.numpy_helper import to_array

import normsurgery
from normsurgery.constants import Limits
from normsurgery.conversion import absorbing
from normsurgery.conversion.start import BatchNorm, start, unsigned
from normsurgery.graph import Graph
from normsurgery.io import from_proto

LAYERS: dict[str, tuple[str, tuple[int, ...], str]] = {
    "Conv": ("Conv", (8, 6, 3, 3), ""),
    "grouped Conv": ("Conv", (8, 3, 3, 3), "<group = 2>"),
    "depthwise Conv": ("Conv", (6, 1, 3, 3), "<group = 6>"),
    "ConvTranspose": ("ConvTranspose", (6, 8, 3, 3), ""),
    "grouped ConvTranspose": ("ConvTranspose", (6, 4, 3, 3), "<group = 2>"),
    "Gemm": ("Gemm", (6, 8), ""),
    "transposed Gemm": ("Gemm", (8, 6), "<transB = 1>"),
    "MatMul": ("MatMul", (6, 8), ""),
}


def layer(op_type: str, shape: tuple[int, ...], attributes: str) -> ModelProto:
    dims = "n, 6" if len(shape) == 2 else "n, 6, h, w"
    text = f"g (double[{dims}] x) => (double[...] c) {{ c = {op_type} {attributes} (x, W) }}"
    text = text.replace(
        "double[...] c", "double[n, c, h, w] c" if len(shape) > 2 else "double[n, c] c"
    )
    return parse(text, W=weights(*shape))


@pytest.mark.parametrize("name", LAYERS)
def test_the_sums_are_the_response_to_constant_channels(name: str) -> None:
    """Each input channel alone, 1 everywhere, through the layer, away from the border."""
    op_type, shape, attributes = LAYERS[name]
    model = layer(op_type, shape, attributes)
    scope = Graph(from_proto(model)).main
    size = () if len(shape) == 2 else (7, 7)
    x = np.zeros((6, 6, *size))
    for i in range(6):
        x[i, i] = 1
    response = run(model, {"x": x})[0]
    middle = (
        response
        if len(shape) == 2
        else response[:, :, response.shape[2] // 2, response.shape[3] // 2]
    )
    channels = response.shape[1]
    found = absorbing.sums(scope, "c", channels, Limits())
    assert found is not None
    np.testing.assert_allclose(found, middle.T, rtol=1e-12, atol=1e-12)
    assert absorbing.sums(scope, "c", channels + 1, Limits()) is None
    assert absorbing.sums(scope, "x", channels, Limits()) is None


def pooled(between: str, channels: int = 8, **more: Any) -> ModelProto:
    text = f"""
    g (double[n, 3, 8, 8] x) => (double[n, {channels}, a, b] y) {{
        c = Conv (x, W, bias)
        {between}
        y = BatchNormalization (p, scale, B, mean, var)
    }}"""
    return parse(text, W=weights(channels, 3, 3, 3), bias=weights(channels), **bn(channels), **more)


def test_signs_go_over_what_lets_them_pass() -> None:
    model = pooled("p = AveragePool <kernel_shape = [2, 2]> (c)")
    result = normsurgery.convert(model, encoding="instance")
    (one,) = result.report.converted
    assert one.affine == "fold"
    kept = normsurgery.convert(model, encoding="instance", affine="keep")
    assert "BatchNormalization" in ops(kept.model)
    assert_same(kept.model, result.model, 1e-11)


def test_a_maximum_lets_positive_scales_pass_alone() -> None:
    model = pooled("p = MaxPool <kernel_shape = [2, 2]> (c)")
    result = normsurgery.convert(model, encoding="instance")
    (one,) = result.report.converted
    assert (one.gauge, one.affine) == ("balance", "fold")
    # the definition, with positive loudness
    x = feeds(model)
    probe = ModelProto()
    probe.CopyFrom(model)
    probe.graph.output.append(onnx.helper.make_tensor_value_info("p", 11, None))
    p = run(probe, x)[1]
    stored = {t.name: to_array(t) for t in model.graph.initializer}
    values = [stored[name].astype(np.float64) for name in ("scale", "B", "mean", "var")]
    begun = unsigned(start(BatchNorm(*values, float(np.float32(1e-5))), 1))
    assert (begun.before.a > 0).all()
    z = p * begun.before.a[:, None, None] + begun.before.b[:, None, None]
    flat = z.reshape(len(z), -1)
    mean, var = (f(axis=1)[:, None, None, None] for f in (flat.mean, flat.var))
    expected = begun.scale[:, None, None] * (z - mean) / np.sqrt(var + begun.epsilon)
    expected += begun.B[:, None, None]
    np.testing.assert_allclose(run(result.model, x)[0], expected, rtol=1e-10, atol=1e-10)


def test_what_two_layers_make_takes_the_map_in_both() -> None:
    text = """
    g (double[n, 3, 8, 8] x) => (double[n, 8, a, b] y) {
        c = Conv (x, W)
        d = Conv (x, V, bias)
        s = Add (c, d)
        y = BatchNormalization (s, scale, B, mean, var)
    }"""
    tensors = {"W": weights(8, 3, 1, 1), "V": weights(8, 3, 1, 1, seed=2), "bias": weights(8)}
    model = parse(text, **tensors, **bn(8))
    result = normsurgery.convert(model, encoding="instance")
    (one,) = result.report.converted
    assert len(one.into) == 2
    kept = normsurgery.convert(model, encoding="instance", affine="keep")
    assert_same(kept.model, result.model, 1e-11)
    stored = {t.name: t for t in result.model.graph.initializer}
    now = [to_array(stored[n.input[1]]) for n in result.model.graph.node if n.op_type == "Conv"]
    norms = [
        np.sqrt(sum(np.sum(w**2) for w in pair)) for pair in (now, [tensors["W"], tensors["V"]])
    ]
    assert norms[0] == pytest.approx(norms[1], rel=1e-6)


def test_a_scale_that_overflows_half_precision_is_kept_apart() -> None:
    """A dead channel's 1/σ: ``keep`` is the way out, and the reason is told."""
    text = """
    g (float16[n, 3, 8, 8] x) => (float16[n, 8, a, b] y) {
        c = Conv (x, W)
        y = BatchNormalization <epsilon = 1e-12> (c, scale, B, mean, var)
    }"""
    parameters = bn(8, dtype=np.float16)
    parameters["var"][:] = [0, *[1] * 7]
    model = parse(text, W=weights(8, 3, 1, 1, dtype=np.float16), **parameters)
    result = normsurgery.convert(model, gauge="whiten")
    (one,) = result.report.converted
    assert one.affine == "keep"
    assert "overflows" in one.note


def test_conversion_of_many_norms_in_a_row_keeps_the_graph_valid() -> None:
    """Residual blocks: the map goes into one Conv, never into the sum that others read."""
    text = """
    g (double[n, 8, 8, 8] x) => (double[n, 8, a, b] z) {
        c1 = Conv (x, W1)
        y1 = BatchNormalization (c1, scale1, B1, mean1, var1)
        r1 = Relu (y1)
        c2 = Conv (r1, W2)
        y2 = BatchNormalization (c2, scale2, B2, mean2, var2)
        s = Add (y2, x)
        z = Relu (s)
    }"""
    tensors = {f"W{i}": weights(8, 8, 1, 1, seed=i) for i in (1, 2)}
    for i in (1, 2):
        tensors |= {f"{k}{i}": v for k, v in bn(8, i).items()}
    model = parse(text, **tensors)
    folded, kept = (
        normsurgery.convert(model, encoding="instance", affine=affine).model
        for affine in ("fold", "keep")
    )
    assert_same(kept, folded, 1e-11)
    assert "BatchNormalization" not in ops(folded)
