"""An example input for a module that came without one: what its first layer takes."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm
from torch.nn.modules.conv import _ConvNd as Conv

from normsurgery.errors import UsageError
from normsurgery.validation.shapes import LADDER

if TYPE_CHECKING:
    from collections.abc import Iterator


def example(module: nn.Module) -> torch.Tensor:
    """Return a float input (2, C, …) that ``module``, in evaluation mode on the CPU, runs on.

    Tried are the channels of its first convolution, linear layer or BatchNorm, with the sizes that
    ``normsurgery.validation`` tries. Raises ``UsageError``, which asks for ``args``, where none
    does or where ``forward`` has more than one argument without a default.
    """
    parameters = inspect.signature(module.forward).parameters.values()
    plain = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    due = [p for p in parameters if p.default is p.empty and p.kind in plain]
    if len(due) == 1:
        dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), None)
        generator = torch.Generator().manual_seed(0)
        for shape in _shapes(module):
            x = torch.randn(shape, generator=generator).to(dtype)
            if _runs(module, x):
                return x
    raise UsageError(f"no input for {type(module).__name__} could be guessed: pass args=")


def _shapes(module: nn.Module) -> Iterator[tuple[int, ...]]:
    for inner in module.modules():
        if isinstance(inner, Conv):
            rank = inner.weight.dim() - 2
            yield from ((2, inner.in_channels, *[size] * rank) for size in LADDER)
        elif isinstance(inner, nn.Linear):
            yield (2, inner.in_features)
        elif isinstance(inner, BatchNorm):
            yield (2, inner.num_features)
            for rank in (2, 1, 3):
                yield from ((2, inner.num_features, *[size] * rank) for size in LADDER)
        else:
            continue
        if isinstance(inner, Conv):  # whatever comes first takes images then, flattened or not
            return


def _runs(module: nn.Module, x: torch.Tensor) -> bool:
    try:
        with torch.no_grad():
            module(x)
    except Exception:  # noqa: BLE001  of somebody's code: another shape may suit it
        return False
    return True
