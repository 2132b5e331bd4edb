"""Tiny networks around one normalization each, with statistics that are not the fresh ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrizations

CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


class Net(nn.Module):
    """conv (no bias) → norm → relu → conv (bias) on (N, 3, 6, …)."""

    def __init__(self, norm: nn.Module, rank: int = 2, conv: nn.Module | None = None) -> None:
        super().__init__()
        self.conv = conv or CONVS[rank](3, 8, 3, padding=1, bias=False)
        self.norm = norm
        self.last = CONVS[rank](8, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.norm(self.conv(x))))


class HandFrozen(nn.Module):
    """torchvision's FrozenBatchNorm2d, whose epsilon is an attribute, or DETR's, in the code."""

    def __init__(self, channels: int, eps: float | None = None) -> None:
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.ones(channels))
        if eps is not None:
            self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shape = (1, -1, 1, 1)
        scale = self.weight * (self.running_var + getattr(self, "eps", 1e-5)).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale.reshape(shape) + shift.reshape(shape)


class AlmostFrozen(HandFrozen):
    """Holds what a frozen BatchNorm holds, but forgets the square root."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = self.weight / (self.running_var + 1e-5)
        shift = self.bias - self.running_mean * scale
        return x * scale.reshape(1, -1, 1, 1) + shift.reshape(1, -1, 1, 1)


class AdaIN(nn.Module):
    """(1 + γ)·instance_norm(x) + β, γ and β computed from x's channel means (1703.06868)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm, self.style = nn.InstanceNorm2d(channels), nn.Linear(channels, 2 * channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale, shift = self.style(x.mean((2, 3)))[:, :, None, None].chunk(2, 1)
        return self.norm(x) * (1 + scale) + shift


class BatchNormAct2d(nn.BatchNorm2d):
    """timm's: a BatchNorm2d that calls F.batch_norm itself and activates."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
        )
        return nn.functional.leaky_relu(x, 0.1)


class BatchStatistics(nn.Module):
    """A functional BatchNorm that nobody can find among the modules."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.batch_norm(x, None, None, training=True)


class Tied(nn.Module):
    """Two convolutions of one weight, and two linear layers that only look alike."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.second = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.second.weight = self.first.weight
        self.norm, self.other = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 4, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.other(self.second(self.norm(self.first(x))))
        return self.head(x.movedim(1, -1))


def conv(bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(3, 8, 3, padding=1, bias=bias)


def stir(module: nn.Module) -> nn.Module:
    """Give every norm statistics, scales and biases of its own; return the module in eval mode."""
    generator = torch.Generator().manual_seed(3)
    for inner in module.modules():
        for name in ("running_mean", "running_var", "weight", "bias"):
            value = getattr(inner, name, None)
            if isinstance(value, torch.Tensor) and value.dim() == 1:
                drawn = torch.rand(value.shape, generator=generator) + 0.3
                value.data.copy_(drawn if name != "running_mean" else drawn - 0.8)
    return module.eval()


BN, IN, GN, LN = (
    {"BatchNormalization": 1},
    {"InstanceNormalization": 1},
    {"GroupNormalization": 1},
    {"LayerNormalization": 1},
)
# name: what makes the network, spatial dimensions, and the norms that its export must hold.
KINDS: dict[str, tuple[Callable[[], nn.Module], int, dict[str, Any]]] = {
    "batch1d": (lambda: Net(nn.BatchNorm1d(8), 1), 1, BN),
    "batch2d": (lambda: Net(nn.BatchNorm2d(8)), 2, BN),
    "batch3d": (lambda: Net(nn.BatchNorm3d(8), 3), 3, BN),
    "batch without affine": (lambda: Net(nn.BatchNorm2d(8, affine=False)), 2, BN),
    "sync": (lambda: Net(nn.SyncBatchNorm(8)), 2, BN),
    "timm": (lambda: Net(BatchNormAct2d(8)), 2, BN),
    "group": (lambda: Net(nn.GroupNorm(4, 8)), 2, GN),
    "group without affine": (lambda: Net(nn.GroupNorm(4, 8, affine=False)), 2, GN),
    "instance": (lambda: Net(nn.InstanceNorm2d(8)), 2, IN),
    "instance with affine": (lambda: Net(nn.InstanceNorm2d(8, affine=True)), 2, IN),
    "instance, running": (lambda: Net(nn.InstanceNorm2d(8, track_running_stats=True)), 2, BN),
    "layer": (lambda: Net(nn.LayerNorm([8, 6, 6])), 2, LN),
    "layer without affine": (lambda: Net(nn.LayerNorm(6, elementwise_affine=False)), 2, LN),
    "layer without bias": (lambda: Net(nn.LayerNorm(6, bias=False)), 2, LN),
    "adain": (lambda: Net(AdaIN(8)), 2, IN),
    "frozen": (lambda: Net(HandFrozen(8, 1e-3)), 2, BN),
    "frozen, hidden epsilon": (lambda: Net(HandFrozen(8)), 2, BN),
    "almost frozen": (lambda: Net(AlmostFrozen(8)), 2, {}),
    "weight norm": (
        lambda: Net(nn.BatchNorm2d(8), conv=parametrizations.weight_norm(conv())),
        2,
        BN,
    ),
    "weight norm, hook": (
        lambda: Net(nn.BatchNorm2d(8), conv=nn.utils.weight_norm(conv(bias=False))),
        2,
        BN,
    ),
    "spectral norm": (
        lambda: Net(nn.BatchNorm2d(8), conv=parametrizations.spectral_norm(conv(bias=False))),
        2,
        BN,
    ),
    "spectral norm, hook": (
        lambda: Net(nn.BatchNorm2d(8), conv=nn.utils.spectral_norm(conv())),
        2,
        BN,
    ),
}


def make(kind: str) -> tuple[nn.Module, torch.Tensor, dict[str, Any]]:
    """Return the network of a kind in eval mode, an input (2, 3, 6, …), and its norms."""
    build, rank, norms = KINDS[kind]
    torch.manual_seed(0)
    return stir(build()), torch.randn(2, 3, *[6] * rank), norms
