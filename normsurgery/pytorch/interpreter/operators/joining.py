"""Operators that join, cut, repeat and pad: the result has other elements, or in another number."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F  # noqa: N812  its usual name

from normsurgery.errors import UnsafeModelError
from normsurgery.pytorch.interpreter.table import Kernel, operator

if TYPE_CHECKING:
    from collections.abc import Callable

    from normsurgery.pytorch.interpreter.call import Call

MOST_ELEMENTS = 1 << 31  # of a tensor that a few bytes of a model ask for


def sized(shape: Any) -> list[int]:
    """Return ``shape``; raise ``UnsafeModelError`` if no sane model asks for that much."""
    if prod(shape) > MOST_ELEMENTS:
        raise UnsafeModelError(f"a tensor of shape {list(shape)} is asked for, which is too large")
    return list(shape)


@operator("Concat")
def concat(call: Call) -> Callable[..., Any]:
    """Join tensors along an axis."""
    axis = call.integer("axis", 1)
    return lambda *tensors: torch.cat(tensors, axis)


@operator("Split")
def split(call: Call) -> Kernel:
    """Cut along an axis, into these sizes or as many equal parts as there are outputs."""
    axis, outputs = call.integer("axis", 0), len(call.node.output)
    parts = call.integer("num_outputs", outputs)

    def run(x: torch.Tensor, sizes: list[int] | None) -> Any:
        if sizes is None:
            each = -(-x.shape[axis] // parts)  # the last part may be smaller
            return torch.split(x, each, axis)
        return torch.split(x, sizes, axis)

    old = call.ints("split")
    if old is not None:
        return Kernel(lambda x: run(x, old), (0,), several=True)
    return call.bound(run, (0,), (1,), several=True)


@operator("Slice")
def slice_(call: Call) -> Kernel:
    """Take a range along some axes; a negative step goes backwards."""

    def run(
        x: torch.Tensor, starts: Any, ends: Any, axes: Any = None, steps: Any = None
    ) -> torch.Tensor:
        axes = list(range(len(starts))) if axes is None else axes
        for i, axis in enumerate(axes):
            step, size = 1 if steps is None else steps[i], x.shape[axis]
            lowest, highest = (0, size) if step > 0 else (-1, size - 1)
            first, last = (n + size if n < 0 else n for n in (starts[i], ends[i]))
            first = min(max(first, 0), highest)
            last = min(max(last, lowest), highest)
            if step < 0:
                taken = torch.tensor(range(first, last, step), dtype=torch.int64, device=x.device)
                x = x.index_select(axis, taken)
            elif (first, last, step) != (0, size, 1):
                cut = slice(first, max(first, last), step)
                x = x[(slice(None),) * (axis % x.dim()) + (cut,)]
        return x

    starts, ends, axes = (call.ints(name) for name in ("starts", "ends", "axes"))
    if starts is not None:
        return Kernel(lambda x: run(x, starts, ends, axes), (0,))
    return call.bound(run, (0,), (1, 2, 3, 4))


@operator("Expand")
def expand(call: Call) -> Kernel:
    """Broadcast to a shape, from both sides."""

    def run(x: torch.Tensor, shape: list[int]) -> torch.Tensor:
        return x.expand(sized(_broadcast(tuple(x.shape), tuple(shape))))

    return call.bound(run, (0,), (1,))


def _broadcast(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(torch.broadcast_shapes(one, other))  # type: ignore[no-untyped-call]


@operator("Tile")
def tile(call: Call) -> Kernel:
    """Repeat along each axis; opset 1 has a count and one axis."""
    if len(call.operands) == 3:

        def along(x: torch.Tensor, count: Any, axis: Any) -> torch.Tensor:
            repeats = [1] * x.dim()
            repeats[int(axis[0] if isinstance(axis, list) else axis)] = int(
                count[0] if isinstance(count, list) else count
            )
            return x.repeat(repeats)

        return call.bound(along, (0,), (1, 2))

    def run(x: torch.Tensor, repeats: list[int]) -> torch.Tensor:
        sized([n * r for n, r in zip(x.shape, repeats, strict=True)])
        return x.repeat(repeats)

    return call.bound(run, (0,), (1,))


@operator("Pad")
def pad(call: Call) -> Kernel:
    """Put numbers around: one constant, the edge, a reflection, or the other end.

    Negative pads cut off.
    """
    mode = call.choice("mode", "constant", "constant", "edge", "reflect", "wrap")
    value = call.real("value", 0.0)

    def run(x: torch.Tensor, pads: list[int], fill: Any, axes: list[int] | None) -> torch.Tensor:
        rank = x.dim()
        axes = list(range(rank)) if axes is None else [a % rank for a in axes]
        before, after = [0] * rank, [0] * rank
        for i, axis in enumerate(axes):
            before[axis], after[axis] = pads[i], pads[i + len(axes)]
        if mode == "constant":
            number = fill[0] if isinstance(fill, list) else fill
            pairs = zip(before[::-1], after[::-1], strict=True)
            amounts = [n for pair in pairs for n in pair]
            return F.pad(x, amounts, value=value if number is None else number)
        for axis in range(rank):
            x = _around(x, axis, before[axis], after[axis], mode)
        return x

    old = call.ints("pads") or call.ints("paddings")
    if old is not None:
        return Kernel(lambda x: run(x, old, None, None), (0,))
    return call.bound(run, (0,), (1, 2, 3))


def _around(x: torch.Tensor, axis: int, before: int, after: int, mode: str) -> torch.Tensor:
    """Extend one axis by the places that its padding repeats; what is cut off is cut off first."""
    if before < 0 or after < 0:
        x = x.narrow(axis, max(-before, 0), x.shape[axis] + min(before, 0) + min(after, 0))
    before, after, size = max(before, 0), max(after, 0), x.shape[axis]
    if not before and not after:
        return x
    at = torch.arange(-before, size + after, device=x.device)
    if mode == "edge":
        at = at.clamp(0, size - 1)
    elif mode == "wrap":
        at = at % size
    else:
        period = max(2 * size - 2, 1)
        at = at % period
        at = torch.where(at >= size, period - at, at)
    return x.index_select(axis, at)


@operator("Trilu")
def trilu(call: Call) -> Kernel:
    """Keep the upper or lower triangle of matrices."""
    function = torch.triu if call.integer("upper", 1) else torch.tril

    def run(x: torch.Tensor, k: Any) -> torch.Tensor:
        return function(x, (k[0] if isinstance(k, list) else k) or 0)

    return call.bound(run, (0,), (1,))


@operator("CenterCropPad")
def center_crop_pad(call: Call) -> Kernel:
    """Crop or zero-pad to a size, the odd one behind when padding and ahead when cropping."""
    named = call.ints("axes")

    def run(x: torch.Tensor, shape: list[int]) -> torch.Tensor:
        for axis, size in zip(named or range(x.dim()), shape, strict=True):
            have = x.shape[axis]
            if have > size:
                x = x.narrow(axis, (have - size) // 2, size)
            elif have < size:
                amounts = [0] * (2 * x.dim())
                place = 2 * (x.dim() - 1 - axis % x.dim())
                amounts[place] = (size - have) // 2
                amounts[place + 1] = size - have - amounts[place]
                x = F.pad(x, amounts)
        return x

    return call.bound(run, (0,), (1,))
