"""Losses by name, with the checks that turn a wrong label into a clear error, and accuracy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from normsurgery.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


@dataclass(frozen=True)
class Loss:
    """A loss to minimise, and how to count right answers.

    function: (outputs, targets) → a scalar, the mean over the batch. outputs is what the module
    returns. right: (outputs, targets) → numbers of right answers and of answers; None where there
    is no such thing.
    """

    name: str
    function: Callable[[Any, Any], Tensor]
    right: Callable[[Any, Any], tuple[int, int]] | None = None


def named(loss: str | Callable[[Any, Any], Tensor], *, probabilities: bool = False) -> Loss:
    """Return the loss ``cross-entropy`` or ``mse``, or wrap the caller's own function.

    probabilities: the output went through a Softmax already. Its logarithm is what cross-entropy
    takes then: log_softmax(log p) = log p − log Σp = log p. Without this, a second softmax would
    flatten every gradient without a word.

    Raises ``UsageError`` for another name.
    """
    if callable(loss):
        return Loss(getattr(loss, "__name__", type(loss).__name__), loss)
    if loss == "cross-entropy":
        return Loss(loss, _cross_entropy_of_p if probabilities else _cross_entropy, _right)
    if loss == "mse":
        return Loss(loss, _mse)
    raise UsageError(f"there is no loss {loss!r}; choose cross-entropy or mse, or pass a function")


def of_one(loss: Loss, index: int) -> Loss:
    """Return the same loss of one of several outputs."""
    function, right = loss.function, loss.right
    return Loss(
        loss.name,
        lambda outputs, targets: function(outputs[index], targets),
        None if right is None else lambda outputs, targets: right(outputs[index], targets),
    )


def _cross_entropy(outputs: Any, targets: Any) -> Tensor:
    """Mean of −log softmax(outputs)[label]. outputs (N, C, …), targets (N, …) int64 in 0…C−1."""
    scores, labels = _scores(outputs, targets)
    return functional.cross_entropy(_wide(scores), labels)


def _cross_entropy_of_p(outputs: Any, targets: Any) -> Tensor:
    scores, labels = _scores(outputs, targets)
    tiny = torch.finfo(torch.float32).tiny
    return functional.cross_entropy(_wide(scores).clamp_min(tiny).log(), labels)


def _mse(outputs: Any, targets: Any) -> Tensor:
    """Mean of (outputs − targets)²; both of one shape, but for axes of one element."""
    output = _single(outputs)
    if not isinstance(targets, torch.Tensor):
        raise UsageError(f"mse wants targets as an array, not {type(targets).__name__}")
    if targets.numel() == output.numel() and len(targets) == len(output):
        targets = (
            targets.reshape(output.shape) if _squeezed(targets) == _squeezed(output) else targets
        )
    if targets.shape != output.shape:  # broadcasting would compare every pair
        shapes = f"{tuple(output.shape)} and the targets {tuple(targets.shape)}"
        raise UsageError(f"mse wants targets of the output's shape, but the output is {shapes}")
    return functional.mse_loss(_wide(output), targets.to(_wide(output).dtype))


def _right(outputs: Any, targets: Any) -> tuple[int, int]:
    scores, labels = _scores(outputs, targets)
    return int((scores.argmax(1) == labels).sum()), labels.numel()


def _scores(outputs: Any, targets: Any) -> tuple[Tensor, Tensor]:
    """Return scores (N, C, …) and labels (N, …), or say which of them does not fit."""
    scores = _single(outputs)
    if not isinstance(targets, torch.Tensor) or targets.is_floating_point():
        kind = targets.dtype if isinstance(targets, torch.Tensor) else type(targets).__name__
        raise UsageError(f"cross-entropy wants whole numbers as labels, not {kind}")
    if targets.dim() == 1 and scores.dim() > 2 and scores[0, 0].numel() == 1:
        scores = scores.flatten(1)  # (N, C, 1, 1) of a network that ends in a pooling
    if targets.dim() == 2 and targets.shape[1] == 1 and scores.dim() == 2:
        targets = targets[:, 0]
    if scores.dim() < 2 or scores.shape[:1] + scores.shape[2:] != targets.shape:
        shapes = f"the output is {tuple(scores.shape)} and the labels {tuple(targets.shape)}"
        raise UsageError(f"cross-entropy wants scores (N, C, …) and labels (N, …), but {shapes}")
    low, high = (int(v) for v in targets.aminmax()) if targets.numel() else (0, 0)
    if low < 0 or high >= scores.shape[1]:
        bad = low if low < 0 else high
        classes = f"the model's output has classes 0 to {scores.shape[1] - 1}"
        raise UsageError(f"label {bad} is in the data, but {classes}")
    return scores, targets.long()


def _single(outputs: Any) -> Tensor:
    if isinstance(outputs, (tuple, list)) and len(outputs) == 1:
        outputs = outputs[0]
    if isinstance(outputs, torch.Tensor):
        return outputs
    count = len(outputs) if hasattr(outputs, "__len__") else "no"
    raise UsageError(f"the model has {count} outputs; say which one the loss is of")


def _wide(tensor: Tensor) -> Tensor:
    """Return 16-bit numbers as float32, others as they are."""
    return tensor.float() if tensor.dtype in {torch.float16, torch.bfloat16} else tensor


def _squeezed(tensor: Tensor) -> tuple[int, ...]:
    return tuple(n for n in tensor.shape[1:] if n != 1)
