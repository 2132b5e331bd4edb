"""Operators that give the same elements other axes or another order."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F  # noqa: N812  its usual name

from normsurgery.pytorch.interpreter.table import Kernel, functions, operator

if TYPE_CHECKING:
    from collections.abc import Callable

    from normsurgery.pytorch.interpreter.call import Call


functions({"Identity": lambda x: x})


@operator("Reshape")
def reshape(call: Call) -> Kernel:
    """Give a new shape; −1 is what is left, 0 the size that was there (``allowzero``: 0)."""
    zero = bool(call.integer("allowzero", 0))

    def run(x: torch.Tensor, shape: list[int]) -> torch.Tensor:
        if not zero and 0 in shape:
            shape = [x.shape[i] if d == 0 else d for i, d in enumerate(shape)]
        if -1 in shape and not x.numel() and 0 in shape:  # torch does not decide this one
            rest = prod(d for d in shape if d > 0)
            shape = [0 if d == -1 else d for d in shape] if rest else shape
        return x.reshape(shape)

    return call.moved(run, "shape", 1)


@operator("Flatten")
def flatten(call: Call) -> Callable[..., Any]:
    """Make a matrix: all axes before ``axis``, and all from it on."""
    axis = call.integer("axis", 1)

    def run(x: torch.Tensor) -> torch.Tensor:
        first = axis + x.dim() if axis < 0 else axis
        return x.reshape(prod(x.shape[:first]), prod(x.shape[first:]))

    if axis == 1 and (call.rank(0) or 0) >= 2:
        return lambda x: x.flatten(1)
    return run


@operator("Transpose")
def transpose(call: Call) -> Callable[..., Any]:
    """Permute the axes; without ``perm`` reverse them."""
    perm = call.ints("perm")
    return lambda x: x.permute(perm if perm is not None else tuple(range(x.dim()))[::-1])


@operator("Squeeze")
def squeeze(call: Call) -> Kernel:
    """Remove axes of size 1, all of them or those named."""

    def run(x: torch.Tensor, axes: list[int] | None) -> torch.Tensor:
        if axes is None:
            return x.squeeze()
        gone = {a % x.dim() for a in axes}
        wrong = [a for a in gone if x.shape[a] != 1]
        if wrong:
            raise ValueError(f"axis {wrong[0]} of {list(x.shape)} has not size 1")
        return x.reshape([d for i, d in enumerate(x.shape) if i not in gone])

    return call.moved(run, "axes", 1)


@operator("Unsqueeze")
def unsqueeze(call: Call) -> Kernel:
    """Insert axes of size 1, at these places of the result."""

    def run(x: torch.Tensor, axes: list[int]) -> torch.Tensor:
        rank = x.dim() + len(axes)
        for axis in sorted(a % rank for a in axes):
            x = x.unsqueeze(axis)
        return x

    return call.moved(run, "axes", 1)


@operator("DepthToSpace")
def depth_to_space(call: Call) -> Callable[..., Any]:
    """Move channels into blocks of pixels: depth-column-row or column-row-depth order."""
    b = call.integer("blocksize", 1)
    mode = call.choice("mode", "DCR", "DCR", "CRD")
    if mode == "CRD":
        return lambda x: F.pixel_shuffle(x, b)

    def run(x: torch.Tensor) -> torch.Tensor:
        N, C, H, W = x.shape
        y = x.reshape(N, b, b, C // (b * b), H, W).permute(0, 3, 4, 1, 5, 2)
        return y.reshape(N, C // (b * b), H * b, W * b)

    return run


@operator("SpaceToDepth")
def space_to_depth(call: Call) -> Callable[..., Any]:
    """Move blocks of pixels into channels."""
    b = call.integer("blocksize", 1)

    def run(x: torch.Tensor) -> torch.Tensor:
        N, C, H, W = x.shape
        y = x.reshape(N, C, H // b, b, W // b, b).permute(0, 3, 5, 1, 2, 4)
        return y.reshape(N, C * b * b, H // b, W // b)

    return run


@operator("ReverseSequence")
def reverse_sequence(call: Call) -> Callable[..., Any]:
    """Turn the first so many steps of each sequence round."""
    time, batch = call.integer("time_axis", 0), call.integer("batch_axis", 1)

    def run(x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        steps = torch.arange(x.shape[time], device=x.device).reshape(-1, 1)
        at = torch.where(steps < lengths, lengths - 1 - steps, steps)  # (time, batch)
        seen = x.movedim((time, batch), (0, 1))
        wide = at.reshape(*at.shape, *[1] * (x.dim() - 2)).expand(seen.shape)
        return seen.gather(0, wide).movedim((0, 1), (time, batch))

    return run
