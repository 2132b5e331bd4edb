"""Random graphs: what an affine map may have to cross."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from onnx import helper
from random_layers import KINDS, Builder, batch_norm


def identity(g: Builder, x: str) -> str | None:
    op_type = g.pick(["Identity", "Dropout", "Cast", "CastLike" if g.opset >= 15 else "Cast"])
    if op_type == "CastLike":
        return g.add(op_type, [x, g.constant(1.0)], g.shapes[x])
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
    if not shape:  # an empty list of axes has no type
        return None
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
    if C % 4 and g.chance(50):
        x = g.add("Conv", [x, g.weights(4, C, 1, 1)], (N, 4, H, W))
        C = 4
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


def channel_shuffle(g: Builder, x: str) -> str | None:
    """Channels cut into two axes, which are exchanged."""
    shape = g.shapes[x]
    if len(shape) < 2 or len(shape) > 4:
        return None
    C, n = shape[1], len(shape)
    f = g.pick([d for d in range(1, C + 1) if C % d == 0])
    apart = (shape[0], f, C // f, *shape[2:])
    y = g.add("Reshape", [x, g.ints(g.batched(apart))], apart)
    turned = (shape[0], C // f, f, *shape[2:])
    y = g.add("Transpose", [y], turned, perm=[0, 2, 1, *range(3, n + 1)])
    return g.add("Reshape", [y, g.ints(g.batched(shape))], shape)


def computed_reshape(g: Builder, x: str) -> str | None:
    """A Reshape to a shape of which some dimensions are read when the model runs."""
    shape = g.shapes[x]
    if not 2 <= len(shape) <= 4:
        return None
    cut = g.chance(40)  # channels in two axes, or positions in one
    f = g.pick([d for d in range(1, shape[1] + 1) if shape[1] % d == 0])
    made = (shape[0], f, shape[1] // f, *shape[2:]) if cut else (*shape[:2], prod(shape[2:]))
    whole = g.add("Shape", [x], (len(shape),))
    del g.shapes[whole]
    g.shapes[f"unused {whole}"] = ()  # keeps the numbering
    g.read.add(f"unused {whole}")

    def read(i: int) -> str:
        return helped(g, helped(g, whole, "Gather", g.ints([i]), axis=0), "Identity")

    parts = [read(0) if g.chance(80) else g.ints([-1])]
    if cut:
        parts += [g.ints([f, shape[1] // f]), *(read(2 + i) for i in range(len(shape) - 2))]
    else:
        parts += [read(1) if g.chance(50) else g.ints([shape[1]]), g.ints([made[2]])]
    joined = helped(g, parts[0], "Concat", *parts[1:], axis=0)
    return g.add("Reshape", [x, joined], made)


def helped(g: Builder, x: str, op_type: str, *more: str, **attributes: Any) -> str:
    """Add a node on integers, whose value no step reads."""
    name = f"h{len(g.nodes)}"
    g.nodes.append(helper.make_node(op_type, [x, *more], [name], **attributes))
    return name


def repeat(g: Builder, x: str) -> str | None:
    """Tile along some axis, or Expand of those of size 1 and new ones in front."""
    shape = g.shapes[x]
    if not shape or len(shape) > 4:
        return None
    if g.chance(50) or g.opset < 8:
        times = [1, *(g.pick([1, 1, 2]) for _ in shape[1:])]
        return g.add(
            "Tile", [x, g.ints(times)], tuple(d * t for d, t in zip(shape, times, strict=True))
        )
    wanted = [1, *(g.number(1, 3) if d == 1 else g.pick([1, d]) for d in shape[1:])]
    if g.chance(20) and not g.dynamic:
        wanted = [2, *wanted]
    out = np.broadcast_shapes(shape, tuple(wanted))
    return g.add("Expand", [x, g.ints(wanted)], out)


def gather_table(g: Builder, x: str) -> str | None:
    """Indices of rank 2 in the place of an axis."""
    shape = g.shapes[x]
    if not 2 <= len(shape) <= 4:
        return None
    axis = g.number(1, len(shape) - 1)
    index = g.rng.integers(0, shape[axis], (g.number(1, 2), 2))
    out = (*shape[:axis], *index.shape, *shape[axis + 1 :])
    return g.add("Gather", [x, g.constant(index, np.int64)], out, axis=axis)


def with_constants(g: Builder, x: str) -> str | None:
    """A Sum or a Concat some of whose operands are constants."""
    shape = g.shapes[x]
    if len(shape) < 2:
        return None
    if g.chance(50) and g.opset >= 8:
        own = [(shape[1], *[1] * (len(shape) - 2)), shape[1:], (shape[-1],), ()]
        parts = [x, *(g.constant(g.rng.normal(0, 1, g.pick(own))) for _ in range(g.number(1, 2)))]
        return g.add("Sum", parts[:: g.pick([1, -1])], shape)
    if g.dynamic and g.batch != 1:
        return None
    axis = g.number(1, len(shape) - 1)
    own_shape = (*shape[:axis], g.number(1, 2), *shape[axis + 1 :])
    parts = [x, g.constant(g.rng.normal(0, 1, own_shape))][:: g.pick([1, -1])]
    out = (*shape[:axis], shape[axis] + own_shape[axis], *shape[axis + 1 :])
    return g.add("Concat", parts, out, axis=axis)


def sequence(g: Builder, x: str) -> str | None:
    """One part, or two, of a value split into a sequence."""
    shape = g.shapes[x]
    if len(shape) < 2 or g.opset < 11:
        return None
    axis = g.pick([1, 1, len(shape) - 1])
    if shape[axis] < 2:
        return None
    first = g.number(1, shape[axis] - 1)
    sizes = [first, shape[axis] - first]
    parts = helped(g, x, "SplitToSequence", g.ints(sizes), axis=axis)
    g.read.add(x)
    for i in {g.number(0, 1), g.number(0, 1)}:
        at = g.constant(np.int64(i - g.pick([0, 2])), np.int64)
        y = g.add("SequenceAt", [parts, at], (*shape[:axis], sizes[i], *shape[axis + 1 :]))
    return y
