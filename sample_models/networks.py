"""Small networks for 8×8 images, each built around one way to place BatchNorm.

Every network maps (N, 1, 8, 8) images to (N, 10) class scores, but `UNet`, which gives
(N, 2, 8, 8) scores per pixel. Nothing here knows of ONNX or of the data.
"""

from __future__ import annotations

import torch
from blocks import DenseLayer, InvertedResidual, RepBlock, Residual, conv_bn, double, head, rise
from torch import nn


class ResNet(nn.Sequential):
    """Conv → BN everywhere, two of them on projection shortcuts (He et al., arXiv:1512.03385)."""

    def __init__(self) -> None:
        blocks = [Residual(16, 16), Residual(16, 32, 2), Residual(32, 32), Residual(32, 48, 2)]
        super().__init__(*conv_bn(1, 16), nn.ReLU(), *blocks, head(48))


class MobileNet(nn.Sequential):
    """Depthwise Conv → BN → ReLU6, and BN right before an Add (MobileNetV2, arXiv:1801.04381)."""

    def __init__(self) -> None:
        shapes = [(16, 16, 1), (16, 24, 2), (24, 24, 1), (24, 32, 2), (32, 32, 1)]
        blocks = [InvertedResidual(*shape) for shape in shapes]
        stem, last = conv_bn(1, 16), conv_bn(32, 96, 1)
        super().__init__(*stem, nn.ReLU6(), *blocks, *last, nn.ReLU6(), head(96))


class DenseNet(nn.Sequential):
    """Concat → BN → ReLU → Conv; transitions end in average pools (arXiv:1608.06993)."""

    def __init__(self) -> None:
        channels = 16
        layers: list[nn.Module] = [nn.Conv2d(1, channels, 3, padding=1, bias=False)]
        for block in range(3):
            layers += [DenseLayer(channels + 12 * i) for i in range(3)]
            channels += 36
            layers += [nn.BatchNorm2d(channels), nn.ReLU()]
            if block < 2:
                layers += [nn.Conv2d(channels, channels // 2, 1, bias=False), nn.AvgPool2d(2)]
                channels //= 2
        super().__init__(*layers, head(channels))


class RepVGG(nn.Sequential):
    """Parallel linear branches that are one 3×3 Conv in the end (arXiv:2101.03697)."""

    def __init__(self) -> None:
        shapes = [(1, 16, 1), (16, 16, 1), (16, 32, 2), (32, 32, 1), (32, 32, 1), (32, 48, 2)]
        super().__init__(*[RepBlock(*shape) for shape in shapes], RepBlock(48, 48), head(48))


class UNet(nn.Module):
    """Encoder and decoder, ConvTranspose → BN, skips by Concat (arXiv:1505.04597)."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2, self.bottom = double(1, 12), double(12, 24), double(24, 48)
        self.rise2, self.up2 = rise(48, 24), double(48, 24)
        self.rise1, self.up1 = rise(24, 12), double(24, 12)
        self.pool, self.score = nn.MaxPool2d(2), nn.Conv2d(12, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        full = self.down1(x)
        half = self.down2(self.pool(full))
        low = self.bottom(self.pool(half))
        half = self.up2(torch.cat([self.rise2(low), half], 1))
        return self.score(self.up1(torch.cat([self.rise1(half), full], 1)))


class Conv1d(nn.Sequential):
    """The image as 64 steps: Conv with bias → BN, then Conv → ReLU → BN → Conv, with padding."""

    def __init__(self) -> None:
        super().__init__(
            nn.Flatten(2),
            *(nn.Conv1d(1, 24, 9, 2, 4), nn.BatchNorm1d(24), nn.ReLU()),
            *(nn.Conv1d(24, 48, 9, 2, 4), nn.ReLU(), nn.BatchNorm1d(48)),
            *(nn.Conv1d(48, 64, 5, 2, 2, bias=False), nn.BatchNorm1d(64), nn.ReLU()),
            *(nn.Conv1d(64, 64, 3), nn.ReLU(), nn.BatchNorm1d(64), nn.Conv1d(64, 32, 1)),
            *(nn.ReLU(), nn.Flatten(), nn.Linear(32 * 6, 10)),
        )


class Mlp(nn.Sequential):
    """BN of rank 2: on the input, after a Linear, and after a ReLU (so before the next Linear)."""

    def __init__(self) -> None:
        super().__init__(
            *(nn.Flatten(), nn.BatchNorm1d(64)),
            *(nn.Linear(64, 96, bias=False), nn.BatchNorm1d(96), nn.ReLU()),
            *(nn.Linear(96, 64), nn.ReLU(), nn.BatchNorm1d(64), nn.Linear(64, 10)),
        )
