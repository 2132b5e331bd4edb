"""A float64 oracle: the reference evaluator on a double-precision copy of a model.

Four operators are computed here. onnx 1.23's BatchNormalization of opset 9 mixes the batch's
own statistics into the running ones, its Softmax of opset < 13 normalises the last axis alone,
and it has no (De)QuantizeLinear of opset < 19.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

NARROW = {TensorProto.FLOAT, TensorProto.FLOAT16}


def oracle(model: ModelProto) -> ReferenceEvaluator:
    """Return an evaluator of the model that computes in float64; the model is changed."""
    opset = next(o.version for o in model.opset_import if o.domain in {"", "ai.onnx"})
    _widen(model.graph)
    replaced: list[type[OpRun]] = [BatchNormalization]
    replaced += [Softmax] if opset < 13 else []
    replaced += [QuantizeLinear, DequantizeLinear] if opset < 19 else []
    return ReferenceEvaluator(model, new_ops=replaced)


def run(evaluator: ReferenceEvaluator, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Run the oracle on float32 inputs, widened."""
    wide = {k: v.astype(np.float64) if v.dtype.kind == "f" else v for k, v in feeds.items()}
    with np.errstate(all="ignore"):
        return evaluator.run(None, wide)


def _widen(graph: GraphProto) -> None:
    for tensor in graph.initializer:
        _widen_tensor(tensor)
    for value in [*graph.input, *graph.output, *graph.value_info]:
        if value.type.tensor_type.elem_type in NARROW:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    for node in graph.node:
        for attribute in node.attribute:
            _widen_attribute(node.op_type, attribute)


def _widen_attribute(op_type: str, attribute: AttributeProto) -> None:
    if attribute.type == AttributeProto.TENSOR:
        _widen_tensor(attribute.t)
    if op_type == "Cast" and attribute.name == "to" and attribute.i in NARROW:
        attribute.i = TensorProto.DOUBLE
    for body in [attribute.g, *attribute.graphs]:
        _widen(body)


def _widen_tensor(tensor: TensorProto) -> None:
    if tensor.data_type in NARROW:
        values = numpy_helper.to_array(tensor).astype(np.float64)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def _spread(values: np.ndarray, ndim: int, axis: int = 1) -> np.ndarray:
    """Return per-channel values with their axis at ``axis`` of ``ndim`` axes."""
    if values.ndim == 0 or values.size == 1:
        return values.reshape(())
    return values.reshape([-1 if i == axis % ndim else 1 for i in range(ndim)])


class BatchNormalization(OpRun):
    """``scale·(x − mean)/√(var + epsilon) + B`` at any opset: inference only."""

    op_domain = ""

    def _run(self, x: Any, *parameters: Any, epsilon: float = 1e-5, **_: Any) -> tuple[Any]:
        scale, bias, mean, var = (_spread(np.atleast_1d(p), x.ndim) for p in parameters)
        return (scale * (x - mean) / np.sqrt(var + epsilon) + bias,)


class Softmax(OpRun):
    """Softmax before opset 13: over all axes from ``axis`` on, together."""

    op_domain = ""

    def _run(self, x: Any, axis: int = 1, **_: Any) -> tuple[Any]:
        flat = x.reshape(int(np.prod(x.shape[: axis % x.ndim])), -1)
        powers = np.exp(flat - flat.max(axis=1, keepdims=True))
        return ((powers / powers.sum(axis=1, keepdims=True)).reshape(x.shape),)


class QuantizeLinear(OpRun):
    """``saturate(round_half_even(x/scale) + zero_point)``."""

    op_domain = ""

    def _run(self, x: Any, scale: Any, zero: Any = None, axis: int = 1, **_: Any) -> tuple[Any]:
        zero = np.zeros((), np.uint8) if zero is None else zero
        limits = np.iinfo(zero.dtype)
        steps = np.rint(x / _spread(scale, x.ndim, axis)) + _spread(zero, x.ndim, axis)
        return (np.clip(steps, limits.min, limits.max).astype(zero.dtype),)


class DequantizeLinear(OpRun):
    """``(x − zero_point)·scale``."""

    op_domain = ""

    def _run(self, x: Any, scale: Any, zero: Any = None, axis: int = 1, **_: Any) -> tuple[Any]:
        shift = 0.0 if zero is None else _spread(zero.astype(np.float64), x.ndim, axis)
        return ((x.astype(np.float64) - shift) * _spread(scale, x.ndim, axis),)
