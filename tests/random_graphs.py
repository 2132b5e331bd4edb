"""A strategy for models in which affine maps meet linear layers on every kind of way."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import random_carriers as carriers
from hypothesis import strategies as st
from onnx import TensorProto, helper
from random_layers import (
    KINDS,
    MOST_ELEMENTS,
    OPSETS,
    Builder,
    Shape,
    along_axis,
    batch_norm,
    conv,
    conv_transpose,
    decomposed,
    gemm,
    instance_norm,
    layer_norm,
    matmul,
    matmul_left,
    matmul_vector,
    odd_constant,
    scalar,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from onnx import ModelProto


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
    carriers.identity, carriers.rectifier, carriers.pool, carriers.reduce, carriers.transpose,
    carriers.flatten, carriers.reshape, carriers.reshape, carriers.squeeze, carriers.unsqueeze,
    carriers.pad, carriers.slice_, carriers.gather, carriers.gather_table, carriers.resize,
    carriers.shuffle, carriers.channel_shuffle, carriers.computed_reshape, carriers.repeat,
    carriers.with_constants, carriers.sequence, carriers.split, join, concat,
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


def normed(g: Builder, x: str) -> str | None:
    """A norm with scale and bias between a map and a linear layer, either of which may be near."""
    y = g.pick([instance_norm, layer_norm])(g, x)
    if y is None or g.chance(30):
        return y
    y = (carried(g, y) or y) if g.chance(40) else y
    return g.pick([affine, linear])(g, y)


STEPS = (backwards, backwards, backwards, forwards, forwards, forwards, fork, affine, carried,
         concat, join, nonlinear, normed)  # fmt: skip


@st.composite
def models(
    draw: Any, dtypes: Sequence[Any] = (np.float64,), norms: bool = True
) -> tuple[ModelProto, dict[str, Any]]:
    """Return a model and inputs for it.

    norms: whether norms are drawn that compute their statistics. Where their input hardly varies
    they multiply what rounding does to it by up to 1/√epsilon = 316.
    """
    opset, dtype = draw(st.sampled_from(OPSETS)), draw(st.sampled_from(list(dtypes)))
    count, seed = draw(st.integers(1, 6)), draw(st.integers(0, 2**48))
    steps = STEPS if norms else [step for step in STEPS if step is not normed]
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
        if rank == 3 and g.chance(20):  # rows of a table
            infos.append(helper.make_tensor_value_info(f"ids{i}", TensorProto.INT64, told[:2]))
            feeds[f"ids{i}"] = g.rng.integers(0, 5, shape[:2])
            g.nodes.append(helper.make_node("Gather", [g.weights(5, shape[2]), f"ids{i}"], [name]))
        else:
            infos.append(helper.make_tensor_value_info(name, KINDS[dtype], told))
            feeds[name] = g.rng.normal(0, 1.5, shape).astype(dtype)
        g.shapes[name] = shape
    x = "x0"
    for _ in range(count):
        if g.chance(20):
            x = g.pick(others(g, "", lambda s: True))
        made = g.pick(steps)(g, x) or g.pick(steps)(g, x) or x
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
