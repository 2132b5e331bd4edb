"""Sequences of tensors, as Python lists."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from normsurgery.pytorch.interpreter.table import Kernel, functions, operator

if TYPE_CHECKING:
    from collections.abc import Callable

    from normsurgery.pytorch.interpreter.call import Call


def _insert(sequence: list[Any], tensor: torch.Tensor, at: torch.Tensor | None = None) -> list[Any]:
    made = list(sequence)
    made.insert(
        len(made)
        if at is None
        else int(at) % (len(made) + 1)
        if int(at) >= 0
        else int(at) + len(made),
        tensor,
    )
    return made


def _erase(sequence: list[Any], at: torch.Tensor | None = None) -> list[Any]:
    made = list(sequence)
    del made[-1 if at is None else int(at)]
    return made


functions(
    {
        "SequenceConstruct": lambda *tensors: list(tensors),
        "SequenceAt": lambda sequence, at: sequence[int(at)],
        "SequenceLength": lambda sequence: torch.tensor(len(sequence)),
        "SequenceInsert": _insert,
        "SequenceErase": _erase,
    }
)


@operator("SequenceEmpty")
def sequence_empty(call: Call) -> Kernel:
    """Make a sequence of nothing."""
    call.integer("dtype", 1)
    return Kernel(lambda _: [], (), context=True)


@operator("ConcatFromSequence")
def concat_from_sequence(call: Call) -> Callable[..., Any]:
    """Join the tensors along an axis, a new one if asked for."""
    axis, new = call.integer("axis", 0), call.integer("new_axis", 0)
    return lambda sequence: torch.stack(sequence, axis) if new else torch.cat(sequence, axis)


@operator("SplitToSequence")
def split_to_sequence(call: Call) -> Kernel:
    """Cut along an axis into a sequence: in ones without their axis, unless ``keepdims``."""
    axis, keep = call.integer("axis", 0), bool(call.integer("keepdims", 1))
    given = call.has(1)

    def run(x: torch.Tensor, parts: Any) -> list[Any]:
        if not given:
            return [*(torch.split(x, 1, axis) if keep else x.unbind(axis))]
        return list(torch.split(x, parts, axis))

    return call.bound(run, (0,), (1,))
