"""Operators that make tensors: of shapes, of numbers, in another type, at random."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F  # noqa: N812  its usual name

from normsurgery.pytorch.interpreter.elements import FLOATS, torch_dtype
from normsurgery.pytorch.interpreter.operators.joining import sized
from normsurgery.pytorch.interpreter.table import Kernel, operator

if TYPE_CHECKING:
    from normsurgery.pytorch.interpreter.call import Call
    from normsurgery.pytorch.interpreter.program import Context


@operator("Shape")
def shape(call: Call) -> Kernel:
    """Tell the shape; of a stored tensor it is known now, of others it stays on the CPU."""
    start, found = call.integer("start", 0), call.attribute("end")
    end = found.i if found else None
    operand = call.operand(0)
    if operand is not None and (operand.stored is not None or operand.const is not None):
        known = torch.tensor(list(operand.dims or ())[start:end], dtype=torch.int64)
        return Kernel(lambda context: known.to(context.device), (), context=True)
    return Kernel(lambda x: torch.tensor(x.shape[start:end], dtype=torch.int64), to_host=True)


@operator("Size")
def size(call: Call) -> Kernel:
    """Tell the number of elements."""
    return Kernel(lambda x: torch.tensor(x.numel(), dtype=torch.int64), to_host=True)


@operator("Constant")
def constant(call: Call) -> Kernel:
    """Give numbers that an attribute holds; tensors are stored ones and never come here."""
    found = next(iter(call.node.attribute), None)
    kinds = {"value_float", "value_floats", "value_int", "value_ints"}
    if found is None or found.name not in kinds:
        raise call.refuse("a Constant of strings or of a sparse tensor")
    call.attribute(found.name)
    value: Any = {
        "value_float": found.f, "value_floats": list(found.floats),
        "value_int": found.i, "value_ints": list(found.ints),
    }[found.name]  # fmt: skip
    floats = "float" in found.name
    made = torch.tensor(value, dtype=torch.float32 if floats else torch.int64)
    return Kernel(
        lambda context: made.to(context.device, context.real(made.dtype)), (), context=True
    )


@operator("ConstantOfShape")
def constant_of_shape(call: Call) -> Kernel:
    """Fill a shape with one number."""
    found = call.attribute("value")
    fill = torch.zeros(1) if found is None else call.read(found.t)
    number, dtype = fill.reshape(()).item(), fill.dtype

    def run(context: Context, wanted: list[int]) -> torch.Tensor:
        return torch.full(sized(wanted), number, dtype=context.real(dtype), device=context.device)

    return call.bound(run, (), (0,), context=True)


@operator("Cast")
def cast(call: Call) -> Kernel:
    """Change the type; floats go to integers towards 0, and between the module's own types."""
    dtype = torch_dtype(call.integer("to", 1))
    call.integer("saturate", 1), call.text("round_mode", "up")  # of float8
    return Kernel(lambda context, x: x.to(context.real(dtype)), (0,), context=True)


@operator("CastLike")
def cast_like(call: Call) -> Kernel:
    """Change the type to that of another tensor, which is known in most models."""
    call.integer("saturate", 1), call.text("round_mode", "up")
    other = call.operand(1)
    if other is not None and other.elem_type:
        dtype = torch_dtype(other.elem_type)
        return Kernel(lambda context, x: x.to(context.real(dtype)), (0,), context=True)
    return Kernel(lambda x, y: x.to(y.dtype))


@operator("Range")
def range_(call: Call) -> Kernel:
    """Count from start to limit, which is left out, in steps."""
    elem_type = next((o.elem_type for o in call.operands if o is not None and o.elem_type), None)
    const = next((o.const for o in call.operands if o is not None and o.const is not None), None)
    dtype = torch_dtype(elem_type) if elem_type else const.dtype if const is not None else None

    def run(context: Context, *bounds: Any) -> torch.Tensor:
        start, limit, delta = (b[0] if isinstance(b, list) else b for b in bounds)
        kind = dtype or (torch.float32 if isinstance(start, float) else torch.int64)
        count = sized([max(0, int(-((start - limit) // delta)))])[0]
        steps = torch.arange(count, dtype=context.real(kind), device=context.device)
        made: torch.Tensor = start + steps * delta
        return made

    return call.bound(run, (), (0, 1, 2), context=True)


@operator("EyeLike")
def eye_like(call: Call) -> Kernel:
    """Make a diagonal of ones in the shape of a matrix."""
    k, found = call.integer("k", 0), call.attribute("dtype")
    dtype = torch_dtype(found.i) if found else None

    def run(context: Context, x: torch.Tensor) -> torch.Tensor:
        rows, columns = x.shape
        at = torch.arange(rows, device=x.device).reshape(-1, 1) + k
        made = at == torch.arange(columns, device=x.device)
        return made.to(context.real(dtype) if dtype else x.dtype)

    return Kernel(run, context=True)


@operator("OneHot")
def one_hot(call: Call) -> Kernel:
    """Put the on value where an index says, the off value elsewhere, along a new axis."""
    axis = call.integer("axis", -1)

    def run(indices: torch.Tensor, values: torch.Tensor, depth: Any) -> torch.Tensor:
        count = int(depth[0] if isinstance(depth, list) else depth)
        at = indices.long()
        at = torch.where(at < 0, at + count, at)
        classes = torch.arange(count, device=at.device)
        hit = at.unsqueeze(-1) == classes
        made = torch.where(hit, values[1], values[0])
        return made.movedim(-1, axis)

    return call.bound(run, (0, 2), (1,))


@operator("Dropout")
def dropout(call: Call) -> Kernel:
    """Drop in the module's training mode, scaled so that the mean stays; else nothing.

    The ratio is an attribute before opset 12 and an input since. A node whose own training_mode
    is on drops always. The mask, if it is asked for, marks what was kept.
    """
    if call.opset >= 12:
        found, on = call.const(1) if call.has(1) else torch.tensor(0.5), call.const(2)
        if found is None or (call.has(2) and on is None):
            raise call.refuse("its ratio or training_mode is computed")
        ratio, always = float(found.reshape(()).item()), on is not None and bool(on.item())
    else:
        ratio, always = call.real("ratio", 0.5), call.opset < 7 and not call.integer("is_test", 0)
    call.integer("is_test", 0)
    seed = call.attribute("seed")
    if always and seed is not None:
        raise call.refuse("its seed draws numbers that torch does not")
    more = call.outputs() > 1

    def run(context: Context, x: torch.Tensor) -> Any:
        if not (always or context.training):
            return (x, torch.ones_like(x, dtype=torch.bool)) if more else (x,)
        if not more:
            return (F.dropout(x, ratio, training=True),)
        mask = torch.rand_like(x, dtype=torch.float32) >= ratio
        return x * mask / max(1 - ratio, 1e-30), mask

    return Kernel(run, (0,), context=True, several=True, random=always and ratio > 0)


@operator("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli")
def random(call: Call) -> Kernel:
    """Draw numbers, of torch's generator: others than another runtime draws from the same seed."""
    op_type = call.node.op_type
    like, found = op_type.endswith("Like") or op_type == "Bernoulli", call.attribute("dtype")
    call.attribute("seed")
    dtype = torch_dtype(found.i) if found else None if like else torch.float32
    wanted = call.ints("shape")
    normal = op_type.startswith("RandomNormal")
    first = call.real("mean", 0.0) if normal else call.real("low", 0.0)
    second = call.real("scale", 1.0) if normal else call.real("high", 1.0)

    def run(context: Context, x: torch.Tensor | None = None) -> torch.Tensor:
        sizes = sized(wanted) if x is None else x.shape
        kind = context.real(dtype) if dtype is not None else x.dtype if x is not None else None
        kind = kind if kind in FLOATS else torch.float32
        if op_type == "Bernoulli":
            assert x is not None  # noqa: S101  its input is required
            drawn = torch.bernoulli(x)
            return drawn.to(context.real(dtype)) if dtype is not None else drawn
        made = torch.empty(sizes, dtype=kind, device=context.device)
        return made.normal_(first, second) if normal else made.uniform_(first, second)

    return Kernel(run, context=True, random=True)
