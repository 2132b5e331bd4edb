"""Activation functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F  # noqa: N812  its usual name

from normsurgery.pytorch.interpreter.table import functions, operator

if TYPE_CHECKING:
    from collections.abc import Callable

    from normsurgery.pytorch.interpreter.call import Call


def _softplus(x: torch.Tensor) -> torch.Tensor:
    """log(1 + eˣ); torch takes x itself over a threshold, at 40 that is exact in float64."""
    return F.softplus(x, 1, 40)


functions(
    {
        "Relu": torch.relu, "Sigmoid": torch.sigmoid, "Tanh": torch.tanh, "Softplus": _softplus,
        "Softsign": F.softsign, "HardSwish": F.hardswish,
        "Mish": lambda x: x * torch.tanh(_softplus(x)),
    }
)  # fmt: skip


@operator("LeakyRelu")
def leaky_relu(call: Call) -> Callable[..., Any]:
    """x, or alpha·x below 0."""
    alpha = call.real("alpha", 0.01)
    return lambda x: F.leaky_relu(x, alpha)


@operator("PRelu")
def prelu(call: Call) -> Callable[..., Any]:
    """x, or slope·x below 0; the slope broadcasts to x, in most models per channel."""
    rank, slope = call.rank(0), call.dims(1)
    if rank is not None and slope is not None and len(slope) == rank - 1:
        per_channel = all(d == 1 for d in slope[1:])
        if per_channel and rank > 1:
            return lambda x, slope: F.prelu(x, slope.reshape(-1))
    return lambda x, slope: torch.where(x < 0, slope * x, x)


@operator("Elu")
def elu(call: Call) -> Callable[..., Any]:
    """x, or alpha·(eˣ − 1) below 0."""
    alpha = call.real("alpha", 1.0)
    return lambda x: F.elu(x, alpha)


@operator("Celu")
def celu(call: Call) -> Callable[..., Any]:
    """max(0, x) + min(0, alpha·(e^(x/alpha) − 1))."""
    alpha = call.real("alpha", 1.0)
    return lambda x: F.celu(x, alpha)


@operator("Selu")
def selu(call: Call) -> Callable[..., Any]:
    """gamma·x, or gamma·alpha·(eˣ − 1) below 0."""
    alpha = call.real("alpha", 1.67326319217681884765625)
    gamma = call.real("gamma", 1.05070102214813232421875)
    return lambda x: gamma * F.elu(x, alpha)


@operator("ThresholdedRelu")
def thresholded_relu(call: Call) -> Callable[..., Any]:
    """x over alpha, else 0."""
    alpha = call.real("alpha", 1.0)
    return lambda x: torch.where(x > alpha, x, torch.zeros((), dtype=x.dtype, device=x.device))


@operator("HardSigmoid")
def hard_sigmoid(call: Call) -> Callable[..., Any]:
    """max(0, min(1, alpha·x + beta))."""
    alpha, beta = call.real("alpha", 0.2), call.real("beta", 0.5)
    return lambda x: torch.clamp(x * alpha + beta, 0, 1)


@operator("Gelu")
def gelu(call: Call) -> Callable[..., Any]:
    """x·Φ(x), or its approximation by tanh."""
    approximate = call.choice("approximate", "none", "none", "tanh")
    return lambda x: F.gelu(x, approximate=approximate)


@operator("Swish")
def swish(call: Call) -> Callable[..., Any]:
    """x·σ(alpha·x)."""
    alpha = call.real("alpha", 1.0)
    return lambda x: x * torch.sigmoid(alpha * x)


@operator("Shrink")
def shrink(call: Call) -> Callable[..., Any]:
    """x + bias below −lambd, x − bias above lambd, else 0."""
    bias, lambd = call.real("bias", 0.0), call.real("lambd", 0.5)

    def run(x: torch.Tensor) -> torch.Tensor:
        zero = torch.zeros((), dtype=x.dtype, device=x.device)
        return torch.where(x < -lambd, x + bias, torch.where(x > lambd, x - bias, zero))

    return run


_OVER_AXIS: dict[str, Callable[[torch.Tensor, int], torch.Tensor]] = {
    "Softmax": torch.softmax,
    "LogSoftmax": torch.log_softmax,
    "Hardmax": lambda x, axis: torch.zeros_like(x).scatter(axis, x.argmax(axis, keepdim=True), 1),
}


@operator(*_OVER_AXIS)
def softmax(call: Call) -> Callable[..., Any]:
    """Over one axis; before opset 13 over all axes from one on, flattened."""
    function = _OVER_AXIS[call.node.op_type]
    axis = call.integer("axis", -1 if call.opset >= 13 else 1)
    if call.opset >= 13:
        return lambda x: function(x, axis)

    def flattened(x: torch.Tensor) -> torch.Tensor:
        first = axis % x.dim() if x.dim() else 0
        rows = 1
        for size in x.shape[:first]:
            rows *= size
        return function(x.reshape(rows, -1), 1).reshape(x.shape)

    rank = call.rank(0)
    if rank and axis % rank == rank - 1:
        return lambda x: function(x, -1)
    return flattened
