"""A Conv with its BatchNormalization, and what a conversion of it is to compute."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from graphs import bn, parse, run, weights
from onnx import ModelProto

import normsurgery
from normsurgery.conversion import ConvertResult

GROUPED = ["Reshape", "InstanceNormalization", "Shape", "Reshape", "Mul", "Add"]
EPSILON = float(np.float32(1e-5))
DIMS = {1: "l", 2: "h, w", 3: "d, h, w"}


def conv_bn(
    channels: int = 16, *, space: int = 2, bias: bool = False, op: str = "double", **more: Any
) -> ModelProto:
    """Conv → BatchNormalization, with nothing behind."""
    dims = DIMS[space]
    text = f"""
    g ({op}[n, 3, {dims}] x) => ({op}[n, {channels}, {dims}] y) {{
        c = Conv <pads = {[1] * 2 * space}> (x, W{", b" if bias else ""})
        y = BatchNormalization (c, scale, B, mean, var)
    }}"""
    tensors = {"W": weights(channels, 3, *[3] * space), **bn(channels), **more}
    if bias:
        tensors["b"] = weights(channels)
    return parse(text, **tensors)


def before_norm(model: ModelProto, x: dict[str, Any]) -> Any:
    """What the model's Conv makes of the inputs."""
    probe = ModelProto()
    probe.CopyFrom(model)
    made = probe.graph.node[0].output[0]
    probe.graph.output.append(onnx.helper.make_tensor_value_info(made, 11, None))
    return run(probe, x)[-1]


def standardized_then_grouped(
    c: Any, p: dict[str, Any], groups: int, epsilon: float, bn_epsilon: float = EPSILON
) -> Any:
    """The definition: (c − mean)/σ, group normalization, BN's scale times √(share + ε), its B."""
    channel = (1, -1) + (1,) * (c.ndim - 2)
    scale, B, mean, var = (p[k].astype(np.float64) for k in ("scale", "B", "mean", "var"))
    share = (var / (var + bn_epsilon)).reshape(groups, -1).mean(axis=1)
    epsilon = float(np.float32(epsilon * share.mean()))
    z = (c - mean.reshape(channel)) / np.sqrt(var + bn_epsilon).reshape(channel)
    grouped = z.reshape(len(z), groups, -1)
    centred = grouped - grouped.mean(axis=2, keepdims=True)
    normalized = centred / np.sqrt(grouped.var(axis=2, keepdims=True) + epsilon)
    root = np.repeat(np.sqrt(share + epsilon), c.shape[1] // groups)
    return normalized.reshape(c.shape) * (scale * root).reshape(channel) + B.reshape(channel)


def parameters(model: ModelProto) -> dict[str, Any]:
    return {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}


def converted(model: ModelProto, *args: Any, **options: Any) -> ConvertResult:
    """Convert, with the checks that hold for every conversion.

    Models are in double precision, for which *auto* would write LayerNormalization.
    """
    encoding = "native" if "affine" in args else "instance"
    if "plan" not in options:
        options = {"encoding": encoding, "gauge": "whiten", "epsilon": 1.0, **options}
    before = model.SerializeToString(deterministic=True)
    result = normsurgery.convert(model, *args, **options)
    assert model.SerializeToString(deterministic=True) == before, "the caller's model changed"
    onnx.checker.check_model(result.model, full_check=True)
    assert [o.name for o in result.model.graph.output] == [o.name for o in model.graph.output]
    return result
