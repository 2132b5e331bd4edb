"""Reductions over axes, and what is found by comparing along one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from normsurgery.pytorch.interpreter.table import Kernel, operator

if TYPE_CHECKING:
    from collections.abc import Callable

    from normsurgery.pytorch.interpreter.call import Call

Axes = tuple[int, ...]


def _product(x: torch.Tensor, axes: Axes, keepdim: bool) -> torch.Tensor:
    for axis in sorted((a % x.dim() for a in axes), reverse=True):
        x = x.prod(axis, keepdim=keepdim)
    return x


def _largest(x: torch.Tensor, axes: Axes, keepdim: bool) -> torch.Tensor:
    return x.amax(axes, keepdim)


def _mean(x: torch.Tensor, axes: Axes, keepdim: bool) -> torch.Tensor:
    if x.is_floating_point():
        return x.mean(axes, keepdim)
    return torch.div(x.sum(axes, keepdim), x[(0,) * x.dim()].numel() or 1).to(x.dtype)


_REDUCTIONS: dict[str, Callable[[torch.Tensor, Axes, bool], torch.Tensor]] = {
    "ReduceSum": lambda x, axes, keep: x.sum(axes, keep, dtype=x.dtype),
    "ReduceMean": lambda x, axes, keep: x.mean(axes, keep),
    "ReduceMax": _largest,
    "ReduceMin": lambda x, axes, keep: x.amin(axes, keep),
    "ReduceProd": _product,
    "ReduceL1": lambda x, axes, keep: x.abs().sum(axes, keep),
    "ReduceL2": lambda x, axes, keep: torch.linalg.vector_norm(x, 2, axes, keep),
    "ReduceSumSquare": lambda x, axes, keep: x.square().sum(axes, keep),
    "ReduceLogSum": lambda x, axes, keep: x.sum(axes, keep).log(),
    "ReduceLogSumExp": torch.logsumexp,
}


@operator(*_REDUCTIONS)
def reduction(call: Call) -> Kernel:
    """Reduce over axes, an attribute in older opsets and an input in newer; over all without."""
    function = _REDUCTIONS[call.node.op_type]
    keep, noop = bool(call.integer("keepdims", 1)), bool(call.integer("noop_with_empty_axes", 0))

    def run(x: torch.Tensor, axes: list[int] | None) -> torch.Tensor:
        if not axes:
            if noop:
                return x
            axes = list(range(x.dim()))
        return (
            function(x, tuple(axes), keep)
            if axes
            else function(x.reshape(1), (0,), False).reshape(())
        )

    return call.moved(run, "axes", 1)


@operator("ArgMax", "ArgMin")
def arg_max(call: Call) -> Callable[..., Any]:
    """Find the index of the first largest or smallest number along an axis, or of the last."""
    axis, keep = call.integer("axis", 0), bool(call.integer("keepdims", 1))
    last, smallest = bool(call.integer("select_last_index", 0)), call.node.op_type == "ArgMin"

    def run(x: torch.Tensor) -> torch.Tensor:
        seen = x.flip(axis) if last else x
        best = seen.amin(axis, keepdim=True) if smallest else seen.amax(axis, keepdim=True)
        # torch's argmax does not say which of several it finds; this one finds the first
        at = (seen == best).to(torch.uint8).argmax(axis, keepdim=keep)
        return x.shape[axis] - 1 - at if last else at

    return run


@operator("CumSum")
def cum_sum(call: Call) -> Kernel:
    """Sum what comes before along an axis, from the other end or without the number itself."""
    exclusive, reverse = bool(call.integer("exclusive", 0)), bool(call.integer("reverse", 0))

    def run(x: torch.Tensor, axis: Any) -> torch.Tensor:
        along = axis[0] if isinstance(axis, list) else axis
        seen = x.flip(along) if reverse else x
        total = seen.cumsum(along, dtype=x.dtype)
        if exclusive:
            total = total - seen
        return total.flip(along) if reverse else total

    return call.bound(run, (0,), (1,))


@operator("TopK")
def top_k(call: Call) -> Kernel:
    """Take the largest or smallest numbers along an axis, and where they are; ties: first first."""
    axis, largest = call.integer("axis", -1), bool(call.integer("largest", 1))
    call.integer("sorted", 1)
    old = call.attribute("k")

    def run(x: torch.Tensor, k: Any) -> Any:
        count = k[0] if isinstance(k, list) else k
        values, at = torch.sort(x, dim=axis, descending=largest, stable=True)
        return values.narrow(axis, 0, count), at.narrow(axis, 0, count)

    if old is not None:
        return Kernel(lambda x: run(x, old.i), (0,), several=True)
    return call.bound(run, (0,), (1,), several=True)
