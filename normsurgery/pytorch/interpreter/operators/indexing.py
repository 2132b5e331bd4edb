"""Taking elements by index, and putting them there."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import torch

from normsurgery.pytorch.interpreter.table import Kernel, operator

if TYPE_CHECKING:
    from collections.abc import Callable

    from normsurgery.pytorch.interpreter.call import Call


def _positive(indices: torch.Tensor, size: int) -> torch.Tensor:
    """Count negative indices from the end."""
    indices = indices.long()
    return torch.where(indices < 0, indices + size, indices)


@operator("Gather")
def gather(call: Call) -> Kernel | Callable[..., Any]:
    """Take slices along an axis; the axes of the indices take its place."""
    axis, known = call.integer("axis", 0), call.const(1)
    if known is not None and known.dim() == 0:
        one = int(known.item())
        return Kernel(lambda x: x.select(axis, one), (0,))

    def run(x: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        first = axis % x.dim()
        taken = x.index_select(first, _positive(indices.reshape(-1), x.shape[first]))
        return taken.reshape(*x.shape[:first], *indices.shape, *x.shape[first + 1 :])

    return run


@operator("GatherElements")
def gather_elements(call: Call) -> Callable[..., Any]:
    """Take one element for each index, the other coordinates being its own."""
    axis = call.integer("axis", 0)
    return lambda x, indices: x.gather(axis, _positive(indices, x.shape[axis]))


@operator("GatherND")
def gather_nd(call: Call) -> Callable[..., Any]:
    """Take slices by tuples of indices, which are the last axis."""
    batch = call.integer("batch_dims", 0)

    def run(x: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        width = indices.shape[-1]
        lead = prod(x.shape[:batch])
        flat = x.reshape(lead, *x.shape[batch:])
        tuples = indices.reshape(lead, -1, width)
        rows = torch.arange(lead, device=x.device).reshape(-1, 1)
        at = [_positive(tuples[..., i], flat.shape[1 + i]) for i in range(width)]
        taken = flat[(rows, *at)]
        return taken.reshape(*indices.shape[:-1], *x.shape[batch + width :])

    return run


@operator("ScatterND")
def scatter_nd(call: Call) -> Callable[..., Any]:
    """Put slices where tuples of indices say, in place of what is there or combined with it."""
    how = call.choice("reduction", "none", "none", "add", "mul", "max", "min")

    def run(x: torch.Tensor, indices: torch.Tensor, updates: torch.Tensor) -> torch.Tensor:
        width = indices.shape[-1]
        rest = prod(x.shape[width:])
        flat = torch.zeros(indices.shape[:-1], dtype=torch.int64, device=x.device)
        for i in range(width):
            flat = flat * x.shape[i] + _positive(indices[..., i], x.shape[i])
        rows = x.reshape(-1, rest)
        at = flat.reshape(-1, 1).expand(-1, rest)
        return _combine(rows, 0, at, updates.reshape(-1, rest), how).reshape(x.shape)

    return run


@operator("ScatterElements", "Scatter")
def scatter_elements(call: Call) -> Callable[..., Any]:
    """Put one element for each index, the other coordinates being its own."""
    axis = call.integer("axis", 0)
    how = call.choice("reduction", "none", "none", "add", "mul", "max", "min")
    return lambda x, indices, updates: _combine(
        x, axis, _positive(indices, x.shape[axis]), updates, how
    )


def _combine(
    x: torch.Tensor, axis: int, at: torch.Tensor, updates: torch.Tensor, how: str
) -> torch.Tensor:
    if how == "none":
        return x.scatter(axis, at, updates)
    if how == "add":
        return x.scatter_add(axis, at, updates)
    reduce = {"mul": "prod", "max": "amax", "min": "amin"}[how]
    return x.scatter_reduce(axis, at, updates, reduce)


@operator("NonZero")
def non_zero(_: Call) -> Callable[..., Any]:
    """Find the coordinates of what is not 0, one column each."""
    return lambda x: torch.nonzero(x).t()


@operator("Compress")
def compress(call: Call) -> Callable[..., Any]:
    """Take the slices that a condition marks, along an axis or of the flattened tensor."""
    found = call.attribute("axis")
    axis = found.i if found else None

    def run(x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        seen, along = (x.reshape(-1), 0) if axis is None else (x, axis)
        return seen.index_select(along, torch.nonzero(condition).reshape(-1))

    return run


@operator("Unique")
def unique(call: Call) -> Kernel:
    """Find the different numbers, in order, and where they come first, and how often."""
    found, in_order = call.attribute("axis"), bool(call.integer("sorted", 1))
    axis = found.i if found else None

    def run(x: torch.Tensor) -> Any:
        seen, along = (x.reshape(-1), 0) if axis is None else (x, axis)
        values, inverse, counts = torch.unique(
            seen, return_inverse=True, return_counts=True, dim=along
        )
        places = torch.arange(inverse.numel(), device=x.device)
        first = torch.full_like(counts, inverse.numel())
        first = first.scatter_reduce(0, inverse.reshape(-1), places, "amin")
        if not in_order:  # as they come
            order = torch.argsort(first)
            values, first, counts = (
                values.index_select(along, order), first[order], counts[order],
            )  # fmt: skip
            inverse = torch.argsort(order)[inverse]
        return values, first, inverse.reshape(-1), counts

    return Kernel(run, several=True)
