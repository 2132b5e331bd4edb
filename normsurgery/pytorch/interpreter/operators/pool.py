"""Pooling: torch's own where its paddings will do, else over the padded image.

The windows of ``ceil_mode`` are laid as onnxruntime lays them (``validation/windows``).
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F  # noqa: N812  its usual name

from normsurgery.pytorch.interpreter.operators.conv import AUTO_PADS, sides
from normsurgery.pytorch.interpreter.table import Kernel, operator
from normsurgery.validation.windows import Windows, windows

if TYPE_CHECKING:
    from collections.abc import Callable

    from normsurgery.pytorch.interpreter.call import Call

_MAX: tuple[Any, ...] = (F.max_pool1d, F.max_pool2d, F.max_pool3d)
_AVERAGE: tuple[Any, ...] = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)


class Attributes:
    """What all pools have in common."""

    def __init__(self, call: Call) -> None:
        """Read the attributes of a node."""
        self.kernel = tuple(call.ints("kernel_shape") or ())
        rank = len(self.kernel)
        if rank not in {1, 2, 3}:
            raise call.refuse("a pool over 1 to 3 axes is known, this is none")
        self.rank = rank
        self.strides = tuple(call.ints("strides") or [1] * rank)
        self.dilations = tuple(call.ints("dilations") or [1] * rank)
        self.auto_pad = call.choice("auto_pad", "NOTSET", *AUTO_PADS)
        pads = call.ints("pads") or [0] * (2 * rank)
        self.pads = [0] * (2 * rank) if self.auto_pad == "VALID" else pads
        self.ceil = bool(call.integer("ceil_mode", 0))
        halves = [k // 2 for k in self.kernel]
        before, after = self.pads[:rank], self.pads[rank:]
        fits = all(0 <= p <= h for p, h in zip(before, halves, strict=True))
        # torch pads both sides alike, by half a window at most
        self.plain = not self.auto_pad.startswith("SAME") and before == after and fits
        self.before = tuple(before)

    def over(self, sizes: Any) -> Windows:
        """Return where the windows lie on an image of these sizes."""
        return windows(
            tuple(sizes), self.kernel, strides=self.strides, dilations=self.dilations,
            pads=self.pads, auto_pad=self.auto_pad, ceil_mode=self.ceil,
        )  # fmt: skip


def padded(x: torch.Tensor, where: Windows, fill: float) -> torch.Tensor:
    """Return ``x`` as far as the windows reach, ``fill`` around the image."""
    ends = (
        length - lead - size
        for length, lead, size in zip(where.reach(), where.before, where.sizes, strict=True)
    )
    amounts = sides(where.before, tuple(ends))
    return F.pad(x, amounts, value=fill) if any(amounts) else x


@operator("MaxPool")
def max_pool(call: Call) -> Kernel | Callable[..., Any]:
    """Take the largest number of each window, and where it is if that is asked for."""
    of, column_major = Attributes(call), call.integer("storage_order", 0)
    function, more = _MAX[of.rank - 1], call.outputs() > 1

    def plain(x: torch.Tensor) -> Any:
        return function(x, of.kernel, of.strides, of.before, of.dilations, of.ceil)

    def general(x: torch.Tensor) -> Any:
        where = of.over(x.shape[2:])
        return function(padded(x, where, -torch.inf), of.kernel, of.strides, 0, of.dilations)

    def pool(x: torch.Tensor) -> Any:
        floats = x if x.is_floating_point() else x.float()  # 8-bit integers: exact
        return (plain if of.plain else general)(floats).to(x.dtype)

    def with_places(x: torch.Tensor) -> Any:
        where = of.over(x.shape[2:])
        floats = padded(x if x.is_floating_point() else x.float(), where, -torch.inf)
        y, at = function(floats, of.kernel, of.strides, 0, of.dilations, return_indices=True)
        return y.to(x.dtype), _flat(at, where, x.shape, column_major=bool(column_major))

    return Kernel(with_places, several=True) if more else pool


def _flat(at: torch.Tensor, where: Windows, shape: Any, *, column_major: bool) -> torch.Tensor:
    """Turn places within a padded plane into places within the whole tensor."""
    axes = []
    for size, lead in zip(where.reach()[::-1], where.before[::-1], strict=True):
        axes.append(at % size - lead)
        at = at // size
    pairs = list(zip(axes, where.sizes[::-1], strict=True))  # last axis first
    flat, step = torch.zeros_like(at), 1
    for place, size in pairs[::-1] if column_major else pairs:
        flat = flat + place * step
        step *= size
    planes = torch.arange(shape[0] * shape[1], device=at.device)
    return flat + planes.reshape(shape[0], shape[1], *[1] * len(where.sizes)) * step


@operator("AveragePool")
def average_pool(call: Call) -> Callable[..., Any]:
    """Take the mean of each window; what ``ceil_mode`` adds behind the padding never counts."""
    of, include = Attributes(call), bool(call.integer("count_include_pad", 0))
    function = _AVERAGE[of.rank - 1]
    if of.plain and set(of.dilations) == {1}:
        return lambda x: function(x, of.kernel, of.strides, of.before, of.ceil, include)

    def total(x: torch.Tensor, where: Windows) -> torch.Tensor:
        return sum((x[seen] for _, seen in where.taps()), torch.zeros((), dtype=x.dtype))

    def general(x: torch.Tensor) -> torch.Tensor:
        where = of.over(x.shape[2:])
        ones = torch.ones(1, 1, *where.sizes, dtype=x.dtype, device=x.device)
        if include:
            ones = F.pad(ones, sides(where.before, where.after), value=1.0)
            more = tuple(r - n for r, n in zip(where.reach(), ones.shape[2:], strict=True))
            counted = F.pad(ones, sides((0,) * of.rank, more))
        else:
            counted = padded(ones, where, 0.0)
        return total(padded(x, where, 0.0), where) / total(counted, where)

    return general


@operator("LpPool")
def lp_pool(call: Call) -> Callable[..., Any]:
    """Take the p-norm of each window."""
    of, p = Attributes(call), call.integer("p", 2)

    def run(x: torch.Tensor) -> torch.Tensor:
        where = of.over(x.shape[2:])
        image = padded(x.abs() ** p, where, 0.0)
        powers = sum((image[seen] for _, seen in where.taps()), torch.zeros((), dtype=x.dtype))
        return powers ** (1 / p)

    return run


@operator("GlobalAveragePool")
def global_average_pool(_: Call) -> Callable[..., Any]:
    """Take the mean over all spatial axes."""
    return lambda x: x.mean(tuple(range(2, x.dim())), keepdim=True)


@operator("GlobalMaxPool")
def global_max_pool(_: Call) -> Callable[..., Any]:
    """Take the largest number over all spatial axes."""
    return lambda x: x.amax(tuple(range(2, x.dim())), keepdim=True)


@operator("GlobalLpPool")
def global_lp_pool(call: Call) -> Callable[..., Any]:
    """Take the p-norm over all spatial axes."""
    p = call.integer("p", 2)
    return lambda x: torch.linalg.vector_norm(x, p, tuple(range(2, x.dim())), keepdim=True)


@operator("MaxUnpool")
def max_unpool(call: Call) -> Kernel | Callable[..., Any]:
    """Put numbers where a MaxPool found them, zeros elsewhere."""
    of = Attributes(call)

    def place(x: torch.Tensor, at: torch.Tensor, shape: list[int] | None = None) -> torch.Tensor:
        if shape is None:
            sizes = [
                (n - 1) * s - b - a + k
                for n, s, b, a, k in zip(
                    x.shape[2:], of.strides, of.pads[: of.rank], of.pads[of.rank :], of.kernel,
                    strict=True,
                )
            ]  # fmt: skip
            shape = [*x.shape[:2], *sizes]
        flat = torch.zeros(prod(shape), dtype=x.dtype, device=x.device)
        return flat.scatter(0, at.reshape(-1), x.reshape(-1)).reshape(shape)

    return call.bound(place, (0, 1), (2,))
