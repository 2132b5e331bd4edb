"""Linear layers with the constant affine nodes behind them, as the one map that they are.

Written apart from ``folding`` on purpose: this is the other computation that a fold is held
against. A block is a Conv, ConvTranspose, Gemm or MatMul with constant weights, and the chain of
inference-mode BatchNormalization and Mul, Add, Sub, Div by a constant per channel that alone reads
its output. With ``y = a·x + c`` for each node of the chain, channel by channel,

    W' = a·W,   b' = a·b + c,   size' = |a|·size + |c|,

all in float64, the coefficients as they are stored. ``size`` is what b' was summed from: rounding
errors of float32 arithmetic are relative to it, and not to a b' that cancelled.
BatchNormalization: ``a = scale/√(var + epsilon)``, ``c = B − a·mean`` (ONNX operator spec).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from normsurgery import shapes
from normsurgery.constants import Constant, constant_of
from normsurgery.nodes import attribute, float_attribute, int_attribute, label

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnx import NodeProto

    from normsurgery.dtypes import Float64
    from normsurgery.graph import Scope

LINEAR = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_ELEMENTWISE = frozenset({"Add", "Div", "Mul", "Sub"})
# What decides where a convolution's products go, with the values that stand for "not given".
_PLACES: dict[str, tuple[int, ...]] = {
    "strides": (1,),
    "dilations": (1,),
    "pads": (0,),
    "output_padding": (0,),
    "output_shape": (),
}


@dataclass(frozen=True)
class Block:
    """One layer.

    Attributes:
        node: the linear node; `chain` the affine ones behind it, in order.
        output: the value that the last of them makes.
        signature: operator, shape of the weights as (out, …), and what places its products.
        elem_type: of the weights.

    """

    scope: Scope
    node: NodeProto
    chain: tuple[NodeProto, ...]
    output: str
    signature: tuple[object, ...]
    elem_type: int

    @property
    def label(self) -> str:
        """How a message names it."""
        return label(self.node)


@dataclass(frozen=True)
class Effective:
    """Weights (out, …), bias (out,) and the size (out,) of its terms, float64."""

    W: Float64
    b: Float64
    size: Float64


def blocks(scope: Scope) -> list[Block]:
    """Return the blocks of a graph, in its order."""
    return [found for node in scope.nodes for found in _block(scope, node)]


def effective(block: Block) -> Effective:
    """Return the map of a block."""
    W = _oriented(block.scope, block.node)
    b = _bias(block.scope, block.node, len(W))
    size = np.abs(b)
    value = block.node.output[0]
    for node in block.chain:
        a, c, terms = _affine(block.scope, node, value, len(W), W.ndim, block.node.op_type)
        W = W * a.reshape(-1, *[1] * (W.ndim - 1))
        b, size = a * b + c, np.abs(a) * size + terms
        value = node.output[0]
    return Effective(W, b, size)


def _block(scope: Scope, node: NodeProto) -> Iterator[Block]:
    if node.op_type not in LINEAR or not scope.is_onnx(node) or len(node.input) < 2:
        return
    found = constant_of(scope, node.input[1])
    if isinstance(found, Constant) and len(found.shape) >= 2:
        dense = node.op_type in {"Gemm", "MatMul"}
        given = len(node.input) > 2 and node.input[2]
        known = not given or isinstance(constant_of(scope, node.input[2]), Constant)
        if not known or (dense and (len(found.shape) > 2 or int_attribute(node, "transA", 0))):
            return
        W = _oriented(scope, node)
        chain, output = _chain(scope, node, len(W), W.ndim)
        yield Block(scope, node, chain, output, _signature(node, W.shape), found.elem_type)


def _signature(node: NodeProto, shape: tuple[int, ...]) -> tuple[object, ...]:
    if node.op_type in {"Gemm", "MatMul"}:
        return ("dense", shape)
    places = []
    for name, neutral in _PLACES.items():
        held = attribute(node, name)
        values = tuple(held.ints) if held is not None else ()
        places.append(() if set(values) <= set(neutral) else values)
    padding = attribute(node, "auto_pad")
    mode = padding.s if padding is not None and padding.s != b"NOTSET" else b""
    return (node.op_type, shape, int_attribute(node, "group", 1), mode, *places)


def _oriented(scope: Scope, node: NodeProto) -> Float64:
    """Return the weights with the output channels first.

    ConvTranspose stores (in, out/group, *kernel); output channel g·out/group + j reads the inputs
    of group g alone.
    """
    W = _array(scope, node.input[1])
    if node.op_type == "MatMul":
        return W.T
    if node.op_type == "Gemm":
        return np.asarray(
            float_attribute(node, "alpha", 1.0) * (W if int_attribute(node, "transB", 0) else W.T)
        )
    if node.op_type == "ConvTranspose":
        group = int_attribute(node, "group", 1)
        parts = W.reshape(group, W.shape[0] // group, *W.shape[1:]).swapaxes(1, 2)
        return parts.reshape(group * W.shape[1], W.shape[0] // group, *W.shape[2:])
    return W


def _bias(scope: Scope, node: NodeProto, channels: int) -> Float64:
    if node.op_type == "MatMul" or len(node.input) < 3 or not node.input[2]:
        return np.zeros(channels)
    b = _array(scope, node.input[2]).reshape(-1) * np.ones(channels)
    return b * float_attribute(node, "beta", 1.0) if node.op_type == "Gemm" else b


def _chain(
    scope: Scope, node: NodeProto, channels: int, rank: int
) -> tuple[tuple[NodeProto, ...], str]:
    chain: list[NodeProto] = []
    value, kind = node.output[0], node.op_type
    while scope.only_reader(value):
        reader = scope.value_readers(value)[0]
        if not scope.is_onnx(reader) or not _is_affine(scope, reader, value, channels, rank, kind):
            break
        chain.append(reader)
        value = reader.output[0]
    return tuple(chain), value


def _is_affine(
    scope: Scope, node: NodeProto, value: str, channels: int, rank: int, kind: str
) -> bool:
    if node.op_type == "Identity":
        return True
    if node.op_type == "BatchNormalization":
        known = all(isinstance(constant_of(scope, name), Constant) for name in node.input[1:])
        live = int_attribute(node, "training_mode", 0) or len([o for o in node.output if o]) > 1
        on_axis_1 = kind != "MatMul" or shapes.rank(scope, value) == 2
        return known and not live and on_axis_1 and node.input[0] == value
    if node.op_type not in _ELEMENTWISE or len(node.input) != 2 or scope.opset < 7:
        return False
    if node.input[0] == node.input[1] or (node.op_type == "Div" and node.input[1] == value):
        return False
    found = constant_of(scope, _other(node, value))
    if not isinstance(found, Constant):
        return False
    dense, shape = kind in {"Gemm", "MatMul"}, found.shape
    while dense and len(shape) > rank and shape[0] == 1:  # MatMul's output may have any rank
        shape = shape[1:]
    if len(shape) > rank:
        return False
    axis = rank - 1 if dense else 1
    padded = (1,) * (rank - len(shape)) + shape
    return padded[axis] in {1, channels} and all(
        size == 1 for i, size in enumerate(padded) if i != axis
    )


def _affine(
    scope: Scope, node: NodeProto, value: str, channels: int, rank: int, kind: str
) -> tuple[Float64, Float64, Float64]:
    """Return a and c of one node of a chain, and the sum of |terms| of c."""
    one, zero = np.ones(channels), np.zeros(channels)
    if node.op_type == "Identity":
        return one, zero, zero
    if node.op_type == "BatchNormalization":
        scale, B, mean, var = (_array(scope, name) for name in node.input[1:5])
        a = scale / np.sqrt(var + float_attribute(node, "epsilon", 1e-5))
        return a, B - a * mean, np.abs(B) + np.abs(a * mean)
    c = _array(scope, _other(node, value)).reshape(-1) * one
    if node.op_type == "Mul":
        return c, zero, zero
    if node.op_type == "Div":
        return 1 / c, zero, zero
    if node.op_type == "Sub":
        first = node.input[0] == value
        return (one, -c, np.abs(c)) if first else (-one, c, np.abs(c))
    return one, c, np.abs(c)


def _other(node: NodeProto, value: str) -> str:
    return node.input[1] if node.input[0] == value else node.input[0]


def _array(scope: Scope, name: str) -> Float64:
    found = constant_of(scope, name)
    assert isinstance(found, Constant), name  # noqa: S101  looked at when the block was made
    return found.float64()
