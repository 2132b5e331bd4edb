"""A strategy for models in which affine maps meet linear layers on every kind of way.

A graph grows by steps from a few values whose shapes are known to the builder; what the model
tells of them (batch, spatial sizes, rank, value_info) is drawn apart. Numbers are small: scales of
both signs between 1/4 and 4, seldom 0.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from onnx import ModelProto

Shape = tuple[int, ...]
OPSETS = (7, 9, 10, 11, 13, 18, 21)
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


# -- carriers ------------------------------------------------------------------------------------


def identity(g: Builder, x: str) -> str | None:
    op_type = g.pick(["Identity", "Dropout", "Cast"])
    if op_type == "Cast":
        return g.add("Cast", [x], g.shapes[x], to=KINDS[g.dtype])
    return g.add(op_type, [x], g.shapes[x])


def rectifier(g: Builder, x: str) -> str | None:
    op_type = g.pick(["Relu", "LeakyRelu", "PRelu", "Abs"])
    shape = g.shapes[x]
    if op_type == "PRelu" and len(shape) >= 2:
        own = g.pick([(shape[1], *[1] * (len(shape) - 2)), (1,), shape[2:]])
        return g.add("PRelu", [x, g.weights(*own)], shape)
    return g.add("Relu" if op_type == "PRelu" else op_type, [x], shape)


def pool(g: Builder, x: str) -> str | None:
    shape = g.shapes[x]
    if not 3 <= len(shape) <= 4:
        return None
    if g.chance(30):
        # onnx.reference has GlobalMaxPool right for 4-D only
        op_type = g.pick(["GlobalAveragePool", "GlobalMaxPool"][: len(shape) - 2])
        return g.add(op_type, [x], (*shape[:2], *[1] * len(shape[2:])))
    kernel = [g.number(1, min(2, s)) for s in shape[2:]]
    n = len(kernel)
    pads = [g.number(0, k - 1) for k in kernel * 2] if g.chance(30) else [0] * 2 * n
    strides = [g.number(1, 2) for _ in kernel]
    sizes = zip(shape[2:], kernel, strides, pads[:n], pads[n:], strict=True)
    out = tuple((s + p + q - k) // t + 1 for s, k, t, p, q in sizes)
    attributes: dict[str, Any] = {"kernel_shape": kernel, "pads": pads, "strides": strides}
    op_type = g.pick(["AveragePool", "MaxPool"])
    if op_type == "AveragePool":
        attributes["count_include_pad"] = g.number(0, 1)
    return g.add(op_type, [x], (*shape[:2], *out), **attributes)


def reduce(g: Builder, x: str) -> str | None:
    shape = g.shapes[x]
    if len(shape) < 2:
        return None
    op_type = g.pick(["ReduceMean", "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"])
    count = g.number(1, len(shape) - 1)
    possible = list(range(1 if g.dynamic else 0, len(shape)))
    axes = sorted({g.pick(possible) for _ in range(count)}, reverse=g.chance(20))
    keep = g.number(0, 1)
    out = tuple(1 if i in axes else d for i, d in enumerate(shape) if keep or i not in axes)
    written = [i - len(shape) if g.opset >= 11 and g.chance(30) else i for i in axes]
    since = 13 if op_type == "ReduceSum" else 18
    return g.with_ints(op_type, x, "axes", written, since, out, keepdims=keep)


def transpose(g: Builder, x: str) -> str | None:
    shape = g.shapes[x]
    first = 1 if g.dynamic else 0
    perm = [*range(first), *map(int, first + g.rng.permutation(len(shape) - first))]
    return g.add("Transpose", [x], tuple(shape[i] for i in perm), perm=perm)


def flatten(g: Builder, x: str) -> str | None:
    shape = g.shapes[x]
    if len(shape) < 2:
        return None
    axis = g.number(1, len(shape) - 1) if not g.dynamic else 1
    return g.add("Flatten", [x], (prod(shape[:axis]), prod(shape[axis:])), axis=axis)


def reshape(g: Builder, x: str) -> str | None:
    """Merge neighbouring axes, cut one in two, or both; also rows into the batch."""
    shape = list(g.shapes[x])
    if not shape:
        return None
    for _ in range(g.number(1, 2)):
        i = g.number(1 if len(shape) > 1 else 0, len(shape) - 1)
        factors = [d for d in range(1, shape[i] + 1) if shape[i] % d == 0]
        if g.chance(50) and len(shape) < 5 and i > 0:
            f = g.pick(factors)
            shape[i : i + 1] = [f, shape[i] // f]
        elif i + 1 < len(shape) and i > 0:
            shape[i : i + 2] = [shape[i] * shape[i + 1]]
    if g.chance(15) and len(shape) >= 3:
        shape = [shape[0] * shape[1], *shape[2:]]
        target = [-1, *shape[1:]]
    elif g.chance(10) and len(shape) >= 2:
        f = g.pick([d for d in range(1, shape[-1] + 1) if shape[-1] % d == 0])
        shape = [shape[0] * shape[-1] // f, *shape[1:-1], f]  # mixes everything
        target = [-1, *shape[1:]]
    else:
        same = [
            i for i, (d, e) in enumerate(zip(shape, g.shapes[x], strict=False)) if d == e and i < 2
        ]
        target = g.batched(tuple(shape))
        if target[0] == 0 and 0 not in same:
            target[0] = -1
        if target[0] == -1 and prod(shape[1:]) == 0:
            return None
        if target[0] != -1 and 1 in same and g.chance(40):
            target[1] = 0
            if len(shape) > 2 and g.chance(50):
                target[2 + g.number(0, len(shape) - 3)] = -1
    return g.add("Reshape", [x, g.ints(target)], tuple(shape))


def squeeze(g: Builder, x: str) -> str | None:
    shape = g.shapes[x]
    axes = [i for i, d in enumerate(shape) if d == 1 and (i > 0 or not g.dynamic)]
    if not axes:
        return None
    axes = sorted({g.pick(axes) for _ in axes})
    out = tuple(d for i, d in enumerate(shape) if i not in axes)
    written = [i - len(shape) if g.opset >= 13 and g.chance(30) else i for i in axes]
    return g.with_ints("Squeeze", x, "axes", written, 13, out)


def unsqueeze(g: Builder, x: str) -> str | None:
    shape = list(g.shapes[x])
    if len(shape) > 4:
        return None
    axis = g.number(1 if g.dynamic and shape else 0, len(shape))
    return g.with_ints(
        "Unsqueeze", x, "axes", [axis], 13, (*shape[:axis], 1, *shape[axis:])
    )  # fmt: skip


def pad(g: Builder, x: str) -> str | None:
    shape = g.shapes[x]
    if len(shape) < 2:
        return None
    first = 1 if g.chance(20) else 2
    mode = g.pick(["constant", "constant", "edge", "reflect"])
    most = [0 if i < first or (mode == "reflect" and d < 2) else 1 for i, d in enumerate(shape)]
    pads = [g.number(0, m) for m in most * 2]
    n = len(shape)
    out = tuple(d + pads[i] + pads[i + n] for i, d in enumerate(shape))
    value = 0.0 if g.chance(60) else 1.5
    if g.opset < 11:
        return g.add("Pad", [x], out, pads=pads, mode=mode, value=value)
    inputs = [x, g.ints(pads)]
    if mode == "constant" and (value or g.chance(50)):
        inputs.append(g.constant(value))
    return g.add("Pad", inputs, out, mode=mode)


def slice_(g: Builder, x: str) -> str | None:
    shape = g.shapes[x]
    if len(shape) < 2:
        return None
    axis = g.number(1, len(shape) - 1)
    size = shape[axis]
    start = g.number(0, size - 1)
    end = g.number(start + 1, size)
    step = 1
    if g.opset >= 10 and g.chance(30):
        step = g.pick([2, -1])
        if step < 0:
            start, end = size - 1, -size - 5
    taken = list(range(size))[start : None if end < -size else end : step]
    out = (*shape[:axis], len(taken), *shape[axis + 1 :])
    if g.opset < 10:
        return g.add("Slice", [x], out, starts=[start], ends=[end], axes=[axis])
    inputs = [x, g.ints([start]), g.ints([end]), g.ints([axis - g.pick([0, len(shape)])])]
    return g.add("Slice", [*inputs, g.ints([step])] if step != 1 else inputs, out)


def gather(g: Builder, x: str) -> str | None:
    shape = g.shapes[x]
    if len(shape) < 2:
        return None
    axis = g.number(1, len(shape) - 1)
    size = shape[axis]
    if g.chance(50):
        index = [int(i) for i in g.rng.permutation(size)[: g.number(1, size)]]
    else:
        low = -size if g.opset >= 11 else 0
        index = [g.number(low, size - 1) for _ in range(g.number(1, 4))]
    if g.chance(20):
        out = (*shape[:axis], *shape[axis + 1 :])
        indices = g.constant(np.int64(index[0]), np.int64)
        return g.add("Gather", [x, indices], out, axis=axis)
    out = (*shape[:axis], len(index), *shape[axis + 1 :])
    return g.add("Gather", [x, g.ints(index)], out, axis=axis)


def resize(g: Builder, x: str) -> str | None:
    shape = g.shapes[x]
    if len(shape) != 4 or g.opset == 10:  # onnx.reference has no Resize of opset 10
        return None
    up = [g.number(1, 2) for _ in shape[2:]]
    out = (*shape[:2], *(s * u for s, u in zip(shape[2:], up, strict=True)))
    mode = g.pick(["nearest", "linear"])
    scales = [1.0, 1.0, *map(float, up)]
    if g.opset < 9:
        return g.add("Upsample", [x], out, scales=scales, mode=mode)
    made = g.constant(scales, np.float32)
    if g.opset < 11:
        return g.add("Upsample", [x, made], out, mode=mode)
    roi = "" if g.opset >= 13 else g.constant([], np.float32)
    if g.chance(40) and g.opset >= 13 and not g.dynamic:
        return g.add("Resize", [x, "", "", g.ints(out)], out, mode=mode)
    how = g.pick(["half_pixel", "asymmetric", "align_corners"])
    return g.add("Resize", [x, roi, made], out, mode=mode, coordinate_transformation_mode=how)


def shuffle(g: Builder, x: str) -> str | None:
    shape = g.shapes[x]
    if len(shape) != 4:
        return None
    N, C, H, W = shape
    if C % 4 == 0:
        attributes = {"mode": g.pick(["DCR", "CRD"])} if g.opset >= 11 else {}
        return g.add("DepthToSpace", [x], (N, C // 4, 2 * H, 2 * W), blocksize=2, **attributes)
    if H % 2 == 0 and W % 2 == 0:
        return g.add("SpaceToDepth", [x], (N, 4 * C, H // 2, W // 2), blocksize=2)
    return None


def split(g: Builder, x: str) -> str | None:
    shape = g.shapes[x]
    if len(shape) < 2:
        return None
    axis = g.pick([1, 1, len(shape) - 1])
    if shape[axis] < 2:
        return None
    first = g.number(1, shape[axis] - 1)
    sizes = [first, shape[axis] - first]
    outs = [(*shape[:axis], s, *shape[axis + 1 :]) for s in sizes]
    y = g.with_ints("Split", x, "split", sizes, 13, *outs, axis=axis)
    other = f"v{int(y[1:]) + 1}"
    if g.chance(30):
        g.read.add(other)  # stays unused
        del g.shapes[other]
        g.shapes[f"unused {other}"] = ()  # keeps the numbering
        g.read.add(f"unused {other}")
    if g.chance(50):
        y = batch_norm(g, y) or y
    return y


# -- joints and nonlinear functions --------------------------------------------------------------


def others(g: Builder, x: str, fits: Callable[[Shape], bool]) -> list[str]:
    return [n for n, s in g.shapes.items() if n != x and not n.startswith("unused") and fits(s)]


def join(g: Builder, x: str) -> str | None:
    shape = g.shapes[x]

    def broadcasts(s: Shape) -> bool:
        same = len(s) == len(shape) or g.chance(20)
        pairs = zip(s[::-1], shape[::-1], strict=False)
        return same and all(d == e or 1 in {d, e} for d, e in pairs)

    found = others(g, x, broadcasts)
    if not found:
        return None
    y = g.pick(found)
    out = np.broadcast_shapes(shape, g.shapes[y])
    # Sum broadcasts from opset 8 on
    op_type = g.pick(["Add", "Add", "Sub", "Mul", "Sum" if g.opset >= 8 else "Add"])
    pair = [x, y] if g.chance(50) else [y, x]
    if g.chance(5):
        return g.add(op_type, [x, x], shape)
    return g.add(op_type, pair, out)


def concat(g: Builder, x: str) -> str | None:
    shape = g.shapes[x]
    if len(shape) < 2:
        return None
    axis = g.pick([1, 1, len(shape) - 1])

    def fits(s: Shape) -> bool:
        return len(s) == len(shape) and all(
            d == e or i == axis for i, (d, e) in enumerate(zip(s, shape, strict=True))
        )

    found = others(g, x, fits)
    if found:
        parts = [g.pick(found), x]
    elif g.chance(10):
        parts = [x, x]
    else:
        return None
    size = sum(g.shapes[p][axis] for p in parts)
    return g.add("Concat", parts, (*shape[:axis], size, *shape[axis + 1 :]), axis=axis)


def nonlinear(g: Builder, x: str) -> str | None:
    return g.add(g.pick(["Sigmoid", "Tanh"]), [x], g.shapes[x])


def fork(g: Builder, x: str) -> str | None:
    """Two branches of the same shape out of one value, joined again."""
    one, other = linear(g, x), linear(g, x)
    if one is None or other is None:
        return None
    one, other = batch_norm(g, one) or one, batch_norm(g, other) or other
    return join(g, one)


LINEAR = (conv, conv, conv, conv_transpose, matmul, gemm, matmul_left, matmul_vector)


def linear(g: Builder, x: str) -> str | None:
    found = g.pick(LINEAR)(g, x)
    return found or (matmul if len(g.shapes[x]) > 2 else gemm)(g, x)


def affine(g: Builder, x: str) -> str | None:
    kinds = [batch_norm] * 4 + [along_axis, along_axis, scalar, odd_constant, decomposed]
    return g.pick(kinds)(g, x)


CARRIERS = (
    identity, rectifier, pool, reduce, transpose, flatten, reshape, reshape, squeeze, unsqueeze,
    pad, slice_, gather, resize, shuffle, split, join, concat,
)  # fmt: skip


def carried(g: Builder, x: str) -> str | None:
    return g.pick(CARRIERS)(g, x) or g.pick(CARRIERS)(g, x) or g.pick(CARRIERS)(g, x)


def backwards(g: Builder, x: str) -> str | None:
    """A linear layer, something to cross, a map."""
    y: str | None = linear(g, x)
    for _ in range(g.number(0, 2)):
        y = carried(g, y or x) or y
    return affine(g, y or x)


def forwards(g: Builder, x: str) -> str | None:
    """A nonlinear function, a map, something to cross, a linear layer."""
    y = affine(g, nonlinear(g, x) or x) or x
    for _ in range(g.number(0, 2)):
        y = carried(g, y) or y
    return linear(g, y)


STEPS = (backwards, backwards, backwards, forwards, forwards, forwards, fork, affine, carried,
         concat, join, nonlinear)  # fmt: skip


@st.composite
def models(draw: Any, dtypes: Sequence[Any] = (np.float64,)) -> tuple[ModelProto, dict[str, Any]]:
    """Return a model and inputs for it."""
    opset, dtype = draw(st.sampled_from(OPSETS)), draw(st.sampled_from(list(dtypes)))
    steps, seed = draw(st.integers(1, 6)), draw(st.integers(0, 2**48))
    # Out of one seed, since draws of single numbers come out too small and too much alike.
    g = Builder(np.random.default_rng(seed), opset, dtype, draw(st.integers(1, 3)))
    g.dynamic = g.chance(60)
    infos, feeds = [], {}
    hidden = g.chance(20)  # spatial sizes are not told
    for i in range(g.number(1, 2)):
        rank = g.pick([4, 4, 4, 3, 2, 5])
        shape = (g.batch, *(g.number(1, 6) for _ in range(rank - 1)))
        if rank == 5:
            shape = (g.batch, g.number(1, 4), 2, 3, 2)
        name = f"x{i}"
        told: list[Any] = list(shape)
        if g.dynamic:
            told[0] = "N"
        if hidden:
            told = [*told[:2], *(None for _ in told[2:])]
        infos.append(helper.make_tensor_value_info(name, KINDS[dtype], told))
        feeds[name] = g.rng.normal(0, 1.5, shape).astype(dtype)
        g.shapes[name] = shape
    x = "x0"
    for _ in range(steps):
        if g.chance(20):
            x = g.pick(others(g, "", lambda s: True))
        made = g.pick(STEPS)(g, x) or g.pick(STEPS)(g, x) or x
        x = made if prod(g.shapes[made]) <= MOST_ELEMENTS else x
    leaves = [n for n in g.shapes if n not in g.read and n not in feeds]
    if g.chance(10):
        leaves += [n for n in g.shapes if n in g.read and n[0] == "v" and g.chance(20)]
    leaves = [n for n in leaves if prod(g.shapes[n]) <= 8 * MOST_ELEMENTS]
    outputs = [
        helper.make_tensor_value_info(n, KINDS[dtype], [None] * len(g.shapes[n])) for n in leaves
    ]
    graph = helper.make_graph(g.nodes, "g", infos, outputs, g.tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    if g.chance(40):
        model = onnx.shape_inference.infer_shapes(model)
    return model, feeds
