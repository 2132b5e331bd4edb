"""Random graphs: the builder, linear layers, affine maps and norms that they are made of.

A graph grows from a few values whose shapes are known to the builder; what the model tells of them
(batch, spatial sizes, rank, value_info) is drawn apart. Numbers are small: scales of both signs
between 1/4 and 4, seldom 0.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Sequence

Shape = tuple[int, ...]
OPSETS = (7, 9, 10, 11, 13, 18, 21, 23)
MOST_ELEMENTS = 3000
KINDS = {np.float64: TensorProto.DOUBLE, np.float32: TensorProto.FLOAT, np.float16: 10}


@dataclass
class Builder:
    """A graph that grows; ``shapes`` holds the values that a step may read."""

    rng: Any
    opset: int
    dtype: Any
    batch: int
    dynamic: bool = False
    nodes: list[Any] = field(default_factory=list)
    tensors: list[Any] = field(default_factory=list)
    shapes: dict[str, Shape] = field(default_factory=dict)
    read: set[str] = field(default_factory=set)

    def number(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))

    def pick(self, options: Sequence[Any]) -> Any:
        return options[self.number(0, len(options) - 1)]

    def chance(self, percent: int) -> bool:
        return self.number(0, 99) < percent

    def constant(self, values: Any, dtype: Any = None) -> str:
        array = np.asarray(values, self.dtype if dtype is None else dtype)
        name = f"w{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(array, name))
        return name

    def ints(self, values: Sequence[int]) -> str:
        return self.constant(np.asarray(values, np.int64), np.int64)

    def weights(self, *shape: int) -> str:
        return self.constant(self.rng.normal(0, 1, shape) / max(1, prod(shape[1:])) ** 0.5)

    def scales(self, *shape: int, positive: bool = False) -> Any:
        """Return scales of either sign, seldom 0."""
        values = np.exp2(self.rng.uniform(-2, 2, shape))
        if not positive:
            values = values * self.rng.choice([-1, 1, 1], shape)
        if self.chance(4):
            values = values * self.rng.choice([0, 1, 1], shape)
        return values

    def add(self, op_type: str, inputs: Sequence[str], *shapes: Shape, **attributes: Any) -> str:
        """Add a node with an output of each shape; return the first."""
        outputs = [f"v{len(self.shapes) + i}" for i in range(len(shapes))]
        self.nodes.append(helper.make_node(op_type, inputs, outputs, **attributes))
        self.read.update(inputs)
        self.shapes.update(zip(outputs, shapes, strict=True))
        return outputs[0]

    def with_ints(
        self, op_type: str, x: str, name: str, values: Sequence[int], since: int, *shapes: Shape,
        **attributes: Any,
    ) -> str:  # fmt: skip
        """Add a node whose list of integers is an attribute before opset ``since``."""
        if self.opset < since:
            return self.add(op_type, [x], *shapes, **{name: list(values)}, **attributes)
        return self.add(op_type, [x, self.ints(values)], *shapes, **attributes)

    def batched(self, shape: Shape) -> list[int]:
        """Return a target of Reshape for a shape whose axis 0 is the batch, written some way."""
        first = shape[0]
        return [self.pick([0, -1, first if not self.dynamic else -1]), *shape[1:]]


# -- linear layers -------------------------------------------------------------------------------


def conv(g: Builder, x: str) -> str | None:
    shape = g.shapes[x]
    if not 3 <= len(shape) <= 5:
        return None
    group = g.pick([d for d in (1, 1, 2, 3, shape[1]) if shape[1] % d == 0])
    c_out = group * g.number(1, 3)
    kernel = [g.number(1, min(3, s)) for s in shape[2:]]
    n = len(kernel)
    strides = [g.number(1, 2) if g.chance(25) else 1 for _ in kernel]
    pads = [g.number(0, k - 1) for k in kernel * 2] if g.chance(25) else [0] * 2 * n
    sizes = zip(shape[2:], kernel, strides, pads[:n], pads[n:], strict=True)
    out = tuple((s + p + q - k) // t + 1 for s, k, t, p, q in sizes)
    inputs = [x, g.weights(c_out, shape[1] // group, *kernel)]
    if g.chance(50):
        inputs.append(g.weights(c_out))
    made = (shape[0], c_out, *out)
    return g.add("Conv", inputs, made, group=group, strides=strides, pads=pads)


def conv_transpose(g: Builder, x: str) -> str | None:
    shape = g.shapes[x]
    if not 3 <= len(shape) <= 4 or max(shape[2:]) > 4:
        return None
    group = g.pick([d for d in (1, 1, 2, shape[1]) if shape[1] % d == 0])
    per_group = g.number(1, 3)
    kernel = [g.number(1, 2) for _ in shape[2:]]
    out = tuple(s + k - 1 for s, k in zip(shape[2:], kernel, strict=True))
    inputs = [x, g.weights(shape[1], per_group, *kernel)]
    if g.chance(50):
        inputs.append(g.weights(group * per_group))
    return g.add("ConvTranspose", inputs, (shape[0], group * per_group, *out), group=group)


def gemm(g: Builder, x: str) -> str | None:
    shape = g.shapes[x]
    if len(shape) != 2:
        return None
    columns, turned = g.number(1, 5), g.chance(40)
    W = g.weights(columns, shape[1]) if turned else g.weights(shape[1], columns)
    inputs = [x, W]
    if g.opset < 11 or g.chance(60):
        inputs.append(g.weights(*g.pick([(columns,), (1, columns), (1,), ()])))
    attributes = {"alpha": 0.5, "beta": 1.5} if g.chance(30) else {}
    return g.add("Gemm", inputs, (shape[0], columns), transB=int(turned), **attributes)


def matmul(g: Builder, x: str) -> str | None:
    shape = g.shapes[x]
    if len(shape) < 2:
        return None
    columns = g.number(1, 5)
    before = g.pick([(), (), (), shape[1:-2]])  # batch axes of the weight
    y = g.add("MatMul", [x, g.weights(*before, shape[-1], columns)], (*shape[:-1], columns))
    if g.chance(40):
        y = g.add("Add", [y, g.weights(columns)], g.shapes[y])
    return y


def matmul_left(g: Builder, x: str) -> str | None:
    shape = g.shapes[x]
    if len(shape) < (3 if g.dynamic else 2):
        return None
    rows = g.number(1, 5)
    return g.add("MatMul", [g.weights(rows, shape[-2]), x], (*shape[:-2], rows, shape[-1]))


def matmul_vector(g: Builder, x: str) -> str | None:
    """A vector on the right sums over the last axis, one on the left over the last but one."""
    shape = g.shapes[x]
    if len(shape) < (4 if g.dynamic else 3):
        return None
    if g.chance(50):
        return g.add("MatMul", [x, g.weights(shape[-1])], shape[:-1])
    return g.add("MatMul", [g.weights(shape[-2]), x], (*shape[:-2], shape[-1]))


# -- affine maps ---------------------------------------------------------------------------------


def batch_norm(g: Builder, x: str) -> str | None:
    shape = g.shapes[x]
    if len(shape) < 2:
        return None
    C = shape[1]
    positive, scale_only = g.chance(40), g.chance(25)
    shift = np.zeros(C) if scale_only else g.rng.normal(0, 1, C)
    mean = np.zeros(C) if scale_only else g.rng.normal(0, 1, C)
    values = (g.scales(C, positive=positive), shift, mean, g.rng.uniform(0.3, 2, C))
    return g.add("BatchNormalization", [x, *(g.constant(v) for v in values)], shape)


def along_axis(g: Builder, x: str) -> str | None:
    """A constant along one axis, most often the channels'."""
    shape = g.shapes[x]
    if not shape:
        return None
    axis = min(g.pick([1, 1, 1, len(shape) - 1, 0 if not g.dynamic else 1]), len(shape) - 1)
    if axis == 0 and g.dynamic:
        return None
    ranks = [1] * g.pick([0, axis])
    return binary(g, x, (*ranks, shape[axis], *[1] * (len(shape) - axis - 1)))


def scalar(g: Builder, x: str) -> str | None:
    return binary(g, x, g.pick([(), (1,)]) if g.shapes[x] else ())


def odd_constant(g: Builder, x: str) -> str | None:
    """A constant of any shape that broadcasts, also one that widens."""
    shape = g.shapes[x]
    own = [g.pick([1, d]) if d != 1 else g.pick([1, 1, 3]) for d in shape]
    if g.dynamic and own:
        own[0] = 1
    if g.chance(50) and own:
        own = own[g.number(0, len(own) - 1) :]
    elif g.chance(10) and len(own) < 4 and not g.dynamic:
        own = [g.number(1, 2), *own]
    return binary(g, x, tuple(own))


def binary(g: Builder, x: str, own: Shape) -> str:
    op_type = g.pick(["Add", "Sub", "Mul", "Mul", "Div"])
    right = g.chance(60)
    if op_type == "Div" and not right:
        op_type = "Mul"  # c / x grows without bound near 0
    positive = g.chance(50)
    if op_type == "Div":
        values = np.exp2(g.rng.uniform(-2, 2, own)) * (1 if positive else -1)
    else:
        values = g.scales(*own, positive=positive)
    inputs = [x, g.constant(values)] if right else [g.constant(values), x]
    return g.add(op_type, inputs, np.broadcast_shapes(g.shapes[x], own))


def decomposed(g: Builder, x: str) -> str | None:
    """BatchNormalization as four nodes, its deviation as a cone of three."""
    shape = g.shapes[x]
    if len(shape) < 2:
        return None
    own = (shape[1], *[1] * (len(shape) - 2))
    mean, var = g.weights(*own), g.constant(g.rng.uniform(0.3, 2, own))
    g.nodes.append(helper.make_node("Add", [var, g.constant(1e-5)], [f"s{len(g.nodes)}"]))
    g.nodes.append(helper.make_node("Sqrt", g.nodes[-1].output, [f"s{len(g.nodes)}"]))
    deviation = g.nodes[-1].output[0]
    x = g.add("Sub", [x, mean], shape)
    x = g.add("Div", [x, deviation], shape)
    x = g.add("Mul", [g.constant(g.scales(*own)), x], shape)
    return g.add("Add", [x, g.weights(*own)], shape)


# -- norms that compute their statistics ---------------------------------------------------------


def instance_norm(g: Builder, x: str) -> str | None:
    shape = g.shapes[x]
    if len(shape) < 3 or prod(shape[2:]) < 2:
        return None
    C = shape[1]
    inputs = [x, g.constant(g.scales(C)), g.weights(C)]
    groups = [d for d in range(1, C + 1) if C % d == 0 and C // d * prod(shape[2:]) > 1]
    if g.opset >= 21 and groups and g.chance(40):
        return g.add("GroupNormalization", inputs, shape, num_groups=g.pick(groups))
    return g.add("InstanceNormalization", inputs, shape)


def layer_norm(g: Builder, x: str) -> str | None:
    """As one node, over the last axis or over more; or as the nodes that it is made of."""
    shape = g.shapes[x]
    if len(shape) < 2 or shape[-1] < 2:
        return None
    if g.opset >= 17 and g.chance(60):
        axis = g.number(1, len(shape) - 1)
        inputs = [x, g.constant(g.scales(*shape[axis:]))]
        if g.opset >= 23 and g.chance(50):
            return g.add("RMSNormalization", inputs, shape, axis=axis)
        if g.chance(60):
            inputs.append(g.constant(g.rng.normal(0, 1, shape[axis:])))
        return g.add("LayerNormalization", inputs, shape, axis=axis)
    one = (*shape[:-1], 1)
    mean = g.with_ints("ReduceMean", x, "axes", [-1 if g.opset >= 11 else len(shape) - 1], 18, one)
    d = g.add("Sub", [x, mean], shape)
    square = (
        g.add("Mul", [d, d], shape) if g.chance(50) else g.add("Pow", [d, g.constant(2)], shape)
    )
    axes = [len(shape) - 1]
    var = g.with_ints("ReduceMean", square, "axes", axes, 18, one)
    deviation = g.add("Sqrt", [g.add("Add", [var, g.constant(1e-5)], one)], one)
    y = g.add("Div", [d, deviation], shape)
    y = g.add("Mul", [y, g.constant(g.scales(shape[-1]))], shape)
    return g.add("Add", [y, g.weights(shape[-1])], shape) if g.chance(80) else y
