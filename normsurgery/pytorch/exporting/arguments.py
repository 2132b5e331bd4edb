"""What goes into ``forward`` and comes out of it, and the graph's names for it."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import torch
from torch import nn

from normsurgery.errors import ModuleError, NormSurgeryError, UsageError
from normsurgery.pytorch import running
from normsurgery.pytorch.copying import first_line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from normsurgery.pytorch.exporting.tracing import Dynamic


def positional(
    module: nn.Module,
    args: torch.Tensor | Sequence[torch.Tensor] | Mapping[str, torch.Tensor],
    wanted: Sequence[str] | None,
) -> tuple[list[str], list[torch.Tensor]]:
    """Return the graph's input names and the positional arguments of ``forward``."""
    parameters = [
        p for p in inspect.signature(module.forward).parameters.values()
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]  # fmt: skip
    known = [p.name for p in parameters]
    if isinstance(args, torch.Tensor):
        tensors = [args]
    elif hasattr(args, "keys"):
        given = dict(args)
        order = [name for name in known if name in given]
        if not order:
            order = known = list(given)
        elif len(order) < len(given):
            strange = next(name for name in given if name not in known)
            raise UsageError(
                f"forward has no parameter {strange!r}; it has {', '.join(known) or 'none'}"
            )
        if order != known[: len(order)]:
            first = next(name for name in known if name not in given)
            raise UsageError(f"forward takes {first!r} before {order[-1]!r}: give that as well")
        tensors, wanted = [given[name] for name in order], wanted or order
    else:
        tensors = list(args)
    strange = next((type(t).__name__ for t in tensors if not isinstance(t, torch.Tensor)), None)
    if strange is not None or not tensors:
        raise UsageError(f"args are tensors, at least one; got {strange or 'none'}")
    names = list(wanted) if wanted is not None else known[: len(tensors)]
    names += [f"input_{i}" for i in range(len(names), len(tensors))] if wanted is None else []
    if len(names) != len(tensors) or len(set(names)) < len(names):
        raise UsageError(f"{len(tensors)} inputs need as many different names: {', '.join(names)}")
    return names, [tensor.detach().cpu() for tensor in tensors]


def free_axes(
    dynamic: str | Mapping[str, Mapping[int, str]],
    names: Sequence[str],
    tensors: Sequence[torch.Tensor],
) -> Dynamic:
    """Return the free axes of each input by number; raise ``UsageError`` for one it lacks."""
    if isinstance(dynamic, str):
        with_axes = [n for n, t in zip(names, tensors, strict=True) if t.dim()]
        return {name: {0: dynamic} for name in with_axes} if dynamic else {}
    ranks = {name: tensor.dim() for name, tensor in zip(names, tensors, strict=True)}
    for name, axes in dynamic.items():
        if name not in ranks:
            raise UsageError(f"dynamic: there is no input {name!r}; there is {', '.join(names)}")
        bad = next((axis for axis in axes if not 0 <= axis < ranks[name]), None)
        if bad is not None:
            raise UsageError(f"dynamic: input {name!r} has no axis {bad}, it has {ranks[name]}")
    return {name: dict(axes) for name, axes in dynamic.items() if axes}


def example(
    tensors: Sequence[torch.Tensor], names: Sequence[str], free: Dynamic
) -> tuple[torch.Tensor, ...]:
    """Repeat what has one element along a free axis: torch.export takes a 1 for a constant."""
    made = []
    for name, tensor in zip(names, tensors, strict=True):
        for axis in free.get(name, {}):
            if tensor.shape[axis] == 1:
                tensor = torch.cat([tensor, tensor], axis)  # noqa: PLW2901
        made.append(tensor)
    return tuple(made)


def outputs(
    module: nn.Module, args: Sequence[torch.Tensor], wanted: Sequence[str] | None
) -> list[str]:
    """Run the module once to see what it gives; raise ``ModuleError`` where it does not run."""
    try:
        with torch.no_grad():
            value = module(*(a.clone() for a in args))  # it may write into them
    except NormSurgeryError:
        raise
    except Exception as error:  # whatever the module raises
        raise ModuleError(f"the module does not run on its inputs: {first_line(error)}") from error
    count = len(list(running.flat(value)))
    if not count:
        raise ModuleError(f"forward returns a {type(value).__name__} without tensors")
    if wanted is not None:
        if len(wanted) != count or len(set(wanted)) < count:
            raise UsageError(f"{count} outputs need as many different output_names")
        return list(wanted)
    if isinstance(value, dict) and all(isinstance(v, torch.Tensor) for v in value.values()):
        return [str(key) for key in value]
    return ["output"] if count == 1 else [f"output_{i}" for i in range(count)]
