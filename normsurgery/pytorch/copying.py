"""A copy of the caller's module that may be changed at will: in evaluation mode, on the CPU."""

from __future__ import annotations

import contextlib
import copy
import itertools
import logging
import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from normsurgery.errors import ModuleError

if TYPE_CHECKING:
    from collections.abc import Iterator


def eval_copy(module: nn.Module) -> nn.Module:
    """Return a deep copy of ``module`` on the CPU and in evaluation mode; the caller's stays.

    Raises ``ModuleError`` for a module that cannot be copied, or that will not leave training
    mode.
    """
    made = plain_copy(module).to("cpu").eval()
    for name, inner in made.named_modules():
        if inner.training:
            raise ModuleError(
                f"{_name(inner)} `{name or 'the module itself'}` stays in training mode after "
                "eval(); what it computes would depend on the batch"
            )
    return made.requires_grad_(requires_grad=False)


def plain_copy(module: nn.Module) -> nn.Module:
    """Return a deep copy of ``module`` without gradients.

    Hooks go along, since they may be part of what the module computes (the first styles of
    weight_norm and spectral_norm are hooks). A hook's own side effects are those of calling the
    module. Raises ``ModuleError`` for a module that cannot be copied.
    """
    if any(isinstance(inner, torch.jit.ScriptModule) for inner in module.modules()):
        raise ModuleError(
            f"{_name(module)} is or holds TorchScript, which cannot be taken apart; "
            "pass the module that it was made from"
        )
    for name, value in itertools.chain(module.named_parameters(), module.named_buffers()):
        if is_lazy(value):
            raise ModuleError(f"tensor {name!r} has no shape yet; call the module once before")
        if value.is_meta:
            raise ModuleError(f"tensor {name!r} is on the meta device, without numbers; load them")
    # Tensors that a computation made (weight_norm's weight) refuse to be copied: hand them over.
    memo: dict[int, Any] = {}
    for value in _tensors(module):
        if not value.is_leaf:
            memo[id(value)] = value.detach().clone()
        elif value.grad is not None:
            memo[id(value.grad)] = None
    try:
        return copy.deepcopy(module, memo)
    except Exception as error:  # whatever the module's own parts raise
        raise ModuleError(f"{_name(module)} cannot be copied: {first_line(error)}") from error


def in_double(module: nn.Module) -> nn.Module:
    """Return a copy of an ``eval_copy`` in double precision: the same weights, exact arithmetic."""
    return copy.deepcopy(module).double()


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Give random generators, warnings and torch's log level back as they were."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=gpus), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            logger.setLevel(level)


def _tensors(module: nn.Module) -> Iterator[torch.Tensor]:
    for inner in module.modules():
        attributes = (value for value in vars(inner).values() if isinstance(value, torch.Tensor))
        yield from itertools.chain(
            attributes, inner.parameters(recurse=False), inner.buffers(recurse=False)
        )


def _name(module: nn.Module) -> str:
    return type(module).__name__


def first_line(error: BaseException) -> str:
    """Return the first line of what ``error`` says, or its type."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
