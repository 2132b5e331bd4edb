"""What the sample networks are put together from: every block holds BatchNorm in its own way."""

from __future__ import annotations

import torch
from torch import nn


def conv_bn(
    inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    """Bias-free same-padded convolution, then BatchNorm: the pair that every folder knows."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs)]


def head(channels: int) -> nn.Sequential:
    """Global average pool, then one linear layer (a Gemm in ONNX)."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


class Residual(nn.Module):
    """relu(body(x) + shortcut(x)); the shortcut is a 1×1 Conv + BN where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *conv_bn(inputs, outputs, 3, stride), nn.ReLU(), *conv_bn(outputs, outputs)
        )
        same = inputs == outputs and stride == 1
        projection = [] if same else conv_bn(inputs, outputs, 1, stride)
        self.shortcut = nn.Sequential(*projection)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


class InvertedResidual(nn.Module):
    """Widen (1×1), depthwise 3×3, narrow without activation; added to x where the shape allows."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, widen: int = 4) -> None:
        super().__init__()
        wide = inputs * widen
        self.same = inputs == outputs and stride == 1
        self.body = nn.Sequential(
            *(*conv_bn(inputs, wide, 1), nn.ReLU6()),
            *(*conv_bn(wide, wide, 3, stride, groups=wide), nn.ReLU6()),
            *conv_bn(wide, outputs, 1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x) if self.same else self.body(x)


class DenseLayer(nn.Module):
    """concat(x, conv3(relu(bn(conv1(relu(bn(x))))))): the outer BN reads the last Concat."""

    def __init__(self, inputs: int, growth: int = 12) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.BatchNorm2d(inputs), nn.ReLU()),
            *(*conv_bn(inputs, 2 * growth, 1), nn.ReLU()),
            nn.Conv2d(2 * growth, growth, 3, padding=1, bias=False),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, self.body(x)], 1)


class RepBlock(nn.Module):
    """relu(bn(conv3(x)) + bn(conv1(x)) + bn(x)), the last term only where the shape is kept."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.three = nn.Sequential(*conv_bn(inputs, outputs, 3, stride))
        self.one = nn.Sequential(*conv_bn(inputs, outputs, 1, stride))
        same = inputs == outputs and stride == 1
        self.identity = nn.BatchNorm2d(inputs) if same else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        total = self.three(x) + self.one(x)
        return torch.relu(total if self.identity is None else total + self.identity(x))


def double(inputs: int, outputs: int) -> nn.Sequential:
    """Twice Conv → BN → ReLU."""
    return nn.Sequential(
        *conv_bn(inputs, outputs), nn.ReLU(), *conv_bn(outputs, outputs), nn.ReLU()
    )


def rise(inputs: int, outputs: int) -> nn.Sequential:
    """Twice the height and width: ConvTranspose with bias → BN (ε = 1e-3) → ReLU."""
    up = nn.ConvTranspose2d(inputs, outputs, 2, stride=2)
    return nn.Sequential(up, nn.BatchNorm2d(outputs, eps=1e-3), nn.ReLU())
