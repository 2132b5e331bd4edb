"""Layers whose weights are integers behind a DequantizeLinear, as quantized models store them.

``W = scale·(q − zero_point)``, one scale for all or one for each channel. A map per output channel
goes into the scales, ``scale' = |a|·scale``, and its signs into the integers,
``q' = 2·zero_point − q`` where a < 0; so a quantized model stays one. Weights that a QAT export
still holds as floats before ``QuantizeLinear → DequantizeLinear`` are quantized as the run would.
A bias is int32 with the scale of the accumulator, ``scale_x·scale'``. Operators that compute in
integers themselves, such as QLinearConv, round and clamp what they make: no map goes into them, and
they are named. Source: ONNX operators
DequantizeLinear and QuantizeLinear, versions 10 on; the format of onnxruntime's QDQ models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from normsurgery import dtypes
from normsurgery.constants import Constant, constant_of
from normsurgery.folding import obstacles
from normsurgery.folding.obstacles import Obstacle
from normsurgery.folding.sinks.parts import affine_of, bias, bias_name, derived, has_input
from normsurgery.folding.table import Dequantize, Edit, Site
from normsurgery.nodes import int_attribute
from normsurgery.payloads import Computed

if TYPE_CHECKING:
    from onnx import NodeProto

    from normsurgery.affine import ChannelAffine
    from normsurgery.constants import Limits
    from normsurgery.graph import Scope

INT32 = 6
INTEGER_OPERATORS = frozenset({"QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"})


@dataclass(frozen=True)
class Quantized:
    """``scale·(q − zero)``, with float64 scales and integer zeros of shape (1,) or (channels,)."""

    name: str
    q: dtypes.Array
    elem_type: int
    scale: dtypes.Float64
    scale_type: int
    zero: dtypes.Array
    axis: int


def refuse(node: NodeProto) -> Obstacle | None:
    """Return the obstacle of a node that computes, or hands out, integers of activations."""
    if node.op_type in INTEGER_OPERATORS:
        return obstacles.quantized(node, "it computes in integers; as QDQ it would take the map")
    if node.op_type in {"DequantizeLinear", "QuantizeLinear"}:
        return obstacles.quantized(node, "its values are rounded to integers when the model runs")
    return None


def absorb(site: Site, refused: Obstacle, axis: int) -> tuple[Edit, ...] | Obstacle:
    """Return the edits of a layer with quantized weights, channels along ``axis`` of them.

    ``refused`` is the obstacle of weights that are not quantized either, and returned then.
    """
    W = read(site.scope, site.node.input[1], site.limits)
    if W is None:
        return refused
    if site.scope.opset < 13 or W.axis not in {axis, axis - W.q.ndim, -1 - W.q.ndim}:
        return obstacles.quantized(site.node, "its scales lie along another axis")
    channels = W.q.shape[axis]
    if W.scale.size not in {1, channels}:
        return obstacles.quantized(site.node, f"it has {W.scale.size} scales, {channels} channels")
    affine = affine_of(site, channels)
    if isinstance(affine, Obstacle):
        return affine
    new = _scaled(site.node, W, affine.a, axis)
    if isinstance(new, Obstacle):
        return new
    B = _bias(site, affine, new)
    if isinstance(B, Obstacle):
        return B
    return (new,) if B is None else (new, B)


def read(scope: Scope, name: str, limits: Limits) -> Quantized | None:
    """Read ``name`` as a dequantized constant; None if it is anything else, blocks included."""
    node = scope.producer.get(name)
    if node is None or node.op_type != "DequantizeLinear" or not scope.is_onnx(node):
        return None
    if int_attribute(node, "block_size", 0) or any(a.ref_attr_name for a in node.attribute):
        return None
    scale = constant_of(scope, node.input[1], limits)
    if not isinstance(scale, Constant) or len(scale.shape) > 1:
        return None
    integers = _integers(scope, node.input[0], limits)
    if integers is None or integers[0].dtype.kind not in "iu" or integers[0].itemsize > 4:
        return None
    q, elem_type = integers
    zero = np.zeros(1, np.int64)
    if has_input(node, 2):
        found = constant_of(scope, node.input[2], limits)
        if not isinstance(found, Constant):
            return None
        zero = found.tensor.base.astype(np.int64).reshape(-1)
    scales = scale.float64().reshape(-1)
    if zero.size not in {1, scales.size}:
        return None
    axis = int_attribute(node, "axis", 1) if scales.size > 1 else -1 - q.ndim
    return Quantized(name, q, elem_type, scales, scale.elem_type, zero, axis)


def _integers(scope: Scope, name: str, limits: Limits) -> tuple[dtypes.Array, int] | None:
    """Return the stored integers, or those that a QuantizeLinear makes of stored floats."""
    stored = constant_of(scope, name, limits)
    if isinstance(stored, Constant):
        return stored.tensor.base, stored.elem_type
    node = scope.producer.get(name)
    if node is None or node.op_type != "QuantizeLinear" or not scope.is_onnx(node):
        return None
    if int_attribute(node, "block_size", 0) or len(node.input) < 3 or scope.opset < 13:
        return None
    found = [constant_of(scope, n, limits) for n in node.input]
    parts = [c for c in found if isinstance(c, Constant)]
    if len(parts) < 3 or parts[0].elem_type != dtypes.FLOAT or parts[1].elem_type != dtypes.FLOAT:
        return None
    x, scale, zero = parts
    dtype = dtypes.numpy_dtype(zero.elem_type)
    if dtype is None or dtype.kind not in "iu" or dtype.itemsize > 2:
        return None
    axis = int_attribute(node, "axis", 1)
    shape = [1] * len(x.shape)
    if scale.shape and scale.shape != (1,):
        if not -len(shape) <= axis < len(shape) or scale.shape != (x.shape[axis],):
            return None
        shape[axis] = -1
    if zero.shape != scale.shape or not np.all(scale.float64()):
        return None
    single = x.float64().astype(np.float32) / scale.float64().astype(np.float32).reshape(shape)
    whole = np.rint(single).astype(np.float64) + zero.tensor.base.astype(np.float64).reshape(shape)
    limits_of = np.iinfo(dtype)
    return np.clip(whole, limits_of.min, limits_of.max).astype(dtype), zero.elem_type


def _scaled(node: NodeProto, W: Quantized, a: dtypes.Float64, axis: int) -> Edit | Obstacle:
    """Return the edit that gives the layer ``a·W``."""
    shape = [1] * W.q.ndim
    shape[axis] = -1
    zero = np.broadcast_to(W.zero, a.shape)
    q = W.q
    if np.any(a <= 0):
        sign = np.sign(a).astype(np.int64).reshape(shape)
        whole = zero.reshape(shape) + sign * (q.astype(np.int64) - zero.reshape(shape))
        bounds = np.iinfo(q.dtype)
        if whole.size and (whole.min() < bounds.min or whole.max() > bounds.max):
            return obstacles.quantized(node, "an integer has no negative in its type")
        q = whole.astype(q.dtype)
    scale = np.where(a == 0, 1.0, np.abs(a)) * W.scale
    if np.any(scale > dtypes.largest(W.scale_type)) or np.any(scale < dtypes.tiny(W.scale_type)):
        return obstacles.quantized(node, "a scale leaves its type")
    how = Dequantize(
        Computed(scale, (), W.scale_type),
        Computed(zero.astype(q.dtype), (), W.elem_type) if W.zero.any() else None,
        axis,
    )
    return Edit(node, 1, Computed(q, (), W.elem_type), derived(W.name), dequantize=how)


def _bias(site: Site, affine: ChannelAffine, W: Edit) -> Edit | Obstacle | None:
    """Return the edit of the bias: int32 where the input is quantized, else a float."""
    assert W.dequantize is not None  # noqa: S101
    node, scope = site.node, site.scope
    B = read(scope, node.input[2], site.limits) if has_input(node, 2) else None
    owner = Constant(node.input[1], W.dequantize.scale)
    if B is None:
        plain = bias(site, 2, owner, affine)
        if plain is None or isinstance(plain, Obstacle) or has_input(node, 2):
            return plain
        old, name = np.zeros(affine.channels), bias_name(node.input[1])
    else:
        old, name = B.scale * (B.q.astype(np.float64) - B.zero), derived(B.name)
    x_scale = _input_scale(scope, node.input[0], site.limits)
    if x_scale is None:
        value = affine.a * old + affine.b
        return Edit(node, 2, Computed(value, (), owner.elem_type), name)
    scale = dtypes.round_to(W.dequantize.scale.float64() * x_scale, owner.elem_type)
    scale = scale.astype(np.float64)
    with np.errstate(all="ignore"):
        q = np.rint((affine.a * old + affine.b) / scale)
    if not np.all(np.abs(q) < 2.0**31):
        return obstacles.quantized(node, "a bias leaves int32")
    how = Dequantize(Computed(scale, (), owner.elem_type), None, 0)
    return Edit(node, 2, Computed(q.astype(np.int32), (), INT32), name, dequantize=how)


def _input_scale(scope: Scope, name: str, limits: Limits) -> float | None:
    """Return the scale of a layer's input, if it is dequantized with one for all elements."""
    node = scope.producer.get(name)
    if node is None or node.op_type != "DequantizeLinear" or not scope.is_onnx(node):
        return None
    scale = constant_of(scope, node.input[1], limits)
    if not isinstance(scale, Constant) or scale.float64().size != 1:
        return None
    return float(scale.float64().item())
