"""Optimizers by name, and the learning rate of each step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from normsurgery.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import nn
    from torch.optim import Optimizer

    Maker = Callable[[Iterable[nn.Parameter]], Optimizer]


def make(
    optimizer: str | Maker,
    parameters: list[nn.Parameter],
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
    scales: Iterable[nn.Parameter] = (),
) -> Optimizer:
    """Return ``sgd`` (with momentum) or ``adamw`` for ``parameters``, or what the caller makes.

    Weight decay acts on tensors of two or more axes: scales and biases are left alone, since
    pulling a norm's scale to 0 is no regularisation (Jia et al., "Highly scalable deep learning
    training system", 2018). scales: those that have more axes all the same, as a graph writes them
    for broadcasting. Raises ``UsageError``.
    """
    if not parameters:
        raise UsageError("nothing to train: every parameter is frozen; --freeze fewer of them")
    if callable(optimizer):
        return optimizer(parameters)
    if not lr > 0 or not math.isfinite(lr):
        raise UsageError(f"a learning rate of {lr} trains nothing; --lr is above 0")
    if not (weight_decay >= 0 and math.isfinite(weight_decay)):
        raise UsageError(f"weight decay {weight_decay} is below 0 or not a number")
    spared = {id(p) for p in (*scales, *(p for p in parameters if p.dim() < 2))}
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if id(p) not in spared], "weight_decay": weight_decay},
        {"params": [p for p in parameters if id(p) in spared], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if optimizer == "sgd":
        if not 0 <= momentum < 1:
            raise UsageError(f"momentum {momentum} is not in 0…1")
        return torch.optim.SGD(groups, lr=lr, momentum=momentum)
    if optimizer == "adamw":
        on_cpu = all(p.device.type == "cpu" for p in parameters)
        return torch.optim.AdamW(groups, lr=lr, fused=on_cpu)  # a fifth of the time there
    raise UsageError(f"there is no optimizer {optimizer!r}; choose sgd or adamw")


def schedule(name: str, total: int | None, warmup: int) -> Callable[[int], float]:
    """Return the factor of the learning rate in each step, counted from 0: it needs no state.

    constant: 1. cosine: from 1 down to 0 at ``total`` along half a cosine (Loshchilov and Hutter,
    2016). Both rise linearly over the first ``warmup`` steps. Raises ``UsageError``.
    """
    if name not in {"constant", "cosine"}:
        raise UsageError(f"there is no schedule {name!r}; choose constant or cosine")
    if name == "cosine" and total is None:
        raise UsageError("a cosine needs the number of steps, but the batches have no length")
    if warmup < 0:
        raise UsageError(f"a warm-up of {warmup} steps is none; --warmup is 0 or more")

    def factor(step: int) -> float:
        rise = min(1.0, (step + 1) / (warmup + 1))
        if name == "constant" or total is None or step < warmup:
            return rise
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))

    return factor
