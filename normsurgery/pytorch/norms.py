"""Norms that torch.nn lacks: BatchNorm that stays as it is, and a plain map per channel."""

from __future__ import annotations

import torch
from torch import nn

from normsurgery.errors import UsageError


class FrozenBatchNorm(nn.Module):
    """Inference-mode BatchNorm in every mode, with nothing to train: four buffers of shape (C,).

    ``y = weight·(x − running_mean)/√(running_var + eps) + bias`` on axis 1 of x (N, C, …).
    rank: of x, batch and channel included, where only one is right; else 0.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    running_mean: torch.Tensor
    running_var: torch.Tensor

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor,
        running_mean: torch.Tensor,
        running_var: torch.Tensor,
        *,
        eps: float = 1e-5,
        rank: int = 0,
    ) -> None:
        super().__init__()
        self.register_buffer("weight", weight.detach().reshape(-1))
        self.register_buffer("bias", bias.detach().reshape(-1))
        self.register_buffer("running_mean", running_mean.detach().reshape(-1))
        self.register_buffer("running_var", running_var.detach().reshape(-1))
        self.eps, self.rank = eps, rank

    @classmethod
    def of(cls, norm: nn.Module, eps: float, rank: int = 0) -> FrozenBatchNorm:
        """Return what ``norm``, which holds four such tensors, computes in evaluation mode."""
        names = ("weight", "bias", "running_mean", "running_var")
        weight, bias, mean, var = (getattr(norm, name) for name in names)
        return cls(weight, bias, mean, var, eps=eps, rank=rank)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalize axis 1. Raises ``UsageError`` where ``rank`` says that x has no batch axis."""
        if self.rank and x.dim() != self.rank:
            raise UsageError(f"a norm of inputs of rank {self.rank} got one of rank {x.dim()}")
        return nn.functional.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
        )

    def extra_repr(self) -> str:
        """What ``print`` shows."""
        return f"{self.weight.numel()}, eps={self.eps}"


class ChannelAffine(nn.Module):
    """``y = weight·x + bias`` on axis 1 of x (N, C, …): a frozen BatchNorm whose map may train.

    weight, bias: parameters of shape (C,).
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().reshape(-1).clone())
        self.bias = nn.Parameter(bias.detach().reshape(-1).clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map axis 1."""
        shape = (-1, *[1] * (x.dim() - 2))
        return x * self.weight.reshape(shape) + self.bias.reshape(shape)

    def extra_repr(self) -> str:
        """What ``print`` shows."""
        return str(self.weight.numel())
